"""What scalers share: statistics over training rows, per group of trials, in chunks.

`brain` is (trial, channel, time), possibly memory-mapped, and is read in chunks; `table` has one
row per trial; the fitted state is a dict of plain arrays. Statistics may be taken per group of
trials (`by` names a column, usually `session`). Rows of a group that training never saw get the
statistics of all training rows (whitening: the mean covariance of the training groups), so that
leaving a whole session out is possible without looking at it.

A constant channel is refused, unless nobody recorded it: the column MISSING of `table` names channels,
by their numbers from 0 with spaces between, that are 0 throughout to keep others in their places. They
are left alone and stay 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from decode.core import InputError, refusal
from decode.division import State

ALL = "all"
MISSING = "missing_channels"
CHUNK_BYTES = 32 * 2**20


def moments(
    brain: np.ndarray, rows: np.ndarray, *, pool_time: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (channel, time or 1), float64, in one pass."""
    # Numbers are counted from the first one, so that a large offset costs no digits.
    first = np.asarray(brain[rows[0]], np.float64)
    if pool_time:
        first = first[:, :1]
    total, square = np.zeros_like(first), np.zeros_like(first)
    for chunk in chunks(brain, rows, extra=2):
        x = chunk - first
        total += x.sum((0, 2))[:, None] if pool_time else x.sum(0)
        square += (x**2).sum((0, 2))[:, None] if pool_time else (x**2).sum(0)
    n = len(rows) * (brain.shape[2] if pool_time else 1)
    mean = total / n
    return first + mean, np.maximum(square / n - mean**2, 0)


def quartiles(brain: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Quartiles (3, channel) over trials and time, a few channels at a time."""
    n_channels, n_times = brain.shape[1:]
    step = max(1, CHUNK_BYTES // (8 * len(rows) * n_times))
    found = []
    for start in range(0, n_channels, step):
        x = np.asarray(brain[rows, start : start + step], np.float64)
        found.append(np.percentile(x.transpose(1, 0, 2).reshape(x.shape[1], -1), (25, 50, 75), 1))
    return np.concatenate(found, 1)


def apply_by_group(
    brain: np.ndarray,
    table: pd.DataFrame,
    by: str | None,
    state: State,
    change: Callable[[np.ndarray, State, str], np.ndarray],
) -> np.ndarray:
    """`change` of every row with its group's statistics; unknown groups use those of all rows."""
    if len(brain) != len(table):
        raise ValueError(f"{len(brain)} windows do not belong to {len(table)} table rows")
    fitted = {key.partition("/")[2] for key in state}
    names = np.full(len(table), ALL, dtype=object)
    if by is not None and by in table:
        wanted = labels(table, by)
        known = np.isin(wanted, list(fitted))
        names[known] = wanted[known]
    out = np.empty(brain.shape, np.float32)
    for name in sorted(set(names)):
        rows = np.flatnonzero(names == name)
        step = rows_per_chunk(brain, extra=2)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            out[part] = change(np.asarray(brain[part], np.float64), state, name)
    for channels, rows in marks(table, brain.shape[1]):
        out[np.ix_(rows, channels)] = 0
    return out


def scaled(x: np.ndarray, state: State, group: str) -> np.ndarray:
    return (x - state[f"shift/{group}"]) / state[f"scale/{group}"]


def rows_per_chunk(brain: np.ndarray, *, extra: int) -> int:
    return max(1, CHUNK_BYTES // (8 * extra * max(1, int(np.prod(brain.shape[1:])))))


def chunks(brain: np.ndarray, rows: np.ndarray, *, extra: int) -> Iterator[np.ndarray]:
    """Rows of `brain` as float64, a bounded number of bytes at a time."""
    step = rows_per_chunk(brain, extra=extra)
    for start in range(0, len(rows), step):
        yield np.asarray(brain[rows[start : start + step]], np.float64)


def groups_of(table: pd.DataFrame, by: str | None) -> list[tuple[str, np.ndarray]]:
    """Row numbers per group of training rows, and of all rows last (the only one without `by`)."""
    groups = []
    if by is not None and by in table:
        names = labels(table, by)
        present = sorted(set(names))
        if len(present) > 1:
            groups = [(name, np.flatnonzero(names == name)) for name in present]
    return [*groups, (ALL, np.arange(len(table)))]


def labels(table: pd.DataFrame, by: str) -> np.ndarray:
    return np.array([f"{by}={value}" for value in table[by]], dtype=object)


def check_rows(brain: np.ndarray, table: pd.DataFrame) -> None:
    if len(brain) != len(table):
        raise ValueError(f"{len(brain)} windows do not belong to {len(table)} table rows")
    if len(table) == 0:
        raise refusal(
            "scaler", "training rows", "none", "choose a split whose training part is not empty"
        )


def missing_channels(brain: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    """(channel,) boolean: what was recorded in none of the training rows, which is 0 there."""
    missing = np.zeros(brain.shape[1], bool)
    for channels, rows in marks(table, brain.shape[1]):
        if len(rows) < len(table):
            raise refusal(
                "scaler",
                "training rows with the same channels",
                f"{len(rows)} of {len(table)} that lack some (the first is number {channels[0]})",
                "leave those runs out, give all the same mask, or set scaler=none",
            )
        missing[channels] = True
    wrong = [c for c in np.flatnonzero(missing) if np.any(brain[:, c] != 0)]
    if wrong:
        raise refusal(
            MISSING,
            "channels that are 0 throughout",
            f"{len(wrong)} that are not (counted from 0: {wrong[0]})",
            "correct the column or leave it out",
        )
    return missing


def marks(table: pd.DataFrame, n_channels: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(channels, rows) for each way in which rows of the table lack channels."""
    if MISSING not in table:
        return
    said = table[MISSING].fillna("").astype(str).to_numpy()
    for text in sorted(set(said) - {""}):
        words = text.split()
        if not words or not all(w.isdecimal() and int(w) < n_channels for w in words):
            raise InputError(
                f"{MISSING}: expected numbers of channels from 0 to {n_channels - 1} with spaces between, "
                f"got {text[:60]!r}; correct the column or leave it out"
            )
        yield np.array([int(w) for w in words], np.int64), np.flatnonzero(said == text)


def refuse_constant(spread: np.ndarray, verb: str, group: str = ALL, n: int | None = None) -> None:
    """InputError where a channel does not vary over the `n` training rows of a group."""
    bad = np.flatnonzero((~(spread > 0)).reshape(len(spread), -1).any(1))
    if not len(bad):
        return
    of = "" if group == ALL else f" of {group.replace('=', ' ', 1)}"
    if n == 1:
        raise InputError(
            f"scaler: expected two or more training rows{of}, got 1, which cannot be {verb}; "
            + (
                f"leave that {group.partition('=')[0]} out or set scaler.by=null"
                if of
                else "check the split"
            )
        )
    some = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
    raise refusal(
        "scaler",
        f"channels that vary in the training rows{of}",
        f"{len(bad)} of {len(spread)} that are constant or NaN (counted from 0: {some}) and cannot be {verb}",
        "drop them in preprocessing or set scaler=none",
    )


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise InputError(
            f"{key}: expected one of {', '.join(allowed)}, got {value!r}; choose one of these"
        )
    return value
