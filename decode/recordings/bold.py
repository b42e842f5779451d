"""BOLD runs on disk: a NIfTI image, a mask and a BIDS events table -> one Recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from decode.core import InputError, Recording, about, refusal
from decode.recordings.sidecars import Timing, volume_timing
from decode.volumes import read_volume, stored_values, whole_image

Scale = Literal["percent", "as_is"]
# Voxels by which the scale of a run is judged.
LOOKED_AT = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Voxels:
    """The voxels of a mask, in C order of the grid.

    `ijk` is (voxel, 3) int, `grid` the shape of a volume, `affine` maps ijk to mm, and `labels` is
    (voxel,) the mask's own values, which may number regions. `file` is where the mask was read from,
    None when nobody drew one; messages name it.
    """

    ijk: np.ndarray
    grid: tuple[int, int, int]
    affine: np.ndarray
    labels: np.ndarray
    file: Path | None = None

    @property
    def where(self) -> str:
        """How messages name the mask."""
        return f"the mask {self.file}" if self.file else "the other runs"

    def check_space(self, path: Path, affine: np.ndarray | None) -> None:
        """Raise InputError when an image of the same grid at `path` lies elsewhere in space."""
        if affine is None or not np.allclose(affine, self.affine, atol=1e-2):
            raise InputError(
                f"{path}: expected the affine of {self.where}, {_in_words(self.affine)}, got "
                f"{_in_words(affine)}: the same grid in another space; choose a mask in the space of "
                "the image"
            )

    def take(self, keep: np.ndarray) -> Voxels:
        """The voxels that the boolean `keep` (voxel,) marks."""
        return Voxels(self.ijk[keep], self.grid, self.affine, self.labels[keep], self.file)

    def channels(self, regions: dict[int, str] | None = None) -> pd.DataFrame:
        """One row per voxel: name "i-j-k", kind, x, y, z in metres, and roi from its label."""
        xyz = (self.ijk @ self.affine[:3, :3].T + self.affine[:3, 3]) / 1000
        table = pd.DataFrame(xyz, columns=["x", "y", "z"])
        table.insert(0, "name", ["-".join(map(str, v)) for v in self.ijk.tolist()])
        table.insert(1, "kind", "bold")
        table["roi"] = [(regions or {}).get(int(v), "") for v in self.labels]
        return table


def _in_words(affine: np.ndarray | None) -> str:
    """The rows of an affine that move, in mm."""
    return "none" if affine is None else str(np.round(affine[:3], 2).tolist())


def read_mask(path: Path) -> Voxels:
    """The voxels with a value above 0."""
    volume, affine = read_volume(path)
    keep = volume > 0
    if not keep.any():
        raise refusal(
            path, "a mask with values above 0", "none", "draw it again or choose another mask"
        )
    return Voxels(np.argwhere(keep), volume.shape, affine, volume[keep], path)


def read_run(path: Path, voxels: Voxels) -> np.ndarray:
    """(time, voxel) float32 in the units of the file, the mask's voxels only."""
    with whole_image(path) as image:
        if len(image.shape) != 4 or image.shape[:3] != voxels.grid:
            raise InputError(
                f"{path}: expected a run on the grid of {voxels.where}, {voxels.grid} + time, got "
                f"{image.shape}; choose a mask in the space of the run"
            )
        voxels.check_space(path, image.affine)
        stored = stored_values(image)
    slope = getattr(image.dataobj, "slope", 1.0)
    intercept = getattr(image.dataobj, "inter", 0.0)
    picked = stored[tuple(voxels.ijk.T)].T
    return picked.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def percent_change(signal: np.ndarray) -> np.ndarray:
    """(time, voxel) float32 percent change from each voxel's mean.

    A voxel without a positive mean has no percentage; it becomes NaN, which preprocessing refuses
    by name. Data that already are percentages or z-scores must not be converted again.
    """
    mean = signal.mean(axis=0, dtype=np.float64)
    scale = np.where(mean > 0, 100.0 / np.where(mean > 0, mean, 1.0), np.nan)
    return ((signal - mean) * scale).astype(np.float32)


def steady(signal: np.ndarray) -> np.ndarray:
    """Boolean (voxel,): those of `signal` (time, voxel) that are finite throughout and vary."""
    finite = np.isfinite(signal).all(axis=0)
    return np.asarray(finite & (np.ptp(np.where(finite, signal, 0), axis=0) > 0))


def check_mean(path: Path, signal: np.ndarray) -> None:
    """InputError for a run (time, voxel) without the scanner's mean: nothing to take percent of.

    Where the mean is there, a voxel of the brain has some 20 to 200 times its standard deviation and
    one of air 1.9 times (Rayleigh's distribution). Residuals, z-scores and percent change have none.
    """
    step = max(1, signal.shape[1] // LOOKED_AT)
    some = signal[:, ::step]
    some = some[:, steady(some)].astype(np.float64)
    if not some.size:
        return
    share = float(np.median(np.abs(some.mean(axis=0)) / some.std(axis=0)))
    if share < 1:
        raise refusal(
            path,
            "the scanner's values, whose mean lies far above their changes",
            f"a mean of {share:.2g} standard deviations, as residuals, z-scores and percent change have",
            "give the runs with their mean, or set data.scale=as_is where data=bids",
        )


def check_volumes(path: Path, signal: np.ndarray) -> None:
    """InputError for a run (time, voxel) in which volumes are 0 throughout: never taken, or lost."""
    empty = np.flatnonzero(~signal.any(axis=1))
    if len(empty):
        raise refusal(
            path,
            "a measurement in every volume",
            f"zeros in {len(empty)} of {len(signal)} (the first is volume {empty[0]}, from 0)",
            "cut them off where the run was stopped and leave out the events there, or copy it again",
        )


def check_scale(scale: Scale) -> None:
    """InputError for a word that is no scale."""
    if scale not in get_args(Scale):
        raise refusal(
            "data.scale", f"one of {list(get_args(Scale))}", repr(scale), "choose one of these"
        )


def read_bold(
    path: Path,
    voxels: Voxels,
    events: pd.DataFrame,
    *,
    subject: str,
    session: str = "",
    run: str = "",
    channels: pd.DataFrame | None = None,
    timing: Timing | None = None,
    scale: Scale = "percent",
) -> Recording:
    """One run as a Recording; `timing` comes before what the image and the sidecar beside it say.

    With `scale` "percent" the signal is percent change from each voxel's mean, with "as_is" what the
    file holds.
    """
    timing = timing or volume_timing(path)
    signal = read_run(path, voxels)
    if scale == "percent":
        check_volumes(path, signal)
    return Recording(
        subject=subject,
        session=session,
        run=run,
        modality="fmri",
        signal=percent_change(signal) if scale == "percent" else signal,
        sfreq=1 / timing.tr,
        channels=voxels.channels() if channels is None else channels,
        events=events,
        offset=timing.offset,
        source=path,
    )


def with_confounds(recording: Recording, confounds: pd.DataFrame) -> Recording:
    """The recording with confound columns (motion, physiology: one row per volume) as channels of
    kind "confound", which the GLM regresses out.
    """
    if len(confounds) != len(recording.signal):
        raise refusal(
            recording.where,
            f"confounds for {len(recording.signal)} volumes",
            f"{len(confounds)} rows",
            "take the table that fMRIPrep wrote for this run",
        )
    rows = pd.DataFrame({"name": list(confounds), "kind": "confound", "roi": ""})
    with about(recording.where):
        values = confound_values(confounds)
    return replace(
        recording,
        signal=np.hstack([recording.signal, values]),
        channels=pd.concat([recording.channels, rows], ignore_index=True),
    )


def confound_values(confounds: pd.DataFrame) -> np.ndarray:
    """(volume, confound) float32; a value that is missing is its column's mean.

    The first row of a derivative is n/a in fMRIPrep's tables: no change is known there, and 0 would be
    an outlier in a column that lies far from it. Raises InputError for a column without any number.
    """
    numbers = confounds.astype(float)
    empty = [str(name) for name, column in numbers.items() if not column.notna().any()]
    if empty:
        raise InputError(
            f"confound {empty[0]!r}: expected numbers, got none in {len(numbers)} rows; leave it out of "
            "data.confounds"
        )
    return numbers.fillna(numbers.mean()).to_numpy(np.float32)


def usable(paths: Sequence[Path], voxels: Voxels, scale: Scale = "percent") -> Voxels:
    """The voxels that are finite and vary in every run, one run at a time.

    With `scale` "percent" their mean has to be positive too, and runs without a mean are refused.
    """
    keep = np.ones(len(voxels.ijk), bool)
    for path in paths:
        signal = read_run(path, voxels)
        keep &= steady(signal)
        if scale == "percent":
            check_mean(path, signal)
            keep &= signal.mean(axis=0) > 0
    if not keep.any():
        raise InputError(
            f"{paths[0].parent}: expected voxels that vary in all {len(paths)} runs, got none; "
            "choose another mask"
        )
    return voxels.take(keep)
