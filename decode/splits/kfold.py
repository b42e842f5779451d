"""Folds over groups of trials."""

from __future__ import annotations

import numpy as np
import pandas as pd

from decode.core import refusal
from decode.division import Fold, Overlap
from decode.splitting import TEST, TRAIN, distinct, groups_of, hold_out, instead


def kfold(
    table: pd.DataFrame,
    *,
    folds: int = 10,
    by: str = "stimulus",
    validation: float = 0.1,
    contiguous: bool = False,
    within: str | None = None,
    overlap: Overlap = "refuse",
    gap: float | None = None,
    seed: int = 0,
) -> list[Fold]:
    """`folds` folds over all trials; each group of `by` is tested once.

    `contiguous` keeps groups in the order of the table instead of shuffling them; `within` deals the
    groups of each value of a column (a subject) separately, so that every fold tests all of them.
    """
    groups = groups_of(table, by)
    keys = groups if within is None else table[within].astype(str).to_numpy() + "\0" + groups
    strata = np.zeros(len(table), int) if within is None else pd.factorize(table[within])[0]
    fold_of: dict[str, int] = {}
    rng = np.random.default_rng(seed)
    for stratum in np.unique(strata):
        names = distinct(keys[strata == stratum])
        if len(names) < folds:
            whose = (
                "" if within is None else f" of {within} {table[within][strata == stratum].iloc[0]}"
            )
            raise refusal(
                "split kfold",
                f"{folds} groups of {by!r}{whose}, one for each fold or more",
                f"{len(names)}",
                "lower folds" + instead(by),
            )
        names = names if contiguous else rng.permutation(names)
        for fold, chunk in enumerate(np.array_split(names, folds)):
            fold_of.update(dict.fromkeys(chunk, fold))
    number = np.array([fold_of[k] for k in keys])
    made = []
    for fold in range(folds):
        part = np.where(number == fold, TEST, TRAIN).astype(object)
        made.append(Fold(hold_out(part, groups, validation, seed + fold), by, overlap, gap))
    return made
