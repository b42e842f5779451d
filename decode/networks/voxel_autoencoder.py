"""A variational autoencoder of voxels whose code has the shape of image tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from decode.networks.blocks import scatter, spread_and_gather

KERNEL = 7


class VoxelAutoencoder(nn.Module):
    """Voxels -> mean and log variance of tokens (batch, token, features) -> voxels.

    Every voxel is multiplied and shifted into `channels` copies; a layer per subject takes each copy to
    `width`, one more to 4 x `features` numbers, a sequence that convolutions with `channels` x (1, 2, 4)
    channels and `blocks` residual blocks per level halve twice. Two more blocks and attention between
    them end the way in: the trunk, one channel per token. Back to voxels goes one channel, the compact
    code, through the mirror image of all that with a block more per level.
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
        last = sizes[-1]
        self.copy = nn.Conv1d(1, channels, 1)
        self.enter = SubjectCopies(voxels, width)
        self.spread = nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Linear(width, 4 * features))
        self.down = nn.Sequential(*_down(sizes, blocks))
        self.trunk = nn.Conv1d(last, tokens, 1) if last != tokens else nn.Identity()
        self.posterior = nn.Conv1d(tokens, 2 * tokens, 1)
        self.compress = nn.Conv1d(tokens, 1, 1)
        self.up = nn.Sequential(nn.Conv1d(1, last, 1), *_up(sizes[::-1], blocks + 1))
        self.gather = nn.Sequential(nn.Linear(4 * features, width), nn.LayerNorm(width), nn.GELU())
        self.leave = SubjectOutput(width, voxels)
        self.merge = nn.Sequential(_norm(channels), nn.SiLU(), nn.Conv1d(channels, 1, 1))

    def encode(
        self, rows: Sequence[tuple[int, Tensor, Tensor]], size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log variance of the code, and the trunk, each (batch, token, features)."""
        weight, bias = self.copy.weight[:, 0], self.copy.bias
        trunk = self.trunk(self.down(self.spread(self.enter(rows, size, weight, bias))))
        mean, logvar = self.posterior(trunk).chunk(2, 1)
        return mean, logvar.clamp(-30, 20), trunk

    def decode(self, tokens: Tensor, subject: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(rows, voxels (row, voxel)) for each subject in the batch."""
        x = self.gather(self.up(self.compress(tokens)))
        return [(row, self.merge(voxels)[:, 0]) for row, voxels in self.leave(x, subject)]


class SubjectCopies(nn.Module):
    """Per subject, its voxels in several copies -> (batch, copy, width)."""

    per_subject = True

    def __init__(self, voxels: Sequence[int], width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(v, width) for v in voxels)

    def forward(
        self,
        rows: Sequence[tuple[int, Tensor, Tensor]],
        size: int,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        """Copy c of the voxels is `weight` (copy, 1) times them plus `bias` (copy,)."""
        assert bias is not None
        parts = [(row, spread_and_gather(x, weight, bias, self.layers[s])) for s, row, x in rows]
        return scatter(parts, size)


class SubjectOutput(nn.Module):
    """One linear map per subject back to its voxels."""

    per_subject = True

    def __init__(self, width: int, voxels: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, v) for v in voxels)

    def forward(self, x: Tensor, subject: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(rows, (row, ..., voxel)) for each subject of x (batch, ..., width)."""
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


class _Attention(nn.Module):
    """Places (batch, channel, place) ask each other, one head as wide as the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.query, self.key, self.value, self.out = (
            nn.Conv1d(channels, channels, 1) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        seen = self.norm(x)
        q, k, v = (layer(seen).mT for layer in (self.query, self.key, self.value))
        return x + self.out(scaled_dot_product_attention(q, k, v).mT)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels), channels, eps=1e-6)


def _level(inputs: int, outputs: int, blocks: int) -> list[nn.Module]:
    return [_Residual(inputs if i == 0 else outputs, outputs) for i in range(blocks)]


def _middle(channels: int) -> list[nn.Module]:
    return [_Residual(channels, channels), _Attention(channels), _Residual(channels, channels)]


def _down(sizes: Sequence[int], blocks: int) -> list[nn.Module]:
    layers = _level(sizes[0], sizes[0], blocks)
    for i, o in pairwise(sizes):
        layers += [nn.Conv1d(i, i, KERNEL, stride=2, padding=KERNEL // 2), *_level(i, o, blocks)]
    return [*layers, *_middle(sizes[-1]), _norm(sizes[-1]), nn.SiLU()]


def _up(sizes: Sequence[int], blocks: int) -> list[nn.Module]:
    layers = [*_middle(sizes[0]), *_level(sizes[0], sizes[0], blocks)]
    for i, o in pairwise(sizes):
        larger = nn.ConvTranspose1d(i, i, KERNEL, stride=2, padding=KERNEL // 2, output_padding=1)
        layers += [larger, *_level(i, o, blocks)]
    return layers


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
