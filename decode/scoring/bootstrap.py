"""Confidence intervals of scores that know what was drawn at random: subjects and stimuli."""

from __future__ import annotations

import numpy as np
import pandas as pd

from decode.core import InputError

# Draws are made in pieces that keep the counts of one piece near 16 MB.
PIECE_VALUES = 2_000_000


def interval(
    rows: pd.DataFrame, *, seed: int, n: int = 10_000, level: float = 0.95
) -> tuple[float, float, float]:
    """(value, low, high): the mean of `rows` and its percentile bootstrap interval.

    `rows` has the columns value, subject and stimulus. With several subjects, subjects and stimuli
    are drawn independently with replacement and a row counts as often as both were drawn (the
    two-way bootstrap of Owen 2007, doi:10.1214/07-AOAS122), since subjects who saw the same stimuli
    are not independent; it is a little wide rather than too narrow. With one subject only stimuli
    are drawn, repeats of one staying together. Where a stimulus is a class shown many times (fewer
    than ten of them: labels, events), trials are drawn instead. A single row has no interval: nan.
    """
    value = rows["value"].to_numpy(np.float64)
    if len(value) == 0 or not np.isfinite(value).all():
        raise InputError(
            f"interval: expected finite values, got {len(value)} rows of which "
            f"{int((~np.isfinite(value)).sum())} are not finite; look at the metric that made them"
        )
    total, count = _cells(rows, value)
    mean = float(total.sum() / count.sum())
    if count.size == 1:
        return mean, float("nan"), float("nan")
    drawn = _draw(total, count, np.random.default_rng([seed, 95]), n)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(drawn[np.isfinite(drawn)], [tail, 100 - tail])
    return mean, float(low), float(high)


def are_classes(n_rows: int, n_items: int, n_subjects: int) -> bool:
    """Whether stimuli are classes shown many times (labels, events), so that trials are the unit."""
    return n_items < 10 and n_rows > 2 * n_items * n_subjects


def _cells(rows: pd.DataFrame, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each (subject, item)."""
    subject, subjects = pd.factorize(rows["subject"], sort=True)
    item, items = pd.factorize(rows["stimulus"], sort=True)
    if are_classes(len(rows), len(items), len(subjects)):
        # Values sorted: the interval must not depend on the order of the rows.
        order = np.lexsort((value, subject))
        subject, value = subject[order], value[order]
        starts = np.searchsorted(subject, np.arange(len(subjects)))
        item = np.arange(len(value)) - starts[subject]
        if len(subjects) > 1:
            # Trials of different subjects have nothing in common.
            item = np.arange(len(value))
        n_items = int(item.max()) + 1
    else:
        n_items = len(items)
    cell = subject * n_items + item
    shape = (len(subjects), n_items)
    total = np.bincount(cell, value, minlength=shape[0] * n_items).reshape(shape)
    return total, np.bincount(cell, minlength=shape[0] * n_items).reshape(shape).astype(float)


def _draw(total: np.ndarray, count: np.ndarray, rng: np.random.Generator, n: int) -> np.ndarray:
    """`n` bootstrap means of a (subject, item) table of sums and numbers; nan for an empty draw."""
    n_subjects, n_items = total.shape
    piece = max(1, PIECE_VALUES // n_items)
    parts = []
    for start in range(0, n, piece):
        size = min(piece, n - start)
        subjects = _counts(rng, size, n_subjects) if n_subjects > 1 else np.ones((size, 1))
        items = _counts(rng, size, n_items)
        above = np.einsum("di,di->d", subjects @ total, items)
        below = np.einsum("di,di->d", subjects @ count, items)
        parts.append(np.divide(above, below, out=np.full(size, np.nan), where=below > 0))
    return np.concatenate(parts)


def _counts(rng: np.random.Generator, draws: int, n: int) -> np.ndarray:
    """How often each of `n` things falls in `n` draws with replacement: (draw, n)."""
    chosen = rng.integers(0, n, (draws, n), dtype=np.int32)
    chosen += np.arange(draws, dtype=np.int32)[:, None] * n
    return np.bincount(chosen.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)
