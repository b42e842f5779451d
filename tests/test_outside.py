"""Files that name other files: followed by a named choice only, whichever reader opens them.

Links inside HDF5 files are planted in every world that has such files, so that a new reader is tried.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from reader_worlds import CASES, WORLDS, everything
from scipy.io import savemat
from test_betas_folder import lab  # noqa: F401
from test_bids import bold, eeg_set, eeg_template  # noqa: F401
from test_configs import CONFIGS

from decode import content, hdf5
from decode.checksums import identity
from decode.core import Dataset, InputError

OPENS = (
    "read_mat",
    "read_bdata",
    "open_hdf5",
    "open_betas",
    "read_design",
    "check_place",
    "read_runs",
)
KINDS = ["link", "virtual", "external"]


def move_out(file: Path, elsewhere: Path, kind: str) -> None:
    """Put the values of an HDF5 file into another, which the file then names."""
    elsewhere.mkdir(exist_ok=True)
    moved = elsewhere / file.name
    file.rename(moved)
    with h5py.File(moved, locking=False) as old, h5py.File(file, "w") as new:
        for name in old:
            new[name] = h5py.ExternalLink(str(moved), name)
        if kind == "link":
            return

        def again(name: str, found: Any) -> None:
            if not isinstance(found, h5py.Dataset):
                return
            plain = found.shape and found.dtype.kind in "fiu"
            if kind == "virtual" and plain:
                layout = h5py.VirtualLayout(found.shape, found.dtype)
                layout[...] = h5py.VirtualSource(found)
                new.create_virtual_dataset(name, layout)
            elif kind == "external" and plain:
                raw = elsewhere / f"{file.name}.{name.replace('/', '.')}.bin"
                found[()].tofile(raw)
                new.create_dataset(
                    name, found.shape, found.dtype, external=[(str(raw), 0, h5py.h5f.UNLIMITED)]
                )
            else:
                new[name] = found[()]
            new[name].attrs.update(found.attrs)

        for name in list(new):
            del new[name]
        old.visititems(again)


def hdf5_files(dataset: Dataset) -> list[Path]:
    named = {path for subject in dataset.subjects for path in dataset.files(subject)}
    return sorted(p for p in named if p.is_file() and h5py.is_hdf5(p))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("reader", "world"), CASES, ids=lambda x: x)
def test_values_in_other_files_are_followed_by_a_named_choice(
    reader: str, world: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = tmp_path / "whole"
    opened = WORLDS[reader][world](request, root)
    files = hdf5_files(opened(root, tmp_path / "cache"))
    if not files:
        pytest.skip("no HDF5 file")
    whole = everything(opened(root, tmp_path / "cache"))
    for number, file in enumerate([*files[:2], *files[2:][-1:]]):
        move_out(file, tmp_path / "elsewhere", kind)
        with pytest.raises(InputError, match=r"data\.outside=true") as e:
            everything(opened(root, tmp_path / f"c{number}"))
        assert file.name in str(e.value)
        followed = opened(root, tmp_path / f"d{number}", outside=True)
        assert everything(followed) == whole
        assert any(p.parent == tmp_path / "elsewhere" for p in hdf5.files_named(file))
        file.unlink()
        if kind != "virtual":
            (tmp_path / "elsewhere" / file.name).rename(file)
            continue
        # A link that was made in the folder is followed without being asked for.
        file.symlink_to(tmp_path / "elsewhere" / file.name)
        assert everything(opened(root, tmp_path / f"e{number}")) == whole


def test_every_reader_of_hdf5_files_has_the_choice(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Said where it is a knob, so that a new yaml of such a reader has it as well."""
    for file in (CONFIGS / "data").glob("*.yaml"):
        node = yaml.safe_load(file.read_text())
        module = node["_target_"].rpartition(".")[0].replace(".", "/")
        source = (CONFIGS.parent / f"{module}.py").read_text()
        opens = any(f"{word}(" in source for word in OPENS)
        assert ("outside" in node) == (opens and "defaults" not in node), file.stem


def test_a_change_in_a_file_that_is_followed_is_seen(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for at, value in ((1_000_000_000, 1.0), (1_000_000_005, 2.0)):
        (tmp_path / "out/values.h5").unlink(missing_ok=True)
        with h5py.File(tmp_path / "out/values.h5", "w") as f:
            f["x"] = np.full((3, 2), value)
        os.utime(tmp_path / "out/values.h5", (at, at))
        if value == 1.0:
            with h5py.File(tmp_path / "a.h5", "w") as f:
                f["x"] = h5py.ExternalLink("out/values.h5", "/x")
            with h5py.File(tmp_path / "b.h5", "w") as f:
                f["x"] = h5py.ExternalLink("a.h5", "/x")
        found = hdf5.dataset(tmp_path / "a.h5", "x", outside=True)
        assert found[:].tolist() == [[value] * 2] * 3
        row = content.address(tmp_path / "a.h5", "x", 2, outside=True)
        assert content.read_row(row).tolist() == [value] * 2
        assert content.file_of(row) == tmp_path / "a.h5"
    assert hdf5.files_named(tmp_path / "b.h5") == (tmp_path / "a.h5", tmp_path / "out/values.h5")
    assert hdf5.files_named(tmp_path / "out/values.h5") == ()
    named = hdf5.files_named(tmp_path / "a.h5")
    before = identity(named, tmp_path)
    os.utime(tmp_path / "out/values.h5", (2_000_000_000, 2_000_000_000))
    assert identity(named, tmp_path) != before


def test_what_is_followed_has_to_be_there(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as f:
        f["x"] = np.ones((4, 6))
    np.ones(24).tofile(tmp_path / "raw.bin")
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f["gone"] = h5py.ExternalLink("gone.h5", "/x")
        f["no key"] = h5py.ExternalLink("v.h5", "/y")
        half, lost = h5py.VirtualLayout((4, 6), "f8"), h5py.VirtualLayout((4, 6), "f8")
        half[:2] = h5py.VirtualSource("v.h5", "x", (4, 6))[:2]
        lost[:] = h5py.VirtualSource("lost.h5", "x", (4, 6))
        f.create_virtual_dataset("half", half)
        f.create_virtual_dataset("lost", lost)
        raw, everywhere = str(tmp_path / "raw.bin"), h5py.h5f.UNLIMITED
        f.create_dataset("short", (8, 6), "f8", external=[(raw, 0, everywhere)])
        f.create_dataset("no raw", (4, 6), "f8", external=[(f"{raw}x", 0, everywhere)])
    for key, message in {
        "gone": "a link into gone.h5, where it is not",
        "no key": "a link into v.h5, where it is not",
        "half": "of 24 values, of which 12 are in other files",
        "lost": "values in lost.h5, which is not there",
        "short": "384 bytes, of which 192 were written",
        "no raw": "raw.binx, which is not there",
    }.items():
        with pytest.raises(OSError, match=message):
            hdf5.dataset(tmp_path / "a.h5", key, outside=True)


def recording(folder: Path, kind: str, away: Path) -> tuple[Path, Path]:
    """A recording in `folder` that is to be read from a file in `away`, and that file."""
    stem = "sub-01_task-look_run-01_eeg"
    if kind == "vhdr":
        path = folder / f"{stem}.vhdr"
        data = away / f"{stem}.eeg"
        (folder / data.name).rename(data)
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(f"DataFile={data.name}", f"DataFile={data}"), encoding="utf-8")
    else:
        for old in folder.glob(f"{stem}.*"):
            old.unlink()
        path, data = folder / f"{stem}.set", away / "values.fdt"
        values = np.random.default_rng(0).normal(size=(2, 3000)).astype("<f4")
        values.T.tofile(data)
        header = {"setname": "x", "nbchan": 2, "trials": 1, "pnts": 3000, "srate": 100.0, "xmin": 0.0,
                  "xmax": 29.99, "data": str(data), "event": [], "icawinv": [], "icaweights": [],
                  "icasphere": [], "chanlocs": np.array([("Fz",), ("Oz",)], [("labels", "O")])}  # fmt: skip
        savemat(path, {"EEG": header})
    return path, data


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vhdr", "set"])
def test_a_recording_is_read_from_its_own_folder(
    kind: str,
    tmp_path: Path,
    eeg_template: Path,  # noqa: F811
) -> None:
    root, away = tmp_path / "study", tmp_path / "away"
    shutil.copytree(eeg_template[0], root)
    away.mkdir()
    if kind == "set":
        for old in root.glob("sub-01/eeg/*run-02*"):
            old.unlink()
    _, data = recording(root / "sub-01/eeg", kind, away)
    with pytest.raises(InputError, match=r"in its own folder, got .*data\.outside=true"):
        list(eeg_set(root).recordings("sub-01"))
    followed = eeg_set(root, outside=True)
    assert len(next(iter(followed.recordings("sub-01"))).signal) > 100
    assert data in set(followed.files("sub-01"))
    assert data not in set(eeg_set(root).files("sub-01"))
