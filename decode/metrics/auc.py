"""Area under the ROC curve of a yes-no target, one row per positive trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from decode.core import InputError, Results
from decode.scoring.rows import galleries, scores, table, vectors


def share_below(score: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Per positive trial, the share of negatives scored lower, ties counting one half.

    `score` is (trial,), `positive` (trial,) bool; the mean of the result is the AUC.
    """
    among_all = rankdata(score)[positive]
    among_positives = rankdata(score[positive])
    return (among_all - among_positives) / (~positive).sum()


class Auc:
    """AUC of a two-class target (one column, or two of which `positive` is looked for).

    Each positive trial is compared with the negatives of its subject, split and fold (`within`),
    since scores of different fits share no scale; a fold without both classes gives no row.
    """

    looks_at: ClassVar[Literal["predictions"]] = "predictions"

    def __init__(
        self,
        target: str = "label",
        *,
        positive: int = 1,
        within: Sequence[str] = ("subject", "split", "fold"),
        name: str = "auc",
    ) -> None:
        if positive not in (0, 1):
            raise InputError(f"metric.positive: expected class 0 or 1, got {positive!r}")
        self.target, self.positive, self.within, self.name = target, positive, tuple(within), name

    def __call__(self, results: Results) -> pd.DataFrame:
        predicted, truth = vectors(results, self.target)
        if truth.shape[1] > 2 or not ((truth == 0) | (truth == 1)).all():
            raise InputError(
                f"{self.name}: expected one or two columns of zeros and ones in target "
                f"{self.target!r}, got {truth.shape[1]} columns; use `accuracy` for more classes"
            )
        score, positive = predicted[:, -1], truth[:, -1] == 1
        if truth.shape[1] == 2:
            # The log-odds of logits; for probabilities the same order as either column.
            score = predicted[:, 1].astype(np.float64) - predicted[:, 0]
        if self.positive == 0:
            score, positive = -score, ~positive
        parts = []
        for gallery in galleries(results.trials, self.within):
            rows, yes = gallery.rows, positive[gallery.rows]
            if yes.any() and not yes.all():
                value = share_below(score[rows], yes)
                parts.append(scores(results, self.name, rows[yes], value, chance=0.5))
        if not parts:
            raise InputError(
                f"{self.name}: no part of the test rows within {list(self.within)} holds both "
                "classes; use larger folds or fewer columns in `within`"
            )
        return table(parts)
