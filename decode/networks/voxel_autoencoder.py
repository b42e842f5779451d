"""A variational autoencoder of voxels whose code has the shape of image tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from decode.networks.blocks import SubjectLinear, scatter

KERNEL = 7


class VoxelAutoencoder(nn.Module):
    """Voxels -> mean and log variance of tokens (batch, token, features) -> voxels.

    A layer per subject to `width`, one to 4 x `features` numbers read as a sequence, which
    convolutions with `channels` x (1, 2, 4) channels and `blocks` residual blocks per level halve
    twice: one channel per token. Back to voxels goes one channel, the compact code, through the mirror
    image of all that.
    """

    def __init__(
        self,
        voxels: Sequence[int],
        *,
        tokens: int,
        features: int,
        width: int,
        channels: int,
        blocks: int,
    ) -> None:
        super().__init__()
        sizes = (channels, 2 * channels, 4 * channels)
        self.enter = SubjectLinear(voxels, width)
        self.spread = nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Linear(width, 4 * features))
        self.down = nn.Sequential(nn.Conv1d(1, sizes[0], 3, padding=1), *_down(sizes, blocks))
        self.posterior = nn.Conv1d(sizes[-1], 2 * tokens, 1)
        self.compress = nn.Conv1d(tokens, 1, 1)
        self.up = nn.Sequential(nn.Conv1d(1, sizes[-1], 3, padding=1), *_up(sizes[::-1], blocks))
        self.gather = nn.Sequential(nn.Linear(4 * features, width), nn.LayerNorm(width), nn.GELU())
        self.leave = SubjectOutput(width, voxels)

    def encode(
        self, rows: Sequence[tuple[int, Tensor, Tensor]], size: int
    ) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each (batch, token, features)."""
        x = self.spread(self.enter(rows, size))[:, None]
        mean, logvar = self.posterior(self.down(x)).chunk(2, 1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, tokens: Tensor, subject: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(rows, voxels (row, voxel)) for each subject in the batch."""
        x = self.gather(self.up(self.compress(tokens))[:, 0])
        return self.leave(x, subject)


class SubjectOutput(nn.Module):
    """One linear map per subject back to its voxels."""

    per_subject = True

    def __init__(self, width: int, voxels: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, v) for v in voxels)

    def forward(self, x: Tensor, subject: Tensor) -> list[tuple[Tensor, Tensor]]:
        out = []
        for s in subject.unique().tolist():
            row = (subject == s).nonzero()[:, 0]
            out.append((row, self.layers[s](x[row])))
        return out


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            _norm(inputs),
            nn.SiLU(),
            nn.Conv1d(inputs, outputs, 3, padding=1),
            _norm(outputs),
            nn.SiLU(),
            nn.Conv1d(outputs, outputs, 3, padding=1),
        )
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.inner(x)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels), channels, eps=1e-6)


def _level(inputs: int, outputs: int, blocks: int) -> list[nn.Module]:
    return [_Residual(inputs if i == 0 else outputs, outputs) for i in range(blocks)]


def _down(sizes: Sequence[int], blocks: int) -> list[nn.Module]:
    layers = _level(sizes[0], sizes[0], blocks)
    for i, o in pairwise(sizes):
        layers += [nn.Conv1d(i, i, KERNEL, stride=2, padding=KERNEL // 2), *_level(i, o, blocks)]
    return [*layers, _norm(sizes[-1]), nn.SiLU()]


def _up(sizes: Sequence[int], blocks: int) -> list[nn.Module]:
    layers = _level(sizes[0], sizes[0], blocks)
    for i, o in pairwise(sizes):
        larger = nn.ConvTranspose1d(i, i, KERNEL, stride=2, padding=KERNEL // 2, output_padding=1)
        layers += [larger, *_level(i, o, blocks)]
    last = [_norm(sizes[-1]), nn.SiLU(), nn.Conv1d(sizes[-1], 1, 3, padding=1)]
    return [*layers, *last]


def squared_error(
    made: Sequence[tuple[Tensor, Tensor]], rows: Sequence[tuple[int, Tensor, Tensor]]
) -> Tensor:
    """Squared error per row (batch,), summed over that row's voxels."""
    parts = [
        (row, (value - x).square().sum(1, keepdim=True))
        for (row, value), (_, _, x) in zip(made, rows, strict=True)
    ]
    return scatter(parts, sum(len(row) for row, _ in parts))[:, 0]


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Kullback-Leibler divergence from a unit normal, per row (batch,)."""
    terms = mean.square() + logvar.exp() - 1 - logvar
    return 0.5 * terms.flatten(1).sum(1)


def drawn(mean: Tensor, logvar: Tensor) -> Tensor:
    """A sample of the normal with this mean and log variance."""
    return mean + (0.5 * logvar).exp() * torch.randn_like(mean)
