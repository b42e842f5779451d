"""Two runs on the same test items: how large is the difference, and could it be luck?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from decode.core import refusal
from decode.scoring.intervals import by_trial, interval
from decode.scoring.summary import SCORE

# Up to so many items every pattern of signs is counted; beyond that patterns are drawn.
EXACT_ITEMS = 12
PIECE_VALUES = 4_000_000


@dataclass(frozen=True, slots=True)
class Difference:
    """One score of one source of run A minus that of run B over `n` shared rows of `n_items` stimuli.

    `low` to `high` is the 95 % interval; `p` is two-sided and `p_holm` corrected for the number of
    metrics that were compared together.
    """

    metric: str
    source: str
    part: str | None
    split: str
    n: int
    n_items: int
    n_subjects: int
    a: float
    b: float
    value: float
    low: float
    high: float
    p: float
    better: str
    p_holm: float = float("nan")


def pair(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Rows of one metric of two runs, side by side: subject, stimulus, a, b.

    Each frame has the columns trial, subject, stimulus, value; what stands in `influence` is taken
    instead, since only that of both runs says how sure their difference is. Where both runs scored
    the very same rows they are paired one by one, otherwise (single trials in one, averages in the
    other; some items missing) the means of each subject and stimulus that both have. Rows of voxels or
    sensors have no stimulus and are paired by subject, channel and time.
    """
    if a["stimulus"].isna().any():
        return _pair_channels(a, b)
    keys = ["trial", "subject", "stimulus"]
    left, right = (x[keys].assign(value=weighed(x)) for x in (a, b))
    same = len(a) == len(b) and left[keys].merge(right[keys], on=keys).shape[0] == len(a)
    if not same:
        keys = keys[1:]
        left, right = (
            x.groupby(keys, sort=False)["value"].mean().reset_index() for x in (left, right)
        )
    both = left.merge(right, on=keys, suffixes=("_a", "_b"))
    both = both.rename(columns={"value_a": "a", "value_b": "b"})
    return both.assign(by_trial=same and by_trial(a))


def _pair_channels(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    keys = ["subject", "channel", "time"]
    left, right = (
        x.assign(value=weighed(x)).groupby(keys, sort=False, dropna=False)["value"].mean()
        for x in (a, b)
    )
    both = pd.concat({"a": left, "b": right}, axis=1, join="inner").reset_index()
    return both.assign(stimulus=None, by_trial=False)


def weighed(rows: pd.DataFrame) -> np.ndarray:
    """What each row adds to the score: its value, or its `influence` where the metric gives one."""
    known = "influence" in rows and rows["influence"].notna().all()
    return rows["influence" if known else "value"].to_numpy(np.float64)


def sign_flip_p(rows: pd.DataFrame, *, seed: int, n: int = 10_000) -> float:
    """Two-sided p of the mean of `value` being zero, by flipping signs of whole stimuli.

    If the runs do not differ, A and B may be exchanged for any stimulus, in all subjects and repeats
    at once. The test speaks about these subjects and other stimuli; whether it holds for other
    subjects is for the interval to say. Exact up to 12 stimuli (where a stimulus is a class shown
    many times, rows are exchanged one by one), otherwise from `n` draws, never below 1 / (n + 1). Rows
    that have no stimulus, of voxels or sensors, are exchanged subject by subject.
    """
    unit = "subject" if rows["stimulus"].isna().any() else "stimulus"
    item, items = pd.factorize(rows[unit], sort=True)
    if by_trial(rows):
        item, items = np.arange(len(rows)), pd.RangeIndex(len(rows))
    total = np.bincount(item, rows["value"].to_numpy(np.float64), minlength=len(items))
    seen = abs(total.sum()) - 1e-12 * np.abs(total).sum()
    if len(total) <= EXACT_ITEMS:
        signs = np.array(list(product((1.0, -1.0), repeat=len(total))))
        return float((np.abs(signs @ total) >= seen).mean())
    rng = np.random.default_rng([seed, 57])
    size = max(1, PIECE_VALUES // len(total))
    as_large = 0
    for start in range(0, n, size):
        signs = rng.integers(0, 2, (min(size, n - start), len(total))) * 2.0 - 1
        as_large += int((np.abs(signs @ total) >= seen).sum())
    return (1 + as_large) / (1 + n)


def holm(p: Sequence[float]) -> np.ndarray:
    """p values corrected for their number (Holm 1979): the chance of any false alarm stays below."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    out = np.empty_like(values)
    out[order] = np.minimum(stepped, 1.0)
    return out


def _known(value: Any) -> Any:
    return None if pd.isna(value) else value


def compare(
    a: pd.DataFrame, b: pd.DataFrame, *, seed: int = 0, draws: int = 10_000
) -> list[Difference]:
    """Differences of all metrics that two tables of scores share, Holm-corrected together.

    Tables have the columns metric, source, part, split, subject, stimulus, trial, value, better. The
    interval is that of `interval`, `seed` and `draws` are those of the p values. Raises InputError when
    the tables share no score or no item.
    """
    groups = [
        {
            tuple(_known(k) for k in key): rows
            for key, rows in x.groupby(SCORE, sort=False, dropna=False)
        }
        for x in (a, b)
    ]
    shared = [key for key in groups[0] if key in groups[1]]
    if not shared:
        names = [sorted(set(x["metric"])) for x in (a, b)]
        raise refusal(
            "compare",
            "a metric that both runs have",
            f"{names[0]} in the first and {names[1]} in the second",
            "evaluate both with one metric",
        )
    found = []
    for split, source, part, metric in shared:
        first, second = (g[split, source, part, metric] for g in groups)
        rows = pair(first, second)
        if rows.empty:
            raise refusal(
                "compare",
                f"runs that share subjects and stimuli in {metric} of split {split}",
                "none in common",
                "compare runs of the same subjects",
            )
        rows["value"] = rows["a"] - rows["b"]
        value, low, high = interval(rows, share=False)
        found.append(
            Difference(
                metric, source, part, split,
                len(rows), rows["stimulus"].nunique(), rows["subject"].nunique(),
                float(rows["a"].mean()), float(rows["b"].mean()), value, low, high,
                sign_flip_p(rows, seed=seed, n=draws), first["better"].iloc[0],
            )
        )  # fmt: skip
    corrected = holm([d.p for d in found])
    return [replace(d, p_holm=float(p)) for d, p in zip(found, corrected, strict=True)]
