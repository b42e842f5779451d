"""respond: what a model of the brain, fitted on training rows, expects of the pictures that were made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decode.artefacts.folds import fold_folder
from decode.artefacts.media import kept_kind, place
from decode.artefacts.responses import write_response_ceilings, write_sites
from decode.artefacts.trained import MakeEncoder, load_scaler
from decode.ceilings import response_ceilings
from decode.checksums import check_finished
from decode.core import Batch, InputError, Scaler, Stimulus, Target, Tensors, about
from decode.folds import Inputs, Protocol
from decode.linear.encoding import BRAIN
from decode.progress import progress
from decode.splitting import TEST, TRAIN
from decode.store import FeatureStore, Frame
from decode.trainable import Encoder
from decode.trials import Loader, Trials

# The expectations of the shown pictures themselves: how good the model of the brain is.
SHOWN = "shown"
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
    target: Target,
    features: FeatureStore,
    make: MakeEncoder,
) -> dict[str, Any]:
    """One Frame per fold: `measured` and, per source of pictures, `expected.<source>` (row, voxel).

    `target` gives features of pictures, `features` holds them for the stimuli. `make` makes an encoder
    from these to the brain, which is fitted to training rows with repeats averaged; `measured` are the
    test rows as predictions are made from them. Beside it, `ceiling/<subject>.npy`.
    """
    layouts = inputs.trials.since(protocol.after).layouts
    for split, fold in inputs.folds():
        states = load_scaler(fold_folder(trained, split, fold))
        train, singles = (
            inputs.part(split, fold, part).scale(scaler, states).since(protocol.after)
            for part in (TRAIN, TEST)
        )
        test = singles if protocol.test_repeats == "single" else singles.average("stimulus")
        model = make(layouts, {PICTURE: features.shape}).eval()
        pictures, done = _Made(target), fold_folder(out, split, fold)
        with about("voxel_model"), torch.no_grad():
            model.initialise(_loader(features, inputs, train.average("stimulus")), ())
            shown = list(_loader(features, inputs, test))
            arrays = {
                "measured": _flat(map(model.truth, shown)),
                f"expected.{SHOWN}": _flat(map(model, shown)),
            }
            for folder in _sources(fold_folder(made, split, fold), len(test)):
                seen = pictures(folder, len(test))
                arrays[f"expected.{folder.name}"] = expect(model, shown, seen)
        Frame(test.table.drop(columns="start"), arrays).write(done)
        write_response_ceilings(done, response_ceilings(singles, test.table))
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


def _sources(folder: Path, n: int) -> list[Path]:
    """Folders of one made thing per row: decoded, baselines and controls."""
    found = [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.endswith("-once")]
    for path in found:
        if not place(path, n - 1, kept_kind(path)).is_file():
            raise InputError(
                f"voxel_model: expected {n} made things in {path}, found fewer or none; make them "
                "again with force=[reconstruct], or leave voxel_model out"
            )
    return found


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
