"""Files in the BData format of the Kamitani laboratory: one matrix and a name for each of its columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from decode import hdf5
from decode.core import InputError, reading, refusal
from decode.recordings import packed

LAYOUTS = (("dataset", "metadata"), ("dataSet", "metaData"))


@dataclass(frozen=True, slots=True, eq=False)
class BData:
    """`matrix` is (sample, column); `flags` maps a key to (column,), not a number where it is unset.

    A key whose flag is 1 names columns (`VoxelData`, `Run`, `ROI_V1`); other keys hold a value per
    column (`voxel_x`).
    """

    name: str
    file: Path
    matrix: np.ndarray
    flags: dict[str, np.ndarray]

    def has(self, key: str) -> bool:
        return key in self.flags

    def columns(self, *keys: str) -> np.ndarray:
        """Numbers of the columns that the first known key names."""
        for key in keys:
            if key in self.flags:
                return np.flatnonzero(self.flags[key] == 1)
        raise InputError(
            f"{self.name}: expected {' or '.join(map(repr, keys))} among the metadata of {self.file}, "
            f"found {sorted(self.flags)}; correct the name or fetch the file again"
        )

    def column(self, *keys: str) -> np.ndarray:
        """The values (sample,) of a single column."""
        columns = self.columns(*keys)
        if len(columns) != 1:
            raise refusal(
                self.file, f"one column {keys[0]!r}", len(columns), "fetch the file again"
            )
        return self.matrix[:, columns[0]]


def _parts(name: str, file: Path, f: Any, outside: bool) -> list[Any]:
    """The data, the keys of its columns and their values."""
    found = next(((d, m) for d, m in LAYOUTS if d in f and m in f), None)
    if found is None:
        raise InputError(
            f"{name}: expected 'dataset' and 'metadata' in {file}, found {sorted(f)}; "
            "is this a BData file?"
        )
    places = found[0], f"{found[1]}/key", f"{found[1]}/value"
    parts = [hdf5.inside(f, place, outside=outside) for place in places]
    missing = [place for place, part in zip(places, parts, strict=True) if part is None]
    if missing:
        raise InputError(f"{name}: expected {missing} in {file}, found none; fetch it again")
    return parts


def read_bdata(name: str, file: Path, *, outside: bool = False) -> BData:
    """One file, whole. Both spellings of the two groups that bdpy has written are read; links into other
    files are followed with `outside` only.
    """
    packed.need_file(name, file)
    with reading(f"{name}: {file}", "a whole HDF5 file of BData", packed.AGAIN):
        import h5py

        with h5py.File(file, "r") as f:
            arrays = [np.asarray(part) for part in _parts(name, file, f, outside)]
        matrix, values = arrays[0].astype(np.float64), arrays[2].astype(np.float64)
        keys = [k.decode() if isinstance(k, bytes) else str(k) for k in arrays[1]]
    if matrix.ndim != 2 or values.shape != (len(keys), matrix.shape[1]):
        raise InputError(
            f"{name}: expected a value per key and column in {file}, got {len(keys)} keys, values "
            f"{values.shape} and data {matrix.shape}; fetch it again"
        )
    return BData(name, file, matrix, dict(zip(keys, values, strict=True)))
