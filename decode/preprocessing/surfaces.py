"""Flat surfaces on disk: where each vertex of a hemisphere lies when the cortex is cut and unrolled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from decode.core import InputError, reading


@dataclass(frozen=True, slots=True, eq=False)
class FlatSurface:
    """The vertices that a flat surface holds, those of cuts and of the medial wall are left out.

    `vertex` is (vertex,) int64, the number in the whole surface of `n_vertices` (None where the file
    does not say); `xy` is (vertex, 2) in mm.
    """

    path: Path
    vertex: np.ndarray
    xy: np.ndarray
    n_vertices: int | None


def read_flat(path: Path) -> FlatSurface:
    """A FreeSurfer patch (`lh.cortex.patch.flat`, `*.flat.patch.3d`) or a GIFTI surface (`.gii`, `.gii.gz`).

    Raises InputError for a missing or broken file and for a surface that is not flat.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: expected a flat surface, found no such file; give a FreeSurfer patch "
            "(lh.cortex.patch.flat) or a GIFTI flat surface"
        )
    return _gifti(path) if path.name.endswith((".gii", ".gii.gz")) else _patch(path)


def _gifti(path: Path) -> FlatSurface:
    import nibabel

    with reading(path, "a GIFTI surface", "copy it again or give another"):
        image: Any = nibabel.load(path)
        points = np.asarray(image.agg_data("NIFTI_INTENT_POINTSET"), float)
        faces = np.asarray(image.agg_data("NIFTI_INTENT_TRIANGLE"), np.int64)
    if points.ndim != 2 or points.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise InputError(
            f"{path}: expected points (vertex, 3) and triangles (triangle, 3), got {points.shape} and "
            f"{faces.shape}; give a GIFTI surface (.surf.gii)"
        )
    # What no triangle holds was cut away, and its coordinates mean nothing.
    vertex = np.unique(faces)
    if not len(vertex) or vertex[0] < 0 or vertex[-1] >= len(points):
        raise InputError(
            f"{path}: expected triangles of the {len(points)} points, got {len(faces)} triangles; "
            "the file is damaged, copy it again"
        )
    return _flat(path, vertex, points[vertex], len(points))


def _patch(path: Path) -> FlatSurface:
    """FreeSurfer's binary patch: big-endian -1, the count, then number and x, y, z of each vertex."""
    raw = path.read_bytes()
    head = np.frombuffer(raw[:8], ">i4")
    row = np.dtype([("vertex", ">i4"), ("xyz", ">f4", 3)])
    expected = 8 + row.itemsize * int(head[1]) if len(head) == 2 else 8
    if len(head) < 2 or head[0] != -1 or head[1] < 1 or len(raw) != expected:
        raise InputError(
            f"{path}: expected a binary FreeSurfer patch of {expected} bytes, got {len(raw)} bytes "
            "that begin otherwise or are cut off; copy the file again or give a GIFTI surface"
        )
    rows = np.frombuffer(raw[8:], row)
    # Counted from 1, negative at the border.
    vertex = np.abs(rows["vertex"].astype(np.int64)) - 1
    return _flat(path, vertex, rows["xyz"].astype(float), None)


def _flat(path: Path, vertex: np.ndarray, xyz: np.ndarray, n: int | None) -> FlatSurface:
    spread = np.ptp(xyz, axis=0)
    if not np.isfinite(xyz).all() or spread[2] > 0.05 * spread[:2].max():
        raise InputError(
            f"{path}: expected a flat surface (z the same everywhere), got x, y and z over "
            f"{spread[0]:.0f}, {spread[1]:.0f} and {spread[2]:.0f} mm; give the flat one"
        )
    return FlatSurface(path, vertex, xyz[:, :2], n)
