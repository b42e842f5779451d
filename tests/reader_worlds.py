"""A small world of every reader on disk: a folder of files in its formats, and how they are opened.

`WORLDS[data yaml][kind]` writes the files and says how to open them. A yaml without one fails in
tests/test_fuzz_files.py, so that a new reader is tried with damaged and outlying files at once.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import h5py
import nibabel
import numpy as np
import packed_twins as twins
import pandas as pd
import pytest
import test_betas_folder as own
import test_bids as studies
from nsd_twin import write_nsd, write_surface, write_timeseries
from scipy.io import loadmat, savemat
from test_digits69 import _published

from decode.core import Dataset
from decode.data.betas_folder import BetasFolder
from decode.data.bold5000 import BOLD5000
from decode.data.brain_diffuser import BrainDiffuser
from decode.data.digits69 import Digits69
from decode.data.feis import ELECTRODES, PHONEMES, Feis
from decode.data.god import GOD
from decode.data.haxby2001 import CATEGORIES, Haxby2001
from decode.data.mindeye1 import MindEye1
from decode.data.mindeye2 import MindEye2
from decode.data.nsd import NSD
from decode.data.nsd_timeseries import NSDTimeseries
from decode.data.p300_speller import P300Speller
from decode.data.things_fmri import ThingsFMRI

Request = pytest.FixtureRequest


class Open(Protocol):
    """The data set of a folder; `cache` is a place for what is unpacked."""

    def __call__(self, folder: Path, cache: Path, **knobs: Any) -> Dataset: ...


Make = Callable[[Request, Path], Open]


def _copied(request: Request, name: str, root: Path) -> None:
    made = request.getfixturevalue(name)
    shutil.copytree(made if isinstance(made, Path) else made[0], root)


def _betas(write: Callable[[Path, np.ndarray], None]) -> Make:
    def make(request: Request, root: Path) -> Open:
        _copied(request, "lab", root)
        write(root / "s1", own._betas())
        return lambda folder, cache, **knobs: BetasFolder(str(folder), **knobs)

    return make


def _eeg(request: Request, root: Path) -> Open:
    _copied(request, "eeg_template", root)
    return lambda folder, cache, **knobs: studies.eeg_set(folder, **knobs)


def _bold(request: Request, root: Path) -> Open:
    _copied(request, "bold", root)
    return lambda folder, cache, **knobs: studies.fmriprep(folder, split_column="part", **knobs)


def _nsd(kind: str) -> Make:
    def make(request: Request, root: Path) -> Open:
        write_nsd(root, subjects={"subj01": kind}, n_images=40, n_shared=4, size=8)
        return lambda folder, cache, **knobs: NSD(str(folder), last_session=3, **knobs)

    return make


def _surface(request: Request, root: Path) -> Open:
    twin = write_nsd(root / "nsd", subjects={"subj01": "nii.gz"}, n_images=40, n_shared=4, size=8)
    write_surface(twin, "subj01", n=40)
    shutil.rmtree(twin.beta_folder("subj01"))
    return lambda folder, cache, **knobs: NSD(
        str(folder / "nsd"), space="fsaverage", rois=["streams"], last_session=3, **knobs
    )


def _timeseries(request: Request, root: Path) -> Open:
    twin = write_nsd(root, subjects={"subj01": "nii.gz"}, n_images=40, n_shared=4, size=8)
    write_timeseries(twin, "subj01", sessions=1, per_run=3)
    shutil.rmtree(root / "nsddata_betas")
    return lambda folder, cache, **knobs: NSDTimeseries(str(folder), volumes=None, **knobs)


def _plain(write: Callable[[Path], Any], reader: Callable[..., Dataset]) -> Make:
    """A world whose files `write` puts into an empty folder."""

    def make(request: Request, root: Path) -> Open:
        root.mkdir()
        write(root)
        return partial(_opened, reader)

    return make


def _opened(reader: Callable[..., Dataset], folder: Path, cache: Path, **knobs: Any) -> Dataset:
    return reader(str(folder), str(cache), **knobs)


def as_matlab_73(path: Path) -> None:
    """Write a MATLAB file anew as version 7.3, which is HDF5 with the axes reversed."""
    found = {k: v for k, v in loadmat(path).items() if not k.startswith("__")}
    with h5py.File(path, "w") as file:
        for name, value in found.items():
            file[name] = value.T


def write_digits_73(root: Path) -> None:
    _published(root)
    as_matlab_73(root / "digit69_28x28.mat")


def write_p300(root: Path) -> None:
    """Two characters of six flashes each, 3 s of pause between them; two channels at 50 Hz."""
    rng, trigger = np.random.default_rng(0), np.zeros((900, 1))
    for start in (50, 500):
        trigger[start : start + 300 : 50, 0] = [1, -1, -1, 1, -1, -1]
    signal = 10 * rng.normal(size=(900, 2))
    savemat(root / "S1.mat", {"y": signal, "trig": trigger, "fs": 50.0})


def write_p300_73(root: Path) -> None:
    write_p300(root)
    as_matlab_73(root / "S1.mat")


def write_feis(root: Path) -> None:
    """Two passes through the phonemes, four samples an epoch."""
    rng, names = np.random.default_rng(0), list(PHONEMES) * 2
    table = pd.DataFrame(
        4200 + 10 * rng.normal(size=(4 * len(names), len(ELECTRODES))), columns=list(ELECTRODES)
    )
    epoch = np.repeat(np.arange(len(names)), 4)
    table = table.assign(Epoch=epoch, Label=[names[i] for i in epoch])
    (root / "01").mkdir()
    with zipfile.ZipFile(root / "01/articulators.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("articulators.csv", table.to_csv(index=False))


def write_haxby(root: Path) -> None:
    """Two runs of a block of each category, 2 x 3 voxels in one slice."""
    rng = np.random.default_rng(0)
    for run in (1, 2):
        folder = root / f"sub001/BOLD/task001_run{run:03d}"
        folder.mkdir(parents=True)
        onsets = [15.0 * (1 + i) for i in range(len(CATEGORIES))]
        blocks = pd.DataFrame({"onset": onsets, "duration": 7.5, "trial_type": CATEGORIES})
        blocks.to_csv(folder / "bold_events.tsv", sep="\t", index=False)
        values = 1000 + 10 * rng.normal(size=(2, 3, 1, 60))
        image = nibabel.Nifti1Image(values.astype(np.float32), np.eye(4))
        image.header.set_zooms((3, 3, 3, 2.5))
        image.header.set_xyzt_units("mm", "sec")
        nibabel.save(image, folder / "bold_1slice.nii.gz")


WORLDS: dict[str, dict[str, Make]] = {
    "betas_folder": {
        kind: _betas(write)
        for kind, write in {"npy": own._npy, "mat": own._mat, "mat73": own._mat73,
                            "nifti": own._nifti}.items()
    },
    "bids": {"eeg": _eeg, "bold": _bold},
    "digits69": {
        "mat": _plain(_published, lambda r, c, **k: Digits69(r, cache=c, **k)),
        "mat73": _plain(write_digits_73, lambda r, c, **k: Digits69(r, cache=c, **k)),
    },
    "p300_speller": {
        "mat": _plain(write_p300, lambda r, c, **k: P300Speller(r, **k)),
        "mat73": _plain(write_p300_73, lambda r, c, **k: P300Speller(r, **k)),
    },
    "feis": {"zip": _plain(write_feis, lambda r, c, **k: Feis(r, **k))},
    "haxby2001": {"nii.gz": _plain(write_haxby, lambda r, c, **k: Haxby2001(r, **k))},
    "nsd": {"nii.gz": _nsd("nii.gz"), "hdf5": _nsd("hdf5"), "mgh": _surface},
    "nsd_timeseries": {"nii.gz": _timeseries},
    "mindeye1": {"tar": _plain(twins.write_mindeye1, lambda r, c, **k: MindEye1(r, cache=c, **k))},
    "mindeye2": {"tar": _plain(twins.write_mindeye2, lambda r, c, **k: MindEye2(r, cache=c, **k))},
    "brain_diffuser": {
        "npy": _plain(twins.write_brain_diffuser, lambda r, c, **k: BrainDiffuser(r, cache=c, **k))
    },
    "god": {
        "bdpy": _plain(twins.write_god_bdpy, lambda r, c, **k: GOD(r, cache=c, **k)),
        "npz": _plain(twins.write_god_npz, lambda r, c, **k: GOD(r, cache=c, **k)),
    },
    "bold5000": {"npy": _plain(twins.write_bold5000, lambda r, c, **k: BOLD5000(r, **k))},
    "things_fmri": {
        "h5": _plain(
            twins.write_things,
            lambda r, c, **k: ThingsFMRI(r, images=f"{r}/images", rois=["V1", "IT"], **k),
        )
    },
}  # fmt: skip
CASES = [(reader, kind) for reader, kinds in WORLDS.items() for kind in kinds]


def everything(dataset: Dataset) -> dict[str, Any]:
    """All that stages take from a data set."""
    found: dict[str, Any] = {}
    for subject in dataset.subjects:
        for run in dataset.recordings(subject):
            found[run.where] = zlib.crc32(np.ascontiguousarray(run.signal, np.float32).tobytes())
            found[f"{run.where} events"] = run.events.to_csv()
    for uid, stimulus in dataset.stimuli().items():
        found[uid] = stimulus.digest()
    return found
