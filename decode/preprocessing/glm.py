"""The general linear model of BOLD with one regressor per trial: arrays in, arrays out.

Betas are linear in the signal, `beta = weights @ signal` with weights (trial, time), so whoever
knows the covariance of the noise knows the noise of a beta.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from decode.core import refusal


@dataclass(frozen=True, slots=True)
class Haemodynamics:
    """A difference of two gamma densities (times in s): response and undershoot."""

    delay: float
    undershoot: float
    dispersion: float
    ratio: float

    def response(self, t: np.ndarray) -> np.ndarray:
        """Response to an impulse at time 0."""
        from scipy.stats import gamma

        d = self.dispersion
        rise = gamma.pdf(t, self.delay / d, scale=d)
        return rise - self.ratio * gamma.pdf(t, self.undershoot / d, scale=d)

    def accumulated(self, t: np.ndarray) -> np.ndarray:
        """Integral of `response` from 0 to t."""
        from scipy.special import gammainc

        s = np.maximum(t, 0.0) / self.dispersion
        rise = gammainc(self.delay / self.dispersion, s)
        return rise - self.ratio * gammainc(self.undershoot / self.dispersion, s)


HRFS = {
    # Glover 1999, doi:10.1006/nimg.1998.0419, and SPM's canonical response
    "glover": Haemodynamics(delay=6.0, undershoot=12.0, dispersion=0.9, ratio=0.48),
    "spm": Haemodynamics(delay=6.0, undershoot=16.0, dispersion=1.0, ratio=1 / 6),
}


def event_response(t: np.ndarray, duration: float, *, hrf: str) -> np.ndarray:
    """Response at time t after the onset of an event of `duration` s, scaled to a peak of 1.

    The boxcar is convolved in closed form; a duration of 0 is an impulse.
    """
    return _event_response(t, duration, hrf) / _peak(duration, hrf)


def _event_response(t: np.ndarray, duration: float, hrf: str) -> np.ndarray:
    if hrf not in HRFS:
        raise refusal("preprocess.hrf", f"one of {sorted(HRFS)}", f"{hrf!r}", "choose one")
    shape = HRFS[hrf]
    if duration == 0:
        return shape.response(t)
    return shape.accumulated(t) - shape.accumulated(t - duration)


@lru_cache(maxsize=1024)
def _peak(duration: float, hrf: str) -> float:
    # After a minute the response has settled: what follows is no higher than what was.
    shown = min(duration, 60.0)
    fine = np.linspace(0, shown + 30, 20 * int(shown + 30) + 1)
    return float(_event_response(fine, shown, hrf).max())


def trial_regressors(
    onsets: np.ndarray, durations: np.ndarray, times: np.ndarray, *, hrf: str
) -> np.ndarray:
    """(time, trial) expected response to each trial at the acquisition `times` (s)."""
    x = np.empty((len(times), len(onsets)))
    for duration in np.unique(durations):
        same = durations == duration
        x[:, same] = event_response(times[:, None] - onsets[same], float(duration), hrf=hrf)
    return x


def cosine_drift(n_times: int, tr: float, high_pass: float) -> np.ndarray:
    """(time, regressor) constant and discrete cosines up to `high_pass` Hz."""
    order = min(n_times - 1, int(np.floor(2 * n_times * high_pass * tr)))
    k = np.arange(order + 1)
    return np.cos(np.pi * np.outer(np.arange(n_times) + 0.5, k) / n_times)


def remove(x: np.ndarray, nuisance: np.ndarray) -> np.ndarray:
    """The part of x (time, column) that nuisance (time, regressor) cannot explain."""
    u, s, _ = np.linalg.svd(nuisance, full_matrices=False)
    q = u[:, s > s[0] * 1e-10]
    return x - q @ (q.T @ x)


def separate_weights(trials: np.ndarray, nuisance: np.ndarray) -> np.ndarray:
    """Least squares - separate (Mumford 2012, doi:10.1016/j.neuroimage.2011.08.076).

    One model per trial: its own regressor, the sum of all others, and the nuisance regressors.
    After projecting the nuisance out, each model is a 2 x 2 system with a closed form; the result
    is (trial, time). `trials` is (time, trial).
    """
    own = remove(trials, nuisance)
    others = own.sum(axis=1, keepdims=True) - own
    a, b = np.sum(own**2, axis=0), np.sum(others**2, axis=0)
    c = np.sum(own * others, axis=0)
    determinant = a * b - c**2
    # Alone in its run, a trial has no others to be separated from.
    alone = b <= 1e-12 * a
    bad = np.flatnonzero((determinant <= 1e-9 * a * b) & ~alone)
    if len(bad):
        raise refusal(
            "the model of the run",
            "trials that can be told apart from all others together",
            f"trial {bad[0]}, which cannot",
            "merge events of the same onset",
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(alone, own / a, (b * own - c * others) / determinant)
    return weights.T


def together_weights(trials: np.ndarray, nuisance: np.ndarray) -> np.ndarray:
    """Least squares - all: every trial's regressor in one model; (trial, time)."""
    own = remove(trials, nuisance)
    s = np.linalg.svd(own, compute_uv=False)
    n_times, n_trials = own.shape
    if n_trials > n_times or s[-1] < 1e-6 * s[0]:
        raise refusal(
            "preprocess.trials.method",
            "trials that can be told apart in one model",
            f"{n_trials} in {n_times} volumes, which cannot",
            "use preprocess.trials.method=lss or merge events that overlap",
        )
    return np.linalg.pinv(own)


def residual_ar1(y: np.ndarray, design: np.ndarray) -> float:
    """Lag-1 autocorrelation of the noise, pooled over the columns of y (time, voxel).

    Residuals of a large design are less correlated than the noise itself, so the value is the one
    whose expected residual autocorrelation equals the observed one.
    """
    n = len(y)
    residual = remove(y, design)
    power = np.sum(residual**2, axis=0)
    used = power > 0
    observed = np.mean(np.sum(residual[1:] * residual[:-1], axis=0)[used] / power[used])
    m = remove(np.eye(n), design)
    shifted = m[1:].T @ m[:-1]
    lag = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    grid = np.linspace(-0.2, 0.9, 45)
    expected = [
        np.sum(shifted * r) / np.sum(m * r)
        for r in (np.sign(p) ** lag * abs(p) ** lag for p in grid)
    ]
    return float(np.interp(observed, expected, grid))


def ar1_whitener(n_times: int, rho: float) -> np.ndarray:
    """(time, time) matrix that turns AR(1) noise into white noise."""
    p = np.eye(n_times) - rho * np.eye(n_times, k=-1)
    p[0, 0] = np.sqrt(1 - rho**2)
    return p
