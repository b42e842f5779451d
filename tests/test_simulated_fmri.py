"""Simulated fMRI: files, physics, noise in closed form, and what survives a kill."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from decode.core import InputError, Truth
from decode.data.simulated_fmri import SimulatedFMRI
from decode.preprocessing import glm
from decode.preprocessing.bold import beta_weights, single_trial_betas
from decode.scoring.ceiling import noise_ceiling_from_repeats, variance_ceiling
from decode.simulation import fmri
from decode.simulation.gabor import SIDE, ReceptiveFields, early_drive
from decode.simulation.scenes import is_test_combination
from decode.simulation.visual_cortex import Responses, grey_matter, make_cortex

TINY = {"n_train": 24, "n_test": 6, "n_voxels": 60, "trials_per_run": 12}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SimulatedFMRI:
    folder = tmp_path_factory.mktemp("simulated")
    return SimulatedFMRI(folder, n_train=90, n_test=50, n_voxels=400, trials_per_run=50, seed=3)


@pytest.fixture(scope="module")
def betas(world: SimulatedFMRI) -> dict[str, tuple[np.ndarray, pd.DataFrame]]:
    """Test trials of the first participant per method: betas (trial, voxel) and their table."""
    found = {}
    for method in ("lss", "lsa"):
        runs = [single_trial_betas(r, method=method) for r in world.recordings("sub-01")]  # type: ignore[arg-type]
        table = pd.concat([p.table for p in runs], ignore_index=True)
        test = (table["split"] == "test").to_numpy()
        found[method] = np.concatenate([p.signal for p in runs])[test], table[test]
    return found


def expected(truth: Truth, table: pd.DataFrame) -> np.ndarray:
    row = {uid: i for i, uid in enumerate(truth.stimuli)}
    return np.asarray(truth.response[[row[u] for u in table["stimulus"]]])


def test_nothing_is_written_before_it_is_asked_for(tmp_path: Path) -> None:
    data = SimulatedFMRI(tmp_path / "none")
    assert data.subjects == ("sub-01", "sub-02")
    assert not (tmp_path / "none").exists()


def test_layout_on_disk_and_recordings(world: SimulatedFMRI) -> None:
    stimuli = world.stimuli()
    assert len(stimuli) == 140
    func = world.folder / "sub-01" / "func"
    events = pd.read_csv(func / "sub-01_task-scenes_run-01_events.tsv", sep="\t")
    assert list(events) == ["onset", "duration", "trial_type", "stim_file", "split"]
    assert all((world.folder / "stimuli" / name).is_file() for name in events["stim_file"])
    shown: dict[str, list[str]] = {"train": [], "test": []}
    for number, run in enumerate(world.recordings("sub-01"), start=1):
        assert run.run == f"{number:02d}"
        assert run.sfreq == pytest.approx(0.5)
        assert run.signal.dtype == np.float32
        assert run.signal.shape[1] == len(run.channels)
        assert np.abs(run.signal.mean(axis=0)).max() < 0.01
        (split,) = set(run.events["split"])
        shown[split] += list(run.events["stimulus"])
        assert np.diff(run.events["onset"]).min() >= 4.0
    assert len(shown["train"]) == len(set(shown["train"])) == 90
    assert pd.Series(shown["test"]).value_counts().eq(3).all()
    assert len(set(shown["test"])) == 50
    for part, held_out in (("train", False), ("test", True)):
        labels = [stimuli[uid].labels for uid in shown[part]]
        assert {is_test_combination(x["kind"], x["colour"], x["background"]) for x in labels} == {
            held_out
        }


def test_voxels_lie_in_grey_matter_of_mni_space(world: SimulatedFMRI) -> None:
    from nilearn.datasets.struct import GM_MNI152_FILE_PATH

    (channels,) = [next(iter(world.recordings("sub-02"))).channels]
    template = nibabel.load(GM_MNI152_FILE_PATH)
    mm = channels[["x", "y", "z"]].to_numpy() * 1000
    ijk = np.rint(nibabel.affines.apply_affine(np.linalg.inv(template.affine), mm)).astype(int)
    assert (np.asarray(template.dataobj)[tuple(ijk.T)] > 127).all()
    by_region = channels.assign(y=mm[:, 1]).groupby("roi")["y"].mean()
    assert set(by_region.index) == {"", "V1", "V2", "V3", "V4", "LO", "VT"}
    assert by_region["V1"] < -75 < -65 < by_region["VT"]
    assert (np.bincount(mm[:, 0] > 0) > 100).all()


def test_noise_of_betas_is_known_in_closed_form(
    world: SimulatedFMRI, betas: dict[str, tuple[np.ndarray, pd.DataFrame]]
) -> None:
    for method, (found, table) in betas.items():
        truth = world.truth("sub-01", method=method)  # type: ignore[arg-type]
        assert found.shape[1] == truth.response.shape[1] == len(truth.noise)
        error = np.mean((found - expected(truth, table)) ** 2, axis=0) / truth.noise
        assert error.mean() == pytest.approx(1.0, abs=0.06), method
        # Betas of LSA err together in few directions, so their spread is known less well.
        agreement = np.corrcoef(error * truth.noise, truth.noise)[0, 1]
        assert agreement > {"lss": 0.7, "lsa": 0.4}[method]


def test_weights_and_covariance_of_noise_are_exact() -> None:
    rng = np.random.default_rng(0)
    (run,) = fmri.plan_runs([("test", np.arange(40))], trials_per_run=40, tr=2.0, rng=rng)
    noise = fmri.make_noise(150, rng)
    x = fmri.run_regressors(run, 2.0)
    drift = glm.cosine_drift(run.n_times, 2.0, fmri.HIGH_PASS)
    factors = fmri.beta_noise_factors([run], tr=2.0, method="lsa")
    weights = beta_weights(x, drift, method="lsa", rho=None)
    assert factors[0] == pytest.approx(0.0, abs=1e-12)
    drawn = [fmri.draw_noise(noise, run.n_times, tr=2.0, rng=rng) for _ in range(300)]
    found = np.mean([np.mean((weights @ d) ** 2, axis=0) for d in drawn], axis=0)
    share = found / fmri.beta_noise(noise, factors)
    assert share.mean() == pytest.approx(1.0, abs=0.03)
    # The physiological part by itself: without it the closed form would be off by its share.
    silent = fmri.Noise(noise.sd, np.zeros(150), noise.phase)
    assert (found / fmri.beta_noise(silent, factors)).mean() > 1.05


def test_ceilings_are_those_of_the_field(
    world: SimulatedFMRI, betas: dict[str, tuple[np.ndarray, pd.DataFrame]], tmp_path: Path
) -> None:
    truth = world.truth("sub-01")
    found, table = betas["lss"]
    test = sorted(set(table["stimulus"]))
    responsive = np.ptp(truth.response, axis=0) > 0
    known = variance_ceiling(truth, test, repeats=3)
    assert np.median(known[responsive]) == pytest.approx(0.35, abs=0.03)
    assert np.all(known[~responsive] == 0)
    estimated = noise_ceiling_from_repeats(found, list(table["stimulus"])).ceiling(3)
    assert np.median(estimated[responsive]) == pytest.approx(np.median(known[responsive]), abs=0.06)
    assert np.corrcoef(estimated, known)[0, 1] > 0.7
    assert estimated[~responsive].mean() < 0.15
    loud = SimulatedFMRI(tmp_path, **TINY, noise=2.0).truth("sub-01")
    calm = SimulatedFMRI(tmp_path, **TINY, noise=1.0).truth("sub-01")
    np.testing.assert_array_equal(loud.response, calm.response)
    silent = np.ptp(calm.response, axis=0) == 0
    np.testing.assert_allclose(loud.noise[silent] / calm.noise[silent], 4.0, rtol=1e-5)


def test_median_ceiling_at_default_noise_does_not_depend_on_timing() -> None:
    rng = np.random.default_rng(1)
    cortex = make_cortex(500, voxel_mm=4, rng=rng)
    for tr in (1.0, 2.0):
        runs = fmri.plan_runs([("test", np.arange(80))], trials_per_run=40, tr=tr, rng=rng)
        factors = fmri.beta_noise_factors(runs, tr=tr, method="lss")
        noise = fmri.calibrate(cortex, fmri.make_noise(500, rng), factors, 1.0)
        signal = cortex.gain**2
        single = fmri.beta_noise(noise, factors) + factors[0] * signal
        ceiling = signal / (signal + single / 3)
        assert np.median(ceiling[signal > 0]) == pytest.approx(0.35, abs=0.005)


def test_early_units_see_their_place_colour_and_orientation() -> None:
    fields = ReceptiveFields(
        x=np.array([0.2, 0.8]),
        y=np.array([0.3, 0.6]),
        width=np.array([0.06, 0.06]),
        frequency=np.array([6.0, 6.0]),
        orientation=np.array([0.0, np.pi / 2]),
    )
    blob, gabors = fields.filters()
    spots = np.zeros((SIDE * SIDE, SIDE, SIDE, 3), np.float32)
    spots.reshape(SIDE**2, -1, 3)[np.arange(SIDE**2), np.arange(SIDE**2)] = [1.0, 0.0, 0.0]
    drive = early_drive(spots, blob, gabors)
    best = drive[1].argmax(axis=0)
    np.testing.assert_allclose(best % SIDE / SIDE, [0.2, 0.8], atol=1 / SIDE)
    np.testing.assert_allclose(best // SIDE / SIDE, [0.3, 0.6], atol=1 / SIDE)
    assert (drive[2].max(axis=0) > 0).all()
    assert (drive[3].min(axis=0) < 0).all()
    centres = (np.arange(SIDE) + 0.5) / SIDE
    gratings = np.zeros((4, SIDE, SIDE, 3), np.float32)
    for i, phase in enumerate((0.0, 1.5)):
        wave = 0.5 + 0.5 * np.cos(2 * np.pi * 6 * centres + phase)
        gratings[i] = wave[None, :, None]
        gratings[2 + i] = wave[:, None, None]
    energy = early_drive(gratings, blob, gabors)[0]
    assert (energy[:2, 0] > 5 * energy[2:, 0]).all()
    assert (energy[2:, 1] > 5 * energy[:2, 1]).all()
    np.testing.assert_allclose(energy[0, 0], energy[1, 0], rtol=0.1)


def test_fields_are_contralateral_and_participants_differ() -> None:
    first, second = (
        make_cortex(300, voxel_mm=4, rng=np.random.default_rng([0, n, 0])) for n in range(2)
    )
    left = (first.ijk @ first.affine[:3, :3].T + first.affine[:3, 3])[:, 0] < 0
    v1 = first.region == "V1"
    assert first.fields.x[v1 & left].mean() > 0.6 > 0.4 > first.fields.x[v1 & ~left].mean()
    assert set(map(tuple, first.ijk)) != set(map(tuple, second.ijk))
    for cortex in (first, second):
        assert np.all((cortex.gain == 0) == (cortex.region == ""))


def test_a_participant_does_not_depend_on_how_much_it_sees(tmp_path: Path) -> None:
    few = SimulatedFMRI(tmp_path, **{**TINY, "n_train": 12}).truth("sub-01")
    many = SimulatedFMRI(tmp_path, **TINY).truth("sub-01")
    row = {uid: i for i, uid in enumerate(many.stimuli)}
    same = many.response[[row[u] for u in few.stimuli]]
    np.testing.assert_allclose(few.response, same, atol=1e-5)


def test_same_parameters_give_the_same_bytes(tmp_path: Path) -> None:
    a, b = (SimulatedFMRI(tmp_path / n, **TINY) for n in "ab")
    other = SimulatedFMRI(tmp_path / "a", **TINY, seed=1)
    for data in (a, b, other):
        data.stimuli()
    assert a.folder.name == b.folder.name != other.folder.name
    assert contents(a.folder) == contents(b.folder)
    run = "sub-01/func/sub-01_task-scenes_run-01_bold.nii.gz"
    assert (a.folder / run).read_bytes() != (other.folder / run).read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_finished_simulation_is_not_made_again(tmp_path: Path) -> None:
    SimulatedFMRI(tmp_path, **TINY).stimuli()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    again = SimulatedFMRI(tmp_path, **TINY)
    assert len(list(again.recordings("sub-02"))) == 4
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before


def test_shared_and_own_scenes(tmp_path: Path) -> None:
    data = SimulatedFMRI(tmp_path, **TINY, shared=0.5)
    seen = [set(data.truth(s).stimuli) for s in data.subjects]
    train = [{u for u in s if "/train/" in u} for s in seen]
    assert [len(t) for t in train] == [24, 24]
    assert len(train[0] & train[1]) == 12
    assert {u for u in seen[0] if "/test/" in u} == {u for u in seen[1] if "/test/" in u}
    assert len(data.stimuli()) == 36 + 6


def in_child(work: object) -> int:
    """Run a function in a forked process; its exit status as os.waitpid gives it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()  # type: ignore[operator]
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize("die_at", [0, 3, 5])
def test_a_killed_simulation_is_finished_by_the_next(tmp_path: Path, die_at: int) -> None:
    whole = SimulatedFMRI(tmp_path / "whole", **TINY)
    whole.stimuli()
    victim = SimulatedFMRI(tmp_path / "victim", **TINY)
    write, calls = fmri.write_bold, iter(range(100))

    def dying(path: Path, *args: object, **knobs: object) -> None:
        if next(calls) == die_at:
            path.write_bytes(b"half a file")
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, *args, **knobs)  # type: ignore[arg-type]

    def killed() -> None:
        fmri.write_bold = dying  # in the child only
        victim.stimuli()

    assert os.WTERMSIG(in_child(killed)) == signal.SIGKILL
    assert not victim.folder.exists()
    victim.stimuli()
    assert contents(victim.folder) == contents(whole.folder)


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                data = SimulatedFMRI(tmp_path, **TINY)
                status = 0 if len(list(data.recordings("sub-01"))) == 4 else 2
            finally:
                os._exit(status)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    assert not list(tmp_path.glob("*.partial"))


def test_a_truncated_run_is_refused_by_name(tmp_path: Path) -> None:
    data = SimulatedFMRI(tmp_path, **TINY)
    data.stimuli()
    path = data.folder / "sub-01/func/sub-01_task-scenes_run-02_bold.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"run-02_bold\.nii\.gz: .* cut off or damaged"):
        list(data.recordings("sub-01"))
    events = data.folder / "sub-02/func/sub-02_task-scenes_run-01_events.tsv"
    events.unlink()
    with pytest.raises(InputError, match=r"run-01_events\.tsv: .* no such file"):
        list(data.recordings("sub-02"))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"noise": 0}, "noise > 0"),
        ({"shared": 1.5}, "shared=1.5"),
        ({"n_test": 1}, r"data\.n_test: expected at least 2, got 1"),
        ({"tr": 9}, "tr=9"),
    ],
)
def test_impossible_knobs(tmp_path: Path, knobs: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SimulatedFMRI(tmp_path, **knobs)  # type: ignore[arg-type]


def test_too_many_voxels_and_unknown_subjects(tmp_path: Path) -> None:
    room = int(grey_matter(4)[0].sum())
    with pytest.raises(InputError, match=f"20 to {room} voxels"):
        make_cortex(room + 1, voxel_mm=4, rng=np.random.default_rng(0))
    with pytest.raises(InputError, match="people of the simulation, got 'sub-09'"):
        next(SimulatedFMRI(tmp_path).recordings("sub-09"))


def test_responses_have_the_declared_size() -> None:
    from decode.simulation.scenes import draw, training_scenes

    cortex = make_cortex(200, voxel_mm=4, rng=np.random.default_rng(2))
    scenes = training_scenes(300, seed=9)
    out = Responses(cortex)(scenes, np.stack([draw(s) for s in scenes]))
    loud = cortex.gain > 0
    size = out.std(axis=0)[loud] / cortex.gain[loud]
    assert np.median(size) == pytest.approx(1.0, abs=0.03)
    # Fields at the edge of the picture answer rarely, so their spread is not known as well.
    assert (np.abs(size - 1) < 0.25).mean() > 0.95
    assert np.all(out[:, ~loud] == 0)
