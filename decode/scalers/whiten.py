"""Multivariate noise normalisation."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from decode.core import refusal
from decode.division import Scaler, State
from decode.scaling import (
    ALL,
    apply_by_group,
    check_rows,
    chunks,
    groups_of,
    labels,
    missing_channels,
    moments,
    one_of,
    refuse_constant,
)


class Whiten(Scaler):
    """Multivariate noise normalisation (Guggenmos 2018, doi:10.1016/j.neuroimage.2018.02.044).

    A Ledoit-Wolf shrunk channel covariance per trial over its time samples (`over="epochs"`), or
    per stimulus and time point over its repeats (`over="time"`), is averaged within each stimulus,
    then over stimuli; windows are multiplied by its inverse square root. By default per session.
    Channels are mixed afterwards: their names and positions no longer say where they lie.
    """

    def __init__(
        self, *, over: Literal["epochs", "time"] = "epochs", by: str | None = "session"
    ) -> None:
        self.over = one_of("scaler.over", over, ("epochs", "time"))
        self.by = by
        self.reads_stimuli = self.over == "time"

    def fit(self, brain: np.ndarray, table: pd.DataFrame) -> State:
        check_rows(brain, table)
        covariance = _covariance_of_epochs if self.over == "epochs" else _covariance_of_repeats
        stimuli = labels(table, "stimulus")
        # A single broken channel would poison the shrinkage of all, so it is looked for first.
        missing = missing_channels(brain, table)
        variance = moments(brain, np.arange(len(table)), pool_time=True)[1]
        variance[missing] = 1
        refuse_constant(variance, "whitened")
        known = brain[:, ~missing] if missing.any() else brain
        *groups, everything = groups_of(table, self.by)
        found = {name: covariance(known, rows, stimuli) for name, rows in groups or [everything]}
        found[ALL] = np.mean(list(found.values()), axis=0)
        state: State = {}
        for name, sigma in found.items():
            whitener = np.zeros((len(missing),) * 2)
            whitener[np.ix_(~missing, ~missing)] = _inverse_root(sigma)
            state[f"whitener/{name}"] = whitener
        return state

    def apply(self, brain: np.ndarray, table: pd.DataFrame, state: State) -> np.ndarray:
        return apply_by_group(brain, table, self.by, state, _whitened)


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
    for chunk in chunks(brain, rows, extra=2 + 2 * brain.shape[1] // max(brain.shape[2], 1)):
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
        raise refusal(
            "scaler.over",
            "stimuli repeated in training, which 'time' needs",
            "one trial of each",
            "use scaler.over=epochs",
        )
    return total / n


def _inverse_root(sigma: np.ndarray) -> np.ndarray:
    """Symmetric inverse square root, float64."""
    # Magnetometers see 1e-13 T: eigenvalues are taken in units where their squares don't vanish.
    unit = np.sqrt(np.diag(sigma)).mean()
    values, vectors = np.linalg.eigh(sigma / unit**2)
    if values[0] <= np.finfo(np.float64).eps * values[-1]:
        raise refusal(
            "scaler",
            "a training noise covariance that can be inverted",
            f"a singular one of {len(sigma)} channels",
            "give it more time samples or drop channels that are sums of others",
        )
    return (vectors / np.sqrt(values)) @ vectors.T / unit


def _whitened(x: np.ndarray, state: State, group: str) -> np.ndarray:
    return state[f"whitener/{group}"] @ x
