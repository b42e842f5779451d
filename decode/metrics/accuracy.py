"""Share of trials whose class was named right."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from decode.core import InputError, Results
from decode.scoring.rows import galleries, scores, table, vectors


def hit(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """1 where the largest of `predicted` (row, class) is the true class; shared by equal maxima."""
    top = predicted == predicted.max(axis=1, keepdims=True)
    right = np.take_along_axis(top, truth.argmax(axis=1)[:, None], axis=1)[:, 0]
    return right / top.sum(axis=1)


class Accuracy:
    """Accuracy of a class target: scores (row, class) against one-hot truth.

    Chance is the rate of the most frequent class among the subject's test rows: what a constant
    answer gets without looking at the brain; 1 / classes when they are balanced.
    """

    looks_at: ClassVar[Literal["predictions"]] = "predictions"

    def __init__(self, target: str = "label", *, name: str = "accuracy") -> None:
        self.target, self.name = target, name

    def __call__(self, results: Results) -> pd.DataFrame:
        predicted, truth = vectors(results, self.target)
        one_hot = ((truth == 0) | (truth == 1)).all() and (truth.sum(axis=1) == 1).all()
        if truth.shape[1] < 2 or not one_hot:
            raise InputError(
                f"{self.name}: expected one-hot truth of at least two classes in target "
                f"{self.target!r}, got {truth.shape[1]} columns; use a class target"
            )
        value = hit(predicted, truth)
        parts = []
        for gallery in galleries(results.trials, ("subject", "split")):
            majority = float(truth[gallery.rows].mean(axis=0).max())
            rows = gallery.rows
            parts.append(scores(results, self.name, rows, value[rows], chance=majority))
        return table(parts)
