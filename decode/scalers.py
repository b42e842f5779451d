"""Scalers: what is fitted inside a fold, on one subject's training rows, before any encoder.

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
from typing import Literal, Protocol

import numpy as np
import pandas as pd

from decode.core import InputError

State = dict[str, np.ndarray]

ALL = "all"
MISSING = "missing_channels"
CHUNK_BYTES = 32 * 2**20


class Scaler(Protocol):
    """Fitted on training rows only; `apply` returns float32 and leaves its input alone."""

    def fit(self, brain: np.ndarray, table: pd.DataFrame) -> State: ...

    def apply(self, brain: np.ndarray, table: pd.DataFrame, state: State) -> np.ndarray: ...


def is_test_conditioned(scaler: Scaler) -> bool:
    """Whether a scaler is fitted on all trials, those of the test part too; such scores are stamped."""
    return bool(getattr(scaler, "test_conditioned", False))


def reads_stimuli(scaler: Scaler) -> bool:
    """Whether a scaler's statistics are about what was shown, so that unlabelled trials have none."""
    return bool(getattr(scaler, "reads_stimuli", False))


class Unscaled:
    """Leaves the windows as they are, in SI units."""

    def fit(self, brain: np.ndarray, table: pd.DataFrame) -> State:
        return {}

    def apply(self, brain: np.ndarray, table: pd.DataFrame, state: State) -> np.ndarray:
        return np.asarray(brain, np.float32)


class ZScore:
    """Zero mean and unit variance over training trials.

    `per` is "channel" (trials and time points together; for beta maps that is per voxel) or
    "channel_and_time" (each time point of each channel on its own).
    """

    def __init__(
        self, *, per: Literal["channel", "channel_and_time"] = "channel", by: str | None = None
    ) -> None:
        self.per = _one_of("scaler.per", per, ("channel", "channel_and_time"))
        self.by = by

    def fit(self, brain: np.ndarray, table: pd.DataFrame) -> State:
        _check_rows(brain, table)
        missing = missing_channels(brain, table)
        state: State = {}
        for group, rows in _groups(table, self.by):
            mean, variance = _moments(brain, rows, pool_time=self.per == "channel")
            variance[missing] = 1
            _refuse_constant(variance, "z-scored", group, len(rows))
            state[f"shift/{group}"], state[f"scale/{group}"] = mean, np.sqrt(variance)
        return state

    def apply(self, brain: np.ndarray, table: pd.DataFrame, state: State) -> np.ndarray:
        return _apply(brain, table, self.by, state, _scaled)


class Robust:
    """Median 0 and interquartile range 1 per channel, then clamped to +-`clamp` (None: never).

    The scaling of Defossez et al. 2023 (doi:10.1038/s42256-023-00714-5), who clamp at 20.
    """

    def __init__(self, *, clamp: float | None = 20.0, by: str | None = None) -> None:
        if clamp is not None and clamp <= 0:
            raise InputError(
                f"scaler.clamp: expected a positive number or null, got {clamp}; correct it"
            )
        self.clamp = clamp
        self.by = by

    def fit(self, brain: np.ndarray, table: pd.DataFrame) -> State:
        _check_rows(brain, table)
        missing = missing_channels(brain, table)
        state: State = {}
        for group, rows in _groups(table, self.by):
            low, middle, high = _quartiles(brain, rows)
            high[missing] = 1
            _refuse_constant(high - low, "scaled by their interquartile range", group, len(rows))
            state[f"shift/{group}"], state[f"scale/{group}"] = (
                middle[:, None],
                (high - low)[:, None],
            )
        return state

    def apply(self, brain: np.ndarray, table: pd.DataFrame, state: State) -> np.ndarray:
        out = _apply(brain, table, self.by, state, _scaled)
        if self.clamp is not None:
            np.clip(out, -self.clamp, self.clamp, out=out)
        return out


class Whiten:
    """Multivariate noise normalisation (Guggenmos 2018, doi:10.1016/j.neuroimage.2018.02.044).

    A Ledoit-Wolf shrunk channel covariance per trial over its time samples (`over="epochs"`), or
    per stimulus and time point over its repeats (`over="time"`), is averaged within each stimulus,
    then over stimuli; windows are multiplied by its inverse square root. By default per session.
    Channels are mixed afterwards: their names and positions no longer say where they lie.
    """

    def __init__(
        self, *, over: Literal["epochs", "time"] = "epochs", by: str | None = "session"
    ) -> None:
        self.over = _one_of("scaler.over", over, ("epochs", "time"))
        self.by = by
        self.reads_stimuli = self.over == "time"

    def fit(self, brain: np.ndarray, table: pd.DataFrame) -> State:
        _check_rows(brain, table)
        covariance = _covariance_of_epochs if self.over == "epochs" else _covariance_of_repeats
        stimuli = _labels(table, "stimulus")
        # A single broken channel would poison the shrinkage of all, so it is looked for first.
        missing = missing_channels(brain, table)
        variance = _moments(brain, np.arange(len(table)), pool_time=True)[1]
        variance[missing] = 1
        _refuse_constant(variance, "whitened")
        known = brain[:, ~missing] if missing.any() else brain
        *groups, everything = _groups(table, self.by)
        found = {name: covariance(known, rows, stimuli) for name, rows in groups or [everything]}
        found[ALL] = np.mean(list(found.values()), axis=0)
        state: State = {}
        for name, sigma in found.items():
            whitener = np.zeros((len(missing),) * 2)
            whitener[np.ix_(~missing, ~missing)] = _inverse_root(sigma)
            state[f"whitener/{name}"] = whitener
        return state

    def apply(self, brain: np.ndarray, table: pd.DataFrame, state: State) -> np.ndarray:
        return _apply(brain, table, self.by, state, _whitened)


def ledoit_wolf(x: np.ndarray) -> np.ndarray:
    """Shrunk covariances (batch, feature, feature) of samples (batch, sample, feature).

    Each feature is standardised, the covariance shrunk towards its mean variance (Ledoit & Wolf
    2004, doi:10.1016/S0047-259X(03)00096-4), and the features' scales are put back.
    """
    x = np.asarray(x, np.float64)
    n, p = x.shape[1:]
    # Counted from the first sample, a feature that never moves is exactly zero.
    x = x - x[:, :1]
    x = x - x.mean(1, keepdims=True)
    scale = x.std(1, keepdims=True)
    x = x / np.where(scale > 0, scale, 1)
    s = x.transpose(0, 2, 1) @ x / n
    mu = np.trace(s, axis1=1, axis2=2) / p
    size = (s**2).sum((1, 2))
    spread = (size - p * mu**2) / p
    error = (((x**2).sum(2) ** 2).sum(1) / n - size) / (n * p)
    with np.errstate(invalid="ignore", divide="ignore"):
        shrink = np.where(spread > 0, np.clip(error, 0, spread) / spread, 0.0)
    s = (1 - shrink)[:, None, None] * s
    s[:, np.arange(p), np.arange(p)] += (shrink * mu)[:, None]
    return s * scale.transpose(0, 2, 1) * scale


def _covariance_of_epochs(brain: np.ndarray, rows: np.ndarray, stimuli: np.ndarray) -> np.ndarray:
    _, of, count = np.unique(stimuli[rows], return_inverse=True, return_counts=True)
    weight = 1 / (count[of] * len(count))
    total = np.zeros((brain.shape[1],) * 2)
    done = 0
    # Eight bytes a number, and a channel-by-channel matrix per trial beside the trial itself.
    for chunk in _chunks(brain, rows, extra=2 + 2 * brain.shape[1] // max(brain.shape[2], 1)):
        covariances = ledoit_wolf(chunk.transpose(0, 2, 1))
        total += np.tensordot(weight[done : done + len(chunk)], covariances, 1)
        done += len(chunk)
    return total


def _covariance_of_repeats(brain: np.ndarray, rows: np.ndarray, stimuli: np.ndarray) -> np.ndarray:
    total, n = np.zeros((brain.shape[1],) * 2), 0
    shown = stimuli[rows]
    order = np.argsort(shown, kind="stable")
    for part in np.split(rows[order], np.flatnonzero(shown[order][1:] != shown[order][:-1]) + 1):
        if len(part) < 2:
            continue
        total += ledoit_wolf(np.asarray(brain[part]).transpose(2, 0, 1)).mean(0)
        n += 1
    if n == 0:
        raise InputError(
            "scaler.over: 'time' needs stimuli repeated in training, got one trial of each; "
            "use scaler.over=epochs"
        )
    return total / n


def _inverse_root(sigma: np.ndarray) -> np.ndarray:
    """Symmetric inverse square root, float64."""
    # Magnetometers see 1e-13 T: eigenvalues are taken in units where their squares don't vanish.
    unit = np.sqrt(np.diag(sigma)).mean()
    values, vectors = np.linalg.eigh(sigma / unit**2)
    if values[0] <= np.finfo(np.float64).eps * values[-1]:
        raise InputError(
            f"the training noise covariance of {len(sigma)} channels is singular, so it cannot be "
            "whitened; give it more time samples or drop channels that are sums of others"
        )
    return (vectors / np.sqrt(values)) @ vectors.T / unit


def _moments(
    brain: np.ndarray, rows: np.ndarray, *, pool_time: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (channel, time or 1), float64, in one pass."""
    # Numbers are counted from the first one, so that a large offset costs no digits.
    first = np.asarray(brain[rows[0]], np.float64)
    if pool_time:
        first = first[:, :1]
    total, square = np.zeros_like(first), np.zeros_like(first)
    for chunk in _chunks(brain, rows, extra=2):
        x = chunk - first
        total += x.sum((0, 2))[:, None] if pool_time else x.sum(0)
        square += (x**2).sum((0, 2))[:, None] if pool_time else (x**2).sum(0)
    n = len(rows) * (brain.shape[2] if pool_time else 1)
    mean = total / n
    return first + mean, np.maximum(square / n - mean**2, 0)


def _quartiles(brain: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Quartiles (3, channel) over trials and time, a few channels at a time."""
    n_channels, n_times = brain.shape[1:]
    step = max(1, CHUNK_BYTES // (8 * len(rows) * n_times))
    found = []
    for start in range(0, n_channels, step):
        x = np.asarray(brain[rows, start : start + step], np.float64)
        found.append(np.percentile(x.transpose(1, 0, 2).reshape(x.shape[1], -1), (25, 50, 75), 1))
    return np.concatenate(found, 1)


def _apply(
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
        wanted = _labels(table, by)
        known = np.isin(wanted, list(fitted))
        names[known] = wanted[known]
    out = np.empty(brain.shape, np.float32)
    for name in sorted(set(names)):
        rows = np.flatnonzero(names == name)
        step = _rows_per_chunk(brain, extra=2)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            out[part] = change(np.asarray(brain[part], np.float64), state, name)
    for channels, rows in marks(table, brain.shape[1]):
        out[np.ix_(rows, channels)] = 0
    return out


def _scaled(x: np.ndarray, state: State, group: str) -> np.ndarray:
    return (x - state[f"shift/{group}"]) / state[f"scale/{group}"]


def _whitened(x: np.ndarray, state: State, group: str) -> np.ndarray:
    return state[f"whitener/{group}"] @ x


def _rows_per_chunk(brain: np.ndarray, *, extra: int) -> int:
    return max(1, CHUNK_BYTES // (8 * extra * max(1, int(np.prod(brain.shape[1:])))))


def _chunks(brain: np.ndarray, rows: np.ndarray, *, extra: int) -> Iterator[np.ndarray]:
    """Rows of `brain` as float64, a bounded number of bytes at a time."""
    step = _rows_per_chunk(brain, extra=extra)
    for start in range(0, len(rows), step):
        yield np.asarray(brain[rows[start : start + step]], np.float64)


def _groups(table: pd.DataFrame, by: str | None) -> list[tuple[str, np.ndarray]]:
    """Row numbers per group of training rows, and of all rows last (the only one without `by`)."""
    groups = []
    if by is not None and by in table:
        names = _labels(table, by)
        present = sorted(set(names))
        if len(present) > 1:
            groups = [(name, np.flatnonzero(names == name)) for name in present]
    return [*groups, (ALL, np.arange(len(table)))]


def _labels(table: pd.DataFrame, by: str) -> np.ndarray:
    return np.array([f"{by}={value}" for value in table[by]], dtype=object)


def _check_rows(brain: np.ndarray, table: pd.DataFrame) -> None:
    if len(brain) != len(table):
        raise ValueError(f"{len(brain)} windows do not belong to {len(table)} table rows")
    if len(table) == 0:
        raise InputError("a scaler needs training rows, got none; check the split")


def missing_channels(brain: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    """(channel,) boolean: what was recorded in none of the training rows, which is 0 there."""
    missing = np.zeros(brain.shape[1], bool)
    for channels, rows in marks(table, brain.shape[1]):
        if len(rows) < len(table):
            raise InputError(
                f"{len(rows)} of {len(table)} training rows lack channels that others have (the first is "
                f"number {channels[0]}); leave those runs out, give all the same mask, or set scaler=none"
            )
        missing[channels] = True
    wrong = [c for c in np.flatnonzero(missing) if np.any(brain[:, c] != 0)]
    if wrong:
        raise InputError(
            f"{MISSING}: expected channels that are 0 throughout, {len(wrong)} are not (counted from 0: "
            f"{wrong[0]}); correct the column or leave it out"
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


def _refuse_constant(spread: np.ndarray, verb: str, group: str = ALL, n: int | None = None) -> None:
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
    raise InputError(
        f"{len(bad)} of {len(spread)} channels are constant or NaN in the training rows{of} "
        f"(counted from 0: {some}) and cannot be {verb}; "
        "drop them in preprocessing or set scaler=none"
    )


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise InputError(f"{key}: expected one of {', '.join(allowed)}, got {value!r}; correct it")
    return value
