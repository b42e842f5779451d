"""Scalers against brute force in float64, and against leaks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import fractional_matrix_power
from sklearn.covariance import LedoitWolf
from sklearn.preprocessing import StandardScaler

from decode.core import InputError
from decode.scalers.robust import Robust
from decode.scalers.unscaled import Unscaled
from decode.scalers.whiten import Whiten, ledoit_wolf
from decode.scalers.zscore import ZScore
from decode.scaling import MISSING

SCALERS = [ZScore(), ZScore(per="channel_and_time"), ZScore(by="session"), Robust(), Whiten()]


def trials(n=120, channels=7, times=40, *, scale=1e-5, sessions=("a", "b"), seed=0):
    """Correlated channels of very different variance; stimuli are shown two or three times."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(channels, channels)) * np.geomspace(0.3, 3, channels)[:, None]
    brain = (scale * (mixing @ rng.normal(size=(n, channels, times)) + 2)).astype(np.float32)
    table = pd.DataFrame(
        {
            "stimulus": [f"s{i % 50}" for i in range(n)],
            "session": np.resize(sessions, n),
        }
    )
    return brain, table


def sklearn_covariance(samples):
    """Ledoit-Wolf of standardised samples (sample, feature), scales put back."""
    scaler = StandardScaler().fit(samples)
    found = LedoitWolf(assume_centered=True).fit(scaler.transform(samples)).covariance_
    return found * np.outer(scaler.scale_, scaler.scale_)


def brute_force_mvnn(brain, stimuli, over):
    sigmas = []
    for stimulus in np.unique(stimuli):
        x = brain[stimuli == stimulus].astype(np.float64)
        if over == "time":
            x = x.transpose(2, 1, 0)
        sigmas.append(np.mean([sklearn_covariance(epoch.T) for epoch in x], axis=0))
    return fractional_matrix_power(np.mean(sigmas, axis=0), -0.5).real


@pytest.mark.parametrize("over", ["epochs", "time"])
@pytest.mark.parametrize("scale", [1e-5, 1e-13, 1.0])
def test_whiten_equals_brute_force_per_session(over, scale):
    brain, table = trials(times=15, scale=scale)
    scaler = Whiten(over=over)
    got = scaler.apply(brain, table, scaler.fit(brain, table))
    for session in "ab":
        rows = (table.session == session).to_numpy()
        whitener = brute_force_mvnn(brain[rows] / scale, table.stimulus[rows].to_numpy(), over)
        expected = whitener @ (brain[rows] / scale)
        np.testing.assert_allclose(got[rows], expected, rtol=2e-4, atol=2e-4)
    assert got.dtype == np.float32


def test_whitened_noise_has_identity_covariance():
    brain, table = trials(n=40, times=4000)
    brain = brain - brain.mean(2, keepdims=True)
    scaler = Whiten()
    x = scaler.apply(brain, table, scaler.fit(brain, table)).transpose(1, 0, 2).reshape(7, -1)
    np.testing.assert_allclose(np.cov(x), np.eye(7), atol=0.03)
    assert np.abs(np.cov(brain.transpose(1, 0, 2).reshape(7, -1)) * 1e10 - np.eye(7)).max() > 1


def test_ledoit_wolf_of_few_samples_and_of_a_still_feature():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 5, 20)) * np.geomspace(1e-6, 1, 20)
    for got, samples in zip(ledoit_wolf(x), x, strict=True):
        np.testing.assert_allclose(got, sklearn_covariance(samples), rtol=1e-9, atol=1e-15)
    x[0, :, 3] = 0.1
    assert (ledoit_wolf(x)[0, 3, [0, 1, 2, 4]] == 0).all()
    assert ledoit_wolf(x)[0, 3, 3] == 0


def test_zscore_has_mean_zero_and_variance_one():
    brain, table = trials()
    brain += 3.0  # an offset 10,000 times the signal must cost no more digits than float32 took
    brain = brain.astype(np.float64) + np.random.default_rng(1).normal(size=brain.shape)
    for scaler, axis in ((ZScore(), (0, 2)), (ZScore(per="channel_and_time"), 0)):
        x = scaler.apply(brain, table, scaler.fit(brain, table)).astype(np.float64)
        np.testing.assert_allclose(x.mean(axis), 0, atol=1e-5)
        np.testing.assert_allclose(x.std(axis), 1, atol=1e-5)


def test_zscore_by_session_uses_that_session():
    brain, table = trials()
    brain[(table.session == "b").to_numpy()] *= 5
    scaler = ZScore(by="session")
    x = scaler.apply(brain, table, scaler.fit(brain, table))
    for session in "ab":
        np.testing.assert_allclose(x[(table.session == session).to_numpy()].std((0, 2)), 1, 1e-4)


def test_robust_ignores_outliers_and_clamps():
    brain, table = trials()
    clean = Robust().fit(brain, table)
    rows = brain.astype(np.float64).transpose(1, 0, 2).reshape(7, -1)
    np.testing.assert_allclose(clean["shift/all"][:, 0], np.median(rows, 1))
    np.testing.assert_allclose(
        clean["scale/all"][:, 0], np.subtract(*np.percentile(rows, (75, 25), 1))
    )
    brain[0, 0, 0] = 1e3
    assert Robust().fit(brain, table)["scale/all"][0] == pytest.approx(clean["scale/all"][0], 1e-2)
    assert Robust(clamp=4).apply(brain, table, clean).max() == 4
    assert Robust(clamp=None).apply(brain, table, clean).max() > 1e6


def test_unscaled_changes_nothing_but_the_type():
    brain, table = trials()
    got = Unscaled().apply(brain.astype(np.float64), table, Unscaled().fit(brain, table))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, brain)


@pytest.mark.parametrize("scaler", SCALERS, ids=lambda s: f"{type(s).__name__}-{vars(s)}")
def test_state_knows_nothing_of_test_rows(scaler):
    """A wild test part changes what is fitted on all rows, never what is fitted on train rows."""
    brain, table = trials()
    train = np.arange(80)
    state = scaler.fit(brain[train], table.iloc[train])
    wild = brain.copy()
    wild[80:] = wild[80:, ::-1] * 50
    again = scaler.fit(wild[train], table.iloc[train])
    leaked = scaler.fit(wild, table)
    assert all(np.array_equal(state[key], again[key]) for key in state)
    assert any(not np.allclose(state[key], leaked[key], rtol=0.1) for key in state)
    # One row is scaled alike whatever its neighbours.
    one = scaler.apply(wild[100:101], table.iloc[100:101], state)
    np.testing.assert_array_equal(scaler.apply(wild, table, state)[100], one[0])


def test_unseen_session_gets_the_mean_of_training_sessions():
    brain, table = trials()
    rows = (table.session == "a").to_numpy()
    brain[~rows] *= 3
    scaler = Whiten()
    state = scaler.fit(brain, table)
    other = table.assign(session="c")
    sigma = [
        np.linalg.inv(state[f"whitener/session={s}"] @ state[f"whitener/session={s}"]) for s in "ab"
    ]
    expected = fractional_matrix_power(np.mean(sigma, axis=0) * 1e10, -0.5).real * 1e5 @ brain
    np.testing.assert_allclose(scaler.apply(brain, other, state), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scaler", SCALERS, ids=lambda s: f"{type(s).__name__}-{vars(s)}")
def test_memory_mapped_input_read_in_chunks_is_the_same(scaler, tmp_path, monkeypatch):
    brain, table = trials()
    np.save(tmp_path / "brain.npy", brain)
    whole = scaler.fit(brain, table)
    monkeypatch.setattr("decode.scaling.CHUNK_BYTES", 40_000)
    mapped = np.load(tmp_path / "brain.npy", mmap_mode="r")
    chunked = scaler.fit(mapped, table)
    for key, value in whole.items():
        np.testing.assert_allclose(chunked[key], value, rtol=1e-6)
    np.testing.assert_allclose(
        scaler.apply(mapped, table, whole), scaler.apply(brain, table, whole), rtol=1e-6
    )


@pytest.mark.parametrize("value", [0.1, np.nan])
@pytest.mark.parametrize("scaler", SCALERS, ids=lambda s: f"{type(s).__name__}-{vars(s)}")
def test_constant_or_nan_channel_is_named(scaler, value):
    brain, table = trials()
    brain[:, 3] = value
    with pytest.raises(InputError, match=r"1 of 7 that .* from 0: 3\)"):
        scaler.fit(brain, table)


@pytest.mark.parametrize("scaler", [ZScore(by="session"), Robust(by="session")])
def test_a_session_that_cannot_be_scaled_is_named(scaler):
    brain, table = trials(times=1)
    still = brain.copy()
    still[(table["session"] == "b").to_numpy(), 3] = 1
    with pytest.raises(InputError, match=r"rows of session b, got 1 of 7 that .*counted from 0: 3"):
        scaler.fit(still, table)
    rows = np.flatnonzero((table["session"] == "a") | (table.index == table.index[-1]))
    with pytest.raises(
        InputError, match=r"two or more training rows of session b, got 1.*that session"
    ):
        scaler.fit(brain[rows], table.iloc[rows])
    with pytest.raises(InputError, match=r"two or more training rows, got 1"):
        scaler.fit(brain[:1], table.iloc[:1])


@pytest.mark.parametrize("scaler", SCALERS, ids=lambda s: f"{type(s).__name__}-{vars(s)}")
def test_channels_that_nobody_recorded_are_left_alone(scaler):
    brain, table = trials()
    brain[:, [2, 5]] = 0
    marked = table.assign(**{MISSING: "2 5"})
    live = [0, 1, 3, 4, 6]
    got = scaler.apply(brain, marked, scaler.fit(brain, marked))
    want = scaler.apply(brain[:, live], table, scaler.fit(brain[:, live], table))
    np.testing.assert_allclose(got[:, live], want, rtol=1e-6, atol=1e-6)
    assert (got[:, [2, 5]] == 0).all()
    # No mark, half a mark, and another channel that is broken.
    for column, bad in ((None, "2, 5"), ("2", "5"), ("", "2, 5")):
        with pytest.raises(InputError, match=rf"of 7 that .* from 0: {bad}\)"):
            scaler.fit(brain, table if column is None else table.assign(**{MISSING: column}))
    for value in (0.0, 0.1, np.nan):
        brain[:, 3] = value
        with pytest.raises(InputError, match=r"1 of 7 that .* from 0: 3\)"):
            scaler.fit(brain, marked)
    # A mark on a real channel, even a constant one, excuses nothing.
    for value in (0.1, np.nan, brain[:, 1]):
        brain[:, 3], brain[:, 2] = brain[:, 4], value
        with pytest.raises(
            InputError, match=r"0 throughout, got 1 that are not \(counted from 0: 2\)"
        ):
            scaler.fit(brain, marked)


@pytest.mark.parametrize("scaler", SCALERS, ids=lambda s: f"{type(s).__name__}-{vars(s)}")
def test_rows_that_lack_channels_which_others_have(scaler):
    brain, table = trials()
    train, test = np.arange(80), np.arange(80, 120)
    state = scaler.fit(brain[train], table.iloc[train])
    brain[test[:9], 4] = 0
    mark = np.full(len(table), None, dtype=object)
    mark[test[:9]] = "4"
    marked = table.assign(**{MISSING: mark})
    got = scaler.apply(brain[test], marked.iloc[test], state)
    assert (got[:9, 4] == 0).all()
    assert (got[9:, 4] != 0).any()
    with pytest.raises(InputError, match=r"9 of 120 that lack some .* number 4"):
        scaler.fit(brain, marked)


@pytest.mark.parametrize("said", ["7", "-1", "two", " "])
def test_marks_that_are_no_channels(said):
    brain, table = trials()
    with pytest.raises(InputError, match="numbers of channels from 0 to 6"):
        ZScore().fit(brain, table.assign(**{MISSING: said}))


def test_other_bad_input():
    brain, table = trials()
    with pytest.raises(InputError, match="got none"):
        ZScore().fit(brain[:0], table.iloc[:0])
    with pytest.raises(InputError, match=r"scaler\.per: expected one of channel, channel_and_time"):
        ZScore(per="chanel")
    with pytest.raises(InputError, match=r"scaler\.over"):
        Whiten(over="trials")
    with pytest.raises(InputError, match="one trial of each"):
        Whiten(over="time").fit(brain[:50], table.iloc[:50])
    with pytest.raises(InputError, match="positive"):
        Robust(clamp=-1)
