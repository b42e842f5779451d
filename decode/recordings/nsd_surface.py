"""Betas of the Natural Scenes Dataset on FreeSurfer's fsaverage surface: MGH files, one per hemisphere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from decode.core import InputError, refusal
from decode.recordings.nsd import region_name
from decode.volumes import whole_image

SPACE = "fsaverage"
HEMISPHERES = ("lh", "rh")
CHUNK_BYTES = 128 * 2**20
Vertices = dict[str, np.ndarray]


def session_files(folder: Path) -> dict[int, Path]:
    """The folder once per session of which both hemispheres are there, by number."""
    numbers = []
    for name in HEMISPHERES:
        found = [
            re.fullmatch(r"\w\w\.betas_session(\d+)\.mgh", p.name) for p in folder.glob(f"{name}.*")
        ]
        numbers.append({int(m[1]) for m in found if m})
    return {n: beta_path(folder, "lh", n) for n in sorted(numbers[0] & numbers[1])}


def beta_path(folder: Path, hemisphere: str, session: int) -> Path:
    return folder / f"{hemisphere}.betas_session{session:02d}.mgh"


def label_path(root: Path, hemisphere: str, name: str) -> Path:
    return root / "nsddata/freesurfer" / SPACE / "label" / f"{hemisphere}.{name}.mgz"


def files_of(
    root: Path, sessions: Iterable[Path], mask: str, rois: Sequence[str], ncsnr: Path | None
) -> list[Path]:
    """The files of both hemispheres: of the given sessions, of the labels, and of `ncsnr`."""
    found = []
    for name in HEMISPHERES:
        found += [path.with_name(f"{name}{path.name[2:]}") for path in sessions]
        found += [label_path(root, name, label) for label in (mask, *rois)]
        found += [] if ncsnr is None else [ncsnr / f"{name}.ncsnr.mgh"]
    return found


def read_vertices(
    root: Path,
    *,
    mask: str,
    rois: Sequence[str] = (),
    ncsnr: Path | None = None,
    ncsnr_above: float | None = None,
) -> tuple[Vertices, pd.DataFrame, dict[str, int]]:
    """The vertices of `mask` (values above 0) per hemisphere, their channels `lh-17`, `rh-4`, and how
    many vertices each hemisphere has.

    `rois` are label files of the same folder: the first that has a vertex names its region. `ncsnr`
    is a folder with a map per hemisphere; vertices not above the bound go.
    """
    vertices, tables, sizes = {}, [], {}
    for name in HEMISPHERES:
        path = label_path(root, name, mask)
        labels = read_mgh(path)
        keep = labels > 0
        if ncsnr is not None and ncsnr_above is not None:
            keep &= _alike(ncsnr / f"{name}.ncsnr.mgh", len(labels)) > ncsnr_above
        if not keep.any():
            raise InputError(
                f"{path}: expected vertices above 0"
                + (f" with ncsnr above {ncsnr_above:g}" if ncsnr_above is not None else "")
                + ", got none; choose another data.mask or bound"
            )
        vertices[name], sizes[name] = np.flatnonzero(keep), len(labels)
        region = np.full(len(labels), "", dtype=object)
        for roi in rois:
            value = _alike(label_path(root, name, roi), len(labels)).astype(int)
            free = (region == "") & (value > 0)
            region[free] = [region_name(roi, v) for v in value[free]]
        names = [f"{name}-{v}" for v in vertices[name]]
        table = pd.DataFrame({"name": names, "kind": "bold", "x": np.nan, "y": np.nan, "z": np.nan})
        tables.append(table.assign(roi=region[keep]))
    return vertices, pd.concat(tables, ignore_index=True), sizes


def read_surface_betas(
    folder: Path, session: int, vertices: Vertices, sizes: dict[str, int], n_trials: int
) -> np.ndarray:
    """(trial, vertex) float32 in percent signal change, left hemisphere first.

    Surface betas are stored as float32 percentages, unlike those of volumes. `sizes` says how many
    vertices each hemisphere of the mask has.
    """
    out = np.empty((n_trials, sum(map(len, vertices.values()))), np.float32)
    first = 0
    for name, kept in vertices.items():
        path = beta_path(folder, name, session)
        _need(path)
        columns = slice(first, first + len(kept))
        with whole_image(path) as image:
            _check_betas(path, image, (sizes[name], 1, 1, n_trials))
            step = max(1, CHUNK_BYTES // (4 * sizes[name]))
            for start in range(0, n_trials, step):
                part = slice(start, min(start + step, n_trials))
                out[part, columns] = np.asarray(image.dataobj[..., part])[kept, 0, 0].T
        first += len(kept)
    return out


def _check_betas(path: Path, image: Any, expected: tuple[int, ...]) -> None:
    found, kind = tuple(int(n) for n in image.shape), image.get_data_dtype()
    if found != expected or kind.kind != "f":
        raise InputError(
            f"{path}: expected float betas (vertex, 1, 1, trial) {expected}, as the mask and the "
            f"design say, got {kind.name} {found}; fetch the file again or "
            "choose a mask of the same surface"
        )


def read_mgh(path: Path) -> np.ndarray:
    """(vertex,) values of an MGH or MGZ file with one number per vertex."""
    _need(path)
    with whole_image(path) as image:
        values = np.asarray(image.dataobj)
    if values.shape[1:] not in ((1, 1), (1, 1, 1)):
        raise refusal(
            path, "one value per vertex", f"shape {values.shape}", "fetch the file of the surface"
        )
    return values.ravel()


def _alike(path: Path, n: int) -> np.ndarray:
    values = read_mgh(path)
    if len(values) != n:
        raise InputError(
            f"{path}: expected {n} vertices, as in the mask, got {len(values)}; fetch the file of {SPACE}"
        )
    return values


def _need(path: Path) -> None:
    if not path.is_file():
        raise InputError(
            f"{path}: expected an MGH file, found no such file; fetch it (docs/data_nsd.md)"
        )
