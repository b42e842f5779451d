"""Damaged files of every reader: what is read is whole, or refused in one line that names a file.

The worlds are those of the readers' own tests; a data yaml without one fails here. `FUZZ_SEED` draws
other damage, `FUZZ_FILES` more of it for each reader.
"""

from __future__ import annotations

import os
import random
import shutil
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import packed_twins as twins
import pytest
import test_betas_folder as own
import test_bids as studies
from nsd_twin import write_nsd
from test_betas_folder import lab  # noqa: F401
from test_bids import bold, eeg_template  # noqa: F401
from test_configs import CONFIGS
from test_digits69 import _published

from decode.cli import explain
from decode.core import Dataset
from decode.data.betas_folder import BetasFolder
from decode.data.bold5000 import BOLD5000
from decode.data.brain_diffuser import BrainDiffuser
from decode.data.digits69 import Digits69
from decode.data.god import GOD
from decode.data.mindeye1 import MindEye1
from decode.data.mindeye2 import MindEye2
from decode.data.nsd import NSD
from decode.data.things_fmri import ThingsFMRI

SEED = int(os.environ.get("FUZZ_SEED", "0"))
DAMAGES = int(os.environ.get("FUZZ_FILES", "12"))
Open = Callable[[Path, Path], Dataset]  # of a folder and of a place for what is unpacked
Request = pytest.FixtureRequest


def _copied(request: Request, name: str, root: Path) -> None:
    made = request.getfixturevalue(name)
    shutil.copytree(made if isinstance(made, Path) else made[0], root)


def _betas(request: Request, root: Path, write: Callable[[Path, np.ndarray], None]) -> Open:
    _copied(request, "lab", root)
    write(root / "s1", own._betas())
    return lambda folder, cache: BetasFolder(str(folder), pictures="pictures")


def _eeg(request: Request, root: Path) -> Open:
    _copied(request, "eeg_template", root)
    return lambda folder, cache: studies.eeg_set(folder)


def _bold(request: Request, root: Path) -> Open:
    _copied(request, "bold", root)
    return lambda folder, cache: studies.fmriprep(folder, split_column="part")


def _digits(request: Request, root: Path) -> Open:
    _published(root)
    return lambda folder, cache: Digits69(str(folder), cache=str(cache))


def _nsd(kind: str) -> Callable[[Request, Path], Open]:
    def make(request: Request, root: Path) -> Open:
        write_nsd(root, subjects={"subj01": kind}, n_images=40, n_shared=4, size=8)
        return lambda folder, cache: NSD(str(folder), last_session=3)

    return make


def _packed(
    write: Callable[..., Any], reader: Callable[[str, str], Any]
) -> Callable[[Request, Path], Open]:
    def make(request: Request, root: Path) -> Open:
        root.mkdir()
        write(root)
        return lambda folder, cache: reader(str(folder), str(cache))

    return make


WORLDS: dict[str, dict[str, Callable[[Request, Path], Open]]] = {
    "betas_folder": {
        kind: lambda request, root, write=write: _betas(request, root, write)
        for kind, write in {"npy": own._npy, "mat": own._mat, "mat73": own._mat73,
                            "nifti": own._nifti}.items()
    },
    "bids": {"eeg": _eeg, "bold": _bold},
    "digits69": {"mat": _digits},
    "nsd": {"nii.gz": _nsd("nii.gz"), "hdf5": _nsd("hdf5")},
    "mindeye1": {"tar": _packed(twins.write_mindeye1, lambda r, c: MindEye1(r, cache=c))},
    "mindeye2": {"tar": _packed(twins.write_mindeye2, lambda r, c: MindEye2(r, cache=c))},
    "brain_diffuser": {
        "npy": _packed(twins.write_brain_diffuser, lambda r, c: BrainDiffuser(r, cache=c))
    },
    "god": {
        "bdpy": _packed(twins.write_god_bdpy, lambda r, c: GOD(r, cache=c)),
        "npz": _packed(twins.write_god_npz, lambda r, c: GOD(r, cache=c)),
    },
    "bold5000": {"npy": _packed(twins.write_bold5000, lambda r, c: BOLD5000(r))},
    "things_fmri": {
        "h5": _packed(twins.write_things, lambda r, c: ThingsFMRI(r, images=f"{r}/images", rois=["V1", "IT"]))
    },
}  # fmt: skip
# Choices of the same reader, data that the house makes, and what only the real recordings hold.
ALIKE = {"nsd_982", "nsd_982_captions", "nsd_captions", "nsd_timeseries"}
MADE = {"simulated_eeg", "simulated_fmri", "simulated_meg"}
REAL = {"feis", "haxby2001", "p300_speller"}
CASES = [(reader, kind) for reader, kinds in WORLDS.items() for kind in kinds]
WORDS = [
    b"",
    b"n/a",
    b"nan",
    b"inf",
    b"-1",
    b"abc",
    b"1e400",
    b"\xff",
    b"0,5",
    b"\t",
    b'"',
    b"\x00",
]
TEXT = {".tsv", ".csv", ".json", ".vhdr", ".vmrk", ".txt"}


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flipped(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def zeroed(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    size = min(len(data) - at, 1 + rng.randrange(64))
    return data[:at] + bytes(size) + data[at + size :]


def worded(data: bytes, rng: random.Random) -> bytes:
    """One cell of a table, or one word of another file, is another word."""
    words = data.replace(b"\n", b"\t").split(b"\t")
    at = rng.randrange(len(words))
    start = sum(len(w) + 1 for w in words[:at])
    return data[:start] + rng.choice(WORDS) + data[start + len(words[at]) :]


def noise(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(min(len(data), 4096))


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


def test_every_reader_has_a_world() -> None:
    choices = {path.stem for path in (CONFIGS / "data").glob("*.yaml")}
    assert choices == {*WORLDS, *ALIKE, *MADE, *REAL}


@pytest.mark.slow
@pytest.mark.parametrize(("reader", "kind"), CASES, ids=lambda x: x)
def test_damaged_files_are_refused_or_read_right(
    reader: str, kind: str, tmp_path: Path, request: Request
) -> None:
    warnings.simplefilter("ignore")
    rng = random.Random(f"{reader} {kind} {SEED}")
    opened = WORLDS[reader][kind](request, tmp_path / "whole")
    whole = everything(opened(tmp_path / "whole", tmp_path / "cache"))
    files = sorted(p for p in (tmp_path / "whole").rglob("*") if p.is_file() and p.stat().st_size)
    for number in range(DAMAGES):
        file = rng.choice(files)
        change = rng.choice([cut, cut, flipped, zeroed, worded, noise])
        kept = file.read_bytes()
        what = f"{file.name}, {change.__name__} (damage {number}, FUZZ_SEED={SEED})"
        try:
            file.write_bytes(change(kept, rng))
            cache = tmp_path / f"cache{number}"
            found = _refused_or_read(opened, tmp_path / "whole", cache, what)
            sealed = file.suffix == ".gz" or (
                change is cut and file.suffix.lower() not in TEXT | PICTURES
            )
            if found is not None and sealed:
                assert found == whole, f"{what}: other numbers were read without a word"
        finally:
            file.write_bytes(kept)


PICTURES = {".png", ".jpg", ".jpeg"}  # read when they are looked at, not here


def _refused_or_read(opened: Open, root: Path, cache: Path, what: str) -> dict[str, Any] | None:
    """All that was read, or None when it was refused in one line."""
    try:
        return everything(opened(root, cache))
    except Exception as e:
        message = explain(e, [])
        if message is None:
            raise AssertionError(f"{what}: {type(e).__name__}: {e}") from e
        assert "\n" not in message, what
        return None
