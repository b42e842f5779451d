"""The split that a data set declares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from decode.core import InputError, refusal
from decode.division import Fold, Overlap
from decode.splitting import TEST, TRAIN, UNUSED, distinct, groups_of, hold_out


def published(
    table: pd.DataFrame,
    *,
    by: str = "stimulus",
    validation: float = 0.1,
    sessions: int | None = None,
    of: str | None = None,
    tested: Sequence[str] | None = None,
    overlap: Overlap = "refuse",
    gap: float | None = None,
    seed: int = 0,
) -> list[Fold]:
    """The split that the data set itself declares in the events' `split` column.

    `sessions` keeps the training trials of the first so many sessions, in the order of the table, of
    the subject `of` (None: of every subject); the test part stays as it is, or is that of the
    subjects `tested` alone.
    """
    part = table["split"].to_numpy(dtype=object).copy()
    unknown = set(part) - {TRAIN, TEST, UNUSED}
    if unknown or TEST not in part or TRAIN not in part:
        raise refusal(
            "split published",
            "'train' and 'test' in the events' split column",
            sorted(set(map(str, part))),
            "choose split=kfold or split=leave_one_run_out",
        )
    if sessions is not None:
        part[_later_sessions(table, part, sessions, of)] = UNUSED
    if tested is not None:
        part[(part == TEST) & ~table["subject"].isin(_known(table, tested))] = UNUSED
    return [Fold(hold_out(part, groups_of(table, by), validation, seed), by, overlap, gap)]


def _known(table: pd.DataFrame, subjects: Sequence[str]) -> Sequence[str]:
    known = sorted(set(table["subject"].astype(str)))
    unknown = [s for s in subjects if s not in known]
    if unknown or not subjects:
        got = repr(unknown[0]) if unknown else "none"
        raise refusal("split.tested", f"some of the subjects {known}", got, "choose from these")
    return subjects


def _later_sessions(
    table: pd.DataFrame, part: np.ndarray, sessions: int, of: str | None
) -> np.ndarray:
    """(trial,) True for training trials after a subject's first `sessions` sessions of training."""
    subjects = table["subject"].astype(str).to_numpy()
    names = groups_of(table, "session")
    if of is not None and of not in subjects:
        raise refusal(
            "split.of",
            f"one of the subjects {sorted(set(subjects))}",
            f"{of!r}",
            "name one of them",
        )
    late = np.zeros(len(table), bool)
    for subject in dict.fromkeys(subjects if of is None else [of]):
        mine = (subjects == subject) & (part == TRAIN)
        known = distinct(names[mine])
        if not 1 <= sessions <= len(known):
            raise InputError(
                f"split: expected `sessions` from 1 to {len(known)}, the sessions in which {subject} "
                f"has training trials, got {sessions}; change it"
            )
        late |= mine & ~np.isin(names, known[:sessions])
    return late
