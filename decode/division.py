"""The contracts of what stands between recordings and encoders: scalers, splits and parts of the signal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from decode.core import Layout

if TYPE_CHECKING:
    import pandas as pd


# What is done with windows of training that share samples with those of the test.
Overlap = Literal["refuse", "drop", "keep"]
State = dict[str, np.ndarray]


class Scaler(Protocol):
    """What is fitted on one subject's training rows before any encoder sees them.

    `brain` is (trial, channel, time), `table` has a row per trial; the fitted state is a dict of plain
    arrays. `test_conditioned` ones are fitted on all trials, those of the test part too, which stamps
    the scores; the statistics of those that read stimuli are about what was shown, so that unlabelled
    trials have none.
    """

    test_conditioned: bool = False
    reads_stimuli: bool = False

    def fit(self, brain: np.ndarray, table: pd.DataFrame) -> State: ...

    def apply(self, brain: np.ndarray, table: pd.DataFrame, state: State) -> np.ndarray:
        """Scaled windows, float32; `brain` is left alone."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """`part` is (trial,) of "train", "validation", "test" or "" (left out); `by` names its groups.

    Windows that are not for the test and share samples with one that is, or lie less than `gap` s from it
    (None: share samples before any filter), are refused, left out ("drop") or kept, by `overlap`.
    """

    part: np.ndarray
    by: str
    overlap: Overlap = "refuse"
    gap: float | None = None


class Split(Protocol):
    """The table of all trials (subject, session, run, stimulus, split, labels) -> folds, made before
    anything is fitted.
    """

    def __call__(self, table: pd.DataFrame) -> Sequence[Fold]: ...


@dataclass(frozen=True, slots=True)
class Part:
    """Samples `first` to `end` (excluded) of each window, of the channels of `regions` (none: of all).

    `targets` are the targets decoded from it; `pooled` parts are averaged over their samples. `meaning`
    is told to readers of a report; `time` is the middle of a window, s after the stimulus; a `control`
    is no question but a check: it is shown beside the decoder's scores.
    """

    targets: tuple[str, ...]
    first: int
    end: int
    regions: tuple[str, ...] = ()
    pooled: bool = False
    meaning: str = "a ridge on this part of the signal alone"
    time: float | None = None
    control: bool = False

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


class Parts(Protocol):
    """The layouts of all subjects -> parts of the signal by their labels ("": there is but one)."""

    def __call__(self, layouts: Mapping[str, Layout]) -> Mapping[str, Part]: ...
