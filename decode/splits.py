"""Which trials are trained on, validated on and tested on: made before anything is fitted.

Each function takes the table of all trials (subject, session, run, stimulus, split and any label
columns) and returns folds. Parts are made of whole groups of the column `by`, so that nothing named
there (a stimulus, a concept, a run, a block) is on both sides; validation groups come out of the
training groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from decode.core import InputError, refusal

# What a value counts within: an onset from the start of its run, runs from the start of their session.
# Subjects' first runs stay one group, so that a fold tests everyone.
WITHIN = {"onset": ("subject", "session", "run"), "run": ("session",)}
UNUSED, TRAIN, VALIDATION, TEST = "", "train", "validation", "test"


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """`part` is (trial,) of "train", "validation", "test" or "" (left out); `by` names its groups."""

    part: np.ndarray
    by: str


def published(
    table: pd.DataFrame,
    *,
    by: str = "stimulus",
    validation: float = 0.1,
    sessions: int | None = None,
    of: str | None = None,
    tested: Sequence[str] | None = None,
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
        raise InputError(
            f"split 'published' expects 'train' and 'test' in the events' split column, got "
            f"{sorted(set(map(str, part)))}; choose split=kfold or split=leave_one_run_out"
        )
    if sessions is not None:
        part[_later_sessions(table, part, sessions, of)] = UNUSED
    if tested is not None:
        part[(part == TEST) & ~table["subject"].isin(_known(table, tested))] = UNUSED
    return [Fold(_hold_out(part, _groups(table, by), validation, seed), by)]


def _known(table: pd.DataFrame, subjects: Sequence[str]) -> Sequence[str]:
    known = sorted(set(table["subject"].astype(str)))
    unknown = [s for s in subjects if s not in known]
    if unknown or not subjects:
        got = repr(unknown[0]) if unknown else "none"
        raise refusal("split.tested", f"some of the subjects {known}", got, "correct it")
    return subjects


def _later_sessions(
    table: pd.DataFrame, part: np.ndarray, sessions: int, of: str | None
) -> np.ndarray:
    """(trial,) True for training trials after a subject's first `sessions` sessions of training."""
    subjects = table["subject"].astype(str).to_numpy()
    names = _groups(table, "session")
    if of is not None and of not in subjects:
        raise InputError(
            f"split: `of` expects one of the subjects {sorted(set(subjects))}, got {of!r}; correct it"
        )
    late = np.zeros(len(table), bool)
    for subject in dict.fromkeys(subjects if of is None else [of]):
        mine = (subjects == subject) & (part == TRAIN)
        known = _distinct(names[mine])
        if not 1 <= sessions <= len(known):
            raise InputError(
                f"split: expected `sessions` from 1 to {len(known)}, the sessions in which {subject} "
                f"has training trials, got {sessions}; change it"
            )
        late |= mine & ~np.isin(names, known[:sessions])
    return late


def kfold(
    table: pd.DataFrame,
    *,
    folds: int = 10,
    by: str = "stimulus",
    validation: float = 0.1,
    contiguous: bool = False,
    within: str | None = None,
    seed: int = 0,
) -> list[Fold]:
    """`folds` folds over all trials; each group of `by` is tested once.

    `contiguous` keeps groups in the order of the table instead of shuffling them; `within` deals the
    groups of each value of a column (a subject) separately, so that every fold tests all of them.
    """
    groups = _groups(table, by)
    keys = groups if within is None else table[within].astype(str).to_numpy() + "\0" + groups
    strata = np.zeros(len(table), int) if within is None else pd.factorize(table[within])[0]
    fold_of: dict[str, int] = {}
    rng = np.random.default_rng(seed)
    for stratum in np.unique(strata):
        names = _distinct(keys[strata == stratum])
        if len(names) < folds:
            whose = (
                "" if within is None else f" of {within} {table[within][strata == stratum].iloc[0]}"
            )
            raise refusal(
                "split kfold",
                f"{folds} groups of {by!r}{whose}, one for each fold or more",
                f"{len(names)}",
                "lower folds" + _instead(by),
            )
        names = names if contiguous else rng.permutation(names)
        for fold, chunk in enumerate(np.array_split(names, folds)):
            fold_of.update(dict.fromkeys(chunk, fold))
    number = np.array([fold_of[k] for k in keys])
    made = []
    for fold in range(folds):
        part = np.where(number == fold, TEST, TRAIN).astype(object)
        made.append(Fold(_hold_out(part, groups, validation, seed + fold), by))
    return made


def leave_one_out(
    table: pd.DataFrame, *, by: str = "run", validation: float = 0.1, seed: int = 0
) -> list[Fold]:
    """One fold per group of `by` (a run, a session, a subject): tested on it, trained on the others."""
    groups = _groups(table, by)
    names = _distinct(groups)
    if len(names) < 3:
        raise refusal(
            f"split leave_one_out by {by}",
            "3 groups or more, of which one is left out",
            f"{len(names)}",
            "choose split=kfold" + _instead(by),
        )
    folds = []
    for i, name in enumerate(names):
        part = np.where(groups == name, TEST, TRAIN).astype(object)
        folds.append(Fold(_hold_out(part, groups, validation, seed + i), by))
    return folds


def _instead(by: str) -> str:
    """What works for a single run: neighbouring trials stay together, so that little leaks."""
    if by == "onset":
        return ""
    return ", or cut runs into stretches of time: split=contiguous with by=onset"


def _groups(table: pd.DataFrame, by: str) -> np.ndarray:
    if by not in table.columns:
        raise InputError(
            f"a split by {by!r} needs that column in the trials; they have {sorted(table.columns)}"
        )
    columns = [c for c in WITHIN.get(by, ()) if c in table]
    return np.array(
        ["\0".join(map(str, r)) for r in table[[*columns, by]].to_numpy()], dtype=object
    )


def _distinct(groups: np.ndarray) -> np.ndarray:
    """Each group once, in the order of the table."""
    return np.array(list(dict.fromkeys(groups)), dtype=object)


def _hold_out(part: np.ndarray, groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Move a share of the training groups to validation; 0 leaves none."""
    if not 0 <= share < 1:
        raise InputError(
            f"validation is a share of the training groups in [0, 1), got {share}; correct it"
        )
    names = _distinct(groups[part == TRAIN])
    n = round(share * len(names))
    if n == 0:
        return part
    chosen = np.random.default_rng([seed, 7]).choice(names, n, replace=False)
    part = part.copy()
    part[(part == TRAIN) & np.isin(groups, chosen)] = VALIDATION
    return part


def manifest(table: pd.DataFrame, splits: dict[str, Sequence[Fold]]) -> pd.DataFrame:
    """One row per trial, split and fold: row (of the trials), split, fold, by and part."""
    rows = []
    for name, folds in splits.items():
        for number, fold in enumerate(folds):
            check(table, fold, name=f"{name}, fold {number}")
            rows.append(
                pd.DataFrame(
                    {
                        "row": np.arange(len(table)),
                        "subject": table["subject"].to_numpy(),
                        "stimulus": table["stimulus"].to_numpy(),
                        "split": name,
                        "fold": number,
                        "by": fold.by,
                        "part": fold.part.astype(str),
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


def check(table: pd.DataFrame, fold: Fold, *, name: str) -> None:
    """Refuse a fold in which a group of `by`, or a block of shared context, is on two sides."""
    for column in dict.fromkeys([fold.by, "block"]):
        if column not in table.columns:
            continue
        known = table[column].notna().to_numpy()
        values = _groups(table, column)
        for one, other in ((TRAIN, TEST), (VALIDATION, TEST), (TRAIN, VALIDATION)):
            both = set(values[known & (fold.part == one)]) & set(
                values[known & (fold.part == other)]
            )
            if both:
                raise InputError(
                    f"split {name}: {column} {sorted(both)[0]!r} is in {one} and in {other} "
                    f"({len(both)} such); split by {column!r} so that parts share none"
                )
    for part in (TRAIN, TEST):
        if not (fold.part == part).any():
            raise InputError(f"split {name}: its {part} part is empty; choose another split")


def digest(manifest_table: pd.DataFrame, table: pd.DataFrame) -> str:
    """Hash that names a split in every score: which trial is in which part of which fold."""
    who = [c for c in ("subject", "session", "run", "onset", "stimulus") if c in table.columns]
    h = hashlib.sha256()
    h.update(table[who].astype(str).to_csv(index=False).encode())
    h.update(manifest_table[["row", "split", "fold", "part"]].to_csv(index=False).encode())
    return h.hexdigest()[:12]
