"""Single-trial betas against brute force and nilearn, and the reading of BOLD runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from decode.core import InputError, Recording
from decode.preprocessing import glm
from decode.preprocessing.betas import beta_maps
from decode.preprocessing.bold import single_trial_betas
from decode.recordings import bold
from decode.recordings.tables import read_events

TR = 2.0


def design(
    n_trials: int = 30, *, seed: int = 0, gap: float = 4.0, shown: float = 3.0
) -> tuple[np.ndarray, np.ndarray, int]:
    """Onsets and durations (trial,) in s with some blank time, and the number of volumes."""
    rng = np.random.default_rng(seed)
    slots = np.sort(rng.permutation(int(1.2 * n_trials))[:n_trials])
    onsets = 7.0 + gap * slots
    return onsets, np.full(n_trials, shown), int(np.ceil((onsets[-1] + 24) / TR))


def recording(signal: np.ndarray, onsets: np.ndarray, durations: np.ndarray) -> Recording:
    n = signal.shape[1]
    channels = pd.DataFrame({"name": [f"v{i}" for i in range(n)], "kind": "bold", "roi": "V1"})
    channels[["x", "y", "z"]] = np.arange(3 * n).reshape(n, 3) / 1000
    events = pd.DataFrame({"onset": onsets, "duration": durations, "split": "train"})
    events["stimulus"] = [f"s{i}" for i in range(len(onsets))]
    return Recording("sub-01", "", "03", "fmri", signal, 1 / TR, channels, events)


def noisy_run(
    n_voxels: int = 6, **knobs: float
) -> tuple[Recording, np.ndarray, np.ndarray, np.ndarray]:
    """A run with drift, its regressors (time, trial), amplitudes (trial, voxel) and noise."""
    onsets, durations, n = design(**knobs)  # type: ignore[arg-type]
    rng = np.random.default_rng(1)
    x = glm.trial_regressors(onsets, durations, np.arange(n) * TR, hrf="glover")
    amplitudes = rng.standard_normal((len(onsets), n_voxels))
    noise = rng.standard_normal((n, n_voxels)) + 3 * np.linspace(-1, 1, n)[:, None]
    signal = (x @ amplitudes + noise).astype(np.float32)
    return recording(signal, onsets, durations), x, amplitudes, noise


@pytest.mark.parametrize("name", ["glover", "spm"])
@pytest.mark.parametrize("duration", [0.5, 3.0, 22.5])
def test_responses_equal_nilearns(name: str, duration: float) -> None:
    from nilearn.glm.first_level import compute_regressor

    times = np.arange(40) * TR
    theirs, _ = compute_regressor(
        np.array([[6.0], [duration], [1.0]]), name, times, oversampling=200
    )
    ours = glm.event_response(times - 6.0, duration, hrf=name)
    theirs = theirs[:, 0] * (ours @ theirs[:, 0]) / (theirs[:, 0] @ theirs[:, 0])
    np.testing.assert_allclose(ours, theirs, atol=3e-3)
    fine = glm.event_response(np.arange(0, 60, 0.01), duration, hrf=name)
    assert fine.max() == pytest.approx(1.0, abs=1e-3)


def test_an_impulse_is_the_limit_of_short_events() -> None:
    t = np.arange(0, 30, 0.5)
    short = glm.event_response(t, 1e-3, hrf="glover")
    np.testing.assert_allclose(glm.event_response(t, 0.0, hrf="glover"), short, atol=1e-3)


def test_drift_equals_nilearns() -> None:
    from nilearn.glm.first_level import make_first_level_design_matrix

    theirs = make_first_level_design_matrix(
        np.arange(150) * TR, drift_model="cosine", high_pass=0.01
    ).to_numpy()
    ours = glm.cosine_drift(150, TR, 0.01)
    assert ours.shape == theirs.shape
    assert np.abs(glm.remove(theirs, ours)).max() < 1e-9


def test_separate_equals_one_least_squares_per_trial() -> None:
    run, x, _, _ = noisy_run()
    y = run.signal.astype(float)
    nuisance = glm.cosine_drift(len(y), TR, 0.01)
    by_hand = []
    for t in range(x.shape[1]):
        others = np.delete(x, t, axis=1).sum(axis=1)
        model = np.column_stack([x[:, t], others, nuisance])
        by_hand.append(np.linalg.lstsq(model, y, rcond=None)[0][0])
    betas = single_trial_betas(run).signal
    np.testing.assert_allclose(betas, by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("noise", ["ols", "ar1"])
def test_together_equals_nilearns_glm(noise: str) -> None:
    from nilearn.glm.first_level import run_glm

    run, x, _, _ = noisy_run(n_voxels=1)
    model = np.hstack([x, glm.cosine_drift(len(x), TR, 0.01)])
    y = run.signal.astype(float)
    if noise == "ols":
        labels, results = run_glm(y, model, noise_model="ols")
        theirs = results[labels[0]].theta[: x.shape[1]]
        ours = single_trial_betas(run, method="lsa").signal
    else:
        rho = 0.31
        p = glm.ar1_whitener(len(y), rho)
        lag = np.abs(np.subtract.outer(np.arange(len(y)), np.arange(len(y))))
        inverse = np.linalg.inv(rho**lag)
        theirs = np.linalg.solve(model.T @ inverse @ model, model.T @ inverse @ y)[: x.shape[1]]
        nuisance = glm.cosine_drift(len(x), TR, 0.01)
        ours = glm.together_weights(p @ x, p @ nuisance) @ p @ y
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_betas_of_noiseless_runs_are_the_amplitudes() -> None:
    onsets, durations, n = design(shown=3.0)
    durations[::3] = 1.0
    x = glm.trial_regressors(onsets, durations, np.arange(n) * TR, hrf="spm")
    amplitudes = np.random.default_rng(2).standard_normal((len(onsets), 5))
    cosines = glm.cosine_drift(n, TR, 0.01)
    drift = cosines @ np.random.default_rng(3).standard_normal((cosines.shape[1], 5))
    run = recording((x @ amplitudes + drift).astype(np.float32), onsets, durations)
    betas = single_trial_betas(run, method="lsa", hrf="spm").signal
    np.testing.assert_allclose(betas, amplitudes, atol=2e-4)
    shared = recording(x @ np.ones((len(onsets), 5)) + drift, onsets, durations)
    np.testing.assert_allclose(single_trial_betas(shared, hrf="spm").signal, 1.0, atol=1e-6)


@pytest.mark.parametrize(("slice_time", "moment"), [(None, 0.7), (0.25, 0.5), (0.0, 0.0)])
def test_volumes_stand_for_the_moment_that_the_files_say(
    slice_time: float | None, moment: float, capsys: pytest.CaptureFixture
) -> None:
    """Against nilearn's regressors, which are sampled at any frame times."""
    from nilearn.glm.first_level import compute_regressor

    onsets, durations, n = design(12, gap=8.0)
    amplitudes = np.random.default_rng(4).standard_normal((len(onsets), 3))
    signal = np.zeros((n, 3))
    one = ([0], [durations[0]], [1])
    fine = compute_regressor(one, "glover", np.arange(-10, 300) / 10, oversampling=50)[0]
    for onset, duration, own in zip(onsets, durations, amplitudes, strict=True):
        shape = compute_regressor(
            ([onset], [duration], [1]), "glover", np.arange(n) * TR + moment, oversampling=200
        )[0]
        signal += shape / fine.max() * own
    run = replace(recording(signal.astype(np.float32), onsets, durations), offset=0.7)
    found = single_trial_betas(run, method="lsa", slice_time=slice_time, high_pass=0.0)
    np.testing.assert_allclose(found.signal, amplitudes, atol=0.02)
    # The user hears of a moment that contradicts the files, and only then.
    assert ("0.7 s" in capsys.readouterr().err) == (slice_time is not None)


def test_blocks_and_a_single_trial() -> None:
    onsets = np.array([12.0, 50.0, 90.0])
    x = glm.trial_regressors(onsets, np.full(3, 22.5), np.arange(70) * TR, hrf="glover")
    drift = glm.cosine_drift(70, TR, 0.004)[:, -1:]
    run = recording(x @ np.array([[2.0], [-1.0], [0.5]]) + drift, onsets, np.full(3, 22.5))
    betas = single_trial_betas(run, method="lsa", high_pass=0.004).signal
    np.testing.assert_allclose(betas[:, 0], [2, -1, 0.5], atol=1e-5)
    one = recording(x[:, :1] * 3 + 1, onsets[:1], np.full(1, 22.5))
    np.testing.assert_allclose(single_trial_betas(one).signal, [[3.0]], atol=1e-6)


def test_autocorrelation_is_found_under_a_large_design() -> None:
    from scipy.signal import lfilter

    onsets, durations, n = design(60)
    x = glm.trial_regressors(onsets, durations, np.arange(n) * TR, hrf="glover")
    model = np.hstack([x, glm.cosine_drift(n, TR, 0.01)])
    for rho in (0.0, 0.4):
        white = np.random.default_rng(4).standard_normal((n + 50, 300))
        noise = lfilter([1.0], [1.0, -rho], white, axis=0)[50:]
        assert glm.residual_ar1(noise, model) == pytest.approx(rho, abs=0.05)


def test_prewhitening_makes_betas_less_noisy() -> None:
    from scipy.signal import lfilter

    onsets, durations, n = design(25, gap=9.0)
    noise = lfilter([1.0], [1.0, -0.6], np.random.default_rng(5).standard_normal((n, 400)), axis=0)
    run = recording(noise, onsets, durations)
    plain = single_trial_betas(run, method="lsa").signal
    white = single_trial_betas(run, method="lsa", noise="ar1").signal
    assert white.var() < 0.97 * plain.var()


def test_confounds_are_regressed_out_and_left_out() -> None:
    run, _, _, _ = noisy_run()
    rng = np.random.default_rng(6)
    motion = pd.DataFrame(rng.standard_normal((len(run.signal), 2)), columns=["rot_x", "trans_y"])
    moved = Recording(
        run.subject,
        run.session,
        run.run,
        run.modality,
        run.signal + motion.to_numpy() @ rng.standard_normal((2, 6)).astype(np.float32) * 10,
        run.sfreq,
        run.channels,
        run.events,
    )
    cleaned = single_trial_betas(bold.with_confounds(moved, motion))
    clean = single_trial_betas(bold.with_confounds(run, motion))
    assert cleaned.layout.names == tuple(run.channels["name"])
    np.testing.assert_allclose(cleaned.signal, clean.signal, atol=1e-4)
    assert np.abs(single_trial_betas(moved).signal - clean.signal).max() > 1
    with pytest.raises(InputError, match="got 3 rows"):
        bold.with_confounds(run, motion[:3])


def test_prepared_has_one_sample_per_trial() -> None:
    run, _, _, _ = noisy_run()
    prepared = single_trial_betas(run)
    assert prepared.signal.shape == (30, 6)
    assert prepared.signal.dtype == np.float32
    assert list(prepared.table["start"]) == list(range(30))
    assert (prepared.table["stimulus"] == run.events["stimulus"]).all()
    assert set(prepared.table["run"]) == {"03"}
    assert (prepared.layout.sfreq, prepared.layout.n_times) == (1.0, 1)
    np.testing.assert_allclose(prepared.layout.positions, run.channels[["x", "y", "z"]])


def test_bad_signals_are_refused_by_name() -> None:
    run, _, _, _ = noisy_run()
    run.signal[4, 2] = np.nan
    with pytest.raises(InputError, match=r"run 03: .* NaN or infinite values in 1 \(v2\)"):
        single_trial_betas(run)
    run.signal[:, 2:4] = 7.0
    with pytest.raises(InputError, match=r"constant signal in 2 \(v2, v3\)"):
        single_trial_betas(run)


@pytest.mark.parametrize("onset", [-2.0, 400.0, np.nan])
def test_events_outside_the_recording_are_refused(onset: float) -> None:
    run, _, _, _ = noisy_run()
    run.events.loc[5, "onset"] = onset
    with pytest.raises(
        InputError, match=r"events inside the recording of 172 s, got event 5 \(s5\) at"
    ):
        single_trial_betas(run)


def test_a_response_that_was_not_recorded_is_refused() -> None:
    run, _, _, _ = noisy_run()
    run.events.loc[29, "onset"] = len(run.signal) * TR - 3.0
    with pytest.raises(InputError, match="of that to event 29"):
        single_trial_betas(run)


def test_designs_that_cannot_be_solved_are_refused() -> None:
    onsets, durations, n = design(30, gap=0.4, shown=0.2)
    run = recording(np.random.default_rng(7).standard_normal((n, 3)), onsets, durations)
    with pytest.raises(InputError, match="method=lss"):
        single_trial_betas(run, method="lsa")
    assert np.isfinite(single_trial_betas(run, method="lss").signal).all()
    with pytest.raises(InputError, match="more volumes than drift and confound regressors"):
        single_trial_betas(run, high_pass=0.25)
    with pytest.raises(InputError, match="expected one of"):
        single_trial_betas(run, method="lsx")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="glover"):
        single_trial_betas(run, hrf="gamma")
    with pytest.raises(InputError, match="ar1"):
        single_trial_betas(run, noise="ar2")  # type: ignore[arg-type]


def test_beta_maps_are_passed_on() -> None:
    run, _, _, _ = noisy_run()
    with pytest.raises(InputError, match="preprocess=bold"):
        beta_maps(run)
    maps = Recording("s", "", "", "fmri", run.signal[:30], 1.0, run.channels, run.events)
    np.testing.assert_array_equal(beta_maps(maps).signal, run.signal[:30])
    fewer = Recording("s", "", "", "fmri", run.signal[:29], 1.0, run.channels, run.events)
    with pytest.raises(InputError, match="29 maps and 30 events"):
        beta_maps(fewer)
    maps.signal[3, 1] = np.inf
    with pytest.raises(InputError, match="NaN or infinite"):
        beta_maps(maps)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A run (bold.nii.gz, scaled 16-bit) of 5 x 4 x 3 voxels and a mask of 8 of them."""
    rng = np.random.default_rng(8)
    affine = np.diag([3.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = [-10, -80, 5]
    volumes = 1000 + 10 * rng.standard_normal((5, 4, 3, 40))
    image = nibabel.Nifti1Image(volumes, affine)
    image.set_data_dtype(np.int16)
    image.header.set_zooms((3, 3, 4, 2.5))
    nibabel.save(image, tmp_path / "bold.nii.gz")
    labels = np.zeros((5, 4, 3), np.uint8)
    labels[1:3, 1:3, :2] = [[[1, 1], [1, 2]], [[2, 2], [1, 1]]]
    nibabel.save(nibabel.Nifti1Image(labels, affine), tmp_path / "mask.nii.gz")
    return tmp_path


def test_a_run_is_read_as_nibabel_reads_it(files: Path) -> None:
    voxels = bold.read_mask(files / "mask.nii.gz")
    image = nibabel.load(files / "bold.nii.gz")
    mask = nibabel.load(files / "mask.nii.gz").get_fdata() > 0
    theirs = image.get_fdata()[mask].T
    np.testing.assert_allclose(bold.read_run(files / "bold.nii.gz", voxels), theirs, rtol=1e-6)
    events = pd.DataFrame({"onset": [4.0], "duration": [1.0]})
    found = bold.read_bold(
        files / "bold.nii.gz",
        voxels,
        events,
        subject="sub-01",
        channels=voxels.channels({1: "V1", 2: "V2"}),
    )
    assert found.sfreq == pytest.approx(0.4)
    np.testing.assert_allclose(found.signal, 100 * (theirs / theirs.mean(axis=0) - 1), atol=1e-3)
    assert list(found.channels["roi"]) == ["V1", "V1", "V1", "V2", "V2", "V2", "V1", "V1"]
    first = found.channels.iloc[0]
    assert first["name"] == "1-1-0"
    np.testing.assert_allclose(first[["x", "y", "z"]].to_list(), [-0.007, -0.077, 0.005])


@pytest.mark.parametrize("name", ["cut.nii.gz", "cut.nii"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.95])
def test_truncated_images_are_refused_by_name(files: Path, name: str, share: float) -> None:
    nibabel.save(nibabel.load(files / "bold.nii.gz"), files / name)
    content = (files / name).read_bytes()
    (files / name).write_bytes(content[: int(share * len(content))])
    voxels = bold.read_mask(files / "mask.nii.gz")
    with pytest.raises(InputError, match=rf"{name}: expected a whole NIfTI image"):
        bold.read_run(files / name, voxels)


def test_other_faults_of_files(files: Path) -> None:
    voxels = bold.read_mask(files / "mask.nii.gz")
    with pytest.raises(InputError, match=r"gone\.nii\.gz: .* no such file"):
        bold.read_run(files / "gone.nii.gz", voxels)
    with pytest.raises(InputError, match=r"on the grid of the mask .*mask\.nii\.gz, \("):
        bold.read_run(files / "mask.nii.gz", voxels)
    moved = bold.Voxels(
        voxels.ijk, voxels.grid, voxels.affine + 1, voxels.labels, files / "mask.nii.gz"
    )
    with pytest.raises(InputError, match=r"bold\.nii\.gz: .* affine of the mask .*mask\.nii\.gz"):
        bold.read_run(files / "bold.nii.gz", moved)
    with pytest.raises(InputError, match="expected one volume"):
        bold.read_mask(files / "bold.nii.gz")
    empty = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    nibabel.save(empty, files / "empty.nii")
    with pytest.raises(InputError, match="values above 0"):
        bold.read_mask(files / "empty.nii")


def test_faulty_events_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.tsv"
    with pytest.raises(InputError, match=r"events\.tsv: .* no such file"):
        read_events(path)
    path.write_text("onset\ttrial_type\n1.0\tface\n")
    with pytest.raises(InputError, match="expected a column 'duration', got onset, trial_type"):
        read_events(path)
    path.write_text("onset\tduration\n1.0\tn/a\nn/a\t2.0\n")
    with pytest.raises(InputError, match="onset in s in row 2"):
        read_events(path)
    path.write_text("onset\tduration\n1.0\tn/a\n3.0\t2.0\n")
    assert read_events(path)["duration"].tolist() == [0.0, 2.0]


def test_voxels_without_signal_can_be_left_out(files: Path) -> None:
    image = nibabel.load(files / "bold.nii.gz")
    volumes = image.get_fdata()
    volumes[1, 1, 0] = 0.0
    nibabel.save(nibabel.Nifti1Image(volumes, image.affine, image.header), files / "b.nii.gz")
    voxels = bold.read_mask(files / "mask.nii.gz")
    events = pd.DataFrame({"onset": [4.0, 20.0], "duration": [1.0, 1.0]})
    dead = bold.read_bold(files / "b.nii.gz", voxels, events, subject="sub-01")
    with pytest.raises(InputError, match=r"in 1 \(1-1-0\); leave them out of the mask"):
        single_trial_betas(dead)
    kept = bold.usable([files / "bold.nii.gz", files / "b.nii.gz"], voxels)
    np.testing.assert_array_equal(kept.ijk, voxels.ijk[1:])
    live = bold.read_bold(files / "b.nii.gz", kept, events, subject="sub-01")
    assert single_trial_betas(live).signal.shape == (2, 7)


def test_betas_are_no_run_of_volumes() -> None:
    """A reader of betas with a preprocessing of runs is told by name, not by a response cut off."""
    rng = np.random.default_rng(0)
    events = pd.DataFrame({"onset": np.arange(9.0), "duration": 1.0, "stimulus": "a"})
    channels = pd.DataFrame({"name": ["v1", "v2"], "kind": "bold", "roi": ""})
    channels = channels.assign(x=np.nan, y=np.nan, z=np.nan)
    signal = rng.normal(size=(9, 2)).astype(np.float32)
    betas = Recording("s1", "01", "", "fmri", signal, 1.0, channels, events)
    with pytest.raises(InputError, match=r"subject s1, session 01.* 9 events: .*preprocess=betas"):
        single_trial_betas(betas)
    # A run at a repetition time of 1 s has fewer trials than volumes.
    run = replace(betas, signal=rng.normal(size=(60, 2)).astype(np.float32))
    assert single_trial_betas(run, method="lsa").signal.shape == (9, 2)
