"""Parcels of an atlas, labels or weighted maps: the same channels for everybody, whatever the voxels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from decode.core import InputError, Recording, refusal
from decode.preprocessing.mixing import mixed, split_channels, with_brain
from decode.preprocessing.prepared import ABSENT
from decode.volumes import whole_image

Grid = Literal["same", "nearest"]
Missing = Literal["refuse", "zero"]
CHUNK_BYTES = 128 * 2**20


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


def map_signals(
    values: np.ndarray,
    maps: Any,
    *,
    where: str = "parcels",
    numbers: np.ndarray | None = None,
) -> np.ndarray:
    """(time, map) least-squares fit of `values` (time, voxel) by `maps` (voxel, map; sparse), float64.

    Each volume is taken for a weighted sum of maps, as nilearn's `NiftiMapsMasker` does; maps that do
    not overlap and are 1 inside give means. Raises InputError where maps are alike beyond rounding,
    which that masker would share out between them; `where` and `numbers` name recording and maps there.
    """
    from scipy.linalg import cho_solve

    if values.shape[1] != maps.shape[0]:
        raise InputError(
            f"{where}: expected a weight for each of {values.shape[1]} voxels, got {maps.shape[0]}; take the "
            "atlas of the grid that the values lie on"
        )
    maps = maps.astype(np.float64)
    size = np.sqrt(maps.multiply(maps).sum(0))
    # Maps of equal length: how well they are told apart no longer depends on their units.
    scaled = (maps / size).tocsr()
    numbers = np.arange(1, maps.shape[1] + 1) if numbers is None else numbers
    factor = _factor((scaled.T @ scaled).toarray(), where, numbers)
    made = np.empty((len(values), maps.shape[1]))
    step = max(1, CHUNK_BYTES // (8 * values.shape[1]))
    for start in range(0, len(values), step):
        part = np.asarray(values[start : start + step], np.float64)
        made[start : start + step] = cho_solve((factor, True), scaled.T @ part.T).T / size
    return made


def _factor(alike: np.ndarray, where: str, numbers: np.ndarray) -> np.ndarray:
    """Lower Cholesky factor of (map, map) cosines; InputError where it tells nothing apart."""
    from scipy.linalg import lapack

    factor, info = lapack.dpotrf(alike, lower=True)
    if info == 0:
        told, info = lapack.dpocon(factor, np.abs(alike).sum(0).max(), uplo="L")
    if info or told < 1e-10:
        apart = np.abs(alike - np.diag(np.diag(alike)))
        a, b = sorted(int(k) for k in np.unravel_index(apart.argmax(), apart.shape))
        raise refusal(
            where,
            "maps that differ over the recorded voxels",
            f"{numbers[a]} and {numbers[b]} alike (cosine {apart[a, b]:.6f}, of {len(alike)} maps)",
            "choose a mask of the whole brain or an atlas of fewer maps",
        )
    return np.tril(factor)


@dataclass(frozen=True, slots=True, eq=False)
class Atlas:
    """`numbers` are those of the parcels and `affine` leads from voxels of `shape` (x, y, z) to mm.

    `values` has a row per voxel, in C order: (voxel,) whole numbers, or for weighted maps, which are
    numbered from 1, sparse (voxel, map).
    """

    path: Path
    shape: tuple[int, ...]
    affine: np.ndarray
    values: Any
    numbers: np.ndarray

    @property
    def weighted(self) -> bool:
        return self.values.ndim == 2

    def at(self, place: np.ndarray) -> Any:
        """The rows of the voxels `place`; those of -1 are 0."""
        outside = place < 0
        if not self.weighted:
            return np.where(outside, 0, self.values[place])
        kept = self.values[place].multiply(~outside[:, None]).tocsr()
        kept.eliminate_zeros()
        return kept


def voxel_places(where: str, channels: pd.DataFrame, atlas: Atlas, grid: Grid) -> np.ndarray:
    """(channel,) voxel of the atlas of each channel, from its place in the scanner (x, y, z in metres).

    With `grid` "same" every channel has to be the centre of a voxel of the atlas, within a twentieth of
    its size; with "nearest" the nearest one is taken, in the same space but on whatever grid. Voxels are
    numbered in C order, channels outside the atlas get -1.
    """
    xyz = channels[["x", "y", "z"]].to_numpy(float)
    if not np.isfinite(xyz).all():
        raise refusal(
            where,
            "voxels whose x, y and z are known",
            f"{int((~np.isfinite(xyz).all(1)).sum())} without",
            "parcels need volumes: leave this step out",
        )
    ijk = np.linalg.solve(atlas.affine[:3, :3], (1000 * xyz - atlas.affine[:3, 3]).T).T
    near = np.round(ijk).astype(np.int64)
    inside = ((near >= 0) & (near < atlas.shape)).all(1)
    if grid == "same":
        off = np.abs(ijk - near).max(1) > 0.05
        if off.any() or not inside.all():
            raise refusal(
                where,
                f"voxels on the grid of {atlas.path} {atlas.shape}",
                f"{int((off | ~inside).sum())} of {len(ijk)} that do not lie on it",
                "resample the atlas to the data, or, when both are in one space, set "
                "preprocess.steps.parcels.grid=nearest",
            )
    place = np.full(len(ijk), -1, np.int64)
    place[inside] = np.ravel_multi_index(tuple(near[inside].T), atlas.shape)
    return place


def read_atlas(path: Path) -> Atlas:
    """A NIfTI image of labels (x, y, z) or weighted maps (x, y, z, map); InputError where it is neither."""
    if not path.is_file():
        raise refusal(path, "a NIfTI image of parcels", "no such file", "correct the path")
    with whole_image(path) as image:
        shape = tuple(int(n) for n in image.shape)
        maps = len(shape) == 4 and shape[3] > 1
        values = _maps(image) if maps else np.asarray(image.dataobj, np.float64)
    if len(shape) not in (3, 4):
        raise InputError(
            f"{path}: expected one volume (x, y, z) of labels or several of weighted maps, got shape "
            f"{shape}; give another atlas"
        )
    affine = np.asarray(image.affine)
    if maps:
        return Atlas(path, shape[:3], affine, values, np.arange(1, shape[3] + 1))
    whole = np.round(np.nan_to_num(values)).astype(np.int64).ravel()
    if not np.allclose(np.nan_to_num(values).ravel(), whole, atol=1e-3):
        raise InputError(
            f"{path}: expected whole numbers of parcels, got others, as after smooth resampling; "
            "resample the atlas with nearest neighbours"
        )
    return Atlas(path, shape[:3], affine, whole, np.unique(whole[whole > 0]))


def _maps(image: Any) -> Any:
    """Sparse (voxel, map) float32, read one map after the other; what is not finite counts as 0."""
    from scipy.sparse import csc_array, hstack

    columns = []
    for k in range(image.shape[3]):
        one = np.asarray(image.dataobj[..., k], np.float32).reshape(-1, 1)
        columns.append(csc_array(np.where(np.isfinite(one), one, 0)))
    return hstack(columns, format="csr")


class Parcels:
    """Recordings of voxels -> one channel per parcel of `atlas`.

    `atlas` is a NIfTI image. One volume whose values above 0 number parcels: each becomes a channel
    named by its number, in order, the mean over its voxels. Several volumes are weighted maps that may
    overlap, as those of DiFuMo (Dadi et al. 2020): each becomes a channel, numbered from 1, and a
    sample's values are the least-squares fit of its voxels by the maps (`map_signals`). Channels lie at
    the mean place of their voxels, weighted by the size of a map's weights. Voxels that were not
    recorded count for neither.

    `grid` "same" expects the grid of the data, "nearest" looks up the nearest voxel of an atlas in the
    same space. Parcels of which no voxel was recorded are refused, or with `missing` "zero" are 0
    throughout and marked in the column `absent` of the channels, round which the chain leads them.
    `expected` is how many parcels there have to be, as a pretrained network wants. As a first step, time
    series are standardised by parcel.

    Raises InputError for an atlas of another grid or with other values, for missing parcels and for maps
    that the recorded voxels cannot tell apart. A map of which only a faint edge was recorded is no
    missing one, though its channel is mostly noise.
    """

    def __init__(
        self,
        *,
        atlas: str,
        expected: int | None = None,
        grid: Grid = "same",
        missing: Missing = "refuse",
    ) -> None:
        for key, value, allowed in (("grid", grid, Grid), ("missing", missing, Missing)):
            if value not in get_args(allowed):
                raise refusal(key, f"one of {list(get_args(allowed))}", repr(value), "correct it")
        self.path, self.expected = Path(atlas).expanduser(), expected
        self.grid, self.missing = grid, missing

    @cached_property
    def atlas(self) -> Atlas:
        atlas = read_atlas(self.path)
        n = len(atlas.numbers)
        if not n or (self.expected is not None and n != self.expected):
            raise InputError(
                f"{self.path}: expected {self.expected or 'some'} parcels (values above 0, or maps), got "
                f"{n}; give another atlas or correct `expected`"
            )
        return atlas

    def __call__(self, recording: Recording) -> Recording:
        atlas = self.atlas
        brain, channels = split_channels(recording)
        found = atlas.at(voxel_places(recording.where, channels, atlas, self.grid))
        weights = abs(found.T).tocsr() if atlas.weighted else mean_weights(found, atlas.numbers)
        there = np.diff(weights.indptr) > 0
        self._check(recording, there)
        table = _parcel_channels(weights, channels, atlas.numbers).assign(**{ABSENT: ~there})
        if not atlas.weighted:
            return mixed(recording, weights, table)
        voxels, numbers = np.asarray(recording.signal)[:, brain], atlas.numbers[there]
        made = np.zeros((len(voxels), len(there)), np.float32)
        made[:, there] = map_signals(
            voxels, found[:, there], where=recording.where, numbers=numbers
        )
        return with_brain(recording, made, table)

    def _check(self, recording: Recording, there: np.ndarray) -> None:
        if there.all() or (there.any() and self.missing == "zero"):
            return
        absent = ", ".join(str(p) for p in self.atlas.numbers[~there][:5])
        raise refusal(
            recording.where,
            f"voxels of all {len(there)} parcels of {self.path}",
            f"none of {int((~there).sum())} ({absent}{', ...' if (~there).sum() > 5 else ''})",
            "choose a mask of the whole brain, or set preprocess.steps.parcels.missing=zero",
        )


def _parcel_channels(weights: Any, channels: pd.DataFrame, parcels: np.ndarray) -> pd.DataFrame:
    """One row per parcel: its number, and the mean place of its voxels, by `weights` of 0 or more."""
    table = pd.DataFrame({"name": [str(p) for p in parcels], "kind": "bold"})
    with np.errstate(invalid="ignore"):  # nan for a parcel without voxels
        places = weights @ channels[["x", "y", "z"]].to_numpy(float) / weights.sum(1)[:, None]
    table[["x", "y", "z"]] = places
    return table.assign(roi="")
