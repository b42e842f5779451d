"""The `bids` data set on small data sets that mne-bids and nibabel wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mne
import mne_bids
import nibabel
import numpy as np
import pandas as pd
import pytest
import worlds
from brainvision import write_brainvision
from PIL import Image

from decode.core import InputError
from decode.data.bids import Bids
from decode.workshop import Run

SFREQ, N_TIMES = 100.0, 600
NAMES = ["Fz", "Cz", "Pz", "Oz"]
TR = 1.5


def write_events(path: Path, rows: list[dict[str, object]]) -> None:
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False, na_rep="n/a")


def pictures(root: Path) -> None:
    (root / "stimuli" / "a").mkdir(parents=True)
    for i, name in enumerate(("a/one.png", "a/two.png")):
        Image.fromarray(np.full((4, 4, 3), 50 * i, np.uint8)).save(root / "stimuli" / name)


def shown() -> list[dict[str, object]]:
    return [
        {
            "onset": 1.0,
            "duration": 0.5,
            "stim_file": "a/one.png",
            "part": "train",
            "concept": "sun",
        },
        {"onset": 2.0, "duration": 0.5, "stim_file": None, "part": None, "concept": None},
        {
            "onset": 3.5,
            "duration": 0.5,
            "stim_file": "a/two.png",
            "part": "test",
            "concept": "moon",
        },
    ]


@pytest.fixture(scope="module")
def eeg_template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A data set with one subject and two runs of EEG, and its voltages (run, channel, time)."""
    root = tmp_path_factory.mktemp("eeg")
    volts = np.random.default_rng(0).normal(0, 2e-5, (2, len(NAMES), N_TIMES))
    for run in (0, 1):
        raw = mne.io.read_raw(
            write_brainvision(root / f"source{run}", volts[run], NAMES, SFREQ), verbose="error"
        )
        raw.set_montage("colin27_1020")
        raw.info["line_freq"] = 50
        raw.info["bads"] = ["Pz"]
        path = mne_bids.BIDSPath("01", task="look", run=f"{run + 1:02d}", root=root / "set")
        mne_bids.write_raw_bids(raw, path.update(datatype="eeg"), verbose="error")
        write_events(
            root / f"set/sub-01/eeg/sub-01_task-look_run-{run + 1:02d}_events.tsv", shown()
        )
    pictures(root / "set")
    return root / "set", volts


@pytest.fixture
def eeg(eeg_template: tuple[Path, np.ndarray], tmp_path: Path) -> Path:
    return Path(shutil.copytree(eeg_template[0], tmp_path / "set"))


def eeg_set(root: Path, **knobs: object) -> Bids:
    asked = {"datatype": "eeg", "label_columns": ["concept"], "split_column": "part", **knobs}
    return Bids(str(root), **asked)  # type: ignore[arg-type]


def test_eeg_comes_in_volts_with_positions_bad_channels_and_events(
    eeg_template: tuple[Path, np.ndarray],
) -> None:
    root, volts = eeg_template
    data = eeg_set(root)
    assert data.subjects == ("sub-01",)
    runs = list(data.recordings("sub-01"))
    assert [r.run for r in runs] == ["01", "02"]
    for run, truth in zip(runs, volts, strict=True):
        assert (run.modality, run.sfreq, run.signal.dtype) == ("eeg", SFREQ, np.float32)
        np.testing.assert_allclose(run.signal, truth.T, atol=0.51e-7)
        assert run.channels["name"].tolist() == NAMES
        assert run.channels["bad"].tolist() == [False, False, True, False]
        oz, fz = run.channels.set_index("name").loc[["Oz", "Fz"], "y"]
        assert -0.15 < oz < -0.05 < 0.05 < fz < 0.15  # metres, occipital behind frontal
        assert run.events["onset"].tolist() == [1.0, 3.5]
        assert run.events["stimulus"].tolist() == ["a/one.png", "a/two.png"]
        assert run.events["split"].tolist() == ["train", "test"]
        assert run.events["concept"].tolist() == ["sun", "moon"]
    stimuli = data.stimuli()
    assert set(stimuli) == {"a/one.png", "a/two.png"}
    assert stimuli["a/two.png"].kind == "image"
    assert dict(stimuli["a/two.png"].labels) == {"concept": "moon"}
    assert stimuli["a/two.png"].digest() != stimuli["a/one.png"].digest()


def test_meg_as_fif_comes_in_tesla(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    info = mne.create_info(["MEG0111", "MEG0121", "STI 014"], SFREQ, ["mag", "mag", "stim"])
    tesla = np.vstack([rng.normal(0, 1e-12, (2, N_TIMES)), np.zeros((1, N_TIMES))])
    source = tmp_path / "some_raw.fif"
    mne.io.RawArray(tesla, info, verbose="error").save(source, verbose="error")
    raw = mne.io.read_raw(source, verbose="error")
    raw.info["line_freq"] = 50
    root = tmp_path / "set"
    path = mne_bids.BIDSPath("a1", session="x", task="look", root=root, datatype="meg")
    mne_bids.write_raw_bids(raw, path, verbose="error")
    write_events(root / "sub-a1/ses-x/meg/sub-a1_ses-x_task-look_events.tsv", shown())
    pictures(root)
    (run,) = Bids(str(root), datatype="meg").recordings("sub-a1")
    assert (run.modality, run.session, run.run) == ("meg", "x", "")
    assert run.channels["kind"].tolist() == ["mag", "mag"]
    np.testing.assert_allclose(run.signal, tesla[:2].T, rtol=1e-5, atol=1e-18)
    assert (run.events["split"] == "").all()


def test_one_events_file_may_serve_all_runs(eeg: Path) -> None:
    for path in eeg.glob("sub-01/eeg/*_events.tsv"):
        path.unlink()
    write_events(eeg / "task-look_events.tsv", shown()[:1])
    assert [len(r.events) for r in eeg_set(eeg).recordings("sub-01")] == [1, 1]


def test_words_and_classes_need_no_file(eeg: Path) -> None:
    text = eeg_set(eeg, stim_column="concept", kind="text", label_columns=[]).stimuli()
    assert {s.text for s in text.values()} == {"sun", "moon"}
    event = eeg_set(eeg, stim_column="concept", kind="event", label_columns=[]).stimuli()["sun"]
    assert (event.kind, dict(event.labels)) == ("event", {"concept": "sun"})


def edit_events(root: Path, change: dict[str, object], run: str = "02") -> None:
    path = root / f"sub-01/eeg/sub-01_task-look_run-{run}_events.tsv"
    write_events(path, [{**shown()[0], **change}])


def test_mistakes_are_told_in_one_line(eeg: Path) -> None:
    def message(**knobs: object) -> str:
        with pytest.raises(InputError) as e:
            list(eeg_set(eeg, **knobs).recordings("sub-01"))
        assert "\n" not in str(e.value)
        return str(e.value)

    assert "paths.data" in message_of(lambda: eeg_set(eeg / "nowhere"))
    assert "data.datatype" in message(datatype="fnirs")
    assert "choose from sub-01" in message(subjects=["07"])
    assert "choose from sub-01" in message_of(lambda: list(eeg_set(eeg).recordings("sub-9")))
    assert "only those of look" in message(task="hear")
    assert "data.stim_column" in message(stim_column="image")
    assert "train, test or n/a" in message(split_column="concept")
    assert "data.derivatives" in message(space="T1w")
    assert "found none" in message(datatype="meg")

    edit_events(eeg, {"stim_file": "a/three.png"})
    assert "three.png" in message()
    assert "data.stimuli" in message()
    edit_events(eeg, {"concept": "star"})
    assert "'star'" in message()
    assert "'sun'" in message()
    edit_events(eeg, {"stim_file": "a/four.xyz"})
    assert "data.kind" in message()
    (eeg / "stimuli/a/four.png").write_bytes(b"no picture")
    edit_events(eeg, {"stim_file": "a/four.png"})
    assert "four.png" in message()
    assert "picture" in message()
    edit_events(eeg, {"onset": None})
    assert "onset" in message()
    (eeg / "sub-01/eeg/sub-01_task-look_run-02_events.tsv").unlink()
    assert "events.tsv" in message()


def message_of(call: object) -> str:
    with pytest.raises(InputError) as e:
        call()  # type: ignore[operator]
    return str(e.value)


def test_a_damaged_header_names_the_file(eeg: Path) -> None:
    header = next(eeg.glob("sub-01/eeg/*run-02_eeg.vhdr"))
    header.write_bytes(header.read_bytes()[:80])
    runs = eeg_set(eeg).recordings("sub-01")
    # The first run is whole, but an hour of filtering is saved when the second is found now.
    assert header.name in message_of(lambda: next(runs))


def test_one_of_several_recordings_of_a_run_is_chosen_by_its_entities(tmp_path: Path) -> None:
    ones = np.full((4, 4, 4, 12), 100.0)
    ones[:, :, :, ::2] += np.arange(64).reshape(4, 4, 4, 1) % 7 + 1
    for echo in (1, 2):
        name = f"sub-01_task-look_run-1_echo-{echo}_bold.nii.gz"
        write_bold(tmp_path / "sub-01/func" / name, ones * echo)
    write_events(tmp_path / "task-look_events.tsv", shown())
    pictures(tmp_path)

    def data(**knobs: object) -> Bids:
        return Bids(str(tmp_path), datatype="func", scale="as_is", **knobs)  # type: ignore[arg-type]

    said = message_of(lambda: next(data().recordings("sub-01")))
    assert "got sub-01_task-look_run-1_echo-1_bold.nii.gz and" in said
    assert "choose by data.entities={echo:1}" in said
    signals = {}
    for asked in ("1", 2, "02"):
        (run,) = data(entities={"echo": asked}).recordings("sub-01")
        signals[asked] = run.signal.max()
    assert signals == {"1": 107.0, 2: 214.0, "02": 214.0}
    said = message_of(lambda: next(data(entities={"echo": 3}).recordings("sub-01")))
    assert "expected recordings with echo: 3, got only such with echo: 1 or echo: 2" in said
    said = message_of(lambda: next(data(entities={"acq": "fast", "echo": 1}).recordings("sub-01")))
    assert "got only such with acq: null, echo: 1 or acq: null, echo: 2" in said
    assert "set data.task" in message_of(lambda: data(entities={"task": "look"}))
    assert "correct it" in message_of(lambda: data(entities={"echo": "1_2"}))


def test_null_chooses_the_recording_without_the_entity(eeg: Path) -> None:
    for path in list(eeg.glob("sub-01/eeg/*run-02*")):
        renamed = path.name.replace("run-02", "acq-new_run-01")
        path.write_bytes(path.read_bytes().replace(b"run-02", b"acq-new_run-01"))
        path.rename(path.with_name(renamed))
    assert (
        "{acq:null}" in message_of(lambda: next(eeg_set(eeg).recordings("sub-01"))) or "{acq:new}"
    )
    for asked in (None, "new"):
        (run,) = eeg_set(eeg, entities={"acq": asked}).recordings("sub-01")
        assert ("acq-new" in str(run.source)) == (asked == "new")


def test_several_tasks_must_be_chosen_from(eeg: Path) -> None:
    for path in list(eeg.glob("sub-01/eeg/*run-02*")):
        renamed = path.name.replace("task-look", "task-hear")
        path.write_bytes(path.read_bytes().replace(b"task-look_run-02", b"task-hear_run-02"))
        path.rename(path.with_name(renamed))
    assert "hear, look" in message_of(lambda: eeg_set(eeg).stimuli())
    assert len(list(eeg_set(eeg, task="hear").recordings("sub-01"))) == 1


def write_bold(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(data.astype(np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))
    if data.ndim == 4:
        image.header.set_zooms((3.0, 3.0, 3.0, TR))
        image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)


def test_other_subjects_do_not_stop_a_run(eeg: Path, capsys: pytest.CaptureFixture) -> None:
    """One who did another task, one without events, one with a damaged table, one with other labels."""

    def another(subject: str, task: str = "look") -> Path:
        for path in eeg.glob("sub-01/eeg/*run-01*"):
            name = path.name.replace("sub-01", subject).replace("task-look", f"task-{task}")
            content = path.read_bytes().replace(path.stem.encode(), Path(name).stem.encode())
            (eeg / subject / "eeg").mkdir(parents=True, exist_ok=True)
            (eeg / subject / "eeg" / name).write_bytes(content)
        return eeg / subject / f"eeg/{subject}_task-{task}_run-01_events.tsv"

    another("sub-02", "rest")
    another("sub-03").unlink()
    another("sub-04").write_text("onset\tduration\tstim_file\tpart\tconcept\n1\t1\n")
    write_events(another("sub-05"), [{**shown()[0], "stim_file": "a/new.png"}])
    assert eeg_set(eeg).subjects == ("sub-01", "sub-02", "sub-03", "sub-04", "sub-05")
    assert "did different ones: look (sub-05), rest (sub-02)" in capsys.readouterr().err
    data = eeg_set(eeg, task="look")
    assert data.subjects == ("sub-01", "sub-03", "sub-04", "sub-05")
    assert len(list(data.recordings("sub-01"))) == 2
    assert set(data.stimuli()) == {"a/one.png", "a/two.png"}
    assert "found none; add sub-03_task-look" in message_of(lambda: next(data.recordings("sub-03")))
    assert "row 1: expected 5 cells" in message_of(lambda: next(data.recordings("sub-04")))
    assert "a/new.png" in message_of(lambda: next(data.recordings("sub-05")))
    assert "only those of rest" in message_of(lambda: eeg_set(eeg, task="look", subjects=["02"]))
    write_events(another("sub-05"), [{**shown()[0], "concept": "star"}])
    again = eeg_set(eeg, task="look")
    assert again.stimuli()["a/two.png"].labels == {"concept": "moon"}
    assert "'sun'" in message_of(lambda: again.stimuli()["a/one.png"])
    assert again.only(["sub-01"]).stimuli()["a/one.png"].labels == {"concept": "sun"}
    assert again.only(["sub-05"]).stimuli()["a/one.png"].labels == {"concept": "star"}
    assert again.subjects == ("sub-01", "sub-03", "sub-04", "sub-05")


def test_a_run_looks_at_the_subjects_that_it_was_asked_for(eeg: Path, tmp_path: Path) -> None:
    folder = eeg / "sub-02/eeg"
    folder.mkdir(parents=True)
    (folder / "sub-02_task-look_eeg.vhdr").touch()
    write_events(folder / "sub-02_task-look_events.tsv", [{**shown()[0], "concept": "star"}])
    node = {
        "_target_": "decode.data.bids.Bids", "root": str(eeg), "datatype": "eeg",
        "stim_column": "stim_file", "label_columns": ["concept"],
    }  # fmt: skip
    labels = {}
    for asked in (["sub-01"], ["sub-02"]):
        run = Run(worlds.config(tmp_path, data=node, subjects=asked, until="preprocess"))
        assert run.subjects == tuple(asked)
        labels[asked[0]] = run.stimuli["a/one.png"].labels["concept"]
    assert labels == {"sub-01": "sun", "sub-02": "star"}
    with pytest.raises(InputError, match="concept='sun' of stimulus"):
        Run(worlds.config(tmp_path, data=node, until="preprocess")).stimuli["a/one.png"]


def test_rooms_without_a_person_are_no_subjects(tmp_path: Path) -> None:
    for name in ("sub-emptyroom/ses-20200101/meg/sub-emptyroom_ses-20200101_task-noise_meg.fif",
                 "sub-01/meg/sub-01_task-noise_meg.fif", "sub-01/meg/sub-01_task-look_meg.fif",
                 "sub-02/meg/sub-02_task-noise_meg.fif"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    write_events(tmp_path / "task-look_events.tsv", shown())
    pictures(tmp_path)
    data = Bids(str(tmp_path), datatype="meg")
    assert data.subjects == ("sub-01",)
    assert set(data.stimuli()) == {"a/one.png", "a/two.png"}


def test_sessions_and_runs_come_in_the_order_of_their_numbers(eeg: Path) -> None:
    paths = list(eeg.glob("sub-01/eeg/*run-01*"))
    for session, run in ((10, "1"), (2, "10"), (2, "9"), (2, "011"), (1, "2")):
        for path in paths:
            name = path.name.replace("sub-01_", f"sub-01_ses-{session}_").replace(
                "run-01", f"run-{run}"
            )
            (eeg / f"sub-01/ses-{session}/eeg").mkdir(parents=True, exist_ok=True)
            content = path.read_bytes().replace(path.stem.encode(), Path(name).stem.encode())
            (eeg / f"sub-01/ses-{session}/eeg" / name).write_bytes(content)
    shutil.rmtree(eeg / "sub-01/eeg")
    runs = [(r.session, r.run) for r in eeg_set(eeg).recordings("sub-01")]
    assert runs == [("1", "2"), ("2", "9"), ("2", "10"), ("2", "011"), ("10", "1")]


@pytest.fixture
def bold(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Two runs (run, x, y, z, time), raw and as fMRIPrep would leave them in two spaces."""
    root = tmp_path / "set"
    rng = np.random.default_rng(2)
    data = 1000 + rng.normal(0, 10, (2, 4, 3, 2, 20))
    data[:, 0] *= 0.01  # a dark plane outside the head
    for run in (0, 1):
        name = f"sub-01_task-look_run-{run + 1}"
        raw, prep = root / "sub-01/func", root / "derivatives/fmriprep/sub-01/func"
        write_bold(raw / f"{name}_bold.nii.gz", data[run])
        write_events(raw / f"{name}_events.tsv", shown())
        mask = np.ones(data.shape[1:4])
        mask[0] = 0
        mask[3, 0, run] = 0
        write_bold(prep / f"{name}_space-MNI_desc-preproc_bold.nii.gz", 2 * data[run])
        write_bold(prep / f"{name}_space-MNI_desc-brain_mask.nii.gz", mask)
        write_bold(prep / f"{name}_desc-preproc_bold.nii.gz", data[run])
        write_bold(prep / f"{name}_desc-brain_mask.nii.gz", np.ones_like(mask))
        confounds = pd.DataFrame(rng.normal(size=(20, 3)), columns=["trans_x", "trans_y", "dvars"])
        confounds.loc[0, "dvars"] = np.nan
        path = prep / f"{name}_desc-confounds_timeseries.tsv"
        confounds.to_csv(path, sep="\t", index=False, na_rep="n/a")
    pictures(root)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "Tiny", "License": "CC0"}))
    return root, data


def fmriprep(root: Path, **knobs: object) -> Bids:
    asked = {"datatype": "func", "derivatives": "derivatives/fmriprep", "space": "MNI", **knobs}
    return Bids(str(root), **asked)  # type: ignore[arg-type]


def percent(data: np.ndarray) -> np.ndarray:
    return 100 * (data / data.mean(-1, keepdims=True) - 1)


def test_fmriprep_derivatives_within_the_mask_all_runs_share(
    bold: tuple[Path, np.ndarray],
) -> None:
    root, data = bold
    dataset = fmriprep(root, confounds=["trans_*", "dvars"])
    runs = list(dataset.recordings("sub-01"))
    assert [r.run for r in runs] == ["1", "2"]
    inside = np.ones(data.shape[1:4], bool)
    inside[0] = False
    inside[3, 0] = False  # each run lacks one of these two voxels
    for run, truth in zip(runs, data, strict=True):
        assert run.modality == "fmri"
        assert run.sfreq == pytest.approx(1 / TR)
        kinds = run.channels["kind"].tolist()
        assert kinds == ["bold"] * inside.sum() + ["confound"] * 3
        assert run.channels["name"].tolist()[-3:] == ["trans_x", "trans_y", "dvars"]
        np.testing.assert_allclose(
            run.signal[:, : inside.sum()], percent(truth)[inside].T, atol=2e-3
        )
        first = run.channels.iloc[0]
        assert (first.x, first.y, first.z) == pytest.approx((0.003, 0, 0))
        assert np.isfinite(run.signal).all()
    assert (dataset.facts.citation, dataset.facts.licence) == ("Tiny", "CC0")
    assert dataset.facts.modality == "fmri"


def test_derivatives_of_run_1_belong_to_run_01(bold: tuple[Path, np.ndarray]) -> None:
    root, _ = bold
    for path in list(root.glob("sub-01/func/*")):
        path.rename(path.with_name(path.name.replace("_run-", "_run-0")))
    write_events(root / "sub-01/func/sub-01_task-look_run-02_events.tsv", shown()[:1])
    (root / "task-look_events.json").write_text(json.dumps({"onset": {"Units": "s"}}))
    runs = list(fmriprep(root).recordings("sub-01"))
    assert [(r.run, len(r.events)) for r in runs] == [("1", 2), ("2", 1)]
    for path in list(root.glob("derivatives/fmriprep/sub-01/func/*run-2*bold*")):
        shutil.copy(path, path.with_name(path.name.replace("run-2", "run-02")))
    assert "keep one of them" in message_of(lambda: list(fmriprep(root).recordings("sub-01")))


def test_times_of_volumes_come_from_any_sidecar(bold: tuple[Path, np.ndarray]) -> None:
    root, _ = bold
    (root / "task-look_bold.json").write_text(json.dumps({"RepetitionTime": 2.0}))
    derived = root / "derivatives/fmriprep/sub-01/sub-01_bold.json"
    derived.write_text(json.dumps({"StartTime": 0.6}))
    for data, offset in ((Bids(str(root), datatype="func"), 0.0), (fmriprep(root), 0.6)):
        for run in data.recordings("sub-01"):
            assert (run.sfreq, run.offset) == (0.5, offset)
            assert run.events["onset"].tolist() == [1.0, 3.5]


def test_space_null_is_the_scanners_own(bold: tuple[Path, np.ndarray]) -> None:
    runs = fmriprep(bold[0], space=None).recordings("sub-01")
    assert next(iter(runs)).signal.shape == (20, 24)


def test_plain_nifti_keeps_bright_voxels_or_those_of_a_mask(bold: tuple[Path, np.ndarray]) -> None:
    root, data = bold
    run = next(iter(Bids(str(root), datatype="func").recordings("sub-01")))
    np.testing.assert_allclose(run.signal, percent(data[0, 1:]).reshape(-1, 20).T, atol=2e-3)
    chosen = np.zeros(data.shape[1:4])
    chosen[2, 1] = 1
    write_bold(root / "masks/sub-01.nii.gz", chosen)
    masked = Bids(str(root), datatype="func", mask="masks/{subject}.nii.gz")
    assert next(iter(masked.recordings("sub-01"))).channels["name"].tolist() == ["2-1-0", "2-1-1"]


def test_fmri_mistakes_are_told(bold: tuple[Path, np.ndarray]) -> None:
    root, _ = bold
    assert "MNI, null" in message_of(lambda: fmriprep(root, space="T1w").stimuli())
    wrong = fmriprep(root, confounds=["rot_*"])
    assert "rot_*" in message_of(lambda: list(wrong.recordings("sub-01")))
    table = (
        root
        / "derivatives/fmriprep/sub-01/func/sub-01_task-look_run-2_desc-confounds_timeseries.tsv"
    )
    whole = table.read_text().splitlines()
    odd = fmriprep(root, confounds=["dvars"])
    for content, what in (
        (whole[:-3], "confounds for 20 volumes, got 17 rows"),
        ([whole[0], *["0\t0\tn/a"] * 20], "'dvars': expected numbers, got none"),
        ([whole[0], *["0\t0\t1,5"] * 20], "'1,5'"),
        ([whole[0], *["0\t0\tinf"] * 20], "'inf'"),
    ):
        table.write_text("\n".join(content))
        message = message_of(lambda: list(odd.recordings("sub-01")))
        assert table.name in message
        assert what in message
    table.write_text("\n".join(whole))
    assert "data.derivatives" in message_of(lambda: fmriprep(root, derivatives="derivatives/prep"))
    for mask in root.glob("derivatives/fmriprep/sub-01/func/*run-2_space-MNI_desc-brain*"):
        mask.unlink()
    assert "brain_mask" in message_of(lambda: list(fmriprep(root).recordings("sub-01")))


def test_a_truncated_image_names_the_file(bold: tuple[Path, np.ndarray]) -> None:
    root, _ = bold
    path = root / "sub-01/func/sub-01_task-look_run-2_bold.nii.gz"
    path.write_bytes(path.read_bytes()[:-300])
    data = Bids(str(root), datatype="func")
    assert path.name in message_of(lambda: list(data.recordings("sub-01")))


def test_volumes_of_zeros_are_refused(bold: tuple[Path, np.ndarray]) -> None:
    root, data = bold
    data[1, ..., 17:] = 0
    path = root / "sub-01/func/sub-01_task-look_run-2_bold.nii.gz"
    write_bold(path, data[1])
    with pytest.raises(InputError, match=r"run-2_bold.*zeros in 3 of 20 .*volume 17"):
        list(Bids(str(root), datatype="func").recordings("sub-01"))
    assert len(list(Bids(str(root), datatype="func", scale="as_is").recordings("sub-01"))) == 2


def test_phases_are_no_runs(bold: tuple[Path, np.ndarray]) -> None:
    root, data = bold
    folder = root / "sub-01/func"
    for run in (1, 2):
        name = f"sub-01_task-look_run-{run}"
        (folder / f"{name}_bold.nii.gz").rename(folder / f"{name}_part-mag_bold.nii.gz")
        write_bold(folder / f"{name}_part-phase_bold.nii.gz", data[run - 1] * 0 + 1)
    runs = list(Bids(str(root), datatype="func").recordings("sub-01"))
    assert [r.run for r in runs] == ["1", "2"]
    np.testing.assert_allclose(runs[0].signal, percent(data[0, 1:]).reshape(-1, 20).T, atol=1e-2)


def test_a_subject_is_asked_for_once(bold: tuple[Path, np.ndarray]) -> None:
    with pytest.raises(InputError, match=r"data\.subjects: expected each subject once, got sub-01"):
        Bids(str(bold[0]), datatype="func", subjects=["sub-01", "01"])


def test_words_of_a_story_are_clips_of_one_block(eeg: Path) -> None:
    from scipy.io import wavfile

    (eeg / "stimuli" / "story.wav").write_bytes(b"")
    wavfile.write(eeg / "stimuli" / "story.wav", 8000, np.zeros(8000 * 5, np.int16))
    rows = [
        {"onset": 1.0 + i / 2, "duration": 0.25, "stim_file": "story.wav", "at": 0.5 + i / 2}
        for i in range(3)
    ]
    for path in eeg.rglob("*_events.tsv"):
        write_events(path, rows)
    made = eeg_set(eeg, label_columns=[], split_column=None, start_column="at")
    stimuli = made.stimuli()
    assert list(stimuli) == [f"story.wav@{0.5 + i / 2:g}+0.25" for i in range(3)]
    word = stimuli["story.wav@1+0.25"]
    assert (word.start, word.duration, word.block) == (1.0, 0.25, "story.wav")
    assert word.path == str(eeg / "stimuli" / "story.wav")
    assert word.look().seconds == pytest.approx(0.25)
    (recording, *_) = made.recordings("sub-01")
    assert recording.events["stimulus"].tolist() == list(stimuli)
    assert [p for p in made.files("sub-01") if p.suffix == ".wav"]
    write_events(path, [{**rows[0], "duration": None}])
    with pytest.raises(InputError, match="expected seconds above 0 in duration of each clip"):
        _ = list(
            eeg_set(eeg, label_columns=[], split_column=None, start_column="at").recordings(
                "sub-01"
            )
        )
    with pytest.raises(
        InputError, match=r"data\.start_column: expected null where data\.kind is text"
    ):
        eeg_set(eeg, label_columns=[], split_column=None, start_column="at", kind="text")
