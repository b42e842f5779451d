"""Intervals of scores: oracles for each formula, and how often they hold the true score."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.intervals import WORLDS, coverage, crossed, scored
from decode.core import InputError
from decode.metrics.auc import Auc
from decode.scoring.intervals import interval, spread_of


def rows(value: np.ndarray, subject: object = "a", stimulus: object = None) -> pd.DataFrame:
    stimulus = np.arange(len(value)) if stimulus is None else stimulus
    return pd.DataFrame({"value": value, "subject": subject, "stimulus": stimulus})


def test_hits_of_one_subject_have_wilsons_interval() -> None:
    for hits, n in ((0, 12), (7, 12), (49, 50), (120, 400)):
        value = np.r_[np.ones(hits), np.zeros(n - hits)]
        found = interval(rows(value, stimulus=range(n)))
        known = stats.binomtest(hits, n).proportion_ci(method="wilson")
        assert found == pytest.approx((hits / n, known.low, known.high))


def test_symmetric_values_have_students_interval() -> None:
    value = np.r_[-1, 1] * np.abs(np.random.default_rng(0).normal(size=(20, 1)))
    mean, low, high = interval(rows(value.ravel() + 3))
    known = stats.ttest_1samp(value.ravel() + 3, 0).confidence_interval()
    assert (mean, low, high) == pytest.approx((3, known.low, known.high))


def test_a_long_tail_makes_the_interval_longer_on_its_side() -> None:
    value = 5 * np.random.default_rng(0).exponential(size=30)
    mean, low, high = interval(rows(value))
    assert high - mean > 1.3 * (mean - low)
    turned = interval(rows(-value))
    assert turned == pytest.approx((-mean, -high, -low))


def test_the_variance_counts_every_pair_that_shares_a_subject_or_a_stimulus() -> None:
    rng = np.random.default_rng(1)
    subject = rng.integers(0, 4, 60)
    unit = np.unique(rng.integers(0, 15, 60), return_inverse=True)[1]
    x = rng.normal(size=60) + rng.normal(size=4)[subject] + 2 * rng.normal(size=15)[unit]
    centred = x - x.mean()
    shared = independent = 0.0
    for i, j in product(range(60), repeat=2):
        if subject[i] == subject[j] or unit[i] == unit[j]:
            shared += centred[i] * centred[j]
        else:
            independent += 1
    assert spread_of(x, subject, unit).variance == pytest.approx(shared / independent)


def test_crossed_subjects_and_stimuli_are_an_analysis_of_variance() -> None:
    rng = np.random.default_rng(2)
    table = rng.normal(size=(4, 1)) + rng.normal(size=(1, 9)) + rng.normal(size=(4, 9))
    subject, unit = crossed(4, 9)
    rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    squares = [9 * table.mean(1).var(ddof=1), 4 * table.mean(0).var(ddof=1), (rest**2).sum() / 24]
    sum_of_squares = squares[0] + squares[1] - squares[2]
    found = spread_of(table.ravel(), subject, unit)
    assert found.variance == pytest.approx(sum_of_squares / 36)
    # Satterthwaite's; stimuli have 8 degrees of freedom, fewer where a few carry the variance.
    most, least = (
        sum_of_squares**2 / sum(m**2 / d for m, d in zip(squares, (3, d, 24), strict=True))
        for d in (8, 2)
    )
    assert least <= found.df <= most + 1e-9


def test_subjects_are_the_unit_where_trials_are_their_own() -> None:
    means = np.array([3.0, 5.0, 4.0, 8.0])
    noise = np.tile([-0.1, 0.1], 50)
    value = (means[:, None] + noise).ravel()
    mean, low, high = interval(rows(value, np.repeat(list("abcd"), 100), np.arange(400)))
    known = stats.ttest_1samp(means, 0).confidence_interval()
    assert (mean, low, high) == pytest.approx((5, known.low, known.high), rel=0.01)


def test_the_interval_ignores_the_order_of_rows() -> None:
    rng = np.random.default_rng(3)
    part = rows(rng.normal(size=60), np.repeat(["a", "b"], 30), np.tile(np.arange(30), 2))
    found = interval(part)
    assert interval(part.sample(frac=1, random_state=0)) == pytest.approx(found)


def test_classes_shown_many_times_are_not_the_unit() -> None:
    value = (np.random.default_rng(5).random(400) < 0.8).astype(float)
    found = interval(rows(value, stimulus=np.repeat(["yes", "no"], 200)))
    assert found == pytest.approx(interval(rows(value)))


def test_extremes_single_rows_and_bad_values() -> None:
    part = rows(np.r_[np.zeros(20), np.ones(20)], np.repeat(["a", "b"], 20))
    assert interval(part) == pytest.approx((0.5, 0, 1), abs=0.01)
    perfect = interval(rows(np.ones(30)))
    assert perfect == pytest.approx(
        (1, stats.binomtest(30, 30).proportion_ci(method="wilson").low, 1)
    )
    assert interval(rows(np.full(30, 4.0))) == (4, 4, 4)
    alone = interval(rows(np.array([0.3])))
    assert alone[0] == 0.3
    assert np.isnan(alone[1:]).all()
    with pytest.raises(InputError, match="1 are not finite"):
        interval(rows(np.array([0.3, np.nan])))


def test_the_variance_of_an_auc_is_delongs() -> None:
    rng = np.random.default_rng(6)
    label = np.arange(120) < 20
    score = np.round(rng.normal(size=120) + label, 1)
    above = [[np.mean(p > n) + np.mean(p == n) / 2 for n in score[~label]] for p in score[label]]
    table = np.array(above)
    expected = table.mean(1).var(ddof=1) / 20 + table.mean(0).var(ddof=1) / 100
    found = scored(Auc("x"), score[:, None], label[:, None], "a", label)
    assert found["influence"].mean() == pytest.approx(table.mean())
    value = found["influence"].to_numpy()
    assert value.var(ddof=1) / 120 == pytest.approx(expected, rel=0.01)


def within(held: float, draws: int) -> bool:
    """Whether this share can be that of an interval which holds .93 to .97 of true scores."""
    low, high = stats.binom.ppf((0.001, 0.999), draws, (0.93, 0.97)) / draws
    return bool(low <= held <= high)


CHECKED = (
    "AUC, one subject 100 / 100",
    "AUC, one subject 100 / 20",
    "AUC, one subject 10 / 50, near 1",
    "AUC, 3 subjects 100 / 20 each",
    "accuracy, one subject 2 x 10",
    "accuracy, one subject 100 / 20",
    "accuracy, one subject 16 x 10, events",
    "accuracy, pictures x 5 8 x 6",
    "accuracy, 8 subjects 4 x 25 each",
    "retrieval, one subject 100",
    "retrieval, one subject 50 x 3",
    "correlation, one subject 12",
    "correlation, 4 subjects 100",
    "squared error, one subject 12",
    "brain correlation, one subject 100",
    "BLEU, one subject 100",
)
NAMED = {f"{world.what} {world.size}": world for world in WORLDS}


def test_a_count_that_is_out_of_bounds_is_seen() -> None:
    assert within(0.95, 200)
    assert not within(0.85, 200)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKED)
def test_intervals_hold_the_true_score(name: str) -> None:
    """All worlds with more draws: `python -m benchmarks intervals`."""
    for metric, (_, held, _) in coverage(NAMED[name], 200).items():
        assert within(held, 200), (metric, held)
