"""BOLD runs on disk: a NIfTI image, a mask and a BIDS events table -> one Recording."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from decode.core import InputError, Recording

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage


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


def open_image(path: Path) -> SpatialImage:
    """A NIfTI image whose data are not read yet."""
    import nibabel

    try:
        return nibabel.load(path)  # type: ignore[return-value]
    except Exception as e:
        raise _unreadable(path, e) from e


def _unreadable(path: Path, e: Exception) -> InputError:
    if not path.exists():
        return InputError(f"{path}: expected a NIfTI image, found no such file; put it there")
    reason = " ".join(str(e).split()) or type(e).__name__
    return InputError(
        f"{path}: expected a whole NIfTI image, got {reason}; the file is truncated or damaged, "
        "copy it again"
    )


def _stored(image: SpatialImage, path: Path) -> np.ndarray:
    """Numbers as they are stored, before slope and intercept: no float64 copy of a whole run."""
    data: Any = image.dataobj
    try:
        return np.asarray(data.get_unscaled() if hasattr(data, "get_unscaled") else data)
    except Exception as e:
        raise _unreadable(path, e) from e


def read_volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A small image (a mask, an atlas) as (x, y, z), and its affine in mm."""
    image = open_image(path)
    _stored(image, path)
    volume = np.asarray(image.dataobj)
    if volume.ndim == 4 and volume.shape[3] == 1:
        volume = volume[..., 0]
    if volume.ndim != 3:
        raise InputError(f"{path}: expected one volume (x, y, z), got shape {volume.shape}")
    return volume, np.asarray(image.affine)


def read_mask(path: Path) -> Voxels:
    """The voxels with a value above 0."""
    volume, affine = read_volume(path)
    keep = volume > 0
    if not keep.any():
        raise InputError(f"{path}: expected a mask with values above 0, got none")
    return Voxels(np.argwhere(keep), volume.shape, affine, volume[keep], path)


def read_run(path: Path, voxels: Voxels) -> np.ndarray:
    """(time, voxel) float32 in the scanner's units, the mask's voxels only."""
    image = open_image(path)
    if len(image.shape) != 4 or image.shape[:3] != voxels.grid:
        raise InputError(
            f"{path}: expected a run on the grid of {voxels.where}, {voxels.grid} + time, got {image.shape}; "
            "choose a mask in the space of the run"
        )
    voxels.check_space(path, image.affine)
    stored = _stored(image, path)
    slope = getattr(image.dataobj, "slope", 1.0)
    intercept = getattr(image.dataobj, "inter", 0.0)
    picked = stored[tuple(voxels.ijk.T)].T
    return picked.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def repetition_time(path: Path) -> float:
    """TR in s: RepetitionTime of the JSON beside the image, else the image's header."""
    sidecar = path.with_name(path.name.split(".nii")[0] + ".json")
    if sidecar.is_file():
        try:
            value = json.loads(sidecar.read_text()).get("RepetitionTime")
        except ValueError as e:
            raise InputError(f"{sidecar}: expected JSON, got: {e}; correct the file") from e
        if value is not None:
            return float(value)
    header: Any = open_image(path).header
    zooms = header.get_zooms()
    tr = float(zooms[3]) if len(zooms) > 3 else 0.0
    if header.get_xyzt_units()[1] == "msec":
        tr /= 1000
    if not 0.05 < tr < 60:
        raise InputError(
            f"{path}: expected a repetition time in its header, got {tr:g} s; "
            f"add RepetitionTime to {sidecar.name}"
        )
    return tr


def percent_change(signal: np.ndarray) -> np.ndarray:
    """(time, voxel) float32 percent change from each voxel's mean.

    A voxel without a positive mean has no percentage; it becomes NaN, which preprocessing refuses
    by name. Data that already are percentages or z-scores must not be converted again.
    """
    mean = signal.mean(axis=0, dtype=np.float64)
    scale = np.where(mean > 0, 100.0 / np.where(mean > 0, mean, 1.0), np.nan)
    return ((signal - mean) * scale).astype(np.float32)


def read_bold(
    path: Path,
    voxels: Voxels,
    events: pd.DataFrame,
    *,
    subject: str,
    session: str = "",
    run: str = "",
    channels: pd.DataFrame | None = None,
    tr: float | None = None,
) -> Recording:
    """One run as a Recording in percent signal change; `tr` (s) corrects a wrong header."""
    return Recording(
        subject=subject,
        session=session,
        run=run,
        modality="fmri",
        signal=percent_change(read_run(path, voxels)),
        sfreq=1 / (tr if tr is not None else repetition_time(path)),
        channels=voxels.channels() if channels is None else channels,
        events=events,
    )


def with_confounds(recording: Recording, confounds: pd.DataFrame) -> Recording:
    """The recording with confound columns (motion, physiology: one row per volume) as channels of
    kind "confound", which the GLM regresses out.
    """
    if len(confounds) != len(recording.signal):
        raise InputError(
            f"{recording.where}: expected confounds for {len(recording.signal)} volumes, got "
            f"{len(confounds)} rows"
        )
    rows = pd.DataFrame({"name": list(confounds), "kind": "confound", "roi": ""})
    channels = pd.concat([recording.channels, rows], ignore_index=True)
    # The first row of a derivative is n/a in fMRIPrep's tables: no change is known there.
    values = confounds.fillna(0.0).to_numpy(np.float32)
    return Recording(
        recording.subject,
        recording.session,
        recording.run,
        recording.modality,
        np.hstack([recording.signal, values]),
        recording.sfreq,
        channels,
        recording.events,
    )


def usable(paths: list[Path], voxels: Voxels) -> Voxels:
    """The voxels that are finite, vary and have a positive mean in every run, one run at a time."""
    keep = np.ones(len(voxels.ijk), bool)
    for path in paths:
        signal = read_run(path, voxels)
        keep &= np.isfinite(signal).all(axis=0) & (np.ptp(signal, axis=0) > 0)
        keep &= signal.mean(axis=0) > 0
    if not keep.any():
        raise InputError(
            f"{paths[0].parent}: expected voxels that vary in all {len(paths)} runs, got none; "
            "choose another mask"
        )
    return voxels.take(keep)
