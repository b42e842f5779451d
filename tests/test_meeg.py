"""Preprocessing of EEG and MEG against signals whose answer is known, and its refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from chains import meeg

from decode.core import InputError, Recording

RAW = {"l_freq": None, "h_freq": None, "sfreq": None, "baseline": None}


def recording(signal, sfreq=200.0, onsets=(1.0, 2.0), kinds=None):
    n = signal.shape[1]
    channels = pd.DataFrame(
        {"name": [f"E{i}" for i in range(n)], "kind": kinds or ["eeg"] * n, "roi": ""}
    ).assign(x=0.1, y=0.2, z=np.nan, bad=False)
    events = pd.DataFrame(
        {
            "onset": np.asarray(onsets, float),
            "duration": 0.1,
            "stimulus": [f"s{i}" for i in range(len(onsets))],
            "split": "train",
            "colour": "red",
        }
    )
    return Recording(
        "sub-01", "ses-1", "01", "eeg", signal.astype(np.float32), sfreq, channels, events
    )


def noise(seconds=10, sfreq=200.0, channels=4, scale=1e-5):
    rng = np.random.default_rng(0)
    return scale * rng.normal(size=(round(seconds * sfreq), channels))


def windows(prepared):
    starts = prepared.table["start"].to_numpy()
    return prepared.signal[starts[:, None] + np.arange(prepared.layout.n_times)].transpose(0, 2, 1)


@pytest.mark.parametrize(("sfreq", "new"), [(200.0, 100.0), (250.0, 100.0), (512.0, 128.0)])
def test_an_impulse_at_the_event_lands_at_sample_zero(sfreq, new):
    samples = np.array([round(0.9 * sfreq), round(3.13 * sfreq), round(7.77 * sfreq)])
    # Off the new grid an impulse peaks at the nearest sample, so these lie on it.
    samples = np.round(np.round(samples / sfreq * new) * sfreq / new).astype(int)
    samples = samples[np.isclose(samples * new / sfreq % 1, 0)]
    assert len(samples) >= 1
    x = np.zeros((round(10 * sfreq), 2))
    x[samples, 0] = 1e-5
    x[:, 1] = np.random.default_rng(0).normal(size=len(x))
    got = meeg(
        recording(x, sfreq, samples / sfreq),
        **{**RAW, "h_freq": 0.35 * new, "sfreq": new},
        window=(-0.1, 0.3),
    )
    at_event = round(0.1 * new)
    assert (windows(got)[:, 0].argmax(1) == at_event).all()
    assert got.layout.n_times == round(0.4 * new)
    assert got.layout.sfreq == new


def test_every_window_has_its_event_at_the_same_sample():
    """Onsets between samples: the nearest sample, then the same number of samples for all."""
    onsets = np.linspace(1, 8, 57)
    got = meeg(recording(noise(), 200.0, onsets), **{**RAW, "sfreq": 90.0}, window=(-0.205, 0.5))
    assert np.ptp(got.table["start"] - np.floor(onsets * 90 + 0.5)) == 0
    assert (np.abs(got.table["start"] / 90 - (onsets - 0.205)) <= 1.01 / 90).all()


def test_resampling_lets_no_alias_through():
    times = np.arange(4000) / 200
    x = 1e-5 * np.stack([np.sin(2 * np.pi * 70 * times), np.sin(2 * np.pi * 20 * times)], 1)
    got = meeg(recording(x), **{**RAW, "sfreq": 100.0}).signal[100:-100]
    assert np.abs(got[:, 0]).max() < 1e-3 * 1e-5
    assert got[:, 1].std() == pytest.approx(x[:, 1].std(), rel=1e-2)
    # Taking every second sample, which is what must not happen, keeps the tone as one of 30 Hz.
    assert x[::2, 0].std() == pytest.approx(x[:, 1].std(), rel=1e-2)


def test_filters_remove_what_they_should_and_shift_nothing():
    times = np.arange(12000) / 200
    tone = {f: 1e-5 * np.sin(2 * np.pi * f * times) for f in (0.05, 10.0, 50.0, 80.0)}
    x = np.stack([sum(tone.values()), tone[10.0]], 1)
    knobs = {"h_freq": 60.0, "l_freq": 0.5, "notch": [50.0]}
    middle = slice(3000, -3000)
    got = meeg(recording(x), **{**RAW, **knobs}).signal
    np.testing.assert_allclose(got[middle, 0], tone[10.0][middle], atol=3e-7)
    kept = meeg(recording(x), **{**RAW, **knobs, "notch": []}).signal
    np.testing.assert_allclose(kept[middle, 0], (tone[10.0] + tone[50.0])[middle], atol=3e-7)


def test_equals_mne_on_the_same_data():
    import mne

    x = noise(60)
    got = meeg(recording(x), l_freq=1.0, h_freq=40.0, sfreq=100.0, baseline=(-0.2, 0.0))
    info = mne.create_info([f"E{i}" for i in range(4)], 200.0, "eeg")
    raw = mne.io.RawArray(x.T.astype(np.float32).astype(float), info, verbose="error")
    raw.filter(1.0, 40.0, verbose="error").resample(100.0, verbose="error")
    events = np.array([[100, 0, 1], [200, 0, 1]])
    epochs = mne.Epochs(
        raw, events, tmin=-0.2, tmax=0.99, baseline=(None, -0.01), preload=True, verbose="error"
    )
    starts = got.table["start"].to_numpy()
    before = got.signal[starts[:, None] + np.arange(*got.baseline)].mean(1)
    expected = epochs.get_data(copy=False)[:, :, 20:]
    np.testing.assert_allclose(windows(got) - before[:, :, None], expected, atol=1e-9)
    assert got.baseline == (-20, 0)


def test_baseline_counts_from_the_window_not_from_the_event():
    got = meeg(recording(noise()), **{**RAW, "baseline": (-0.1, 0.0)}, window=(0.1, 0.5))
    assert got.baseline == (-40, -20)
    assert got.table["start"].tolist() == [220, 420]


def test_small_chunks_give_the_same_signal(monkeypatch):
    whole = meeg(recording(noise()), h_freq=40.0, sfreq=100.0).signal
    monkeypatch.setattr("decode.preprocessing.streams.CHUNK_BYTES", 8 * 2000)
    np.testing.assert_array_equal(meeg(recording(noise()), h_freq=40.0, sfreq=100.0).signal, whole)


def test_references_are_subtracted():
    x = noise()
    average = meeg(recording(x), **RAW, reference="average").signal
    np.testing.assert_allclose(average, x - x.mean(1, keepdims=True), atol=1e-11)
    named = meeg(recording(x), **RAW, reference=["E1", "E3"]).signal
    np.testing.assert_allclose(named, x - x[:, [1, 3]].mean(1, keepdims=True), atol=1e-11)


def test_channels_are_picked_by_kind_name_and_goodness():
    run = recording(noise(), kinds=["eeg", "eog", "eeg", "eeg"])
    assert meeg(run, **RAW).layout.names == ("E0", "E2", "E3")
    bad = replace(run, channels=run.channels.assign(bad=[True, False, False, False]))
    assert meeg(bad, **RAW, drop=["E2"]).layout.names == ("E3",)
    got = meeg(run, **RAW, channels=["E3", "E0"])
    assert got.layout.names == ("E3", "E0")
    np.testing.assert_array_equal(got.signal, run.signal[:, [3, 0]])
    assert got.layout.positions.shape == (2, 3)
    assert got.layout.rois == ("", "")
    with pytest.raises(
        InputError, match=r"steps.pick: names or drop: expected channels of .* got 'Cz'"
    ):
        meeg(run, channels=["Cz"])
    with pytest.raises(
        InputError, match=r"good channel of kind \['mag'\] .* only \['eeg', 'eog'\]"
    ):
        meeg(run, kinds=["mag"])
    with pytest.raises(InputError, match=r"steps\.reference: to: expected 'average' or channels"):
        meeg(run, **RAW, reference="E1")


def test_table_keeps_labels_and_says_whose_trial_it_is():
    got = meeg(recording(noise()), **RAW).table
    assert got.loc[1, ["subject", "session", "run", "stimulus", "split", "colour"]].tolist() == [
        "sub-01",
        "ses-1",
        "01",
        "s1",
        "train",
        "red",
    ]


@pytest.mark.parametrize("onset", [-0.5, 10.0, 300.0, np.nan])
@pytest.mark.parametrize("incomplete", ["refuse", "drop"])
def test_event_outside_the_recording_is_named(onset, incomplete):
    run = recording(noise(), onsets=(1.0, onset))
    with pytest.raises(InputError, match=r"lasts 10\.000 s, got row 1 \('s1', onset "):
        meeg(run, **RAW, incomplete=incomplete)


@pytest.mark.parametrize("onset", [0.05, 9.5])
def test_window_or_baseline_over_the_edge(onset):
    run = recording(noise(), onsets=(3.0, onset))
    knobs = {**RAW, "baseline": (-0.2, 0.0)}
    with pytest.raises(
        InputError, match=r"the window or baseline of the event inside .* got row 1"
    ):
        meeg(run, **knobs)
    assert meeg(run, **knobs, incomplete="drop").table["stimulus"].tolist() == ["s0"]


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "NaN"), (None, "constant")])
def test_broken_channels_are_named(value, word):
    x = noise()
    if value is None:
        x[:, 2] = 3e-6
    else:
        x[1000, 2] = value
    with pytest.raises(InputError, match=f"{word}.* values in E2; name them in `drop`"):
        meeg(recording(x))
    assert np.isfinite(meeg(recording(x), drop=["E2"], sfreq=None).signal).all()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"h_freq": 100.0}, r"filter: high: expected a frequency between 0 and 100 Hz.* got 100"),
        ({"notch": [50.0, 150.0]}, r"notch: frequencies: .* got 150"),
        ({"l_freq": -1.0}, r"filter: low: .* got -1"),
        ({"l_freq": 40.0, "h_freq": 30.0}, r"low: expected less than `high`, 30 Hz, got 40"),
        ({"sfreq": 0.0}, r"sfreq: expected a positive rate"),
        ({"window": (0.5, 0.5)}, r"window: expected end after start"),
        ({"baseline": (0.0, -0.2)}, r"baseline: expected end after start"),
        ({"window": (0.0, 30.0)}, r"lasts, 10\.000 s, got 30\.200 s of one window"),
    ],
)
def test_knobs_that_cannot_be(knobs, message):
    with pytest.raises(InputError, match=message) as caught:
        meeg(recording(noise()), **{"sfreq": None, **knobs})
    assert "\n" not in str(caught.value)


def test_a_filter_longer_than_the_run_is_told(capsys):
    meeg(recording(noise()), l_freq=0.1, h_freq=40.0)
    assert "subject sub-01, session ses-1, run 01: filter_length" in capsys.readouterr().err
