"""The windows as they are."""

from __future__ import annotations

import numpy as np
import pandas as pd

from decode.division import Scaler, State


class Unscaled(Scaler):
    """Leaves the windows as they are, in SI units."""

    def fit(self, brain: np.ndarray, table: pd.DataFrame) -> State:
        return {}

    def apply(self, brain: np.ndarray, table: pd.DataFrame, state: State) -> np.ndarray:
        return np.asarray(brain, np.float32)
