"""What a preprocessing function hands to the preprocess stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from decode.core import Layout


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """One preprocessed run.

    `signal` is (time, channel) float32; `table` has one row per trial with `start`, the sample at
    which its window of `layout.n_times` samples begins, and the columns of the events. `baseline`
    gives the first and one-past-last sample, relative to `start`, whose mean is subtracted from each
    channel when a window is read; None leaves windows as they are.
    """

    signal: np.ndarray
    layout: Layout
    table: pd.DataFrame
    baseline: tuple[int, int] | None = None
