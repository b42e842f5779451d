"""Simulated EEG and MEG: physics, files, and a truth that is checked against dense matrices."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chains import meeg
from scipy.linalg import cholesky, solve_triangular, toeplitz
from test_configs import composed

from decode.core import InputError
from decode.data.simulated_eeg import SimulatedEEG
from decode.data.simulated_meg import SimulatedMEG
from decode.recordings.meeg import open_raw, read_events
from decode.simulation import meeg as simulation
from decode.simulation.meeg_participant import participant
from decode.simulation.meeg_study import Study
from decode.simulation.sensors import (
    ELECTRODES,
    HEAD_CENTRE,
    HELMET_RADIUS,
    gain,
    sensor_info,
)
from decode.workshop import Run

SMALL = {
    "n_subjects": 2,
    "n_train": 14,
    "train_repeats": 2,
    "n_test": 6,
    "test_repeats": 3,
    "sfreq": 125.0,
}


@pytest.fixture(scope="module")
def eeg(tmp_path_factory):
    data = SimulatedEEG(tmp_path_factory.mktemp("eeg"), **SMALL)
    assert len(list(data.recordings("sub-01"))) == 2
    return data


@pytest.fixture(scope="module")
def meg(tmp_path_factory):
    return SimulatedMEG(tmp_path_factory.mktemp("meg"), **SMALL)


@pytest.fixture(scope="module", params=["eeg", "meg"])
def someone(request):
    return participant(request.param, sfreq=125.0, seed=(3, 1))


def test_runs_are_complete_recordings(eeg, meg):
    for data, n, names in ((eeg, 63, ELECTRODES), (meg, 102, None)):
        runs = list(data.recordings("sub-01"))
        assert [r.run for r in runs] == ["01", "02"]
        assert [set(r.events["split"]) for r in runs] == [{"train"}, {"test"}]
        assert [len(r.events) for r in runs] == [14 * 2, 6 * 3]
        for run in runs:
            assert run.signal.shape[1] == n == data.facts.n_channels
            assert run.signal.dtype == np.float32
            assert run.sfreq == 125
            assert np.isfinite(run.channels[["x", "y", "z"]].to_numpy()).all()
            assert set(run.events["stimulus"]) <= set(data.stimuli())
            assert (
                run.events["stimulus"].value_counts()
                == run.events["split"].map({"train": 2, "test": 3}).iloc[0]
            ).all()
        if names:
            assert tuple(runs[0].channels["name"]) == names
    # The root mean square of a recording, in V and T, is that of real ones.
    assert 3e-6 < next(eeg.recordings("sub-01")).signal.std() < 5e-5
    assert 1e-13 < next(meg.recordings("sub-01")).signal.std() < 3e-12


def test_files_are_bids_and_triggers_mark_the_events(eeg):
    import mne

    folder = eeg.folder / "sub-01" / "eeg"
    raw = open_raw(folder / "sub-01_task-scenes_run-02_eeg.fif")
    found = mne.find_events(raw, "STI 014", verbose="error")
    table = pd.read_csv(folder / "sub-01_task-scenes_run-02_events.tsv", sep="\t")
    np.testing.assert_array_equal(found[:, 0], np.round(table["onset"] * 125))
    np.testing.assert_array_equal(found[:, 2], table["value"])
    assert all((eeg.folder / "stimuli" / name).is_file() for name in table["stim_file"])
    assert (eeg.folder / "dataset_description.json").is_file()
    people = pd.read_csv(eeg.folder / "participants.tsv", sep="\t")
    assert people["participant_id"].tolist() == ["sub-01", "sub-02"]
    sensors = pd.read_csv(folder / "sub-01_task-scenes_run-02_channels.tsv", sep="\t")
    assert sensors["name"].tolist() == raw.ch_names


def test_same_design_same_signal_and_every_participant_differs(eeg, tmp_path):
    first = next(eeg.recordings("sub-01"))
    again = next(SimulatedEEG(tmp_path, **SMALL).recordings("sub-01"))
    np.testing.assert_array_equal(first.signal, again.signal)
    pd.testing.assert_frame_equal(first.events, again.events)
    other = next(eeg.recordings("sub-02"))
    assert np.corrcoef(first.signal[:1000, 0], other.signal[:1000, 0])[0, 1] < 0.9
    assert not np.allclose(eeg.truth("sub-01").response, eeg.truth("sub-02").response)
    assert SimulatedEEG(tmp_path, **{**SMALL, "seed": 1}).folder != eeg.folder


@pytest.mark.slow
def test_killed_simulation_starts_the_participant_again(eeg, tmp_path, monkeypatch):
    data = SimulatedEEG(tmp_path, **SMALL)
    write_run, written = Study._write_run, []

    def killed(self, *args):
        if written:
            raise KeyboardInterrupt
        written.append(write_run(self, *args))

    monkeypatch.setattr(Study, "_write_run", killed)
    with pytest.raises(KeyboardInterrupt):
        next(data.recordings("sub-01"))
    assert (data.folder / "sub-01.partial").is_dir()
    assert not (data.folder / "sub-01").exists()
    monkeypatch.setattr(Study, "_write_run", write_run)
    for run, expected in zip(
        SimulatedEEG(tmp_path, **SMALL).recordings("sub-01"), eeg.recordings("sub-01"), strict=True
    ):
        np.testing.assert_array_equal(run.signal, expected.signal)
    assert not (data.folder / "sub-01.partial").exists()


@pytest.mark.slow
def test_two_at_once_simulate_once(tmp_path, monkeypatch):
    calls = []
    write = Study._write_subject
    monkeypatch.setattr(
        Study, "_write_subject", lambda self, *a: (calls.append(a[0]), write(self, *a))
    )
    with ThreadPoolExecutor(2) as pool:
        runs = pool.map(
            lambda _: next(SimulatedEEG(tmp_path, **SMALL).recordings("sub-01")).signal, range(2)
        )
        first, second = runs
    np.testing.assert_array_equal(first, second)
    assert calls == ["sub-01"]


def test_without_noise_a_window_is_the_response(tmp_path):
    data = SimulatedMEG(tmp_path, **{**SMALL, "n_subjects": 1, "noise": 0.0})
    who = participant("meg", sfreq=125.0, seed=(0, 0, 2))
    features = simulation.image_features([scene for _, _, scene in data._scenes])
    run = list(data.recordings("sub-01"))[1]
    got = meeg(run, kinds=["mag"], l_freq=None, sfreq=None, window=(0.0, 0.6), baseline=None)
    window = got.signal[int(got.table["start"][4]) + np.arange(75)].T
    row = list(data.stimuli()).index(got.table["stimulus"][4])
    expected = np.tensordot(features[row], who.weights, 1)
    np.testing.assert_allclose(window, expected, atol=1e-5 * np.abs(expected).max())
    truth = data.truth("sub-01")
    assert (truth.noise == 0).all()
    assert np.ptp(truth.response, axis=0).max() > 0.1


def test_low_level_features_answer_before_attributes(someone):
    times = np.arange(someone.weights.shape[2]) / 125
    size = (someone.weights**2).sum(1)
    early, late = size[1:65].sum(0), size[65:].sum(0)
    assert 0.08 <= times[early.argmax()] <= 0.15
    assert 0.17 <= times[late.argmax()] <= 0.45
    assert (late[times < 0.12] < 0.01 * late.max()).all()
    assert (size[:, -1] < 1e-6 * size.max()).all()


def test_response_is_occipital_first_and_mirrored_for_the_two_halves_of_the_picture():
    who = participant("eeg", sfreq=125.0, seed=(3, 1))
    places = np.array([c["loc"][:3] for c in who.info["chs"]])
    early = (who.weights[1:65, :, 12] ** 2).sum(0)
    assert places[early.argmax(), 1] < -0.04
    assert ELECTRODES[early.argmax()][0] in "PO"


def test_meg_sees_no_radial_current_and_eeg_does():
    rng = np.random.default_rng(0)
    out = rng.normal(size=(20, 3))
    out[:, 2] = np.abs(out[:, 2])
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    along = np.cross(out, [0.3, 0.5, 0.8])
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    places = HEAD_CENTRE + 0.07 * out
    size = {
        (kind, name): np.abs(gain(sensor_info(kind, 200.0), places, moments)).max()
        for kind in ("eeg", "meg")
        for name, moments in (("radial", out), ("tangential", along))
    }
    assert size["meg", "radial"] < 1e-6 * size["meg", "tangential"]
    assert size["eeg", "radial"] > 0.5 * size["eeg", "tangential"]
    # 10 nA m near the surface: microvolts and hundreds of femtotesla.
    assert 1e-7 < 1e-8 * size["eeg", "tangential"] < 1e-5
    assert 5e-14 < 1e-8 * size["meg", "tangential"] < 2e-12


def test_dipole_outside_the_brain_is_refused():
    with pytest.raises(Exception, match=r"outside|inner"):
        gain(sensor_info("eeg", 200.0), HEAD_CENTRE[None] + 0.07, np.array([[1.0, 0, 0]]))


def test_sensors_lie_around_the_head():
    info = sensor_info("meg", 200.0)
    places = np.array([c["loc"][:3] for c in info["chs"]]) - HEAD_CENTRE
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), HELMET_RADIUS)
    gaps = np.linalg.norm(places[:, None] - places, axis=2) + np.eye(len(places))
    assert gaps.min() > 0.015
    electrodes = sensor_info("eeg", 200.0)
    x = dict(zip(ELECTRODES, [c["loc"] for c in electrodes["chs"]], strict=True))
    assert len(x) == 63
    assert "Fz" not in x
    assert ELECTRODES[0] == "Fp1"
    assert ELECTRODES[46::8] == ("P7", "P8", "O2")
    assert x["O1"][0] < 0 < x["O2"][0]
    assert x["Oz"][1] < 0 < x["Fp1"][1]


def test_noise_has_the_spectrum_and_topography_it_claims(someone):
    rng = np.random.default_rng(0)
    n = 125 * 240
    quiet = np.zeros((1, len(someone.weights)))
    once, twice = (
        simulation.simulate_run(
            someone, quiet, np.array([0]), 500, noise=k, rng=np.random.default_rng(0)
        )
        for k in (1.0, 2.0)
    )
    np.testing.assert_allclose(twice, 2 * once)

    calm = replace(someone, blink=0 * someone.blink, line=0 * someone.line)
    x = simulation.simulate_run(calm, quiet, np.array([0]), n, noise=1.0, rng=rng)
    covariance = (
        someone.background @ someone.background.T
        + someone.alpha @ someone.alpha.T
        + someone.sensor**2 * np.eye(len(x))
    )
    np.testing.assert_allclose(np.cov(x), covariance, atol=0.15 * np.abs(covariance).max())
    power = np.mean(np.abs(np.fft.rfft(x.reshape(len(x), -1, 1000))) ** 2, axis=1) / 1000
    freqs = np.fft.rfftfreq(1000, 1 / 125)
    for band in ((1.5, 3), (9.5, 10.5), (25, 40)):
        rows = (freqs > band[0]) & (freqs < band[1])
        claimed = (
            (someone.background**2).sum(1)[:, None]
            * simulation.background_spectrum(freqs[rows], 125.0)
            + (someone.alpha**2).sum(1)[:, None] * simulation.alpha_spectrum(freqs[rows], 125.0)
            + someone.sensor**2
        )
        np.testing.assert_allclose(power[:, rows].mean(), claimed.mean(), rtol=0.1)


def test_blinks_are_frontal_and_line_noise_is_at_fifty_hertz():
    who = participant("eeg", sfreq=125.0, seed=(3, 1))
    assert ELECTRODES[np.abs(who.blink).argmax()].startswith(("Fp", "AF"))
    quiet = np.zeros((1, len(who.weights)))
    x = simulation.simulate_run(
        who, quiet, np.array([0]), 125 * 64, noise=1.0, rng=np.random.default_rng(0)
    )
    power = (np.abs(np.fft.rfft(x)) ** 2).sum(0)
    freqs = np.fft.rfftfreq(x.shape[1], 1 / 125)
    above = freqs > 20
    assert freqs[above][power[above].argmax()] == pytest.approx(50.0, abs=0.02)
    assert np.abs(x[0]).max() > 60e-6


def few_sensors(who, keep):
    return replace(
        who,
        weights=who.weights[:, keep],
        background=who.background[keep],
        alpha=who.alpha[keep],
        line=who.line[keep],
        blink=who.blink[keep],
    )


def test_truth_equals_a_dense_whitening_of_the_same_noise(someone):
    """Cholesky of the full (sensor, time) covariance of a long window around the response."""
    who = few_sensors(someone, np.arange(0, len(someone.line), 20)[:4])
    n_features, n_sensors, n_times = who.weights.shape
    n = 4 * n_times
    grid = np.fft.rfftfreq(16 * n, 1 / 125)
    covariance = np.kron(who.sensor**2 * np.eye(n_sensors), np.eye(n))
    for mixing, spectrum in (
        (who.background, simulation.background_spectrum),
        (who.alpha, simulation.alpha_spectrum),
    ):
        lags = np.fft.irfft(spectrum(grid, 125.0))[:n]
        covariance += np.kron(mixing @ mixing.T, toeplitz(lags))
    embedded = np.zeros((n_features, n_sensors, n))
    embedded[:, :, n // 2 - n_times // 2 :][:, :, :n_times] = who.weights
    root = cholesky(covariance, lower=True)
    white = solve_triangular(root, embedded.reshape(n_features, -1).T, lower=True)
    expected = white.T @ white
    response = simulation.whitened_response(who, np.eye(n_features))
    got = response @ response.T
    np.testing.assert_allclose(np.diag(got), np.diag(expected), rtol=0.05)
    np.testing.assert_allclose(got, expected, atol=0.02 * expected.max())
    # A ceiling may not be too low: seeing more of the noise can only help.
    assert np.trace(got) > 0.99 * np.trace(expected)


def test_truth_names_every_stimulus_and_scales_with_the_noise(meg, tmp_path):
    truth = meg.truth("sub-01")
    assert truth.stimuli == tuple(meg.stimuli())
    assert truth.response.shape == (20, len(truth.noise))
    assert (truth.noise == 1).all()
    assert "blinks" in truth.approximation
    loud = SimulatedMEG(tmp_path, **{**SMALL, "n_subjects": 1, "noise": 3.0}).truth("sub-01")
    np.testing.assert_allclose(loud.response, truth.response, rtol=1e-5, atol=1e-5)
    assert (loud.noise == 9).all()


def test_truncated_and_missing_files_are_refused(eeg, tmp_path):
    import shutil

    shutil.copytree(eeg.folder, tmp_path / eeg.folder.name)
    data = SimulatedEEG(tmp_path, **SMALL)
    path = data.folder / "sub-01" / "eeg" / "sub-01_task-scenes_run-01_eeg.fif"
    whole = path.read_bytes()
    for part in (0.01, 0.3, 0.9, 0.999):
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(InputError, match=r"run-01_eeg\.fif: expected a complete raw recording"):
            next(data.recordings("sub-01"))
    path.write_bytes(b"not a recording" * 100)
    with pytest.raises(InputError, match="expected a complete raw recording"):
        next(data.recordings("sub-01"))
    with pytest.raises(InputError, match="found no such file"):
        open_raw(tmp_path / "none_eeg.fif")
    path.write_bytes(whole)
    events = path.with_name("sub-01_task-scenes_run-01_events.tsv")
    events.write_text("onset\tduration\n1.0\t0.1\n")
    with pytest.raises(
        InputError, match=r"events\.tsv: expected a column 'stim_file', .* add stim_file"
    ):
        next(data.recordings("sub-01"))
    events.unlink()
    with pytest.raises(InputError, match=r"events\.tsv: expected a BIDS events table"):
        next(data.recordings("sub-01"))


def test_events_without_a_stimulus_are_no_trials(tmp_path):
    path = tmp_path / "events.tsv"
    path.write_text("onset\tduration\tstim_file\n1.0\t0.1\ta.png\n2.0\t0.1\tn/a\n")
    table = read_events(path, lambda name: f"uid/{name}")
    assert table["stimulus"].tolist() == ["uid/a.png"]
    assert table["split"].tolist() == [""]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"n_train": 0}, r"data\.n_train: expected at least 1, got 0"),
        ({"noise": -1.0}, r"data\.noise: expected 0 or more"),
        ({"sfreq": 100.0}, r"data\.sfreq: expected more than 110 Hz"),
    ],
)
def test_impossible_designs(knobs, message, tmp_path):
    with pytest.raises(InputError, match=message):
        SimulatedEEG(tmp_path, **knobs)


def test_unknown_subject_is_refused(eeg):
    with pytest.raises(InputError, match="expected some of sub-01, sub-02, got 'sub-3'"):
        next(eeg.recordings("sub-3"))


@pytest.mark.parametrize("module", ["decode.simulation.meeg_study", "decode.data.simulated_fmri"])
def test_what_newer_code_simulates_is_preprocessed_anew(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "quickstart" if module.endswith("fmri") else "quickstart_eeg"

    def keys() -> list[str]:
        config = composed(f"experiment={name}", f"paths.outputs={tmp_path}")
        return [task.key for task in Run(config).of("preprocess")]

    before = keys()
    assert keys() == before
    monkeypatch.setattr(f"{module}.VERSION", 999)
    assert not set(keys()) & set(before)
