"""Share of trials whose class was named right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from decode.core import InputError, Measure, Metric, Results
from decode.scoring.rows import (
    class_weight,
    classes_are_stimuli,
    galleries,
    is_one_hot,
    scores,
    table,
    vectors,
)


def hit(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """1 where the largest of `predicted` (row, class) is the true class; shared by equal maxima."""
    top = predicted == predicted.max(axis=1, keepdims=True)
    right = np.take_along_axis(top, truth.argmax(axis=1)[:, None], axis=1)[:, 0]
    return right / top.sum(axis=1)


def balanced(value: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(value, influence), each (row,) with the mean over classes of their rates of hits as mean.

    `value` (row,) are hits, `label` (row,) true classes. Hits are weighted so that every class that is
    there counts alike; `influence` has the variance of the mean of the classes' rates.
    """
    code, number = np.unique(label, return_inverse=True, return_counts=True)[1:]
    rate = np.bincount(code, value) / number
    spread = class_weight(number[code]) / len(number) * (value - rate[code])
    return len(label) / (len(number) * number[code]) * value, rate.mean() + spread


def worth(label: np.ndarray) -> float:
    """How many trials of equal classes one of these is worth, where classes of true `label` (row,)
    count alike: the mean of C rates is as sure as C^2 / sum(1 / n) trials.
    """
    number = np.unique(label, return_counts=True)[1]
    return float(len(number) ** 2 / (1 / number).sum() / len(label))


class Accuracy(Metric):
    """Accuracy of a class target: scores (row, class) against one-hot truth.

    Chance of `<name>` is the rate of the most frequent class among the subject's test rows: what a
    constant answer gets without looking at the brain, and more than other answers get by luck
    (`bound`). `balanced_<name>` is the mean over the classes that are there, whatever their
    number of trials; its chance is 1 / classes for every answer.
    """

    looks_at: ClassVar[Literal["predictions"]] = "predictions"
    target: str

    def __init__(self, target: str = "label", *, name: str = "accuracy") -> None:
        self.target, self.name = target, name

    def measures(self) -> Mapping[str, Measure]:
        return {
            self.name: Measure(
                "Share of trials whose class was named right; chance is the most frequent class."
            ),
            f"balanced_{self.name}": Measure(
                "Mean over the classes of the share of their trials that was named right; chance is one "
                "over their number, however many trials each has."
            ),
        }

    def __call__(self, results: Results) -> pd.DataFrame:
        predicted, truth = vectors(results, self.target)
        if not is_one_hot(truth):
            raise InputError(
                f"{self.name}: expected one-hot truth of at least two classes in target "
                f"{self.target!r}, got {truth.shape[1]} columns; use a class target"
            )
        value = hit(predicted, truth)
        parts = []
        for gallery in galleries(results.trials, ("subject", "split")):
            rows = gallery.rows
            mine, label = value[rows], truth[rows].argmax(axis=1)
            rate = truth[rows].mean(axis=0)
            frame = scores(results, self.name, rows, mine, chance=float(rate.max()))
            parts.append(frame.assign(bound=True))
            even, influence = balanced(mine, label)
            chance = 1 / int((rate > 0).sum())
            frame = scores(results, f"balanced_{self.name}", rows, even, chance=chance)
            parts.append(frame.assign(influence=influence, worth=worth(label), bound=False))
        whole = table(parts)
        return whole.assign(by_trial=classes_are_stimuli(results.trials, truth.argmax(axis=1)))
