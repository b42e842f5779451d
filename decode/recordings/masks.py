"""Which voxels of BOLD runs to keep when nobody drew a mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from decode.core import InputError
from decode.recordings.bold import Voxels, open_image, read_run


def bright(signal: np.ndarray) -> np.ndarray:
    """Boolean (voxel,): those that vary and whose mean passes a quarter of the brightest ones'.

    `signal` is (time, voxel) in the scanner's units; the brightest are its 98th percentile. Only
    intensities are looked at, as by every brain mask, never events.
    """
    mean = signal.mean(axis=0, dtype=np.float64)
    return (mean > 0.25 * np.percentile(mean, 98)) & (np.ptp(signal, axis=0) > 0)


def bright_voxels(images: Sequence[Path]) -> Voxels:
    """The voxels that are bright in every one of these runs, which share a grid."""
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
        keep &= bright(read_run(image, voxels))
    if not keep.any():
        raise InputError(
            f"{images[0].parent}: expected voxels that are bright in all {len(images)} runs, got "
            "none; give a mask"
        )
    return voxels.take(keep)
