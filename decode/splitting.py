"""What ways of splitting share: groups of trials, the manifest, and what no split may do.

The table of all trials has the columns subject, session, run, stimulus, split and any labels. Parts of a
fold are made of whole groups of the column `by`, so that nothing named
there (a stimulus, a concept, a run, a block) is on both sides; validation groups come out of the
training groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from decode.core import InputError, refusal
from decode.division import Fold
from decode.notices import tell

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
    if by == "block":
        table = table.assign(block=table["block"].where(table["block"].notna(), table["stimulus"]))
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


def manifest(
    table: pd.DataFrame, splits: dict[str, Sequence[Fold]], spans: Spans | None = None
) -> pd.DataFrame:
    """One row per trial, split and fold: row (of the trials), split, fold, by and part.

    With `spans`, no window of training shares samples with one of the test, unless that is asked for.
    """
    rows = []
    for name, folds in splits.items():
        for number, fold in enumerate(folds if spans is None else apart(folds, spans, name)):
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


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """What each trial reads of its run, all (trial,): the samples from `first` up to `stop` of recording
    number `run`, at `rate` Hz; filters mixed each with others of up to `reach` s on both sides. Trials
    that are not `timed` read a response of their own.
    """

    first: np.ndarray
    stop: np.ndarray
    run: np.ndarray
    rate: np.ndarray
    reach: np.ndarray
    timed: np.ndarray

    def near(self, part: np.ndarray, gap: float | None) -> np.ndarray:
        """(trial,) True for trials of training and validation that share samples with one of the test or,
        with a number of seconds for `gap`, lie nearer than that; None is twice the reach of filters.
        """
        between = 2 * self.reach if gap is None else np.full(len(part), gap)
        wide = np.ceil(between * self.rate - 1e-6).astype(np.int64)
        found = np.zeros(len(part), bool)
        for run in np.unique(self.run[self.timed]):
            mine = np.flatnonzero((self.run == run) & self.timed)
            tested = mine[part[mine] == TEST]
            others = mine[np.isin(part[mine], (TRAIN, VALIDATION))]
            if len(tested) and len(others):
                first, stop = self.first[others] - wide[others], self.stop[others] + wide[others]
                begun = np.searchsorted(np.sort(self.first[tested]), stop)
                ended = np.searchsorted(np.sort(self.stop[tested]), first, side="right")
                found[others] = begun > ended
        return found


# What a subject's trials read: first and stop around their start, rate, reach, timed, beginnings of runs.
Reading = tuple[int, int, float, float, bool, Sequence[int]]


def spans_of(table: pd.DataFrame, signals: Mapping[str, Reading]) -> Spans:
    """Where the windows of trials lie, by subject and start."""
    subjects, start = table["subject"].astype(str).to_numpy(), table["start"].to_numpy(np.int64)
    columns = {name: np.zeros(len(table)) for name in ("first", "stop", "run", "rate", "reach")}
    timed, recordings = np.zeros(len(table), bool), 0
    for subject, (first, stop, rate, reach, is_timed, runs) in signals.items():
        mine = subjects == subject
        columns["first"][mine], columns["stop"][mine] = start[mine] + first, start[mine] + stop
        columns["run"][mine] = recordings + np.searchsorted(runs, start[mine], side="right")
        columns["rate"][mine], columns["reach"][mine], timed[mine] = rate, reach, is_timed
        recordings += len(runs) + 1
    whole = {k: columns.pop(k).astype(np.int64) for k in ("first", "stop", "run")}
    return Spans(**whole, **columns, timed=timed)


def apart(folds: Sequence[Fold], spans: Spans, name: str) -> list[Fold]:
    """The folds without the windows of training that share samples with the test, or as they are where
    that is asked for; InputError otherwise. How many there are is told in one line.
    """
    made, lost, of = [], 0, 0
    for number, fold in enumerate(folds):
        near = spans.near(fold.part, fold.gap)
        if near.any() and fold.overlap == "refuse":
            raise _shared(spans, fold, near, name, number)
        lost, of = lost + int(near.sum()), of + int(np.isin(fold.part, (TRAIN, VALIDATION)).sum())
        made.append(
            replace(fold, part=np.where(near, UNUSED, fold.part))
            if fold.overlap == "drop"
            else fold
        )
    if lost:
        did = "left out" if folds[0].overlap == "drop" else f"kept (splits.{name}.overlap=keep)"
        where = f" in {len(folds)} folds" if len(folds) > 1 else ""
        tell(
            f"split {name}",
            f"{lost} of {of} windows of training{where} are {did}: they share samples with windows of "
            f"the test part{_by_filters(spans, folds[0])}",
        )
    return made


def _by_filters(spans: Spans, fold: Fold) -> str:
    if fold.gap is not None:
        return f", or lie less than {fold.gap:g} s from them" if fold.gap else ""
    most = float(spans.reach.max(initial=0))
    return f", or what these are made of by filters of {most:.3g} s to both sides" if most else ""


def _shared(spans: Spans, fold: Fold, near: np.ndarray, name: str, number: int) -> InputError:
    n, of = int(near.sum()), int(np.isin(fold.part, (TRAIN, VALIDATION)).sum())
    bare = int(spans.near(fold.part, 0.0).sum())
    through = f"; the others{_by_filters(spans, fold)}" if n > bare else ""
    return refusal(
        f"split {name}, fold {number}",
        "windows of training that share no samples with those of the test part",
        f"{n} of {of} that do ({bare} of them by window or baseline themselves{through})",
        f"split by run (split=leave_one_run_out, contiguous), leave them out (splits.{name}.overlap=drop), "
        f"look at windows alone (splits.{name}.gap=0) or keep them and have it told "
        f"(splits.{name}.overlap=keep)",
    )


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
