"""Reading packed data sets: arrays in npy, npz and HDF5 files.

Nothing here unpickles, and no array is loaded whole where its file allows to read a part. Every
failure is an InputError that begins with the name of the data set and names the file.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import numpy as np
import pandas as pd

from decode import hdf5
from decode.core import InputError, reading, refusal
from decode.hdf5 import MOST_PACKED
from decode.pictures import to_bytes, write_picture
from decode.volumes import read_rest

AGAIN = "fetch it again"


class OfSubjects(Protocol):
    """What has recordings of subjects."""

    subjects: tuple[str, ...]


D = TypeVar("D", bound=OfSubjects)


def narrowed(dataset: D, subjects: Sequence[str]) -> D:
    """The data set without its other subjects, whose files need not be whole."""
    other = copy(dataset)
    other.subjects = tuple(subjects)
    return other


def check_subject(name: str, subject: str, subjects: Sequence[str], root: Path) -> None:
    if subject not in subjects:
        raise InputError(
            f"{name}: expected a subject of {list(subjects)} ({root}), got {subject!r}; "
            "correct `subjects` or put that subject's files there"
        )


def need_file(name: str, path: Path, advice: str = "put it there or set paths.data") -> Path:
    if not path.is_file():
        raise InputError(f"{name}: expected {path.name} in {path.parent}, found none; {advice}")
    return path


def open_npy(name: str, path: Path, *, ndim: int) -> np.ndarray:
    """A memory-mapped array of `ndim` dimensions."""
    need_file(name, path)
    with reading(f"{name}: {path}", "a whole .npy file", AGAIN):
        try:
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as e:
            if "object" not in str(e).lower():
                raise
            raise InputError(
                f"{name}: expected plain numbers or text in {path}, got pickled Python objects, which "
                "may run code; where you trust the file, convert it once: "
                "a = numpy.load(f, allow_pickle=True); numpy.save(f, a.astype(str))"
            ) from e
    if array.ndim != ndim:
        raise InputError(
            f"{name}: expected {ndim} dimensions in {path}, got shape {array.shape}; fetch it again"
        )
    return array


def parse_npy(name: str, where: str, data: bytes) -> np.ndarray:
    """The array of an .npy file that lies inside another file."""
    with reading(f"{name}: {where}", "a whole .npy array of numbers", AGAIN):
        check_header(BytesIO(data), len(data))
        array: np.ndarray = np.load(BytesIO(data), allow_pickle=False)
    return array


def check_header(file: IO[bytes], room: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and type that an .npy header names; ValueError where `room` bytes
    cannot hold them, before anything so large is asked for.
    """
    shape, fortran, kind = _npy_header(file)
    if any(n < 0 for n in shape):
        raise ValueError(f"a header of shape {shape}")
    size = int(np.prod(shape, dtype=object)) * kind.itemsize
    if size > (left := room - file.tell()):
        raise ValueError(f"a header of {size} bytes {shape}, of which {left} are there at most")
    return shape, fortran, kind


def open_hdf5(name: str, path: Path, key: str, *, ndim: int, outside: bool = False) -> Any:
    """An HDF5 dataset of `ndim` dimensions, not yet read; values in other files with `outside` only."""
    need_file(name, path)
    with reading(f"{name}: {path}", f"a whole dataset {key!r}", AGAIN):
        found = hdf5.dataset(path, key, outside=outside)
    if found.ndim != ndim:
        raise refusal(
            f"{name}: {path}, key {key!r}",
            f"{ndim} dimensions",
            f"shape {found.shape}",
            "fetch the file again",
        )
    return found


def read_rows(dataset: Any, rows: np.ndarray) -> np.ndarray:
    """Rows of an HDF5 dataset in the order asked for, float32; each is read once."""
    wanted, back = np.unique(rows, return_inverse=True)
    if len(wanted) and wanted[-1] - wanted[0] + 1 == len(wanted):
        found = dataset[int(wanted[0]) : int(wanted[-1]) + 1]
    else:
        found = dataset[wanted]
    return np.asarray(found, np.float32)[back]


class Npz:
    """Arrays of one .npz file."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, need_file(name, path)

    def names(self) -> list[str]:
        with self._open() as z:
            return [n.removesuffix(".npy") for n in z.namelist()]

    def read(self, key: str) -> np.ndarray:
        """One array, whole."""
        with self._open() as z:
            self._header(z, key)
            with z.open(f"{key}.npy") as f:
                array = np.lib.format.read_array(f, allow_pickle=False)
                # The checksum is compared where the file inside ends.
                read_rest(f)
        return array

    def header(self, key: str) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and type, without the values."""
        with self._open() as z:
            return self._header(z, key)[::2]

    def rows(self, key: str) -> Iterator[np.ndarray]:
        """Row after row in constant memory, compressed or not."""
        with self._open() as z:
            (n, *shape), fortran, dtype = self._header(z, key)
            if fortran:
                raise InputError(
                    f"{self.name}: expected rows one after the other in {self.path}, key {key!r}, got "
                    "Fortran order; save numpy.ascontiguousarray of it"
                )
            size = int(np.prod(shape)) * dtype.itemsize
            with z.open(f"{key}.npy") as f:
                _npy_header(f)
                for _ in range(n):
                    yield np.frombuffer(f.read(size), dtype).reshape(shape)
                read_rest(f)

    def _header(self, z: zipfile.ZipFile, key: str) -> tuple[tuple[int, ...], bool, np.dtype]:
        if f"{key}.npy" not in z.namelist():
            raise InputError(
                f"{self.name}: expected an array {key!r} in {self.path}, found "
                f"{sorted(n.removesuffix('.npy') for n in z.namelist())}; fetch it again"
            )
        held = z.getinfo(f"{key}.npy")
        with z.open(held) as f:
            return check_header(f, min(held.file_size, MOST_PACKED * held.compress_size))

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        with (
            reading(f"{self.name}: {self.path}", "a whole .npz file of plain arrays", AGAIN),
            zipfile.ZipFile(self.path) as z,
        ):
            yield z


def _npy_header(f: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(f)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(f)
    return np.lib.format.read_array_header_2_0(f)


def files_below(root: Path) -> dict[str, Path]:
    """Every file below `root` by its name, links to folders followed; the least nested of a name."""
    found: dict[str, Path] = {}
    seen: set[str] = set()
    level = [str(root)]
    while level:
        folders: list[str] = []
        for folder in level:
            if os.path.realpath(folder) in seen or not os.path.isdir(folder):
                continue
            seen.add(os.path.realpath(folder))
            for entry in sorted(os.scandir(folder), key=lambda e: e.name):
                if entry.is_dir():
                    folders.append(entry.path)
                else:
                    found.setdefault(entry.name, Path(entry.path))
        level = folders
    return found


def stamp(path: Path) -> str:
    """Name of a cache folder that another version of the file does not share."""
    stat = path.stat()
    return hashlib.sha256(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[
        :12
    ]


def unpack(
    name: str, path: Path, where: str, read: Callable[[], np.ndarray], *, white: float
) -> str:
    """Write the picture that `read` gives to `path` as PNG, once; gives back the path."""
    if not path.is_file():
        try:
            picture = to_bytes(np.asarray(read()), white=white)
        except ValueError as e:
            raise InputError(
                f"{name}: expected pictures of one or three channels from 0 to {white:g} in {where}, "
                f"got {e}; fetch it again"
            ) from e
        write_picture(picture, path)
    return str(path)


def voxels(n: int, roi: str | Sequence[str] = "") -> pd.DataFrame:
    """The channel table of `n` voxels whose places are not known."""
    table = pd.DataFrame({"name": [f"voxel{i:05d}" for i in range(n)]})
    rois = [roi] * n if isinstance(roi, str) else list(roi)
    return table.assign(kind="bold", x=np.nan, y=np.nan, z=np.nan, roi=rois)


def beta_events(stimulus: Sequence[str], split: Any, **columns: Any) -> pd.DataFrame:
    """One event per beta map."""
    onset = np.arange(len(stimulus), dtype=float)
    table = pd.DataFrame({"onset": onset, "duration": 1.0, "stimulus": list(stimulus)})
    return table.assign(split=split, **columns)


def count_repeats(ids: Sequence[Any], seen: Counter[Any] | None = None) -> list[int]:
    """For each presentation its number among those of the same stimulus: 1, 2, ...; `seen` goes on."""
    seen = Counter() if seen is None else seen
    numbers = []
    for i in ids:
        seen[i] += 1
        numbers.append(seen[i])
    return numbers


def check_ids(name: str, where: str, ids: np.ndarray, n: int, what: str) -> None:
    """Refuse numbers that lie outside an array of n rows."""
    bad = ids[(ids < 0) | (ids >= n)]
    if len(bad):
        raise InputError(
            f"{name}: expected {what} from 0 to {n - 1} in {where}, got {int(bad[0])} "
            f"({len(bad)} such); the files do not belong together, fetch them again"
        )


def captions(name: str, path: Path, n: int) -> Callable[[int], tuple[str, ...]]:
    """Row -> its captions that are not empty, from text (stimulus, caption)."""
    need_file(name, path, "put it there or switch data.captions off")
    array = open_npy(name, path, ndim=2)
    if array.dtype.kind != "U" or len(array) != n:
        raise InputError(
            f"{name}: expected text for {n} stimuli in {path}, got {array.dtype} for {len(array)}; "
            "correct data.captions"
        )

    def said(row: int) -> tuple[str, ...]:
        texts = tuple(t for t in (" ".join(str(x).split()) for x in array[row]) if t)
        if not texts:
            raise refusal(
                f"{name}: {path}, row {row}",
                "a caption",
                f"{array.shape[1]} empty ones",
                "fill one in or switch data.captions off",
            )
        return texts

    return said


def first_region(masks: Mapping[str, np.ndarray], n: int) -> list[str]:
    """Name of the first region that each of n voxels belongs to; "" where there is none."""
    names = np.full(n, "", dtype=object)
    for region, mask in masks.items():
        names[mask & (names == "")] = region
    return [str(x) for x in names]
