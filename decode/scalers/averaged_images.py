"""Normalisations of beta maps that published systems use beside the plain z-score.

They differ in which trials the statistics come from, and that changes scores: means of repeats vary
less than single trials, and statistics over a whole session have seen its test trials.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from decode.core import InputError, refusal
from decode.division import Scaler, State
from decode.scaling import CHUNK_BYTES, marks, missing_channels


class ZScoreOfImages(Scaler):
    """Zero mean and unit variance over training *images*: repeats are averaged before counting.

    As Brain-Diffuser does (Ozcelik & VanRullen 2023, doi:10.1038/s41598-023-42891-8), with the
    standard deviation of a sample (n - 1). It belongs to averaged trials: protocol.train_repeats and
    protocol.test_repeats "before"; single trials then vary more than 1. Several time points of a
    window share their voxel's statistics. Channels that the table marks as missing stay 0.
    """

    reads_stimuli = True

    def fit(self, brain: np.ndarray, table: pd.DataFrame) -> State:
        if len(brain) != len(table):
            raise ValueError(f"{len(brain)} windows do not belong to {len(table)} table rows")
        total = square = first = None
        n = 0
        for means in _image_means(brain, table["stimulus"].to_numpy(dtype=str)):
            # Counted from the first one, so that a large offset costs no digits.
            first = means[0].mean(1, keepdims=True) if first is None else first
            x = means - first
            add, add_square = x.sum((0, 2))[:, None], (x**2).sum((0, 2))[:, None]
            total = add if total is None else total + add
            square = add_square if square is None else square + add_square
            n += x.shape[0] * x.shape[2]
        if first is None or total is None or square is None or n < 2:
            raise InputError(
                f"scaler: expected at least two training images, got {n}; check the split"
            )
        variance = (square - total**2 / n) / (n - 1)
        variance[missing_channels(brain, table)] = 1
        flat = np.flatnonzero(~(variance[:, 0] > 0))
        if len(flat):
            raise refusal(
                "scaler",
                "channels that vary over training images",
                f"{len(flat)} of {len(variance)} that are constant or NaN (counted from 0: {flat[0]}, ...)",
                "drop them in preprocessing or set scaler=none",
            )
        return {"shift": first + total / n, "scale": np.sqrt(variance)}

    def apply(self, brain: np.ndarray, table: pd.DataFrame, state: State) -> np.ndarray:
        out = np.empty(brain.shape, np.float32)
        step = _rows_per_chunk(brain)
        for start in range(0, len(brain), step):
            x = np.asarray(brain[start : start + step], np.float64)
            out[start : start + step] = (x - state["shift"]) / state["scale"]
        for channels, rows in marks(table, brain.shape[1]):
            out[np.ix_(rows, channels)] = 0
        return out


def _rows_per_chunk(brain: np.ndarray) -> int:
    return max(1, CHUNK_BYTES // (24 * max(1, int(np.prod(brain.shape[1:])))))


def _image_means(brain: np.ndarray, stimuli: np.ndarray) -> Iterator[np.ndarray]:
    """(image, channel, time) float64 means over the trials of each image, a chunk at a time."""
    order = np.argsort(stimuli, kind="stable")
    shown = stimuli[order]
    begins = np.flatnonzero(np.r_[True, shown[1:] != shown[:-1]]) if len(order) else order
    groups = np.split(order, begins[1:])
    step = _rows_per_chunk(brain)
    start = 0
    while start < len(groups):
        stop, rows = start + 1, len(groups[start])
        while stop < len(groups) and rows + len(groups[stop]) <= step:
            rows += len(groups[stop])
            stop += 1
        counts = np.array([len(g) for g in groups[start:stop]])
        x = np.asarray(brain[np.concatenate(groups[start:stop])], np.float64)
        sums = np.add.reduceat(x, np.r_[0, np.cumsum(counts)[:-1]], axis=0)
        yield sums / counts[:, None, None]
        start = stop
