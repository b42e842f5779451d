"""How well anything could do: noise ceilings in closed form where the truth is known, from repeats
where it is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from decode.core import InputError, Truth, refusal

ALL = "all"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and the standard error of its Monte-Carlo estimation (0 = exact)."""

    value: float
    error: float


def variance_ceiling(
    truth: Truth, uids: Sequence[str] | None = None, *, repeats: int
) -> np.ndarray:
    """(feature,) share of the variance of `repeats`-averages that the stimuli explain.

    signal / (signal + noise / repeats), where signal is the variance of the noiseless responses
    over `uids` (None: all stimuli); 0 for a feature without signal.
    """
    response, noise = _known(truth, uids, repeats)
    signal = response.var(axis=0)
    total = signal + noise
    return np.divide(signal, total, out=np.zeros_like(total), where=total > 0)


def two_way_ceiling(truth: Truth, uids: Sequence[str] | None = None, *, repeats: int) -> float:
    """Mean over pairs of stimuli of the ideal observer's accuracy in telling them apart.

    Exact for Gaussian noise: Phi(d / 2) with d the distance of two noiseless responses in units of
    the noise's standard deviation.
    """
    from scipy.special import ndtr

    gram = _gram(truth, uids, repeats)
    power = np.diag(gram)
    squared = np.maximum(power[:, None] + power - 2 * gram, 0.0)
    pairs = np.triu_indices(len(gram), 1)
    return float(ndtr(np.sqrt(squared[pairs]) / 2).mean())


def retrieval_ceiling(
    truth: Truth,
    uids: Sequence[str] | None = None,
    *,
    repeats: int,
    k: int = 1,
    find: Literal["stimulus", "brain"] = "stimulus",
    draws: int = 400,
    seed: int = 0,
) -> float:
    """Top-k accuracy of the ideal observer: the value of `estimate_retrieval`."""
    return estimate_retrieval(
        truth, uids, repeats=repeats, k=k, find=find, draws=draws, seed=seed
    ).value


def estimate_retrieval(
    truth: Truth,
    uids: Sequence[str] | None = None,
    *,
    repeats: int,
    k: int = 1,
    find: Literal["stimulus", "brain"] = "stimulus",
    draws: int = 400,
    seed: int = 0,
) -> Estimate:
    """Top-k accuracy of the ideal observer who must name one of `uids` from `repeats` trials.

    It knows every noiseless response and the noise. Its log likelihoods of all n candidates are
    jointly Gaussian with the Gram matrix of the responses as covariance, so they are drawn exactly,
    in n dimensions, however many features there are; only the top-k decision is Monte Carlo, and
    the error says how exactly it is known. Ties count half.

    With `find="brain"` it sees one averaged trial of each stimulus and must say which belongs to a
    given one; trials are ordered by the odds of that stimulus against an equal mixture of the
    others, which is ideal for trials judged one by one.
    """
    gram = _gram(truth, uids, repeats)
    n = len(gram)
    if not 1 <= k <= n:
        raise InputError(
            f"retrieval ceiling: expected 1 <= k <= {n} candidates, got k={k}; lower k"
        )
    values, vectors = np.linalg.eigh(gram)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    rng = np.random.default_rng(seed)
    expected = gram - np.diag(gram) / 2
    hits = np.zeros(draws)
    for d in range(draws):
        # Row i is a trial of stimulus i, column j how likely stimulus j makes it.
        likelihood = expected + rng.standard_normal((n, n)) @ root.T
        scores = likelihood if find == "stimulus" else _odds(likelihood).T
        own = np.diag(scores)[:, None]
        ahead = np.sum(scores > own, axis=1)
        tied = np.sum(scores == own, axis=1) - 1
        hits[d] = np.mean(np.clip(k - ahead, 0, 1 + tied) / (1 + tied))
    return Estimate(float(hits.mean()), float(hits.std(ddof=1) / np.sqrt(draws)))


def _odds(likelihood: np.ndarray) -> np.ndarray:
    """(trial, stimulus) log odds of each stimulus against all others together."""
    if len(likelihood) == 1:
        return np.zeros_like(likelihood)
    rows, best = np.arange(len(likelihood)), likelihood.argmax(axis=1)
    top = likelihood[rows, best]
    weight = np.exp(likelihood - top[:, None])
    weight[rows, best] = 0
    rest = weight.sum(axis=1)
    odds = likelihood - top[:, None] - np.log1p(rest[:, None] - weight)
    # The winner's rivals may be too small to be seen beside it, so they are summed by themselves.
    others = likelihood.copy()
    others[rows, best] = -np.inf
    second = others.max(axis=1)
    odds[rows, best] = top - second - np.log(np.exp(others - second[:, None]).sum(axis=1))
    return odds


@dataclass(frozen=True, slots=True, eq=False)
class FromRepeats:
    """Per feature: variance of signal and of single-trial noise, and what follows from them."""

    signal: np.ndarray
    noise: np.ndarray

    @property
    def ncsnr(self) -> np.ndarray:
        """Noise ceiling signal-to-noise ratio of NSD: ratio of standard deviations."""
        ok = self.noise > 0
        return np.sqrt(np.divide(self.signal, self.noise, out=np.zeros_like(self.noise), where=ok))

    def ceiling(self, repeats: int | Sequence[int]) -> np.ndarray:
        """(feature,) share of explainable variance in averages of `repeats` trials.

        With one number per stimulus the averages have unequal noise, whose mean counts, as in NSD's
        own ceiling for pictures shown once, twice and three times. The square root is the highest
        correlation that a prediction can reach.
        """
        counts = np.atleast_1d(np.asarray(repeats, np.float64))
        if counts.size == 0 or counts.min() < 1:
            raise InputError(
                f"noise ceiling: expected at least one repeat, got {repeats}; raise it"
            )
        squared = self.ncsnr**2
        return squared / (squared + np.mean(1 / counts))


def noise_ceiling_from_repeats(betas: np.ndarray, stimulus: Sequence[object]) -> FromRepeats:
    """Signal and noise of betas (trial, feature) from stimuli that were shown more than once.

    Noise is the variance of a stimulus' repeats, signal what the variance between stimuli exceeds
    it by, at least 0 (Allen et al. 2022, doi:10.1038/s41593-021-00962-x, here without bias for
    unequal repeats). Raises InputError unless two stimuli have repeats.
    """
    shown = np.asarray([str(s) for s in stimulus])
    if len(shown) != len(betas):
        raise ValueError(f"{len(betas)} betas, {len(shown)} stimuli")
    return noise_ceiling_from_groups(betas[rows] for rows in repeats(shown))


def repeats(stimulus: np.ndarray) -> list[np.ndarray]:
    """Row numbers of each stimulus that occurs more than once, in the order of first occurrence."""
    _, first, code = np.unique(stimulus, return_index=True, return_inverse=True)
    order = np.argsort(first[code], kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(first[code][order])) + 1)
    return [rows for rows in groups if len(rows) > 1]


def noise_ceiling_from_groups(groups: Iterable[np.ndarray]) -> FromRepeats:
    """`noise_ceiling_from_repeats` of betas that come a stimulus at a time, (repeat, feature) each,
    so that no more than one stimulus is held. A stimulus that was shown once tells nothing.
    """
    first: np.ndarray | None = None
    n = trials = 0
    total = square = within = inverse = np.zeros(())
    for group in groups:
        x = np.asarray(group, np.float64)
        if len(x) < 2:
            continue
        mean = x.mean(axis=0)
        # Counted from the first one, so that a large offset costs no digits.
        first = mean if first is None else first
        n, trials = n + 1, trials + len(x)
        total, square = total + (mean - first), square + (mean - first) ** 2
        within, inverse = within + ((x - mean) ** 2).sum(axis=0), inverse + 1 / len(x)
    if n < 2:
        raise refusal(
            "noise ceiling",
            "at least two stimuli that were shown more than once",
            n,
            "choose a part of the data with repeats",
        )
    noise = within / (trials - n)
    signal = (square - total**2 / n) / (n - 1) - noise * inverse / n
    return FromRepeats(np.maximum(signal, 0.0), noise)


def by_region(
    found: FromRepeats, regions: Sequence[str], counts: Sequence[int]
) -> list[dict[str, Any]]:
    """Per region, and over `all`, the median share of explainable variance of its features.

    `regions` names the region of each feature ("" = none), `counts` says how often each stimulus was
    shown. `single` is the ceiling of single trials, `averaged` that of the mean of all repeats of each
    stimulus. Features that never vary, as those that a scaler set to 0, are left out.
    """
    single, averaged, names = found.ceiling(1), found.ceiling(counts), np.asarray(regions)
    varies = found.noise > 0
    rows = []
    for name in (ALL, *sorted(set(regions) - {""})):
        here = varies if name == ALL else varies & (names == name)
        if here.any():
            middle = (float(np.median(x[here])) for x in (single, averaged))
            rows.append(
                {
                    "region": name,
                    "n_features": int(here.sum()),
                    **dict(zip(("single", "averaged"), middle, strict=True)),
                }
            )
    return rows


def _known(truth: Truth, uids: Sequence[str] | None, repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """Noiseless responses (uid, feature) and the noise variance of an average of `repeats`."""
    if repeats < 1:
        raise InputError(f"noise ceiling: expected at least one repeat, got {repeats}; raise it")
    if uids is None:
        response = np.asarray(truth.response, np.float64)
    else:
        row = {uid: i for i, uid in enumerate(truth.stimuli)}
        missing = [u for u in uids if u not in row]
        if missing:
            raise refusal(
                "noise ceiling",
                "stimuli to which the simulation knows the response",
                f"{missing[0]!r} ({len(missing)} of {len(uids)} stimuli)",
                "ask for stimuli that were shown",
            )
        response = np.asarray(truth.response[[row[u] for u in uids]], np.float64)
    return response, np.asarray(truth.noise, np.float64) / repeats


def _gram(truth: Truth, uids: Sequence[str] | None, repeats: int) -> np.ndarray:
    """(stimulus, stimulus) inner products of the responses in units of the noise, centred."""
    response, noise = _known(truth, uids, repeats)
    response = response - response.mean(axis=0)
    silent = noise <= 0
    if np.any(np.abs(response[:, silent]) > 0):
        raise refusal(
            "noise ceiling",
            "noise in every feature with signal",
            "a feature without, which tells everything apart",
            "raise data.noise",
        )
    scaled = response[:, ~silent] / np.sqrt(noise[~silent])
    return scaled @ scaled.T
