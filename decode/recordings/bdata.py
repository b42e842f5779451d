"""Files in the BData format of the Kamitani laboratory: one matrix and a name for each of its columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from decode.core import InputError
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
            raise InputError(
                f"{self.name}: expected one column {keys[0]!r} in {self.file}, got {len(columns)}"
            )
        return self.matrix[:, columns[0]]


def read_bdata(name: str, file: Path) -> BData:
    """One file, whole. Both spellings of the two groups that bdpy has written are read."""
    packed.need_file(name, file)
    import h5py

    try:
        with h5py.File(file, "r") as f:
            found = next(((d, m) for d, m in LAYOUTS if d in f and m in f), None)
            if found is None:
                raise InputError(
                    f"{name}: expected 'dataset' and 'metadata' in {file}, found {sorted(f)}; "
                    "is this a BData file?"
                )
            matrix = np.asarray(f[found[0]], np.float64)
            missing = [k for k in ("key", "value") if k not in f[found[1]]]
            if missing:
                raise InputError(f"{name}: expected {missing} in {file}, group {found[1]!r}")
            keys = [k.decode() if isinstance(k, bytes) else str(k) for k in f[found[1]]["key"][:]]
            values = np.asarray(f[found[1]]["value"], np.float64)
    except OSError as e:
        raise InputError(f"{name}: expected a whole HDF5 file at {file}, got: {e}") from e
    if matrix.ndim != 2 or values.shape != (len(keys), matrix.shape[1]):
        raise InputError(
            f"{name}: expected a value per key and column in {file}, got {len(keys)} keys, values "
            f"{values.shape} and data {matrix.shape}; fetch it again"
        )
    return BData(name, file, matrix, dict(zip(keys, values, strict=True)))
