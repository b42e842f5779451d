"""Z-scores over trials: of the training part, or, as some published systems do, of all."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from decode.division import Scaler, State
from decode.scaling import (
    apply_by_group,
    check_rows,
    groups_of,
    missing_channels,
    moments,
    one_of,
    refuse_constant,
    scaled,
)


class ZScore(Scaler):
    """Zero mean and unit variance over training trials.

    `per` is "channel" (trials and time points together; for beta maps that is per voxel) or
    "channel_and_time" (each time point of each channel on its own).
    """

    def __init__(
        self, *, per: Literal["channel", "channel_and_time"] = "channel", by: str | None = None
    ) -> None:
        self.per = one_of("scaler.per", per, ("channel", "channel_and_time"))
        self.by = by

    def fit(self, brain: np.ndarray, table: pd.DataFrame) -> State:
        check_rows(brain, table)
        missing = missing_channels(brain, table)
        state: State = {}
        for group, rows in groups_of(table, self.by):
            mean, variance = moments(brain, rows, pool_time=self.per == "channel")
            variance[missing] = 1
            refuse_constant(variance, "z-scored", group, len(rows))
            state[f"shift/{group}"], state[f"scale/{group}"] = mean, np.sqrt(variance)
        return state

    def apply(self, brain: np.ndarray, table: pd.DataFrame, state: State) -> np.ndarray:
        return apply_by_group(brain, table, self.by, state, scaled)


class ZScoreWithTest(ZScore):
    """Z-score per voxel and session over *all* trials, those of the test part too.

    What MindEye1 and the released notebooks of MindEye2 do (Scotti et al. 2023, arXiv:2305.18274;
    2024, arXiv:2403.11207). Runs with it are stamped TEST-CONDITIONED.
    """

    test_conditioned = True

    def __init__(self, *, by: str | None = "session") -> None:
        super().__init__(per="channel", by=by)
