"""What preprocessing hands to its stage, and the contracts of the steps that lead there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from decode.core import Layout, Recording

# Column of a channel table: nobody recorded the channel, its signal is 0 throughout.
ABSENT = "absent"


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """One preprocessed run.

    `signal` is (time, channel) float32; `table` has one row per trial with `start`, the sample at
    which its window of `layout.n_times` samples begins, and the columns of the events. `baseline`
    gives the first and one-past-last sample, relative to `start`, whose mean is subtracted from each
    channel when a window is read; None leaves windows as they are. Filters have mixed each sample with
    others of up to `reach` s before and after it. Where samples are responses to whole trials, and no
    moments of the run, it is not `timed`.
    """

    signal: np.ndarray
    layout: Layout
    table: pd.DataFrame
    baseline: tuple[int, int] | None = None
    reach: float = 0.0
    timed: bool = True


class Step(Protocol):
    """Recording -> Recording: one run in, the same run with another signal or other channels out.

    The signal that comes out is float32, in the unit that the step says, and as long in seconds as the
    one that went in: sample k lies k / sfreq s after the first. The channel table keeps its columns and
    tells of each new channel where it lies and in which region. Events stay as they are, in seconds.
    Long signals are worked through in pieces (`decode.preprocessing.streams`). Raises InputError.
    """

    def __call__(self, recording: Recording, /) -> Recording: ...


class Cut(Protocol):
    """Recording -> Prepared: the last step, which says where the trials of a run are."""

    def __call__(self, recording: Recording, /) -> Prepared: ...
