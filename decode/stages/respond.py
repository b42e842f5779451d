"""respond: what a model of the brain, fitted on training rows, expects of the pictures that were made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from decode.artefacts.folds import fold_folder
from decode.artefacts.media import kept_kind, place
from decode.artefacts.places import folder_of, place_of
from decode.artefacts.trained import load_scaler
from decode.ceilings import from_repeats
from decode.checksums import check_finished
from decode.core import InputError, Responses, Scaler, Stimulus, Target, refusal
from decode.folds import Inputs, Protocol
from decode.linear.encoding import EncodingModel, fit_encoding
from decode.progress import progress
from decode.sources import MADE, ORACLE, SHOWN, Source
from decode.splitting import TEST, TRAIN
from decode.store import (
    FeatureStore,
    Frame,
    as_file_name,
    from_file_name,
    read_array,
    read_json,
    write_array,
    write_json,
)
from decode.trials import Trials

MEASURED, CEILINGS = "measured", "ceilings"
AT_ONCE = 256


def run(
    out: Path,
    *,
    inputs: Inputs,
    trained: Path,
    scaler: Scaler,
    protocol: Protocol,
    made: Path,
    sources: Sequence[Source],
    target: Target,
    features: FeatureStore,
) -> dict[str, Any]:
    """One Frame per fold: `measured` and, in the folder of each source of pictures, `expected` (row, voxel).

    `target` gives features of pictures, `features` holds them for the stimuli. The model of each
    subject is a ridge from these to the voxels, on training rows with repeats averaged; `measured`
    are the test rows as predictions are made from them. Beside them, `ceilings/<fold>/<subject>.npy`.
    """
    for split, fold in inputs.folds():
        states = load_scaler(fold_folder(trained, split, fold))
        train, singles = (
            inputs.part(split, fold, part).scale(scaler, states).since(protocol.after)
            for part in (TRAIN, TEST)
        )
        test = singles if protocol.test_repeats == "single" else singles.average("stimulus")
        models = _fit(train.average("stimulus"), inputs, features, f"voxel model {split} {fold}")
        arrays = {MEASURED: measured(test)}
        features_of = _Made(target)
        for source, folder in made_by(fold_folder(made, split, fold), sources, len(test)):
            seen = features_of(folder, len(test))
            arrays[expected_of(source)] = expect(models, test, seen, source)
        shown = _features(test.table, inputs, features)
        arrays[expected_of(SHOWN)] = expect(models, test, shown, SHOWN)
        Frame(test.table.drop(columns="start"), arrays).write(fold_folder(out, split, fold))
        beside = fold_folder(out / CEILINGS, split, fold)
        beside.mkdir(parents=True, exist_ok=True)
        for subject, ceiling in ceilings(singles, test).items():
            write_array(beside / f"{as_file_name(subject)}.npy", ceiling)
    rois = {
        name: np.repeat(layout.rois, layout.n_times).tolist()
        for name, layout in inputs.trials.since(protocol.after).layouts.items()
    }
    write_json(out / "rois.json", rois)
    return {"n_folds": len(inputs.folds())}


def _fit(
    train: Trials, inputs: Inputs, features: FeatureStore, label: str
) -> dict[str, EncodingModel]:
    models = {}
    table = train.table
    groups = table.groupby("subject", sort=False).indices
    for subject, rows in progress(groups.items(), label, total=len(groups)):
        x = _features(table.iloc[rows], inputs, features)
        models[str(subject)] = fit_encoding(x, _flat(train, np.asarray(rows)))
    return models


def _features(table: pd.DataFrame, inputs: Inputs, features: FeatureStore) -> np.ndarray:
    """(row, feature) of the stimuli in a table."""
    return features.rows([inputs.digests[u] for u in table["stimulus"]]).flatten(1).numpy()


def _flat(trials: Trials, rows: np.ndarray) -> np.ndarray:
    """(row, channel x time) of rows of one subject."""
    parts = [trials.brain(rows[i : i + AT_ONCE]) for i in range(0, len(rows), AT_ONCE)]
    return np.concatenate([p.reshape(len(p), -1) for p in parts])


def _empty(trials: Trials) -> np.ndarray:
    width = max(layout.n_channels * layout.n_times for layout in trials.layouts.values())
    return np.zeros((len(trials), width), np.float32)


def measured(trials: Trials) -> np.ndarray:
    """(row, voxel) preprocessed responses, zero-padded to the widest subject."""
    out = _empty(trials)
    for rows in trials.table.groupby("subject", sort=False).indices.values():
        values = _flat(trials, np.asarray(rows))
        out[rows, : values.shape[1]] = values
    return out


def expect(
    models: Mapping[str, EncodingModel], test: Trials, seen: np.ndarray, source: Source
) -> np.ndarray:
    """(row, voxel) expected responses to pictures with features `seen` (row, feature)."""
    out = _empty(test)
    for subject, rows in test.table.groupby("subject", sort=False).indices.items():
        if str(subject) not in models:
            raise refusal(
                "voxel_model",
                "training rows of each subject with test rows, so that a model of its voxels can be "
                f"fitted (for {source})",
                f"none of {subject!r}",
                "choose a split within subjects or leave voxel_model out",
            )
        values = models[str(subject)](seen[rows])
        out[rows, : values.shape[1]] = values
    return out


def expected_of(source: Source) -> str:
    """What the array of the responses to what a source has made is called."""
    return f"{place_of(source)}/expected"


def made_by(fold: Path, sources: Sequence[Source], n: int) -> Iterator[tuple[Source, Path]]:
    """The sources that have made one thing per row in a fold, and where these lie."""
    for source in (*sources, *MADE, ORACLE):
        folder = folder_of(fold, source)
        if source.role == "control" and not folder.is_dir():
            continue
        if not place(folder, n - 1, kept_kind(folder)).is_file():
            raise InputError(
                f"voxel_model: expected {n} made things in {folder}, found fewer or none; make them "
                "again with force=[reconstruct], or leave voxel_model out"
            )
        yield source, folder


class _Made:
    """Features of made things (row, feature); equal files are read by the target once."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, folder: Path, n: int) -> np.ndarray:
        kind = kept_kind(folder)
        paths = [place(folder, i, kind) for i in range(n)]
        for path in paths:
            check_finished(path)
        made = [Stimulus(str(i), kind, path=str(path)) for i, path in enumerate(paths)]
        digests = [s.digest() for s in made]
        new = {d: s for d, s in zip(digests, made, strict=True) if d not in self._known}
        names = list(new)
        chunks = [names[i : i + AT_ONCE] for i in range(0, len(names), AT_ONCE)]
        for chunk in progress(chunks, f"voxel model features {folder.name}"):
            values = self.target([new[d] for d in chunk]).float().flatten(1).numpy()
            self._known.update(zip(chunk, values, strict=True))
        return np.stack([self._known[d] for d in digests])


def ceilings(singles: Trials, test: Trials) -> dict[str, np.ndarray]:
    """Per subject (voxel,): the correlation of a perfect model with the test rows.

    From the variance between repeats of test stimuli; nan where fewer than two were repeated. The
    explainable share is estimated without bias, its root is a little low when stimuli are few (0.535
    for 0.554 with 80 stimuli of three repeats). No estimate is below 0, so a voxel without any signal
    is taken for one with some, the more so the fewer stimuli there are.
    """
    found, known = {}, from_repeats(singles)
    for subject in singles.table["subject"].unique():
        layout = singles.layouts[subject]
        share = np.full(layout.n_channels * layout.n_times, np.nan, np.float32)
        if subject in known:
            counts = test.table.loc[test.table["subject"] == subject, "repeats"].tolist()
            share[:] = known[subject].ceiling(counts)
        found[str(subject)] = np.sqrt(share)
    return found


def read_responses(
    folder: Path, split: str, table: pd.DataFrame, source: Source
) -> Responses | None:
    """Responses aligned with the pooled test rows of a split; None for a source without pictures."""
    found: dict[str, list[np.ndarray]] = {MEASURED: [], expected_of(source): []}
    ceiling = {}
    for number, rows in table.groupby("fold", sort=False):
        place = fold_folder(folder, split, int(str(number)))
        frame = Frame.read(place)
        if expected_of(source) not in frame.arrays:
            return None
        check_rows(frame.table, rows, place)
        for name, parts in found.items():
            parts.append(frame.arrays[name])
        known = fold_folder(folder / CEILINGS, split, int(str(number)))
        for path in sorted(known.glob("*.npy")):
            ceiling[from_file_name(path.stem), int(str(number))] = read_array(path)
    rois = {k: tuple(v) for k, v in read_json(folder / "rois.json").items()}
    both = [torch.from_numpy(np.concatenate(parts)) for parts in found.values()]
    return Responses(both[0], both[1], rois, ceiling)


def check_rows(mine: pd.DataFrame, theirs: pd.DataFrame, place: Path) -> None:
    keys: Sequence[str] = ("subject", "stimulus")
    if any(mine[k].tolist() != theirs[k].tolist() for k in keys):
        raise InputError(
            f"{place}: expected the rows of the predictions, got others; delete the folder and run "
            "again"
        )
