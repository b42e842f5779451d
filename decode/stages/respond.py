"""respond: what a model of the brain, fitted on training rows, expects of the pictures that were made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decode.artefacts.folds import fold_folder
from decode.artefacts.media import kept_kind, place
from decode.artefacts.places import folder_of
from decode.artefacts.responses import (
    MEASURED,
    expected_of,
    write_response_ceilings,
    write_sites,
)
from decode.artefacts.trained import MakeEncoder, load_scaler
from decode.ceilings import response_ceilings
from decode.checksums import check_finished
from decode.core import Batch, InputError, Stimulus, Target, Tensors, about
from decode.division import Scaler
from decode.folds import Inputs, Protocol
from decode.linear.encoding import BRAIN
from decode.progress import progress
from decode.sources import MADE, ORACLE, SHOWN, Source
from decode.splitting import TEST, TRAIN
from decode.store import Frame
from decode.trainable import Encoder
from decode.trials import Loader, Trials
from decode.vectors import FeatureStore

# What the model of the brain calls what it reads.
PICTURE = "picture"
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
    make: MakeEncoder,
) -> dict[str, Any]:
    """One Frame per fold: `measured` and, in the folder of each source of pictures, `expected` (row, voxel).

    `target` gives features of pictures, `features` holds them for the stimuli. `make` makes an encoder
    from these to the brain, which is fitted to training rows with repeats averaged; `measured` are the
    test rows as predictions are made from them. Beside them lie sites and ceilings of the responses.
    """
    layouts = inputs.trials.since(protocol.after).layouts
    for split, fold in inputs.folds():
        states = load_scaler(fold_folder(trained, split, fold))
        train, singles = (
            inputs.part(split, fold, part).scale(scaler, states).since(protocol.after)
            for part in (TRAIN, TEST)
        )
        test = singles if protocol.test_repeats == "single" else singles.average("stimulus")
        model, features_of = make(layouts, {PICTURE: features.shape}).eval(), _Made(target)
        with about("voxel_model"), torch.no_grad():
            model.initialise(_loader(features, inputs, train.average("stimulus")), ())
            shown = list(_loader(features, inputs, test))
            arrays = {
                MEASURED: _flat(map(model.truth, shown)),
                expected_of(SHOWN): _flat(map(model, shown)),
            }
            for source, folder in made_by(fold_folder(made, split, fold), sources, len(test)):
                seen = features_of(folder, len(test))
                arrays[expected_of(source)] = expect(model, shown, seen)
        Frame(test.table.drop(columns="start"), arrays).write(fold_folder(out, split, fold))
        write_response_ceilings(out, split, fold, response_ceilings(singles, test.table))
    write_sites(out, layouts)
    return {"n_folds": len(inputs.folds())}


def _loader(features: FeatureStore, inputs: Inputs, trials: Trials) -> Loader:
    return trials.loader({PICTURE: features}, inputs.digests, batch_size=AT_ONCE)


def _flat(made: Iterable[Tensors]) -> np.ndarray:
    """(row, channel x time) of all batches of responses."""
    return np.concatenate([responses[BRAIN].flatten(1).numpy() for responses in made])


def expect(model: Encoder, shown: Iterable[Batch], seen: np.ndarray) -> np.ndarray:
    """(row, channel x time) expected responses to pictures with features `seen` (row, feature), in place
    of those that were shown.
    """
    made, first = [], 0
    for batch in shown:
        x = torch.from_numpy(seen[first : first + len(batch)])
        made.append(model(replace(batch, targets={PICTURE: x})))
        first += len(batch)
    return _flat(made)


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
