"""Median and interquartile range in place of mean and variance."""

from __future__ import annotations

import numpy as np
import pandas as pd

from decode.core import InputError
from decode.division import Scaler, State
from decode.scaling import (
    apply_by_group,
    check_rows,
    groups_of,
    missing_channels,
    quartiles,
    refuse_constant,
    scaled,
)


class Robust(Scaler):
    """Median 0 and interquartile range 1 per channel, then clamped to +-`clamp` (None: never).

    The scaling of Defossez et al. 2023 (doi:10.1038/s42256-023-00714-5), who clamp at 20.
    """

    def __init__(self, *, clamp: float | None = 20.0, by: str | None = None) -> None:
        if clamp is not None and clamp <= 0:
            raise InputError(
                f"scaler.clamp: expected a positive number or null, got {clamp}; give the number of "
                "deviations at which to clamp, or null"
            )
        self.clamp = clamp
        self.by = by

    def fit(self, brain: np.ndarray, table: pd.DataFrame) -> State:
        check_rows(brain, table)
        missing = missing_channels(brain, table)
        state: State = {}
        for group, rows in groups_of(table, self.by):
            low, middle, high = quartiles(brain, rows)
            high[missing] = 1
            refuse_constant(high - low, "scaled by their interquartile range", group, len(rows))
            state[f"shift/{group}"], state[f"scale/{group}"] = (
                middle[:, None],
                (high - low)[:, None],
            )
        return state

    def apply(self, brain: np.ndarray, table: pd.DataFrame, state: State) -> np.ndarray:
        out = apply_by_group(brain, table, self.by, state, scaled)
        if self.clamp is not None:
            np.clip(out, -self.clamp, self.clamp, out=out)
        return out
