"""Normalisations of beta maps against brute force; who has seen the test part says so."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from decode.core import InputError, Layout
from decode.scalers import averaged_images
from decode.scalers.averaged_images import ZScoreOfImages
from decode.scalers.zscore import ZScore, ZScoreWithTest
from decode.scaling import MISSING
from decode.trials import SubjectSignal, Trials


def _world(n: int = 90, voxels: int = 7) -> tuple[np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "stimulus": [f"s{i}" for i in rng.integers(0, 35, n)],
            "session": np.repeat(["01", "02", "03"], n // 3),
            "subject": "a",
            "start": np.arange(n),
        }
    )
    brain = (
        rng.normal(1000, 3, (n, voxels, 1)) + table["session"].astype(int).to_numpy()[:, None, None]
    )
    return brain.astype(np.float32), table


@pytest.mark.parametrize("chunk_bytes", [1, 24 * 7 * 10, 2**25])
def test_images_count_once(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    monkeypatch.setattr(averaged_images, "CHUNK_BYTES", chunk_bytes)
    brain, table = _world()
    scaler = ZScoreOfImages()
    state = scaler.fit(brain, table)
    means = pd.DataFrame(brain[:, :, 0].astype(float)).groupby(table["stimulus"]).mean()
    np.testing.assert_allclose(state["shift"][:, 0], means.mean(), rtol=1e-9)
    np.testing.assert_allclose(state["scale"][:, 0], means.std(ddof=1), rtol=1e-6)
    out = scaler.apply(brain, table, state)
    averaged = pd.DataFrame(out[:, :, 0]).groupby(table["stimulus"]).mean()
    np.testing.assert_allclose(averaged.mean(), 0, atol=1e-4)
    np.testing.assert_allclose(averaged.std(ddof=1), 1, rtol=1e-4)


def test_constant_voxels_are_refused() -> None:
    brain, table = _world()
    brain[:, 3] = 5
    with pytest.raises(InputError, match=r"got 1 of 7 that are constant.*counted from 0: 3"):
        ZScoreOfImages().fit(brain, table)


def test_channels_that_nobody_recorded_are_left_alone() -> None:
    brain, table = _world()
    brain[:, [2, 5]] = 0
    marked = table.assign(**{MISSING: "2 5"})
    live = [0, 1, 3, 4, 6]
    scaler = ZScoreOfImages()
    state = scaler.fit(brain, marked)
    got = scaler.apply(brain, marked, state)
    want = scaler.apply(brain[:, live], table, scaler.fit(brain[:, live], table))
    np.testing.assert_array_equal(got[:, live], want)
    assert (got[:, [2, 5]] == 0).all()
    with pytest.raises(InputError, match=r"got 2 of 7 that are constant.*counted from 0: 2"):
        scaler.fit(brain, table)
    brain[:, 3] = 5  # broken, and not marked
    with pytest.raises(InputError, match=r"got 1 of 7 that are constant.*counted from 0: 3"):
        scaler.fit(brain, marked)
    with pytest.raises(InputError, match=r"0 throughout, got 1 that are not \(counted from 0: 3\)"):
        scaler.fit(brain, table.assign(**{MISSING: "3"}))
    # Test rows that lack a channel which training rows have.
    few = table[:4].assign(**{MISSING: ["6", "", "", "6"]})
    rows = brain[:4].copy()
    rows[[0, 3], 6] = 0
    got = scaler.apply(rows, few, state)
    assert (got[[0, 3], 6] == 0).all()
    assert (got[[1, 2], 6] != 0).all()


def _trials(brain: np.ndarray, table: pd.DataFrame) -> Trials:
    names = tuple(map(str, range(brain.shape[1])))
    layout = Layout("fmri", names, np.zeros((len(names), 3)), ("",) * len(names), 1.0, 1)
    return Trials.of(table, {"a": SubjectSignal(brain[:, :, 0], layout, None)})


def test_only_the_transductive_one_sees_test_trials_and_says_so() -> None:
    brain, table = _world()
    train = np.arange(0, 90, 2)
    changed = brain.copy()
    changed[1::2] *= 3
    for scaler, conditioned in (
        (ZScore(by="session"), False),
        (ZScoreOfImages(), False),
        (ZScoreWithTest(), True),
    ):
        states = [_trials(b, table).take(train).fit_scaler(scaler)["a"] for b in (brain, changed)]
        same = all(np.array_equal(states[0][k], states[1][k]) for k in states[0])
        assert same is not conditioned
        assert scaler.test_conditioned is conditioned
    state = _trials(brain, table).take(train).fit_scaler(ZScoreWithTest())["a"]
    second = brain[30:60, :, 0].astype(float)
    np.testing.assert_allclose(state["shift/session=02"][:, 0], second.mean(0), rtol=1e-9)
    np.testing.assert_allclose(state["scale/session=02"][:, 0], second.std(0), rtol=1e-6)
