"""One group at a time is tested on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from decode.core import refusal
from decode.division import Fold, Overlap
from decode.splitting import TEST, TRAIN, distinct, groups_of, hold_out, instead


def leave_one_out(
    table: pd.DataFrame,
    *,
    by: str = "run",
    validation: float = 0.1,
    overlap: Overlap = "refuse",
    gap: float | None = None,
    seed: int = 0,
) -> list[Fold]:
    """One fold per group of `by` (a run, a session, a subject): tested on it, trained on the others."""
    groups = groups_of(table, by)
    names = distinct(groups)
    if len(names) < 3:
        raise refusal(
            f"split leave_one_out by {by}",
            "3 groups or more, of which one is left out",
            f"{len(names)}",
            "choose split=kfold" + instead(by),
        )
    folds = []
    for i, name in enumerate(names):
        part = np.where(groups == name, TEST, TRAIN).astype(object)
        folds.append(Fold(hold_out(part, groups, validation, seed + i), by, overlap, gap))
    return folds
