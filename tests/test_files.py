"""What a reader opens is what it names, and so is seen when it changes."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
from nsd_twin import write_captions, write_nsd, write_surface, write_timeseries
from PIL import Image
from test_packed_fmri import KINDS

from decode import hdf5
from decode.checksums import identity
from decode.core import Dataset
from decode.data.betas_folder import BetasFolder
from decode.data.bids import Bids
from decode.data.nsd import NSD
from decode.data.nsd_timeseries import NSDTimeseries
from decode.recordings.bids_files import files_about

OPENED: list[set[str]] = []
Opened = Callable[[Dataset, str], set[str]]


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if OPENED and event == "open" and isinstance(arguments[0], str | os.PathLike):
        OPENED[-1].add(os.path.abspath(arguments[0]))


@pytest.fixture(scope="module", autouse=True)
def listening() -> None:
    """An audit hook cannot be taken off again: it only listens while OPENED holds a set."""
    sys.addaudithook(_listen)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """The files that reading a subject and its stimuli opens."""
    plain = h5py.File.__init__

    def heard(self: Any, name: Any, *rest: Any, **knobs: Any) -> None:
        _listen("open", (name,))
        plain(self, name, *rest, **knobs)

    monkeypatch.setattr(h5py.File, "__init__", heard)
    hdf5._handle.cache_clear()

    def read(data: Dataset, subject: str) -> set[str]:
        OPENED.append(set())
        try:
            known, seen = data.stimuli(), set()
            for recording in data.recordings(subject):
                seen |= set(recording.events["stimulus"])
            for uid in seen:
                known[uid].digest()
            return OPENED[-1]
        finally:
            OPENED.pop()

    yield read
    OPENED.clear()


def _named(data: Dataset, subject: str) -> set[str]:
    return {os.path.abspath(p) for p in data.files(subject)}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_packed_data_name_what_they_open(name: str, opened: Opened, tmp_path: Path) -> None:
    kind = KINDS[name]
    (tmp_path / "set").mkdir()
    kind.write(tmp_path / "set")
    data = kind.open(tmp_path / "set")
    found = {p for p in opened(data, kind.subject) if p.startswith(f"{tmp_path}/set/")}
    named = {p for p in _named(data, kind.subject) if Path(p).is_file()}
    assert found == named


@pytest.mark.slow
@pytest.mark.parametrize("form", ["nii.gz", "hdf5", "surface", "timeseries"])
def test_nsd_names_what_it_opens(form: str, opened: Opened, tmp_path: Path) -> None:
    betas = form if form in ("nii.gz", "hdf5") else "nii.gz"
    twin = write_nsd(tmp_path / "nsd", subjects={"subj01": betas, "subj02": betas})
    root, captions = str(twin.root), write_captions(twin)
    data: Dataset = NSD(root, captions=captions, rois=["streams"], ncsnr_above=0.1)
    if form == "surface":
        write_surface(twin, "subj01")
        data = NSD(root, space="fsaverage", rois=["streams"], ncsnr_above=0.1, captions=captions)
    if form == "timeseries":
        write_timeseries(twin, "subj01")
        data = NSDTimeseries(root, volumes=None, rois=["streams"], captions=captions)
    found = {p for p in opened(data, "subj01") if p.startswith(root)}
    named = {p for p in _named(data, "subj01") if Path(p).is_file()}
    assert found <= named
    # Of runs at rest only the design is read; of volumes beside the betas the first that is there.
    assert all("timeseries_" in p or "/roi/" in p for p in named - found)
    assert not any("subj02" in p for p in named)


def _lab(root: Path, subjects: tuple[str, ...] = ("s1", "s2")) -> Path:
    (root / "pictures").mkdir(parents=True)
    for i in range(8):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(root / "pictures" / f"{i}.png")
    for number, subject in enumerate(subjects):
        (root / subject).mkdir()
        shown = [f"{i + 4 * number}.png" for i in range(4)]
        table = pd.DataFrame({"stimulus": shown, "session": 1, "split": ["train", "test"] * 2})
        table.to_csv(root / subject / "trials.tsv", sep="\t", index=False)
        np.save(root / subject / "betas1.npy", np.eye(4, dtype=np.float32))
    return root


def _key(root: Path, subject: str = "s1", **knobs: Any) -> str:
    return identity(BetasFolder(str(root), **knobs).files(subject), root)


def test_betas_name_what_they_open(opened: Opened, tmp_path: Path) -> None:
    data = BetasFolder(str(_lab(tmp_path, ("s1",))))
    assert {p for p in opened(data, "s1") if p.startswith(str(tmp_path))} == {
        p for p in _named(data, "s1") if Path(p).is_file()
    }


def _link(place: Path, store: Path) -> None:
    """What a lab or datalad does: the file or folder lies elsewhere, a link stands in its place."""
    store.mkdir(exist_ok=True)
    shutil.move(place, store / place.name)
    place.symlink_to(store / place.name)


def _again(path: Path) -> None:
    """Another content of the same size."""
    if path.suffix == ".tsv":
        path.write_text(path.read_text().replace("1\n", "9\n").replace("\t1\t", "\t2\t"))
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    os.utime(path, (1, 1))


CHANGED = ("s1/betas1.npy", "s1/trials.tsv", "s1/voxels.tsv", "pictures/2.png")


@pytest.mark.parametrize("linked", [None, "s1", "pictures", "s1/betas1.npy", "pictures/2.png"])
@pytest.mark.parametrize("changed", CHANGED)
def test_a_changed_file_is_another_key_wherever_it_lies(
    linked: str | None, changed: str, tmp_path: Path
) -> None:
    root = _lab(tmp_path / "lab")
    (root / "s1" / "voxels.tsv").write_text("roi\nV1\nV1\nV2\nV2\n")
    if linked is not None:
        _link(root / linked, tmp_path / "store")
    before, other = _key(root), _key(root, "s2")
    _again(root / changed)
    assert _key(root) != before
    assert _key(root, "s2") == other
    moved = tmp_path / "moved"
    shutil.copytree(root, moved, symlinks=True)
    assert _key(moved) == _key(root)


def test_pictures_outside_the_study_count(tmp_path: Path) -> None:
    root = _lab(tmp_path / "lab")
    shutil.move(root / "pictures", tmp_path / "elsewhere")
    knobs = {"pictures": str(tmp_path / "elsewhere")}
    before = _key(root, **knobs)
    _again(tmp_path / "elsewhere" / "2.png")
    assert _key(root, **knobs) != before


def test_what_is_not_read_does_not_count(tmp_path: Path) -> None:
    root = _lab(tmp_path / "lab")
    before = _key(root)
    (root / "outputs" / "train").mkdir(parents=True)
    (root / "outputs" / "train" / "x.npy").write_bytes(b"x")
    (root / "README").write_text("new")
    (root / "pictures" / "unseen.png").write_bytes(b"x")
    _again(root / "s2" / "betas1.npy")
    _again(root / "pictures" / "6.png")  # seen by s2 only
    assert _key(root) == before


def test_captions_of_all_subjects_count_where_they_are_joined(tmp_path: Path) -> None:
    root = _lab(tmp_path / "lab")
    before = _key(root)
    table = pd.read_csv(root / "s2" / "trials.tsv", sep="\t")
    table.assign(caption="a dot").to_csv(root / "s2" / "trials.tsv", sep="\t", index=False)
    assert _key(root) != before


def _fmriprep(root: Path) -> Bids:
    rng = np.random.default_rng(0)
    for space in ("", "space-MNI_"):
        for run in ("1", "2"):
            for task in ("look", "rest"):
                stem = f"sub-01_task-{task}_run-{run}"
                prep = root / "derivatives/prep/sub-01/func"
                prep.mkdir(parents=True, exist_ok=True)
                data = 1000 + rng.normal(size=(3, 3, 2, 20)).astype(np.float32)
                image = nibabel.Nifti1Image(data, np.diag([3.0, 3, 3, 1]))
                image.header.set_zooms((3, 3, 3, 2))
                image.header.set_xyzt_units("mm", "sec")
                nibabel.save(image, prep / f"{stem}_{space}desc-preproc_bold.nii.gz")
                mask = nibabel.Nifti1Image(np.ones((3, 3, 2), np.uint8), np.diag([3.0, 3, 3, 1]))
                nibabel.save(mask, prep / f"{stem}_{space}desc-brain_mask.nii.gz")
                confounds = pd.DataFrame({"trans_x": rng.normal(size=20)})
                confounds.to_csv(
                    prep / f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False
                )
                raw = root / "sub-01/func"
                raw.mkdir(parents=True, exist_ok=True)
                (raw / f"{stem}_events.tsv").write_text(
                    "onset\tduration\tstim_file\n2\t1\ta.png\n10\t1\tb.png\n"
                )
    (root / "stimuli").mkdir()
    for i, name in enumerate("abc"):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(root / "stimuli" / f"{name}.png")
    (root / "task-look_bold.json").write_text('{"RepetitionTime": 2.0}')
    knobs: dict[str, Any] = {"datatype": "func", "task": "look", "space": "MNI"}
    return Bids(str(root), derivatives="derivatives/prep", confounds=["trans_x"], **knobs)


def test_bids_names_what_it_opens(opened: Opened, tmp_path: Path) -> None:
    data = _fmriprep(tmp_path)
    found = {p for p in opened(data, "sub-01") if p.startswith(str(tmp_path))}
    named = {os.path.relpath(p, tmp_path) for p in _named(data, "sub-01")}
    assert {os.path.relpath(p, tmp_path) for p in found} <= named
    assert "task-look_bold.json" in named
    assert {"stimuli/a.png", "stimuli/b.png"} <= named
    assert not any("task-rest" in n or n == "stimuli/c.png" for n in named)
    images = [n for n in named if n.endswith("bold.nii.gz")]
    assert len(images) == 2
    assert all("space-MNI" in n for n in images)


def test_all_files_of_a_recording_count(tmp_path: Path) -> None:
    """A triple, a recording in parts, one that is a folder, and sidecars above."""
    wanted = (
        *("sub-1/meg/sub-1_task-a_run-01_meg.ds/x.meg4", "sub-1/meg/sub-1_task-a_run-1_split-2_x.fif"),
        *("sub-1/meg/sub-1_task-a_run-1_meg.vhdr", "sub-1/meg/other.eeg", "task-a_meg.json"),
        *("sub-1/meg/sub-1_task-a_channels.tsv", "sub-1/meg/sub-1_space-CapTrak_electrodes.tsv"),
        *("sub-1/sub-1_task-a_events.tsv", "events.json"),
    )  # fmt: skip
    others = (
        *("sub-1/meg/sub-1_task-a_run-02_meg.fif", "sub-1/meg/sub-1_task-b_run-01_meg.fif"),
        *("sub-1/meg/sub-1_task-a_run-02_channels.tsv", "task-b_meg.json", "participants.tsv"),
        *("README", "sub-2/meg/sub-2_task-a_run-01_meg.fif", "sub-1/sub-1_scans.tsv"),
    )
    for name in (*wanted, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = files_about(tmp_path / "sub-1/meg/sub-1_task-a_run-01_meg.ds", tmp_path)
    assert {p.relative_to(tmp_path).as_posix() for p in found} == set(wanted)
