"""Bootstrap intervals: coverage by simulation, order, ties to subjects and repeats."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from decode.core import InputError
from decode.scoring.bootstrap import interval


def rows(value: np.ndarray, subject: object = "a", stimulus: object = None) -> pd.DataFrame:
    stimulus = np.arange(len(value)) if stimulus is None else stimulus
    return pd.DataFrame({"value": value, "subject": subject, "stimulus": stimulus})


def test_one_subject_agrees_with_the_normal_interval() -> None:
    value = np.random.default_rng(0).normal(size=2000)
    mean, low, high = interval(rows(value), seed=0)
    width = 1.96 * value.std() / np.sqrt(len(value))
    assert mean == pytest.approx(value.mean())
    assert low == pytest.approx(mean - width, abs=0.04 * width)
    assert high == pytest.approx(mean + width, abs=0.04 * width)


def test_coverage_with_one_subject_and_repeats() -> None:
    rng = np.random.default_rng(1)
    hits, naive = 0, 0
    for i in range(200):
        item = rng.normal(size=40)
        value = np.repeat(item, 3) + 0.3 * rng.normal(size=120)
        part = rows(value, stimulus=np.repeat(np.arange(40), 3))
        _, low, high = interval(part, seed=i, n=400)
        hits += low < 0 < high
        _, low, high = interval(rows(value), seed=i, n=400)
        naive += low < 0 < high
    assert 0.90 <= hits / 200 <= 0.98
    # Treating repeats as independent is the fault this function must not have.
    assert naive / 200 < 0.85


def test_coverage_over_subjects_who_saw_the_same_stimuli() -> None:
    rng = np.random.default_rng(2)
    subject, item = (x.ravel() for x in np.meshgrid(np.arange(12), np.arange(50), indexing="ij"))
    hits = 0
    for i in range(200):
        value = 0.5 * rng.normal(size=12)[subject] + rng.normal(size=50)[item]
        value = value + rng.normal(size=600)
        _, low, high = interval(rows(value, subject, item), seed=i, n=600)
        hits += low < 0 < high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_interval_is_seeded_and_ignores_the_order_of_rows() -> None:
    rng = np.random.default_rng(3)
    part = rows(rng.random(60), np.repeat(["a", "b"], 30), np.tile(np.arange(30), 2))
    found = interval(part, seed=4, n=500)
    assert interval(part, seed=4, n=500) == found
    assert interval(part.sample(frac=1, random_state=0), seed=4, n=500) == pytest.approx(found)
    assert interval(part, seed=5, n=500) != found


def test_classes_shown_many_times_are_not_the_unit() -> None:
    value = (np.random.default_rng(5).random(400) < 0.8).astype(float)
    mean, low, high = interval(rows(value, stimulus=np.repeat(["yes", "no"], 200)), seed=0)
    width = 1.96 * np.sqrt(mean * (1 - mean) / 400)
    assert high - low == pytest.approx(2 * width, rel=0.1)


def test_disjoint_stimuli_single_rows_and_bad_values() -> None:
    part = rows(np.r_[np.zeros(20), np.ones(20)], np.repeat(["a", "b"], 20))
    value, low, high = interval(part, seed=0, n=1000)
    assert (value, low, high) == (0.5, 0.0, 1.0)
    alone = interval(rows(np.array([0.3])), seed=0)
    assert alone[0] == 0.3
    assert np.isnan(alone[1:]).all()
    with pytest.raises(InputError, match="1 are not finite"):
        interval(rows(np.array([0.3, np.nan])), seed=0)
