"""Betas of one subject in files of their own: .npy, .mat or NIfTI, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from decode.core import InputError, reading, refusal
from decode.recordings.bold import Voxels, read_mask, read_run
from decode.recordings.matlab import read_mat
from decode.recordings.names import in_order
from decode.recordings.tables import numbers, read_words

READ = (".npy", ".mat", ".nii", ".nii.gz")


@dataclass(frozen=True, slots=True, eq=False)
class Betas:
    """Arrays (trial, voxel) of several files as if they were one; `voxels` for images."""

    arrays: Sequence[np.ndarray]
    names: list[str]
    voxels: Voxels | None

    def __len__(self) -> int:
        return sum(len(a) for a in self.arrays)

    @property
    def n_voxels(self) -> int:
        return int(self.arrays[0].shape[1])

    def rows(self, wanted: np.ndarray) -> np.ndarray:
        """(row, voxel) float32 of the wanted rows, in their order."""
        out = np.empty((len(wanted), self.n_voxels), np.float32)
        begin = 0
        for array in self.arrays:
            here = (wanted >= begin) & (wanted < begin + len(array))
            out[here] = array[wanted[here] - begin]
            begin += len(array)
        return out


def beta_paths(folder: Path, files: str, mask: str) -> list[Path]:
    """The files of betas in `folder` that match the pattern `files`; numbers count as numbers."""
    paths = [p for p in folder.glob(files) if p.name.endswith(READ) and p.name != mask]
    return sorted(paths, key=lambda p: in_order(p.name))


def open_betas(
    folder: Path, files: str, variable: str, mask: str, *, outside: bool = False
) -> Betas:
    """The files of `folder` that match the pattern `files`; InputError where they do not fit. Values of
    .mat files that lie in other files are read with `outside` only.
    """
    paths = beta_paths(folder, files, mask)
    if not paths:
        raise InputError(
            f"{folder}: expected betas in files {files!r} ({', '.join(READ)}), found "
            f"{sorted(p.name for p in folder.iterdir())[:6]}; correct data.files"
        )
    images = [p.name.endswith((".nii", ".nii.gz")) for p in paths]
    voxels = read_mask(folder / mask) if any(images) else None
    arrays = [_read(p, variable, voxels, outside) for p in paths]
    for path, array in zip(paths, arrays, strict=True):
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise refusal(
                path,
                "numbers (trial, voxel)",
                f"{array.shape} of {array.dtype}",
                "save a real array of two axes, or leave the file out of data.files",
            )
        if array.shape[1] != arrays[0].shape[1]:
            raise InputError(
                f"{path}: expected {arrays[0].shape[1]} voxels as in {paths[0].name}, got "
                f"{array.shape[1]}; betas are (trial, voxel): transpose the array or leave the file out"
            )
    return Betas(arrays, [p.name for p in paths], voxels)


def read_channels(path: Path, betas: Betas) -> pd.DataFrame:
    """One row per voxel: from the mask or by number, with what the table at `path` says, if any."""
    n = betas.n_voxels
    if betas.voxels is not None:
        channels = betas.voxels.channels()
    else:
        channels = pd.DataFrame({"name": [f"voxel{i:05d}" for i in range(n)], "kind": "bold"})
        channels = channels.assign(x=np.nan, y=np.nan, z=np.nan, roi="")
    if not path.is_file():
        return channels
    table = read_words(path)
    known = [c for c in ("name", "roi", "x", "y", "z") if c in table]
    if len(table) != n or not known:
        raise InputError(
            f"{path}: expected a row for each of {n} voxels with some of name, roi, x, y, z, got "
            f"{len(table)} rows with {list(table)}; correct the table or take it away"
        )
    for column in known:
        words = column in ("name", "roi")
        said = table[column].fillna("") if words else numbers(path, table, column)
        channels[column] = np.asarray(said)
    return channels


def _read(path: Path, variable: str, voxels: Voxels | None, outside: bool) -> np.ndarray:
    if voxels is not None and path.name.endswith((".nii", ".nii.gz")):
        return read_run(path, voxels)
    if path.suffix == ".mat":
        return read_mat(path, [variable], remedy="set data.variable", outside=outside)[variable]
    with reading(path, "a whole .npy array of numbers", "save it again"):
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
