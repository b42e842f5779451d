"""The encoder of NeuroPictor: flat maps of the cortex through a vision transformer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from decode.core import Batch, InputError, Layout, Shape, Tensors, refusal
from decode.networks.blocks import Passport, TargetScale
from decode.networks.vit import MapTransformer
from decode.trainable import Encoder
from decode.weights.pretrained import load_pretrained


class NeuroPictor(Encoder):
    """Flat map -> tokens of a vision transformer -> text-like tokens and hints.

    Channels are pixels of a square map of `side` pixels, named `row-column` as `preprocess=flat_maps`
    names them; pixels that are no channel are 0. With `side` null they are all the pixels of a map,
    row by row. No weight belongs to a subject.

    A target (token, feature) is read semantically, by two convolutions over the tokens (to
    `between_semantic` tokens, then to its own), a linear layer and a norm; a target (channel, h, w) is a
    hint for the denoiser, by two convolutions to `between_hint` and its channels, a linear layer to
    h x w, SiLU and a convolution that starts at zero. Where the experiment has the target `semantic`,
    what is read of `text` is the prediction of `semantic` plus an extra branch that starts at zero: an
    objective on `semantic` then says what the captions say, and the denoiser's what it reads beside.
    Published (Huo et al. 2024, arXiv:2403.18211): maps of 256 x 256, `patch` 16, `width` 1024,
    `depth` 24, 16 `heads`; targets 77 x 1024 and 320 x 64 x 64. `weights` are safetensors of the
    transformer, a file or a folder, pretrained as a masked autoencoder. Objective `hinted_denoising`
    trains it through a sampler, generator `hinted` takes the hints.

    Raises InputError for channels that are no such map and for weights that do not fit.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        side: int | None = None,
        patch: int = 16,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        between_semantic: int = 128,
        between_hint: int = 514,
        text: str = "text",
        semantic: str | None = "text_last",
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.passport = Passport(layouts)
        side = _side(self.passport, side, patch)
        self.pixels = _pixels(layouts, side)
        self.transformer = MapTransformer(side, patch=patch, width=width, depth=depth, heads=heads)
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        tokens = self.transformer.tokens
        self.text, self.semantic = text, _pair(self.shapes, text, semantic)

        def build(name: str, shape: Shape) -> nn.Module:
            if len(shape) == 3:
                return _Hint(tokens, between_hint, width, shape)
            kind = _Extra if self.semantic is not None and name == text else _Semantic
            return kind(tokens, between_semantic, width, shape)

        self.heads = nn.ModuleList(build(name, shape) for name, shape in self.shapes.items())
        self.scale = TargetScale(self.shapes)
        self.weights = weights

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.scale.learn(train)
        if self.weights is not None:
            load_pretrained(self.transformer, self.weights)

    def forward(self, batch: Batch) -> Tensors:
        self.passport.check(batch)
        tokens = self.transformer(self.maps(batch))
        raw = {
            name: head(tokens).reshape(len(batch), *shape)
            for (name, shape), head in zip(self.shapes.items(), self.heads, strict=True)
        }
        made = {name: self.scale.up(name, value) for name, value in raw.items()}
        if self.semantic is not None:
            made[self.text] = self.scale.up(self.semantic, raw[self.semantic] + raw[self.text])
        return made

    def maps(self, batch: Batch) -> Tensor:
        """(batch, row, column), 0 where a subject has no channel."""
        side = self.transformer.side
        if all(pixel is None for pixel in self.pixels):
            return batch.brain[:, :, 0].unflatten(1, (side, side))
        maps = batch.brain.new_zeros(len(batch), side * side)
        for s in batch.subject.unique().tolist():
            row, pixel = (batch.subject == s).nonzero(), self.pixels[s]
            if pixel is None:
                maps[row[:, 0]] = batch.brain[row[:, 0], : side * side, 0]
            else:
                values = batch.brain[row[:, 0], : len(pixel), 0]
                maps[row, pixel.to(maps.device)] = values
        return maps.unflatten(1, (side, side))


class _Semantic(nn.Module):
    """(batch, token, width) -> (batch, token of the target, its features)."""

    def __init__(self, tokens: int, between: int, width: int, shape: Shape) -> None:
        super().__init__()
        wanted = math.prod(shape[:-1])
        self.mix = nn.Sequential(nn.Conv1d(tokens, between, 1), nn.Conv1d(between, wanted, 1))
        self.leave = nn.Sequential(nn.Linear(width, shape[-1]), nn.LayerNorm(shape[-1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.mix(x))


class _Extra(_Semantic):
    """The same, through a convolution along the features that starts at zero."""

    def __init__(self, tokens: int, between: int, width: int, shape: Shape) -> None:
        super().__init__(tokens, between, width, shape)
        self.gate = _nothing(math.prod(shape[:-1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(super().forward(x))


class _Hint(nn.Module):
    """(batch, token, width) -> (batch, channel, h x w); starts at zero, as ControlNet's hints do."""

    def __init__(self, tokens: int, between: int, width: int, shape: Shape) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Conv1d(tokens, between, 1), nn.Conv1d(between, shape[0], 1))
        self.leave = nn.Sequential(nn.Linear(width, shape[1] * shape[2]), nn.SiLU())
        self.gate = _nothing(shape[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.leave(self.mix(x)))


def _nothing(channels: int) -> nn.Conv1d:
    """A convolution of three along the last axis that starts at zero."""
    made = nn.Conv1d(channels, channels, 3, padding=1)
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    return made


def _pair(shapes: Mapping[str, Shape], text: str, semantic: str | None) -> str | None:
    """`semantic` where the experiment has it and `text`; InputError where their shapes differ."""
    if semantic is None or semantic not in shapes or text not in shapes or text == semantic:
        return None
    if shapes[text] != shapes[semantic] or len(shapes[text]) != 2:
        raise refusal(
            "encoder.semantic",
            f"tokens of the shape of {text!r}, {shapes[text]}",
            f"target {semantic!r} of shape {shapes[semantic]}",
            "choose targets of one shape or set it to null",
        )
    return semantic


def _side(passport: Passport, said: int | None, patch: int) -> int:
    channels, times = passport.one_size("encoder neuropictor")
    side = math.isqrt(channels) if said is None else said
    fits = said is not None or set(passport.n_channels) == {side * side}
    if not fits or times != 1 or side % patch or channels > side * side:
        raise refusal(
            "encoder",
            f"flat maps of (k x {patch})^2 pixels, one volume per trial, which neuropictor reads",
            f"{passport.n_channels} {passport.unit} x {times} and side={said}",
            "choose preprocess=flat_maps with its side, or another encoder",
        )
    return side


def _pixels(layouts: Mapping[str, Layout], side: int) -> list[Tensor | None]:
    """Per subject, the number of the pixel of each channel; None where they are the whole map."""
    made: list[Tensor | None] = []
    for subject, layout in layouts.items():
        if layout.n_channels == side * side:
            made.append(None)
            continue
        at = [_pixel(name) for name in layout.names]
        bad = [n for n, p in zip(layout.names, at, strict=True) if p is None or max(p) >= side]
        if bad:
            raise InputError(
                f"encoder neuropictor: expected channels named by a pixel of {side} x {side} "
                f"(row-column), got {bad[0]!r} of subject {subject}; choose preprocess=flat_maps with "
                f"preprocess.steps.flat_maps.side={side}"
            )
        numbers = [p[0] * side + p[1] for p in at if p is not None]
        made.append(torch.tensor(numbers, device="cpu"))
    return made


def _pixel(name: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d+)-(\d+)", name)
    return (int(found[1]), int(found[2])) if found else None
