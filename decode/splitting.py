"""What ways of splitting share: groups of trials, the manifest, and what no split may do.

The table of all trials has the columns subject, session, run, stimulus, split and any labels. Parts of a
fold are made of whole groups of the column `by`, so that nothing named
there (a stimulus, a concept, a run, a block) is on both sides; validation groups come out of the
training groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from decode.core import Fold, refusal

# What a value counts within: an onset from the start of its run, runs from the start of their session.
# Subjects' first runs stay one group, so that a fold tests everyone.
WITHIN = {"onset": ("subject", "session", "run"), "run": ("session",)}
UNUSED, TRAIN, VALIDATION, TEST = "", "train", "validation", "test"


def instead(by: str) -> str:
    """What works for a single run: neighbouring trials stay together, so that little leaks."""
    if by == "onset":
        return ""
    return ", or cut runs into stretches of time: split=contiguous with by=onset"


def groups_of(table: pd.DataFrame, by: str) -> np.ndarray:
    if by not in table.columns:
        raise refusal(
            "split.by",
            f"a column of the trials, {sorted(table.columns)}",
            f"{by!r}",
            "name one of them",
        )
    columns = [c for c in WITHIN.get(by, ()) if c in table]
    return np.array(
        ["\0".join(map(str, r)) for r in table[[*columns, by]].to_numpy()], dtype=object
    )


def distinct(groups: np.ndarray) -> np.ndarray:
    """Each group once, in the order of the table."""
    return np.array(list(dict.fromkeys(groups)), dtype=object)


def hold_out(part: np.ndarray, groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Move a share of the training groups to validation; 0 leaves none."""
    if not 0 <= share < 1:
        raise refusal(
            "split.validation",
            "a share of the training groups in [0, 1)",
            share,
            "give a share below 1",
        )
    names = distinct(groups[part == TRAIN])
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
        values = groups_of(table, column)
        for one, other in ((TRAIN, TEST), (VALIDATION, TEST), (TRAIN, VALIDATION)):
            both = set(values[known & (fold.part == one)]) & set(
                values[known & (fold.part == other)]
            )
            if both:
                raise refusal(
                    f"split {name}",
                    f"each {column} in one part",
                    f"{sorted(both)[0]!r} in {one} and in {other} ({len(both)} such)",
                    f"split by {column!r} so that parts share none",
                )
    for part in (TRAIN, TEST):
        if not (fold.part == part).any():
            raise refusal(
                f"split {name}", f"trials in its {part} part", "none", "choose another split"
            )


def digest(manifest_table: pd.DataFrame, table: pd.DataFrame) -> str:
    """Hash that names a split in every score: which trial is in which part of which fold."""
    who = [c for c in ("subject", "session", "run", "onset", "stimulus") if c in table.columns]
    h = hashlib.sha256()
    h.update(table[who].astype(str).to_csv(index=False).encode())
    h.update(manifest_table[["row", "split", "fold", "part"]].to_csv(index=False).encode())
    return h.hexdigest()[:12]
