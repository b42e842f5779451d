"""Arrays of numbers in MATLAB files of any version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from decode import hdf5
from decode.core import reading, refusal

WHOLE = "a whole MATLAB file"


def read_mat(
    path: Path,
    wanted: Sequence[str],
    *,
    optional: Sequence[str] = (),
    remedy: str = "get the file again",
    outside: bool = False,
) -> dict[str, np.ndarray]:
    """The variables `wanted`, and those of `optional` that are there, as MATLAB shows them: two axes or more.
    Those of version 7.3 may be links into other files, followed with `outside` only.

    Raises InputError where the file is damaged (compressed variables carry a checksum), where one is
    missing (`remedy` says what to do), and for cells, structs, text, sparse and complex matrices.
    """
    import h5py

    with reading(path, WHOLE, "the file is cut off or damaged, get it again"):
        since_73 = h5py.is_hdf5(path)
        names = [*wanted, *optional]
        there, found = _hdf5(path, names, outside) if since_73 else _mat5(path, names)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise refusal(path, f"the variable {missing[0]!r}", there, remedy)
    for name, value in found.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
            raise refusal(
                path,
                f"an array of numbers in the variable {name!r}",
                _in_words(value),
                "save it as a full array of real numbers",
            )
    return found


def _in_words(value: Any) -> str:
    """What MATLAB calls a value that is no array of numbers."""
    from scipy.sparse import issparse

    if isinstance(value, str):
        return value
    if not isinstance(value, np.ndarray):
        return "a sparse matrix" if issparse(value) else type(value).__name__
    if value.dtype.names:
        return "a struct"
    return {"O": "cells", "U": "text", "S": "text", "c": "complex numbers"}.get(
        value.dtype.kind, str(value.dtype)
    )


def _mat5(path: Path, names: list[str]) -> tuple[list[str], dict[str, Any]]:
    from scipy.io import loadmat, whosmat

    there = [name for name, *_ in whosmat(path)]
    raw = loadmat(path, variable_names=names)
    return there, {name: raw[name] for name in names if name in raw}


def _hdf5(path: Path, names: list[str], outside: bool) -> tuple[list[str], dict[str, Any]]:
    """Since version 7.3 these files are HDF5, with the axes reversed."""
    import h5py

    with h5py.File(path, "r") as file:
        there = sorted(file)
        return there, {
            n: _value(hdf5.inside(file, n, outside=outside)) for n in names if n in there
        }


def _value(found: Any) -> Any:
    """A full array of numbers, else what it is in words."""
    import h5py

    kind = found.attrs.get("MATLAB_class", b"")
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if not isinstance(found, h5py.Dataset):
        return "a sparse matrix" if "MATLAB_sparse" in found.attrs else "a struct"
    if kind in ("cell", "struct", "char", "string") or found.dtype.kind not in "fiub":
        return {"cell": "cells", "char": "text"}.get(
            kind, kind or _in_words(np.empty(0, found.dtype))
        )
    if "MATLAB_empty" in found.attrs:
        return "an empty array"
    return np.asarray(found).T
