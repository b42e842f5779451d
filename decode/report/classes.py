"""Which class was taken for which: confusion matrices and the scores of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from decode.report.content import ALL_SUBJECTS
from decode.scoring.intervals import interval

# A wider matrix cannot be read; its classes keep their lines.
LARGEST = 24


@dataclass(frozen=True, slots=True)
class ClassLine:
    """One class: its test trials, how often it was named, the share of its trials that were named
    right (recall) with the 95 % interval, and of its namings that were right (precision).
    """

    name: str
    n: int
    named: float
    recall: float
    low: float
    high: float
    precision: float


@dataclass(frozen=True, slots=True, eq=False)
class ClassCard:
    """Classes of one target in one split, for a subject or all: `counts` is (true class, named
    class), a trial with several equal maxima being shared among them.
    """

    split: str
    target: str
    subject: str
    counts: np.ndarray
    lines: Sequence[ClassLine]

    @property
    def names(self) -> list[str]:
        return [line.name for line in self.lines]

    @property
    def drawn(self) -> bool:
        """Whether the matrix is small enough to be read."""
        return len(self.lines) <= LARGEST


def class_names(node: Mapping[str, Any], n: int) -> list[str]:
    """Names of the `n` classes of a target from its config, or their numbers."""
    listed = node.get("classes")
    known = isinstance(listed, list) and len(listed) == n
    return [str(name) for name in (listed if known else range(n))]  # type: ignore[union-attr]


def class_cards(
    table: pd.DataFrame, target: str, predicted: np.ndarray, truth: np.ndarray, names: Sequence[str]
) -> list[ClassCard]:
    """One card over all subjects and, where there are several, one for each.

    `table` has a row per test trial of one split (subject, stimulus, split); `predicted` and `truth`
    are (row, class). Classes without a test trial keep their column.
    """
    subject = table["subject"].astype(str).to_numpy()
    groups = {s: np.flatnonzero(subject == s) for s in dict.fromkeys(subject)}
    if len(groups) > 1:
        groups = {ALL_SUBJECTS: np.arange(len(table)), **groups}
    split = str(table["split"].iloc[0])
    cards = []
    for label, rows in groups.items():
        top = predicted[rows] == predicted[rows].max(axis=1, keepdims=True)
        named = top / top.sum(axis=1, keepdims=True)
        lines = class_lines(table.iloc[rows], named, truth[rows], names)
        cards.append(ClassCard(split, target, label, truth[rows].T @ named, lines))
    return cards


def class_lines(
    table: pd.DataFrame, named: np.ndarray, truth: np.ndarray, names: Sequence[str]
) -> list[ClassLine]:
    """A line per class; `named` (row, class) is what each trial was called."""
    lines = []
    for number, name in enumerate(names):
        own = truth[:, number] == 1
        often = float(named[:, number].sum())
        recall = low = high = float("nan")
        if own.any():
            rows = table.loc[own, ["subject", "stimulus"]].assign(value=named[own, number])
            recall, low, high = interval(rows.assign(by_trial=rows["stimulus"].nunique() == 1))
        precision = float(named[own, number].sum()) / often if often else float("nan")
        lines.append(ClassLine(name, int(own.sum()), often, recall, low, high, precision))
    return lines
