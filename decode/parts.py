"""Parts of a signal - one region, or one stretch of time - decoded on their own by a ridge.

What a part can tell is shown in the report as a curve over time or a table over regions; samples
from before the stimulus are a control. A part function takes the layouts of all subjects and
returns one `Part` per label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from decode.core import Batch, Encoder, InputError, Layout, Shape, Tensors
from decode.linear.subject_ridge import Per, RidgeKnobs, SubjectRidge
from decode.networks.blocks import Passport


@dataclass(frozen=True, slots=True)
class Part:
    """Samples `first` to `end` (excluded) of each window, of the channels of `regions` (none: of all).

    `targets` are the targets decoded from it; `pooled` parts are averaged over their samples.
    """

    targets: tuple[str, ...]
    first: int
    end: int
    regions: tuple[str, ...] = ()
    pooled: bool = False

    def channels(self, layout: Layout) -> np.ndarray:
        """(channel,) indices of the part's channels."""
        if not self.regions:
            return np.arange(layout.n_channels)
        return np.flatnonzero(np.isin(np.array(layout.rois), self.regions))

    def of(self, layout: Layout) -> Layout:
        """The layout of this part of the signal."""
        kept = self.channels(layout)
        return replace(
            layout,
            names=tuple(layout.names[i] for i in kept),
            positions=layout.positions[kept],
            rois=tuple(layout.rois[i] for i in kept),
            n_times=self.end - self.first,
            start=layout.start + self.first / layout.sfreq,
        )


def regions(
    layouts: Mapping[str, Layout], *, targets: Sequence[str], at_least: int = 10
) -> dict[str, Part]:
    """One part per region that every subject has with `at_least` channels, by name.

    Raises InputError where the channels name no such region.
    """
    counts = [
        {r: layout.rois.count(r) for r in set(layout.rois) - {""}} for layout in layouts.values()
    ]
    shared = [r for r in counts[0] if all(c.get(r, 0) >= at_least for c in counts)]
    if not shared:
        raise InputError(
            f"parts.regions: expected a region that every subject has with {at_least} channels or "
            f"more, the channels name {sorted(counts[0])}; give the data masks of regions or leave "
            "this part out"
        )
    n_times = _one_length(layouts)
    return {name: Part(tuple(targets), 0, n_times, (name,)) for name in sorted(shared)}


def windows(
    layouts: Mapping[str, Layout], *, targets: Sequence[str], width: float, step: float
) -> dict[str, Part]:
    """Windows of `width` s every `step` s, labelled by their centre in ms after the stimulus.

    Raises InputError where the preprocessed windows are shorter than `width`.
    """
    layout = next(iter(layouts.values()))
    n_times = _one_length(layouts)
    size, hop = round(width * layout.sfreq), max(1, round(step * layout.sfreq))
    if not 1 <= size <= n_times:
        raise InputError(
            f"parts.windows: expected a width of {1 / layout.sfreq:g} to "
            f"{n_times / layout.sfreq:g} s, got {width:g}; change it or preprocess.window"
        )
    made = {}
    for first in range(0, n_times - size + 1, hop):
        centre = layout.start + (first + size / 2) / layout.sfreq
        made[f"{round(1000 * centre)}ms"] = Part(tuple(targets), first, first + size, pooled=True)
    return made


def before_stimulus(layouts: Mapping[str, Layout], *, targets: Sequence[str]) -> dict[str, Part]:
    """All samples from before the stimulus: nothing can be decoded there unless something leaks.

    Raises InputError where the preprocessed windows begin with the stimulus.
    """
    layout = next(iter(layouts.values()))
    end = min(round(-layout.start * layout.sfreq), _one_length(layouts))
    if end < 1:
        raise InputError(
            f"parts.before_stimulus: windows begin {layout.start:g} s after the stimulus; let "
            "preprocess.window begin before 0 or leave this part out"
        )
    # Not pooled: a baseline over these samples would leave a mean of zero, which can tell nothing.
    return {"": Part(tuple(targets), 0, end)}


def _one_length(layouts: Mapping[str, Layout]) -> int:
    lengths = {layout.n_times for layout in layouts.values()}
    if len(lengths) > 1:
        raise InputError(
            f"parts: expected equally long windows of all subjects, got {sorted(lengths)} samples; "
            "preprocess all subjects alike"
        )
    return lengths.pop()


class PartRidge(Encoder):
    """A ridge from one part of the signal to the part's targets.

    `alphas` are the strengths to choose from, by leave-one-out, None a grid around the mean
    eigenvalue. Raises InputError for a target that the experiment does not have.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        part: Part,
        alphas: Sequence[float] | None = None,
        per: Per = "target",
    ) -> None:
        super().__init__()
        missing = [name for name in part.targets if name not in shapes]
        if missing:
            raise InputError(
                f"parts: expected targets out of {sorted(shapes)}, got {missing[0]!r}; correct "
                "`targets` of the part"
            )
        self.part, self.passport = part, Passport(layouts)
        self.kept = [torch.from_numpy(part.channels(layout)) for layout in layouts.values()]
        self.ridge = SubjectRidge(
            {name: part.of(layout) for name, layout in layouts.items()},
            {name: shapes[name] for name in part.targets},
            RidgeKnobs(alphas=alphas, per=per, time="mean" if part.pooled else "flatten"),
        )

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.ridge.fit(_Cut(self, train), _Cut(self, validation))

    def forward(self, batch: Batch) -> Tensors:
        return self.ridge(self.cut(batch))

    def cut(self, batch: Batch) -> Batch:
        """The part of a batch: (batch, channel of the part, time of the part)."""
        self.passport.check(batch)
        width = max(len(k) for k in self.kept)
        span = batch.brain[:, :, self.part.first : self.part.end]
        brain = span.new_zeros(len(batch), width, span.shape[2])
        for s in batch.subject.unique().tolist():
            mine = torch.nonzero(batch.subject == s).flatten()
            brain[mine, : len(self.kept[s])] = _select(span, mine, self.kept[s])
        return replace(batch, brain=brain)


def _select(brain: Tensor, rows: Tensor, channels: Tensor) -> Tensor:
    return brain.index_select(0, rows).index_select(1, channels.to(brain.device))


class _Cut:
    """Batches cut to the part, as often as they are asked for."""

    def __init__(self, encoder: PartRidge, batches: Iterable[Batch]) -> None:
        self.encoder, self.batches = encoder, batches

    def __iter__(self) -> Iterator[Batch]:
        return (self.encoder.cut(batch) for batch in self.batches)
