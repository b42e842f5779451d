"""Which voxels of BOLD runs to keep when nobody drew a mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from decode.core import InputError, refusal
from decode.recordings.bold import Scale, Voxels, check_mean, read_run, steady
from decode.volumes import open_image


def bright(signal: np.ndarray) -> np.ndarray:
    """Boolean (voxel,): those that vary and whose mean passes a quarter of the brightest ones'.

    `signal` is (time, voxel) in the scanner's units; the brightest are the 98th percentile of those
    that are finite, as what lies outside of a brain may not be. Only intensities are looked at, as by
    every brain mask, never events.
    """
    mean = signal.mean(axis=0, dtype=np.float64)
    finite = np.isfinite(mean)
    if not finite.any():
        return finite
    keep = np.nan_to_num(mean) > 0.25 * np.percentile(mean[finite], 98)
    return np.asarray(keep & steady(signal))


def bright_voxels(images: Sequence[Path], scale: Scale = "percent") -> Voxels:
    """The voxels that are bright in every one of these runs, which share a grid.

    With `scale` "as_is" brightness means nothing, and those that are finite and vary are kept.
    """
    first = open_image(images[0])
    if len(first.shape) != 4:
        raise InputError(
            f"{images[0]}: expected a run (x, y, z, time), got shape {first.shape}; "
            "replace the file by the whole run"
        )
    grid = first.shape[:3]
    ijk = np.argwhere(np.ones(grid, bool))
    voxels = Voxels(ijk, grid, np.asarray(first.affine), np.ones(len(ijk)))
    keep = np.ones(len(ijk), bool)
    for image in images:
        keep &= _kept(image, read_run(image, voxels), scale)
    if not keep.any():
        raise InputError(
            f"{images[0].parent}: expected voxels that are bright in all {len(images)} runs, got "
            "none; give a mask"
        )
    return voxels.take(keep)


def _kept(image: Path, signal: np.ndarray, scale: Scale) -> np.ndarray:
    varies = steady(signal)
    if not varies.any():
        raise refusal(image, "voxels that are finite and vary", "none", "copy the run again")
    if scale == "as_is":
        return varies
    keep = bright(signal)
    check_mean(image, signal[:, keep] if keep.any() else signal)
    return keep
