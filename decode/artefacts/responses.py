"""Responses of the brain as they lie on disk: where each was measured, and how well it can be predicted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from decode.artefacts.folds import fold_folder
from decode.core import InputError, Layout, Responses
from decode.store import (
    Frame,
    as_file_name,
    from_file_name,
    read_array,
    read_json,
    write_array,
    write_json,
)

SITES, CEILING, ABLATED = "sites.json", "ceiling", "ablated"


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


def write_response_ceilings(fold: Path, ceilings: Mapping[str, np.ndarray]) -> None:
    """`ceiling/<subject>.npy` (voxel,) of one fold, the correlations of a perfect model."""
    (fold / CEILING).mkdir(exist_ok=True)
    for subject, ceiling in ceilings.items():
        write_array(fold / CEILING / f"{as_file_name(subject)}.npy", ceiling)


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
        place = fold_folder(folder, split, int(fold)) / CEILING
        for path in sorted(place.glob("*.npy")):
            ceiling[from_file_name(path.stem), int(fold)] = read_array(path)

    def of(kind: str) -> dict[str, tuple[str, ...]]:
        return {subject: tuple(told[kind]) for subject, told in sites.items()}

    times = {k: tuple(told["times"]) or (np.nan,) * len(told["names"]) for k, told in sites.items()}
    return Responses(measured, expected, of("rois"), ceiling, of("names"), times, without or {})


def predicted_responses(
    folder: Path, split: str, table: pd.DataFrame, truth: Tensor, made: Tensor, *, ablated: bool
) -> Responses:
    """What a model of the brain predicted, `made` (row, channel, time), beside the `truth`; with what it
    predicts without each target that it reads where it is the `ablated` one.
    """
    without = _read_ablated(folder, split, table) if ablated else {}
    return responses(folder, split, table, truth.flatten(1), made.flatten(1), without)


def _read_ablated(folder: Path, split: str, table: pd.DataFrame) -> dict[str, Tensor]:
    first = fold_folder(folder, split, int(table["fold"].iloc[0])) / ABLATED
    names = tuple(Frame.read(first).arrays)
    found = read_aligned(folder, split, table, names, ABLATED) or []
    return {
        name.rpartition(".")[0]: made.flatten(1) for name, made in zip(names, found, strict=True)
    }


def read_responses(folder: Path, split: str, table: pd.DataFrame, source: str) -> Responses | None:
    """Responses, aligned with the pooled test rows of a split, to what a source has made; None for a
    source without pictures.
    """
    both = read_aligned(folder, split, table, ("measured", f"expected.{source}"))
    return None if both is None else responses(folder, split, table, both[0], both[1])


def read_aligned(
    folder: Path, split: str, table: pd.DataFrame, names: tuple[str, ...], below: str = ""
) -> list[Tensor] | None:
    """Arrays of the frames `below` the folds of a split, pooled; None where one of them is missing.

    Raises InputError where a frame has other rows than the pooled `table`.
    """
    parts: list[list[np.ndarray]] = [[] for _ in names]
    for number, rows in table.groupby("fold", sort=False):
        place = fold_folder(folder, split, int(str(number))) / below
        frame = Frame.read(place)
        if any(name not in frame.arrays for name in names):
            return None
        check_rows(frame.table, rows, place)
        for mine, name in zip(parts, names, strict=True):
            mine.append(frame.arrays[name])
    return [torch.from_numpy(np.concatenate(mine)) for mine in parts]


def check_rows(mine: pd.DataFrame, theirs: pd.DataFrame, place: Path) -> None:
    if any(mine[k].tolist() != theirs[k].tolist() for k in ("subject", "stimulus")):
        raise InputError(
            f"{place}: expected the rows of the predictions, got others; delete the folder and run "
            "again"
        )
