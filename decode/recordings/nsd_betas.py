"""Beta maps of the Natural Scenes Dataset: one file per session, int16, 300 times percent change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from decode import hdf5
from decode.core import InputError
from decode.recordings.bold import Voxels
from decode.volumes import read_volume, whole_image

SCALE = 300.0
# Volumes in the space of the betas; HDF5 files carry no affine of their own.
IN_SPACE = ("nsdgeneral", "streams", "prf-visualrois")
CHUNK_BYTES = 128 * 2**20


def session_files(folder: Path) -> dict[int, Path]:
    """File of each session that is there, by its number; HDF5 where both formats are."""
    found: dict[int, Path] = {}
    for ending in ("nii.gz", "hdf5"):
        for path in sorted(folder.glob(f"betas_session*.{ending}")):
            match = re.fullmatch(rf"betas_session(\d+)\.{re.escape(ending)}", path.name)
            if match:
                found[int(match[1])] = path
    return dict(sorted(found.items()))


def read_betas(path: Path, voxels: Voxels, n_trials: int, *, outside: bool = False) -> np.ndarray:
    """(trial, voxel) float32 in percent signal change; the mask's voxels only.

    NIfTI is (x, y, z, trial). The HDF5 dataset `betas` was written by MATLAB in that order, so that
    it reads (trial, z, y, x) here. Neither is ever held whole as anything wider than int16.
    Raises InputError when shape or affine are not the mask's; an HDF5 file has no affine, so that of
    `ncsnr.nii.gz` beside it counts, else that of another published mask beside the one given. Where
    neither is there, only the shape is compared. Values of an HDF5 file that lie in other files are read
    with `outside` only.
    """
    is_hdf5 = path.suffix == ".hdf5"
    pieces = (
        _from_hdf5(path, voxels, n_trials, outside)
        if is_hdf5
        else _from_nifti(path, voxels, n_trials)
    )
    out = np.empty((n_trials, len(voxels.ijk)), np.float32)
    for trials, which, values in pieces:
        out[trials, which] = values
    out /= SCALE
    return out


Piece = tuple[slice, Any, np.ndarray]


def _from_nifti(path: Path, voxels: Voxels, n_trials: int) -> Iterator[Piece]:
    inside = tuple(voxels.ijk.T)
    step = max(1, CHUNK_BYTES // (2 * int(np.prod(voxels.grid))))
    with whole_image(path) as image:
        _check(path, tuple(image.shape), (*voxels.grid, n_trials), image.get_data_dtype(), voxels)
        voxels.check_space(path, image.affine)
        _check_unscaled(path, image.dataobj.slope, image.dataobj.inter)
        for start in range(0, n_trials, step):
            part = slice(start, min(start + step, n_trials))
            yield part, slice(None), np.asarray(image.dataobj[..., part])[inside].T


def _check_unscaled(path: Path, slope: float, intercept: float) -> None:
    if (slope, intercept) != (1.0, 0.0):
        raise InputError(
            f"{path}: expected betas stored without slope and intercept (percent change x {SCALE:g}), "
            f"got slope {slope:g}, intercept {intercept:g}; fetch the file again"
        )


def _from_hdf5(path: Path, voxels: Voxels, n_trials: int, outside: bool) -> Iterator[Piece]:
    try:
        betas = hdf5.dataset(path, "betas", outside=outside)
    except OSError as e:
        raise InputError(
            f"{path}: expected the dataset 'betas' (trial, z, y, x), got {e}; fetch the file again"
        ) from e
    _check(path, tuple(betas.shape), (n_trials, *voxels.grid[::-1]), betas.dtype, voxels)
    beside = _beside(path, voxels)
    if beside is not None:
        voxels.check_space(beside, read_volume(beside)[1])
    x, y, z = voxels.ijk.T
    chunks = betas.chunks or (1, *betas.shape[1:])
    try:
        if chunks[0] < n_trials:
            size = 2 * int(np.prod(betas.shape[1:]))
            step = max(1, CHUNK_BYTES // (size * chunks[0])) * chunks[0]
            for start in range(0, n_trials, step):
                part = slice(start, min(start + step, n_trials))
                yield part, slice(None), betas[part][:, z, y, x]
            return
        # Stored voxel by voxel: whole trials would touch every chunk again and again.
        size = 2 * int(np.prod(betas.shape)) // betas.shape[1]
        step = max(1, CHUNK_BYTES // (size * chunks[1])) * chunks[1]
        box = slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1)
        for start in range(z.min() // step * step, z.max() + 1, step):
            here = np.flatnonzero((z >= start) & (z < start + step))
            if len(here):
                slab = betas[(slice(None), slice(start, start + step), *box)]
                at = z[here] - start, y[here] - y.min(), x[here] - x.min()
                yield slice(None), here, slab[(slice(None), *at)]
    except OSError as e:
        raise _broken(path, e) from e


def _beside(path: Path, voxels: Voxels) -> Path | None:
    """A volume that lies in the space of the betas and is not the mask itself."""
    folder = voxels.file.parent if voxels.file else path.parent
    places = [path.with_name("ncsnr.nii.gz"), *(folder / f"{name}.nii.gz" for name in IN_SPACE)]
    return next((p for p in places if p.is_file() and p != voxels.file), None)


def _check(
    path: Path, found: tuple[int, ...], expected: tuple[int, ...], kind: Any, voxels: Voxels
) -> None:
    if len(found) != 4:
        raise InputError(f"{path}: expected four axes {expected}, got {found}; fetch it again")
    trials, grid = (3, slice(0, 3)) if path.suffix != ".hdf5" else (0, slice(1, 4))
    if found[grid] != expected[grid]:
        raise InputError(
            f"{path}: expected betas on the grid of {voxels.where}, {expected[grid]}, got {found[grid]}; "
            "choose a mask in the space of the betas"
        )
    if found[trials] != expected[trials]:
        raise InputError(
            f"{path}: expected {expected[trials]} trials, as the design says of this session, got "
            f"{found[trials]}; fetch the file again"
        )
    if np.dtype(kind).kind != "i":
        raise InputError(
            f"{path}: expected betas stored as int16 (percent change x {SCALE:g}), got {kind}; "
            "use data=betas_folder for betas of your own"
        )


def _broken(path: Path, e: Exception) -> InputError:
    reason = " ".join(str(e).split()) or type(e).__name__
    return InputError(f"{path}: expected a whole file of betas, got {reason}; fetch it again")
