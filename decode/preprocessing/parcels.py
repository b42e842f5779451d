"""Means over the parcels of an atlas: the same channels for everybody, whatever the voxels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from decode.core import InputError, Recording
from decode.preprocessing.mixing import mixed, split_channels
from decode.preprocessing.prepared import Prepared

Grid = Literal["same", "nearest"]
Missing = Literal["refuse", "zero"]


def mean_weights(labels: np.ndarray, parcels: np.ndarray) -> Any:
    """Sparse (parcel, voxel): the mean over the voxels that have each of the labels `parcels`.

    `labels` is (voxel,) integers; voxels of other labels are left out, parcels without a voxel have
    an empty row.
    """
    from scipy.sparse import csr_array

    place = np.minimum(np.searchsorted(parcels, labels), len(parcels) - 1)
    voxel = np.flatnonzero(parcels[place] == labels)
    row = place[voxel]
    size = np.bincount(row, minlength=len(parcels))
    return csr_array((1 / size[row], (row, voxel)), shape=(len(parcels), len(labels)))


def parcel_means(values: np.ndarray, labels: np.ndarray, parcels: np.ndarray) -> np.ndarray:
    """(time, parcel) means of `values` (time, voxel); NaN for a parcel without a voxel."""
    if values.shape[1] != len(labels):
        raise InputError(
            f"parcels: expected a label for each of {values.shape[1]} voxels, got {len(labels)}; take the "
            "atlas of the grid that the values lie on"
        )
    weights = mean_weights(labels, parcels)
    made = (weights @ values.T).T
    made[:, np.diff(weights.indptr) == 0] = np.nan
    return made


def voxel_labels(
    where: str,
    channels: pd.DataFrame,
    atlas: Path,
    volume: np.ndarray,
    affine: np.ndarray,
    grid: Grid,
) -> np.ndarray:
    """(channel,) label of each voxel, from its place in the scanner (x, y, z in metres).

    With `grid` "same" every voxel has to be the centre of a voxel of the atlas, within a twentieth of
    its size; with "nearest" the nearest one is taken, in the same space but on whatever grid. Voxels
    outside the atlas have label 0.
    """
    xyz = channels[["x", "y", "z"]].to_numpy(float)
    if not np.isfinite(xyz).all():
        raise InputError(
            f"{where}: expected voxels whose x, y and z are known, {int((~np.isfinite(xyz).all(1)).sum())} "
            "have none; parcels need volumes"
        )
    ijk = np.linalg.solve(affine[:3, :3], (1000 * xyz - affine[:3, 3]).T).T
    near = np.round(ijk).astype(np.int64)
    inside = ((near >= 0) & (near < volume.shape)).all(1)
    if grid == "same":
        off = np.abs(ijk - near).max(1) > 0.05
        if off.any() or not inside.all():
            raise InputError(
                f"{where}: expected the grid of {atlas} {volume.shape}, {int((off | ~inside).sum())} of "
                f"{len(ijk)} voxels do not lie on it; resample the atlas to the data, or, when both are "
                "in one space, set preprocess.grid=nearest"
            )
    labels = np.zeros(len(ijk), np.int64)
    labels[inside] = volume[tuple(near[inside].T)]
    return labels


def read_atlas(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The values (x, y, z) of a NIfTI image and its affine in mm; InputError where it is none."""
    import nibabel

    try:
        image: Any = nibabel.load(path)
        volume = np.asarray(image.dataobj, np.float64)
    except Exception as e:
        reason = " ".join(str(e).split()) or type(e).__name__
        raise InputError(
            f"{path}: expected a NIfTI image of parcels, got {reason}; correct the path"
        ) from e
    if volume.ndim == 4 and volume.shape[3] == 1:
        volume = volume[..., 0]
    if volume.ndim != 3:
        raise InputError(
            f"{path}: expected one volume (x, y, z) of labels, got shape {volume.shape}; give an atlas of "
            "labels, not one of weighted maps"
        )
    return volume, np.asarray(image.affine)


class Parcels:
    """Recordings of voxels -> means over the parcels of `atlas` -> what `inner` makes of them.

    `atlas` is a NIfTI image whose values above 0 number parcels; each becomes a channel named by its
    number, in order, whichever voxels the recording has. `grid` "same" expects the grid of the data,
    "nearest" looks up the nearest voxel of an atlas in the same space. Parcels of which no voxel was
    recorded are refused, or with `missing` "zero" are 0 throughout. `expected` is how many parcels
    there have to be, as a pretrained network wants. The mean is taken before anything else is done,
    so that time series are standardised by parcel.

    Raises InputError for an atlas of another grid or with other values, and for missing parcels.
    """

    def __init__(
        self,
        *,
        atlas: str,
        inner: Callable[[Recording], Prepared],
        expected: int | None = None,
        grid: Grid = "same",
        missing: Missing = "refuse",
    ) -> None:
        for key, value, allowed in (("grid", grid, Grid), ("missing", missing, Missing)):
            if value not in get_args(allowed):
                raise InputError(
                    f"preprocess.{key}: expected one of {list(get_args(allowed))}, got {value!r}"
                )
        self.path, self.inner, self.expected = Path(atlas).expanduser(), inner, expected
        self.grid, self.missing = grid, missing

    @cached_property
    def atlas(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Volume (x, y, z) of whole numbers, affine in mm, and the numbers of the parcels."""
        volume, affine = read_atlas(self.path)
        whole = np.round(np.nan_to_num(volume)).astype(np.int64)
        if not np.allclose(np.nan_to_num(volume), whole, atol=1e-3):
            raise InputError(
                f"{self.path}: expected whole numbers of parcels, got others, as after smooth resampling; "
                "resample the atlas with nearest neighbours"
            )
        parcels = np.unique(whole[whole > 0])
        if not len(parcels) or (self.expected is not None and len(parcels) != self.expected):
            raise InputError(
                f"{self.path}: expected {self.expected or 'some'} parcels (values above 0), got "
                f"{len(parcels)}; give another atlas or correct preprocess.expected"
            )
        return whole, affine, parcels

    def __call__(self, recording: Recording) -> Prepared:
        volume, affine, parcels = self.atlas
        _, channels = split_channels(recording)
        labels = voxel_labels(recording.where, channels, self.path, volume, affine, self.grid)
        weights = mean_weights(labels, parcels)
        there = np.diff(weights.indptr) > 0
        if not there.any() or (self.missing == "refuse" and not there.all()):
            absent = ", ".join(str(p) for p in parcels[~there][:5])
            raise InputError(
                f"{recording.where}: expected voxels of all {len(parcels)} parcels of {self.path}, "
                f"{int((~there).sum())} have none ({absent}{', ...' if (~there).sum() > 5 else ''}); "
                "choose a mask of the whole brain, or set preprocess.missing=zero"
            )
        table = _parcel_channels(weights, channels, parcels)
        prepared = self.inner(mixed(recording, weights[there], table[there]))
        return prepared if there.all() else _with_zeros(prepared, there, table)


def _parcel_channels(weights: Any, channels: pd.DataFrame, parcels: np.ndarray) -> pd.DataFrame:
    """One row per parcel: its number, and the mean place of its voxels."""
    table = pd.DataFrame({"name": [str(p) for p in parcels], "kind": "bold"})
    table[["x", "y", "z"]] = weights @ channels[["x", "y", "z"]].to_numpy(float)
    table.loc[np.diff(weights.indptr) == 0, ["x", "y", "z"]] = np.nan
    return table.assign(roi="")


def _with_zeros(prepared: Prepared, there: np.ndarray, table: pd.DataFrame) -> Prepared:
    """All parcels, those that were not recorded with 0."""
    signal = np.zeros((len(prepared.signal), len(there)), np.float32)
    signal[:, there] = prepared.signal
    layout = replace(
        prepared.layout,
        names=tuple(table["name"]),
        positions=table[["x", "y", "z"]].to_numpy(float),
        rois=tuple(table["roi"]),
    )
    return replace(prepared, signal=signal, layout=layout)
