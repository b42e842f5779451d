"""The Natural Scenes Dataset on disk: which picture was shown when, and which voxels to keep.

Allen et al. 2022, doi:10.1038/s41593-021-00962-x. Paths are those of the published bucket, below
one root; the experiment counts pictures, columns, trials and sessions from 1, we count from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from decode.core import InputError
from decode.recordings.bold import Voxels, read_mask
from decode.recordings.matlab import read_mat
from decode.volumes import read_volume

SUBJECTS = tuple(f"subj{i:02d}" for i in range(1, 9))
RELEASED = dict(zip(SUBJECTS, (40, 40, 32, 30, 40, 32, 40, 30), strict=True))
# Name of the test split -> the last session that it knows of.
LAST_SESSION = {"shared1000": 40, "shared982": 37}
SPACE = "func1pt8mm"
DESIGN = Path("nsddata/experiments/nsd/nsd_expdesign.mat")
_SESSIONS = 40
# What the values of the published atlases mean; others are named by their number.
REGIONS = {
    "streams": "early midventral midlateral midparietal ventral lateral parietal",
    "prf-visualrois": "V1v V1d V2v V2d V3v V3d hV4",
    "floc-faces": "OFA FFA-1 FFA-2 mTL-faces aTL-faces",
    "floc-words": "OWFA VWFA-1 VWFA-2 mfs-words mTL-words",
    "floc-places": "OPA PPA RSC",
    "floc-bodies": "EBA FBA-1 FBA-2 mTL-bodies",
}


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """What `nsd_expdesign.mat` says.

    `images` is (subject, trial), the picture of each trial counted from 0; `shared` (trial,) marks
    pictures that all subjects see; `repeat` (trial,) is 1 when a picture is shown for the first time;
    `session` (trial,) is counted from 1. All but the pictures themselves is the same for everybody.
    """

    path: Path
    images: np.ndarray
    shared: np.ndarray
    repeat: np.ndarray
    session: np.ndarray

    @property
    def n_sessions(self) -> int:
        return int(self.session[-1])

    def trials(self, subject: str, session: int) -> pd.DataFrame:
        """One row per trial of a session: trial (of the experiment, from 0), image, shared, repeat."""
        rows = np.flatnonzero(self.session == session)
        return pd.DataFrame(
            {
                "trial": rows,
                "image": self.images[SUBJECTS.index(subject), rows],
                "shared": self.shared[rows],
                "repeat": self.repeat[rows],
            }
        )


def read_design(root: Path, *, outside: bool = False) -> Design:
    """The experiment's design; InputError where the file is missing, broken or contradicts itself.

    Values that it names in other files are read with `outside` only.
    """
    path = root / DESIGN
    if not path.is_file():
        raise InputError(
            f"nsd: expected the experiment's design at {path}, found no such file; put it there or "
            "set paths.data to the folder that contains nsd"
        )
    wanted, optional = ("subjectim", "masterordering", "sharedix"), ("stimpattern",)
    raw = read_mat(path, wanted, optional=optional, outside=outside)
    images = raw["subjectim"].astype(np.int64)
    order = raw["masterordering"].astype(np.int64).ravel()
    shared = raw["sharedix"].astype(np.int64).ravel()
    if images.ndim != 2 or len(images) != len(SUBJECTS) or images.min() < 1:
        raise InputError(
            f"{path}: expected subjectim of {len(SUBJECTS)} subjects with pictures from 1, got shape "
            f"{images.shape} from {images.min()}; fetch the file again"
        )
    if order.min() < 1 or order.max() > images.shape[1]:
        raise InputError(
            f"{path}: expected masterordering to name columns 1 to {images.shape[1]} of subjectim, "
            f"got {order.min()} to {order.max()}; fetch the file again"
        )
    if any(set(row[: len(shared)]) != set(shared) for row in images):
        raise InputError(
            f"{path}: expected the pictures of sharedix ({len(shared)}) in the first columns of "
            "subjectim, got others; fetch the file again"
        )
    session = np.repeat(np.arange(1, len(_sizes(raw, order, path)) + 1), _sizes(raw, order, path))
    repeat = pd.Series(order).groupby(order).cumcount().to_numpy() + 1
    return Design(path, images[:, order - 1] - 1, order <= len(shared), repeat, session)


def _sizes(raw: dict[str, np.ndarray], order: np.ndarray, path: Path) -> np.ndarray:
    """Trials of each session: stimpattern (session, run, slot) marks them; else all are equal."""
    if "stimpattern" in raw:
        sizes = (raw["stimpattern"] > 0).sum(axis=(1, 2)).astype(np.int64)
    else:
        sizes = np.full(_SESSIONS, len(order) // _SESSIONS)
    if sizes.sum() != len(order):
        raise InputError(
            f"{path}: expected as many trials in its sessions as in masterordering "
            f"({len(order)}), got {sizes.sum()} in {len(sizes)} sessions; fetch the file again"
        )
    return sizes


def roi_path(root: Path, subject: str, name: str) -> Path:
    return root / "nsddata/ppdata" / subject / SPACE / "roi" / f"{name}.nii.gz"


def beta_folder(root: Path, subject: str, betas: str, space: str = SPACE) -> Path:
    return root / "nsddata_betas/ppdata" / subject / space / betas


def read_voxels(
    root: Path,
    subject: str,
    *,
    mask: str,
    rois: Sequence[str] = (),
    ncsnr: Path | None = None,
    ncsnr_above: float | None = None,
) -> tuple[Voxels, pd.DataFrame]:
    """The voxels of `mask`, in C order of the (x, y, z) array as nibabel gives it, and their channels.

    `rois` are atlases of the same grid: the first of them that has a voxel names its region.
    `ncsnr` is the map of noise-ceiling signal-to-noise ratios; voxels not above the bound go.
    """
    voxels = read_mask(roi_path(root, subject, mask))
    if ncsnr is not None and ncsnr_above is not None:
        keep = _on_grid(ncsnr, voxels, "data.ncsnr_above=null") > ncsnr_above
        if not keep.any():
            raise InputError(
                f"{ncsnr}: expected voxels of {mask} with ncsnr above {ncsnr_above:g}, got none of "
                f"{len(keep)}; lower data.ncsnr_above"
            )
        voxels = voxels.take(keep)
    region = np.full(len(voxels.ijk), "", dtype=object)
    for name in rois:
        value = _on_grid(roi_path(root, subject, name), voxels, "other data.rois").astype(int)
        free = (region == "") & (value > 0)
        region[free] = [region_name(name, v) for v in value[free]]
    return voxels, voxels.channels().assign(roi=region)


def _on_grid(path: Path, voxels: Voxels, instead: str) -> np.ndarray:
    """Values (voxel,) of a volume on the mask's grid."""
    volume, affine = read_volume(path)
    if volume.shape != voxels.grid:
        raise InputError(
            f"{path}: expected the grid of {voxels.where}, {voxels.grid}, got {volume.shape}; fetch the "
            f"files of {SPACE} or set {instead}"
        )
    voxels.check_space(path, affine)
    return volume[tuple(voxels.ijk.T)]


def region_name(atlas: str, value: int) -> str:
    """What a value of a published atlas means."""
    names = REGIONS.get(atlas.removeprefix("lh.").removeprefix("rh."), "").split()
    return names[value - 1] if 0 < value <= len(names) else f"{atlas}-{value}"
