"""Pieces that several encoders share: the check of what comes in, layers per subject, heads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from decode.core import Batch, InputError, Layout, Shape, Tensors, refusal


class Passport(nn.Module):
    """Knows how many channels and samples each subject has, and refuses anything else.

    The numbers are saved with the weights, so that a model meets only the signal it was made for.
    """

    per_subject = True
    channels: Tensor
    times: Tensor

    def __init__(self, layouts: Mapping[str, Layout]) -> None:
        super().__init__()
        if not layouts:
            raise InputError(
                "encoder: expected the layout of at least one subject, got none; give the subjects that "
                "the encoder is built for"
            )
        self.subjects = tuple(layouts)
        first = next(iter(layouts.values()))
        self.unit = "voxels" if first.modality == "fmri" else "channels"
        # Kept as plain numbers too: on the meta device buffers have no values.
        self.n_channels = tuple(l.n_channels for l in layouts.values())
        self.n_times = tuple(l.n_times for l in layouts.values())
        self.register_buffer("channels", torch.tensor(self.n_channels, dtype=torch.int64))
        self.register_buffer("times", torch.tensor(self.n_times, dtype=torch.int64))

    @property
    def features(self) -> tuple[int, ...]:
        """Channels x samples of each subject."""
        return tuple(c * t for c, t in zip(self.n_channels, self.n_times, strict=True))

    def one_size(self, why: str) -> tuple[int, int]:
        """Channels of the widest subject and the samples of all; raises where samples differ."""
        if len(set(self.n_times)) > 1:
            raise refusal(
                why,
                "equally long windows of all subjects",
                f"{set(self.n_times)} samples",
                "preprocess all subjects alike",
            )
        return max(self.n_channels), self.n_times[0]

    def check(self, batch: Batch) -> None:
        """Raise InputError where a batch does not fit the layouts."""
        if batch.brain.ndim != 3:
            raise InputError(
                f"encoder: expected brain (batch, channel, time), got {tuple(batch.brain.shape)}"
                "; give windows, not maps of them"
            )
        width, length = batch.brain.shape[1:]
        known = len(self.subjects)
        for s in batch.subject.unique().tolist():
            if not 0 <= s < known:
                raise refusal(
                    "encoder",
                    f"one of the {known} subjects that the model knows, {list(self.subjects)}",
                    f"subject number {s}",
                    "train with that subject or leave it out",
                )
            if length != self.n_times[s]:
                raise InputError(
                    f"encoder: expected {self.n_times[s]} samples per window for "
                    f"{self.subjects[s]}, got {length}; preprocess as for training"
                )
            if width < self.n_channels[s]:
                raise InputError(self._mismatch(s, self.n_channels[s], width))
        if width > max(self.n_channels):
            widest = self.n_channels.index(max(self.n_channels))
            raise InputError(self._mismatch(widest, max(self.n_channels), width))

    def _mismatch(self, s: int, expected: int, got: int) -> str:
        return (
            f"encoder: saved model has {expected} {self.unit} for {self.subjects[s]}, data have "
            f"{got}; preprocess with the settings of the saved model or train again"
        )

    def _load_from_state_dict(self, state: Any, prefix: str, *args: Any) -> None:
        channels, times = state.get(prefix + "channels"), state.get(prefix + "times")
        if channels is not None and times is not None:
            if len(channels) != len(self.subjects):
                raise refusal(
                    "encoder",
                    f"data of as many subjects as the saved model, {len(channels)}",
                    f"{len(self.subjects)} ({list(self.subjects)})",
                    "choose the same subjects",
                )
            saved = zip(channels.tolist(), times.tolist(), strict=True)
            for s, (c, t) in enumerate(saved):
                if c != self.n_channels[s]:
                    raise InputError(self._mismatch(s, c, self.n_channels[s]))
                if t != self.n_times[s]:
                    raise refusal(
                        "encoder",
                        f"windows of {t} samples for {self.subjects[s]}, as the saved model has",
                        self.n_times[s],
                        "preprocess as for the saved model",
                    )
        super()._load_from_state_dict(state, prefix, *args)


class SubjectLinear(nn.Module):
    """One linear map per subject: (batch, padded feature) -> (batch, width)."""

    per_subject = True

    def __init__(self, features: Sequence[int], width: int, *, bias: bool = True) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.ModuleList(nn.Linear(f, width, bias=bias) for f in features)

    def forward(self, rows: Sequence[tuple[int, Tensor, Tensor]], size: int) -> Tensor:
        parts = [(row, self.layers[s](x)) for s, row, x in rows]
        return scatter(parts, size)


def spread_and_gather(x: Tensor, weight: Tensor, bias: Tensor, gather: Any) -> Tensor:
    """(row, token, width) of voxels (row, voxel): each voxel times `weight` (token, 1) plus `bias`
    (token,), then the linear layer `gather` over the voxels of each token.

    Both are linear, so their product is taken without the (voxel, token) array between them.
    """
    voxels = (x @ gather.weight.T)[:, None] * weight
    return voxels + bias[:, None] * gather.weight.sum(1) + gather.bias


class SubjectMix(nn.Module):
    """One channel-mixing matrix per subject, starting as the identity; (batch, channel, time)."""

    per_subject = True

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.matrices = nn.ParameterList(nn.Parameter(torch.eye(width, c)) for c in channels)

    def forward(self, brain: Tensor, subject: Tensor) -> Tensor:
        parts = []
        for s in subject.unique().tolist():
            row = (subject == s).nonzero()[:, 0]
            parts.append((row, self.matrices[s] @ brain[row, : self.channels[s]]))
        return scatter(parts, len(brain))


def scatter(parts: Sequence[tuple[Tensor, Tensor]], size: int) -> Tensor:
    """Put (row numbers, values) back into one tensor of `size` rows."""
    values = torch.cat([value for _, value in parts])
    rows = torch.cat([row for row, _ in parts]).to(values.device)
    return torch.empty_like(values).index_copy(0, rows, values) if len(rows) == size else values


def by_subject(batch: Batch, channels: Sequence[int]) -> list[tuple[int, Tensor, Tensor]]:
    """(subject, its rows, its windows (row, channel x time) without padding) for each subject."""
    out = []
    for s in batch.subject.unique().tolist():
        row = (batch.subject == s).nonzero()[:, 0]
        out.append((s, row, batch.brain[row, : channels[s]].flatten(1)))
    return out


class Residual(nn.Module):
    """x + dropout(gelu(norm(linear(x)))), the block of MindEye (Scotti et al. 2023).

    `low_level` is its variant for latents: SiLU instead of GELU, no bias.
    """

    def __init__(self, width: int, *, dropout: float, low_level: bool = False) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Linear(width, width, bias=not low_level),
            nn.LayerNorm(width),
            nn.SiLU() if low_level else nn.GELU(),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Projection(nn.Module):
    """Linear, then a residual GELU-linear-dropout, then a norm: NICE (Song et al. 2024) and kin.

    `norm` False leaves the scale free, as regression needs.
    """

    def __init__(self, inputs: int, outputs: int, *, dropout: float, norm: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, outputs)
        self.second = nn.Sequential(nn.GELU(), nn.Linear(outputs, outputs), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(outputs) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.norm(x + self.second(x))


class Projector(nn.Module):
    """Three layers (..., width) -> (..., width) between a head and a contrastive loss (MindEye)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        sizes = [width, hidden, hidden, width]
        layers: list[nn.Module] = []
        for i, o in pairwise(sizes):
            layers += [nn.LayerNorm(i), nn.GELU(), nn.Linear(i, o)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class TargetScale(nn.Module):
    """Brings unit-sized outputs to the mean and spread of each training target, and back.

    `mean` is per element, the spread is one number per target: directions keep their proportions.
    """

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        super().__init__()
        self.names = tuple(shapes)
        for i, shape in enumerate(shapes.values()):
            self.register_buffer(f"mean_{i}", torch.zeros(shape))
            self.register_buffer(f"spread_{i}", torch.ones(()))

    def _of(self, name: str) -> tuple[Tensor, Tensor]:
        i = self.names.index(name)
        return self.get_buffer(f"mean_{i}"), self.get_buffer(f"spread_{i}")

    @torch.no_grad()
    def learn(self, batches: Iterable[Batch]) -> None:
        """Take mean and spread from the targets of these batches."""
        sums: dict[str, list[Any]] = {}
        for batch in batches:
            for name in self.names:
                y = batch.targets[name].double()
                total = sums.setdefault(name, [0, 0.0, 0.0])
                total[0] += len(y)
                total[1] = total[1] + y.sum(0)
                total[2] = total[2] + y.square().sum(0)
        for name, (n, one, two) in sums.items():
            mean, spread = self._of(name)
            mean.copy_(one / n)
            value = (two / n - (one / n).square()).clamp(min=0).mean().sqrt()
            spread.copy_(value if float(value) > 0 else torch.ones_like(value))

    def spread(self, name: str) -> Tensor:
        return self._of(name)[1]

    def up(self, name: str, x: Tensor) -> Tensor:
        mean, spread = self._of(name)
        return mean + spread * x

    def down(self, name: str, x: Tensor) -> Tensor:
        mean, spread = self._of(name)
        return (x - mean) / spread


class Heads(nn.Module):
    """One head per target on a trunk (batch, width).

    Targets named in `contrastive` get `contrast(width, shape)`, whose scale means nothing; the
    others get `regress(width, shape)` and the mean and spread of the training targets. Names that
    the experiment does not have are ignored.
    """

    def __init__(
        self,
        width: int,
        shapes: Mapping[str, Shape],
        *,
        contrastive: Sequence[str],
        contrast: Any,
        regress: Any,
    ) -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.contrastive = frozenset(contrastive)
        self.heads = nn.ModuleList(
            (contrast if name in self.contrastive else regress)(width, shape)
            for name, shape in self.shapes.items()
        )
        regressed = {k: v for k, v in self.shapes.items() if k not in self.contrastive}
        self.scale = TargetScale(regressed)

    def forward(self, trunk: Tensor) -> Tensors:
        out = {}
        for (name, shape), head in zip(self.shapes.items(), self.heads, strict=True):
            value = head(trunk).reshape(len(trunk), *shape)
            out[name] = value if name in self.contrastive else self.scale.up(name, value)
        return out


def numel(shape: Shape) -> int:
    return math.prod(shape)


def projection_heads(
    width: int, shapes: Mapping[str, Shape], *, contrastive: Sequence[str], dropout: float
) -> Heads:
    """A `Projection` per target: normed for contrastive ones, free in scale for the others."""
    return Heads(
        width,
        shapes,
        contrastive=contrastive,
        contrast=lambda w, s: Projection(w, numel(s), dropout=dropout),
        regress=lambda w, s: Projection(w, numel(s), dropout=dropout, norm=False),
    )


def subject_input(passport: Passport, kind: str) -> SubjectMix | None:
    """What `subjects: mix|shared` means to encoders of sensors: a matrix per subject, or nothing.

    Raises InputError for another word, and for `shared` where subjects differ in channels.
    """
    if kind == "mix":
        return SubjectMix(passport.n_channels, max(passport.n_channels))
    if kind != "shared":
        raise InputError(
            f"encoder.subjects: expected 'mix' or 'shared', got {kind!r}; choose one of these"
        )
    if len(set(passport.n_channels)) > 1:
        raise refusal(
            "encoder.subjects",
            "mix where subjects differ in channels",
            f"shared, with {passport.n_channels} {passport.unit}",
            "choose subjects=mix, or give all subjects the same channels",
        )
    return None
