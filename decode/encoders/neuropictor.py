"""The encoder of NeuroPictor: flat maps of the cortex through a vision transformer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from decode.core import Batch, Encoder, InputError, Layout, Shape, Tensors
from decode.networks.adaptation import start_from
from decode.networks.blocks import Passport, TargetScale
from decode.networks.vit import MapTransformer


class NeuroPictor(Encoder):
    """Flat map -> tokens of a vision transformer -> text-like tokens and hints.

    Channels are the pixels of a square map, row by row, the same map for all subjects: nothing here
    belongs to a subject. A target (token, feature) is read semantically, by two convolutions over the
    tokens (to `between_semantic` tokens, then to its own) and a linear layer; a target (channel, h, w)
    is a hint for the denoiser, by two convolutions to `between_hint` and its channels and a linear
    layer to h x w. Published (Huo et al. 2024, arXiv:2403.18211): maps of 256 x 256, `patch` 16,
    `width` 1024, `depth` 24, 16 `heads`; targets 77 x 1024 and 320 x 64 x 64. `weights` is a
    safetensors file of the transformer, pretrained as a masked autoencoder. The generator that takes
    the hints is no part of this.

    Raises InputError for channels that are no such map and for weights that do not fit.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        patch: int = 16,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        between_semantic: int = 128,
        between_hint: int = 514,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.passport = Passport(layouts)
        side = _side(self.passport, patch)
        self.transformer = MapTransformer(side, patch=patch, width=width, depth=depth, heads=heads)
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        tokens = self.transformer.tokens
        self.heads = nn.ModuleList(
            _Hint(tokens, between_hint, width, shape)
            if len(shape) == 3
            else _Semantic(tokens, between_semantic, width, shape)
            for shape in self.shapes.values()
        )
        self.scale = TargetScale(self.shapes)
        self.weights = weights

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.scale.learn(train)
        if self.weights is not None:
            start_from(self.transformer, Path(self.weights).expanduser())

    def forward(self, batch: Batch) -> Tensors:
        self.passport.check(batch)
        side = self.transformer.side
        tokens = self.transformer(batch.brain[:, :, 0].unflatten(1, (side, side)))
        made = {}
        for (name, shape), head in zip(self.shapes.items(), self.heads, strict=True):
            made[name] = self.scale.up(name, head(tokens).reshape(len(batch), *shape))
        return made


class _Semantic(nn.Module):
    """(batch, token, width) -> (batch, token of the target, its features)."""

    def __init__(self, tokens: int, between: int, width: int, shape: Shape) -> None:
        super().__init__()
        wanted = math.prod(shape[:-1])
        self.mix = nn.Sequential(
            nn.Conv1d(tokens, between, 1), nn.GELU(), nn.Conv1d(between, wanted, 1)
        )
        self.leave = nn.Sequential(nn.Linear(width, shape[-1]), nn.LayerNorm(shape[-1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.mix(x))


class _Hint(nn.Module):
    """(batch, token, width) -> (batch, channel, h x w); starts at zero, as ControlNet's hints do."""

    def __init__(self, tokens: int, between: int, width: int, shape: Shape) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Conv1d(tokens, between, 1), nn.GELU(), nn.Conv1d(between, shape[0], 1)
        )
        self.leave = nn.Linear(width, shape[1] * shape[2])
        self.gate = nn.Conv1d(shape[0], shape[0], 1)
        for parameter in self.gate.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.leave(self.mix(x)))


def _side(passport: Passport, patch: int) -> int:
    channels, times = passport.one_size("encoder neuropictor")
    side = math.isqrt(channels)
    if len(set(passport.n_channels)) > 1 or times != 1 or side * side != channels or side % patch:
        raise InputError(
            f"encoder neuropictor reads flat maps of (k x {patch})^2 pixels, one volume per trial and "
            f"the same for all subjects, got {passport.n_channels} {passport.unit} x {times}; project "
            "the volumes to a flat map or choose another encoder"
        )
    return side
