"""A participant's visual cortex: where voxels lie, what drives them, how strongly they answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from decode.core import InputError, refusal
from decode.simulation.gabor import CHANNELS, ReceptiveFields, early_drive, shrink
from decode.simulation.scenes import ATTRIBUTES, Scene, attributes, draw, training_scenes

GREY_MATTER = "datasets/data/mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz"
# The part of MNI space (mm) that holds occipital and ventral temporal cortex.
BOX = ((-64, -106, -32), (64, -38, 36))
N_REFERENCE = 256


@dataclass(frozen=True, slots=True)
class Region:
    """`share` of the voxels, a centre in the right hemisphere (mm, mirrored for the left), how wide
    its receptive fields are in units of V1's, and what its units weigh (empty: pictures drive it).
    """

    share: float
    centre: tuple[float, float, float]
    width: float
    weights: dict[str, float]


REGIONS = {
    "V1": Region(0.22, (9, -88, 2), 1.0, {}),
    "V2": Region(0.18, (16, -94, 4), 1.5, {}),
    "V3": Region(0.12, (26, -88, 8), 2.0, {}),
    "V4": Region(
        0.15,
        (28, -76, -12),
        3.5,
        {"kind": 0.5, "colour": 1.0, "texture": 1.0, "background": 0.5, "size": 0.4},
    ),
    "LO": Region(
        0.15,
        (42, -76, 0),
        6.0,
        {"kind": 1.2, "colour": 0.3, "texture": 0.4, "background": 0.2, "size": 0.8, "xy": 0.6},
    ),
    "VT": Region(
        0.13,
        (34, -54, -16),
        12.0,
        {"kind": 1.0, "colour": 0.4, "texture": 0.2, "background": 1.2, "size": 0.3, "xy": 0.1},
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class Cortex:
    """Voxels of one participant, in C order of their grid; arrays are (voxel, ...).

    `gain` is the spread of the response over pictures and `level` its mean, in percent signal
    change; both are 0 for the voxels of no region, which carry noise only.
    """

    ijk: np.ndarray
    grid: tuple[int, int, int]
    affine: np.ndarray
    region: np.ndarray
    gain: np.ndarray
    level: np.ndarray
    fields: ReceptiveFields
    early_weights: np.ndarray
    object_weights: np.ndarray
    setting_weights: np.ndarray


def grey_matter(voxel_mm: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, y, z) grey matter and the affine in mm, of MNI152 at every `voxel_mm`-th mm inside BOX.

    Reads the template that nilearn ships, by path: importing nilearn takes seconds.
    """
    import nibabel

    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise refusal("simulated fMRI", "nilearn with its MNI template", "none", "install nilearn")
    image: Any = nibabel.load(Path(spec.origin).parent / GREY_MATTER)
    origin = image.affine[:3, 3]
    low, high = (np.round(np.array(corner) - origin).astype(int) for corner in BOX)
    span = tuple(slice(a, b, voxel_mm) for a, b in zip(low, high, strict=True))
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = origin + low
    return np.asarray(image.dataobj)[span] > 127, affine


def make_cortex(n_voxels: int, *, voxel_mm: int, rng: np.random.Generator) -> Cortex:
    """Draw one participant: voxels near each region's centre, tuning and gains."""
    inside, affine = grey_matter(voxel_mm)
    candidates = np.argwhere(inside)
    if not 20 <= n_voxels <= len(candidates):
        raise InputError(
            f"data.n_voxels: expected 20 to {len(candidates)} voxels of {voxel_mm} mm, got "
            f"{n_voxels}; lower data.voxel_mm for more"
        )
    chosen, region = _choose(candidates, affine, n_voxels, rng)
    order = np.lexsort(chosen.T[::-1])
    ijk, region = chosen[order], region[order]
    low, high = ijk.min(axis=0), ijk.max(axis=0)
    affine[:3, 3] += affine[:3, :3] @ low
    xyz = (ijk - low) @ affine[:3, :3].T + affine[:3, 3]
    n = len(ijk)
    gain = np.where(region == "", 0.0, 0.6 * np.exp(0.4 * rng.standard_normal(n)))
    early, objects, setting = _tuning(region, rng)
    grid = tuple(int(v) for v in high - low + 1)
    return Cortex(
        ijk=ijk - low,
        grid=grid,  # type: ignore[arg-type]
        affine=affine,
        region=region,
        gain=gain,
        level=1.2 * gain,
        fields=_retinotopy(xyz, region, rng),
        early_weights=early,
        object_weights=objects,
        setting_weights=setting,
    )


def _choose(
    candidates: np.ndarray, affine: np.ndarray, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """ijk (n, 3) and region names (n,): the free voxels nearest to each region's two centres."""
    xyz = candidates @ affine[:3, :3].T + affine[:3, 3]
    free = np.ones(len(candidates), bool)
    rows, names = [], []
    for name, region in REGIONS.items():
        x, y, z = np.array(region.centre) + 2.0 * rng.standard_normal(3)
        away = np.linalg.norm(xyz - [[[x, y, z]], [[-x, y, z]]], axis=2).min(axis=0)
        nearest = np.argsort(np.where(free, away, np.inf), kind="stable")
        mine = nearest[: round(region.share * n)]
        free[mine] = False
        rows.append(mine)
        names += [name] * len(mine)
    rest = rng.choice(np.flatnonzero(free), n - len(names), replace=False)
    return candidates[np.concatenate([*rows, rest])], np.array(names + [""] * len(rest))


def _retinotopy(xyz: np.ndarray, region: np.ndarray, rng: np.random.Generator) -> ReceptiveFields:
    """Contralateral; eccentricity grows from back to front, dorsal voxels see the lower field."""
    n = len(xyz)
    eccentricity, height, widths = np.zeros(n), np.zeros(n), np.ones(n)
    for name in np.unique(region):
        for side in (xyz[:, 0] < 0, xyz[:, 0] >= 0):
            here = np.flatnonzero((region == name) & side)
            eccentricity[here], height[here] = _rank(xyz[here, 1]), _rank(xyz[here, 2])
        widths[region == name] = REGIONS[name].width if name else 1.0
    radius = 0.58 * eccentricity**0.75
    angle = np.pi * (height - 0.5) + 0.15 * rng.standard_normal(n)
    away = np.where(xyz[:, 0] < 0, 1.0, -1.0) * radius * np.cos(angle)
    x = 0.5 + away + 0.03 * rng.standard_normal(n)
    y = 0.5 + radius * np.sin(angle) + 0.03 * rng.standard_normal(n)
    width = (0.035 + 0.08 * radius) * widths
    frequency = np.clip(0.3 / width * 2 ** (0.5 * rng.standard_normal(n)), 2.0, 10.0)
    return ReceptiveFields(x, y, width, frequency, rng.uniform(0, np.pi, n))


def _rank(values: np.ndarray) -> np.ndarray:
    return (np.argsort(np.argsort(values, kind="stable")) + 0.5) / max(1, len(values))


def _tuning(
    region: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights on picture channels (voxel, 4), on object and on setting (voxel, attribute)."""
    n = len(region)
    early = rng.standard_normal((n, len(CHANNELS))) * [1.0, 1.0, 0.8, 0.8]
    early[:, 0] = np.abs(early[:, 0])
    mixed = rng.standard_normal((n, len(ATTRIBUTES)))
    scale = np.zeros((n, len(ATTRIBUTES)))
    for name, r in REGIONS.items():
        row = [r.weights.get(_group(a), 0.0) for a in ATTRIBUTES]
        scale[region == name] = row
    setting = np.array([_group(a) == "background" for a in ATTRIBUTES])
    return early, mixed * scale * ~setting, mixed * scale * setting


def _group(attribute: str) -> str:
    word = attribute.split("=")[0]
    return "xy" if word in ("x", "y") else word


class Responses:
    """Noiseless responses (picture, voxel) in percent signal change at the peak of the response.

    Each voxel is scaled on N_REFERENCE fixed scenes, so a participant does not depend on how many
    pictures it will be shown.
    """

    def __init__(self, cortex: Cortex) -> None:
        self.cortex = cortex
        self.is_early = np.isin(cortex.region, [k for k, r in REGIONS.items() if not r.weights])
        f, e = cortex.fields, self.is_early
        fields = ReceptiveFields(f.x[e], f.y[e], f.width[e], f.frequency[e], f.orientation[e])
        self.blob, self.gabors = fields.filters()
        codes, pictures = _reference()
        drive = early_drive(pictures, self.blob, self.gabors)
        self.code_mean, self.code_sd = codes.mean(axis=0), codes.std(axis=0)
        self.drive_mean = drive.mean(axis=1, keepdims=True)
        self.drive_sd = drive.std(axis=1, keepdims=True) + 1e-6
        raw = self._raw(codes, pictures)
        self.mean, self.sd = raw.mean(axis=0), np.maximum(raw.std(axis=0), 1e-6)

    def __call__(self, scenes: Sequence[Scene], pictures: np.ndarray) -> np.ndarray:
        """`pictures` is (picture, h, w, 3) uint8, the scenes as drawn."""
        raw = self._raw(_codes(scenes), shrink(pictures))
        score = (raw - self.mean) / self.sd
        return (self.cortex.level + self.cortex.gain * score).astype(np.float32)

    def _raw(self, codes: np.ndarray, pictures: np.ndarray) -> np.ndarray:
        out = np.zeros((len(codes), len(self.is_early)), np.float32)
        drive = early_drive(pictures, self.blob, self.gabors)
        drive = (drive - self.drive_mean) / self.drive_sd
        weights = self.cortex.early_weights[self.is_early].astype(np.float32)
        out[:, self.is_early] = np.sum(drive * weights.T[:, None, :], axis=0)
        out[:, ~self.is_early] = self._higher(codes)[:, ~self.is_early]
        return out

    def _higher(self, codes: np.ndarray) -> np.ndarray:
        """Mixed selectivity: an object's attributes, seen through a wide field, and its setting."""
        c = self.cortex
        x, y = ((codes[:, ATTRIBUTES.index(a), None] + 1) / 2 for a in ("x", "y"))
        near = np.exp(-((x - c.fields.x) ** 2 + (y - c.fields.y) ** 2) / (2 * c.fields.width**2))
        z = (codes - self.code_mean) / self.code_sd
        return np.logaddexp(0, near * (1 + z @ c.object_weights.T) + z @ c.setting_weights.T)


def _codes(scenes: Sequence[Scene]) -> np.ndarray:
    return np.stack([attributes(s) for s in scenes])


@lru_cache(maxsize=1)
def _reference() -> tuple[np.ndarray, np.ndarray]:
    scenes = training_scenes(N_REFERENCE, seed=1)
    return _codes(scenes), shrink(np.stack([draw(s) for s in scenes]))
