"""Area under the ROC curve of a yes-no target, one row per trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from decode.core import InputError, Measure, Metric, Results, refusal
from decode.scoring.rows import class_weight, classes_are_stimuli, galleries, scores, table, vectors


def placements(score: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Per trial, the share of trials of the other class that lie on the right side of it: below a
    positive one, above a negative one, ties counting one half.

    `score` is (trial,), `positive` (trial,) bool; the mean over either class is the AUC.
    """
    found = np.empty(len(score))
    among_all = rankdata(score)
    for own in (positive, ~positive):
        below = (among_all[own] - rankdata(score[own])) / (~own).sum()
        found[own] = below if own is positive else 1 - below
    return found


def influence(placement: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """(trial,) numbers whose mean is the AUC and whose variance is DeLong's (1988,
    doi:10.2307/2531595): trials of the rarer class weigh more.
    """
    number = np.where(positive, positive.sum(), (~positive).sum())
    area = placement[positive].mean()
    return area + class_weight(number) * (placement - area)


class Auc(Metric):
    """AUC of a two-class target (one column, or two of which `positive` is looked for).

    Each trial is compared with those of the other class of its subject, split and fold (`within`),
    since scores of different fits share no scale; a fold without both classes gives no row. `value`
    is the share of them on the right side, `influence` what the interval is made of.
    """

    looks_at: ClassVar[Literal["predictions"]] = "predictions"
    target: str

    def __init__(
        self,
        target: str = "label",
        *,
        positive: int = 1,
        within: Sequence[str] = ("subject", "split", "fold"),
        name: str = "auc",
    ) -> None:
        if positive not in (0, 1):
            raise InputError(
                f"metric.positive: expected class 0 or 1, got {positive!r}; correct it"
            )
        self.target, self.positive, self.within, self.name = target, positive, tuple(within), name

    def measures(self) -> Mapping[str, Measure]:
        text = (
            "Probability that a trial of the wanted class is scored above one of the other class."
        )
        return {self.name: Measure(text, rows="among")}

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
                value = placements(score[rows], yes)
                frame = scores(results, self.name, rows, value, chance=0.5)
                parts.append(frame.assign(influence=influence(value, yes)))
        if not parts:
            raise refusal(
                f"metric {self.name}",
                f"a part of the test rows within {list(self.within)} that holds both classes",
                "none",
                "use larger folds or fewer columns in `within`",
            )
        return table(parts).assign(by_trial=classes_are_stimuli(results.trials, positive))
