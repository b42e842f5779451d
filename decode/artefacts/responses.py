"""Responses of the brain as they lie on disk: where each was measured, and how well it can be predicted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from decode.artefacts.folds import fold_folder
from decode.artefacts.places import ABLATED, ablated_of, place_of
from decode.core import InputError, Layout, Responses
from decode.linear.encoding import BRAIN
from decode.sources import Source
from decode.store import (
    Frame,
    as_file_name,
    from_file_name,
    read_array,
    read_json,
    write_array,
    write_json,
)

SITES, CEILINGS, MEASURED = "sites.json", "ceilings", "measured"


def write_sites(out: Path, layouts: Mapping[str, Layout]) -> None:
    """Name, region and time of every response (channel by channel, sample by sample) of each subject."""
    sites = {}
    for subject, layout in layouts.items():
        times = [layout.start + i / layout.sfreq for i in range(layout.n_times)]
        sites[subject] = {
            "names": np.repeat(layout.names, layout.n_times).tolist(),
            "rois": np.repeat(layout.rois, layout.n_times).tolist(),
            "times": times * layout.n_channels if layout.n_times > 1 else [],
        }
    write_json(out / SITES, sites)


def write_response_ceilings(
    out: Path, split: str, fold: int, ceilings: Mapping[str, np.ndarray]
) -> None:
    """`ceilings/<fold>/<subject>.npy` (voxel,), the correlations of a perfect model."""
    beside = fold_folder(out / CEILINGS, split, fold)
    beside.mkdir(parents=True, exist_ok=True)
    for subject, ceiling in ceilings.items():
        write_array(beside / f"{as_file_name(subject)}.npy", ceiling)


def responses(
    folder: Path,
    split: str,
    table: pd.DataFrame,
    measured: Tensor,
    expected: Tensor,
    without: Mapping[str, Tensor] | None = None,
) -> Responses:
    """Measured and expected responses (row, voxel) with what `folder` says of their sites and ceilings."""
    sites = read_json(folder / SITES)
    ceiling = {}
    for fold in table["fold"].unique():
        known = fold_folder(folder / CEILINGS, split, int(fold))
        for path in sorted(known.glob("*.npy")):
            ceiling[from_file_name(path.stem), int(fold)] = read_array(path)

    def of(kind: str) -> dict[str, tuple[str, ...]]:
        return {subject: tuple(told[kind]) for subject, told in sites.items()}

    times = {k: tuple(told["times"]) or (np.nan,) * len(told["names"]) for k, told in sites.items()}
    return Responses(measured, expected, of("rois"), ceiling, of("names"), times, without or {})


def predicted_responses(
    folder: Path, split: str, frame: Frame, truth: Tensor, made: Tensor, *, ablated: bool
) -> Responses:
    """What a model of the brain predicted, `made` (row, channel, time), beside the `truth`; with what it
    predicts without each target that it reads where it is the `ablated` one.
    """
    folders = {name.split("/")[1] for name in frame.arrays if name.startswith(f"{ABLATED}/")}
    names = sorted(map(from_file_name, folders)) if ablated else []
    without = {name: frame.tensors(ablated_of(name))[BRAIN].flatten(1) for name in names}
    return responses(folder, split, frame.table, truth.flatten(1), made.flatten(1), without)


def expected_of(source: Source) -> str:
    """What the array of the responses to what a source has made is called."""
    return f"{place_of(source)}/expected"


def read_responses(
    folder: Path, split: str, table: pd.DataFrame, source: Source
) -> Responses | None:
    """Responses to what a source has made, aligned with the pooled test rows of a split; None for a source
    without media. Raises InputError where the rows are others.
    """
    names = (MEASURED, expected_of(source))
    parts: list[list[np.ndarray]] = [[], []]
    for number, rows in table.groupby("fold", sort=False):
        place = fold_folder(folder, split, int(str(number)))
        frame = Frame.read(place)
        if names[1] not in frame.arrays:
            return None
        check_rows(frame.table, rows, place)
        for mine, name in zip(parts, names, strict=True):
            mine.append(frame.arrays[name])
    measured, expected = (torch.from_numpy(np.concatenate(mine)) for mine in parts)
    return responses(folder, split, table, measured, expected)


def check_rows(mine: pd.DataFrame, theirs: pd.DataFrame, place: Path) -> None:
    if any(mine[k].tolist() != theirs[k].tolist() for k in ("subject", "stimulus")):
        raise InputError(
            f"{place}: expected the rows of the predictions, got others; delete the folder and run "
            "again"
        )
