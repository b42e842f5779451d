"""Confidence intervals of scores that know what was drawn at random: subjects and stimuli.

docs/metrics.md says how often they hold the true score, measured by `python -m benchmarks intervals`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from decode.core import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """How sure a mean is: its variance, the degrees of freedom of that, the skewness of the
    independent units (0 where they are crossed) and their number.
    """

    variance: float
    df: float
    skewness: float
    n_units: int


def interval(
    rows: pd.DataFrame, *, level: float = 0.95, share: bool | None = None
) -> tuple[float, float, float]:
    """(value, low, high): the mean of `rows` and its interval.

    `rows` has the columns value, subject and stimulus. The variance of the mean counts every pair of
    rows that share a subject or a stimulus, so subjects and stimuli are both samples (crossed random
    effects) and repeats of a stimulus stay together; with one subject only stimuli are. Rows of voxels
    or sensors have no stimulus: then subjects alone are, and of one there is no interval. Where a
    stimulus is a class shown many times (`by_trial`) trials are the unit. Where it is given, a
    column `influence` has the same mean and the true spread of a score whose rows count unequally,
    and the sum of `worth` is the number of independent trials that they are worth at most.

    A score between 0 and 1 (`share`; None: where all values are, or `influence` is given) gets
    Wilson's interval at the number of independent yes-or-no trials that would have this variance;
    any other Student's, for one subject corrected for skewness. Shares of one subject that are no
    mere hits take the farther end of both. A single unit has no interval: nan.
    """
    value = rows["value"].to_numpy(np.float64)
    if len(value) == 0 or not np.isfinite(value).all():
        raise InputError(
            f"interval: expected finite values, got {len(value)} rows of which "
            f"{int((~np.isfinite(value)).sum())} are not finite; look at the metric that made them"
        )
    mean, subject, unit = float(value.mean()), *_units(rows)
    influence = _influence(rows)
    if share is None:
        share = influence is not None or _may_be_share(rows, value)
    x = value if influence is None else influence
    if unit.max() == subject.max() == 0:
        return mean, float("nan"), float("nan")
    if share and len(x) == unit.max() + 1 and _are_hits(x) and subject.max() == 0:
        return mean, *wilson(mean, len(x), float("inf"), level)
    spread = spread_of(x, subject, unit)
    if not share:
        return mean, *student(mean, spread, level)
    n = mean * (1 - mean) / spread.variance if spread.variance > 0 else float(spread.n_units)
    low, high = wilson(mean, min(n, _worth(rows)), spread.df, level)
    if influence is None and subject.max() == 0:
        # Near 0 or 1 a few rows tell all: neither interval is long enough by itself.
        other = student(mean, spread, level)
        low, high = min(low, max(other[0], 0.0)), max(high, min(other[1], 1.0))
    return mean, low, high


def are_classes(n_rows: int, n_items: int, n_subjects: int) -> bool:
    """Whether stimuli are classes shown many times (labels, events), so that trials are the unit."""
    return n_items < 10 and n_rows > 2 * n_items * n_subjects


def by_trial(rows: pd.DataFrame) -> bool:
    """Whether trials are the independent unit: of few stimuli shown many times, and where the metric
    says (`by_trial`) that every class is one stimulus.
    """
    if "by_trial" in rows and rows["by_trial"].eq(True).all():
        return True
    if rows["stimulus"].isna().any():
        return False
    return are_classes(len(rows), rows["stimulus"].nunique(), rows["subject"].nunique())


def spread_of(x: np.ndarray, subject: np.ndarray, unit: np.ndarray) -> Spread:
    """The spread of the mean of `x` (row,) whose rows share subjects and units, numbered from 0.

    For several subjects the variance is that of the mean over all pairs of rows, those that share a
    subject or a unit covarying: an unbiased estimate, here never below what subjects or units alone
    would give. Its degrees of freedom are Satterthwaite's; those of units are fewer where a few of
    them carry the variance.
    """
    x = x - x.mean()
    n_subjects, n_units = int(subject.max()) + 1, int(unit.max()) + 1
    total = np.bincount(unit, x)
    by_unit = _variance(len(x), [(1, unit)], x)
    df = min(n_units - 1, _degrees(total))
    if n_subjects == 1:
        return Spread(by_unit, df, _skewness(total), n_units)
    by_subject = _variance(len(x), [(1, subject)], x)
    if n_units == 1:
        return Spread(by_subject, n_subjects - 1, 0.0, n_subjects)
    cell = np.unique(subject * n_units + unit, return_inverse=True)[1]
    both = _variance(len(x), [(1, subject), (1, unit), (-1, cell)], x)
    variance = max(both, by_subject, by_unit)
    parts = [(by_subject, n_subjects - 1), (by_unit, df)]
    parts.append((by_subject + by_unit - both, (n_subjects - 1) * (n_units - 1)))
    noise = sum(v * v / d for v, d in parts)
    return Spread(variance, max(variance**2 / noise, 1.0) if noise else 1.0, 0.0, n_units)


def wilson(share: float, n: float, df: float, level: float) -> tuple[float, float]:
    """Wilson's score interval of a share of `n` trials, t distributed with `df` degrees of freedom."""
    z = _quantile(level, df)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    # Rounding must not put the score itself outside.
    return min(max(0.0, middle - half), share), max(min(1.0, middle + half), share)


def student(mean: float, spread: Spread, level: float) -> tuple[float, float]:
    """Student's interval, by Hall's transformation (1992, doi:10.1111/j.2517-6161.1992.tb01872.x)
    where the units are skewed: wider towards their long tail.
    """
    error, root = np.sqrt(spread.variance), np.sqrt(spread.n_units)
    df = spread.n_units - 1 if spread.skewness else spread.df
    at = _quantile(level, df) / root
    low, high = (error * root * _unskewed(x, spread) for x in (at, -at))
    return float(mean - low), float(mean - high)


def _unskewed(x: float, spread: Spread) -> float:
    """Where the inverse of Hall's cubic takes a quantile of t / sqrt(n)."""
    slope = spread.skewness / 3
    shifted = x - spread.skewness / (6 * spread.n_units)
    if abs(slope) < 1e-6:
        return shifted
    return float((np.cbrt(1 + 3 * slope * shifted) - 1) / slope)


def _quantile(level: float, df: float) -> float:
    from scipy.special import ndtri, stdtrit

    tail = (1 + level) / 2
    return float(ndtri(tail) if np.isinf(df) else stdtrit(df, tail))


def _units(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of subject and independent unit of each row: the stimulus, or the trial of classes. Voxels
    and sensors of a person, who belong to no stimulus, were measured together: the person is the unit.
    """
    subject = pd.factorize(rows["subject"], sort=True)[0]
    if by_trial(rows):
        return subject, np.arange(len(rows))
    if rows["stimulus"].isna().any():
        return subject, np.zeros(len(rows), int)
    return subject, pd.factorize(rows["stimulus"], sort=True)[0]


def _influence(rows: pd.DataFrame) -> np.ndarray | None:
    if "influence" not in rows or rows["influence"].isna().any():
        return None
    return rows["influence"].to_numpy(np.float64)


def _worth(rows: pd.DataFrame) -> float:
    if "worth" not in rows or rows["worth"].isna().any():
        return float("inf")
    return float(rows["worth"].sum())


def _may_be_share(rows: pd.DataFrame, value: np.ndarray) -> bool:
    """Whether values are shares of yes and no: they lie between 0 and 1, and no metric says otherwise, as
    correlations do (`share` False).
    """
    if "share" in rows and rows["share"].eq(False).all():
        return False
    return bool(((value >= 0) & (value <= 1)).all())


def _are_hits(x: np.ndarray) -> bool:
    return bool(((x == 0) | (x == 1)).all())


def _variance(n: int, groupings: Sequence[tuple[int, np.ndarray]], x: np.ndarray) -> float:
    """Variance of the mean of centred `x`: products of the pairs of rows that a grouping holds
    together, over the number of pairs that are independent.
    """
    products = sum(sign * float((np.bincount(g, x) ** 2).sum()) for sign, g in groupings)
    pairs = sum(
        sign * float((np.bincount(g).astype(np.float64) ** 2).sum()) for sign, g in groupings
    )
    return products / (n * n - pairs) if n * n > pairs else 0.0


def _degrees(total: np.ndarray) -> float:
    """Degrees of freedom of a variance from the kurtosis of what it is made of; that of normal
    numbers is their number.
    """
    square = total**2
    noise = float(((square - square.mean()) ** 2).sum())
    return 2 * float(square.sum()) ** 2 / noise if noise > 0 else float("inf")


def _skewness(total: np.ndarray) -> float:
    centred = total - total.mean()
    spread = float((centred**2).mean())
    return float((centred**3).mean()) / spread**1.5 if spread > 0 else 0.0
