"""reconstruct: predictions -> pictures or texts, and those of every control beside them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from decode.artefacts.folds import fold_folder
from decode.artefacts.media import place, write_media
from decode.artefacts.places import folder_of, place_of, truth_of
from decode.artefacts.trained import tuned_with
from decode.core import Generator, Kind, Media, Stimulus, Tensors
from decode.folds import Inputs
from decode.media.medium import MEDIA
from decode.progress import progress
from decode.scoring.rows import shuffled_rows
from decode.sources import DECODER, MEAN, NEAREST, ORACLE, PRIOR, SHUFFLED, Source
from decode.splitting import TRAIN
from decode.store import Frame, whole_file

CHUNK = 50
NEAREST_BLOCK = 256
# Media that rows of one stimulus share lie here, each once.
ONCE = "once"


def run(
    out: Path,
    *,
    inputs: Inputs,
    predicted: Path,
    trained: Path,
    stimuli: Mapping[str, Stimulus],
    generator: Generator,
    sources: Sequence[Source],
    seed: int,
) -> dict[str, Any]:
    """Per fold, one folder of files per source (`place_of`): the decoder and baselines of `sources`, and
    the controls, in the format of what the generator makes (`decode.media`).

    Controls: `oracle` drives the generator with the true targets (how good it can get), `prior` with
    the mean training target (what it makes of no brain at all). Where training stimuli are of the kind
    that is made, `mean_image` (or the mean of that kind, where it has one) is their mean and
    `nearest_image` (or that kind) the one nearest to the prediction; where texts are made,
    `nearest_text` is the first text of that training stimulus, unless texts answer its own questions.

    A generator that asks about each stimulus also answers from another trial's prediction,
    `shuffled`: pairs of answers and stimuli that are shuffled later would not fit the questions.

    A generator that was tuned with an encoder makes that encoder's media, and `prior` is made by the
    one of the decoder; `oracle` comes from the generator as published, whose conditions the true
    targets are.
    """
    n = 0
    for split, fold in inputs.folds():
        frame = Frame.read(fold_folder(predicted, split, fold))
        folder = fold_folder(out, split, fold)
        key = nearest_target(inputs.features, generator)
        wanted = {key, *generator.needs}
        shown, truth = training_part(inputs, split, fold, stimuli, wanted)
        generator.learn(shown, truth)
        label = f"reconstruct {split} {fold}"
        weights = fold_folder(trained, split, fold)
        tuned = tuned_with(DECODER, weights)
        asked = None
        if generator.asks:
            asked = {u: generator.asked_of(stimuli[u]) for u in frame.table["stimulus"]}
        make = partial(_make, generator, asked, seed=seed, label=label)
        for source in sources:
            generator.tune(tuned_with(source, weights))
            make(frame.tensors(place_of(source)), frame.table, folder_of(folder, source))
        if generator.asks:
            generator.tune(tuned)
            order = torch.from_numpy(shuffled_rows(frame.table, seed))
            others = {k: v[order] for k, v in frame.tensors(place_of(DECODER)).items()}
            make(others, frame.table, folder_of(folder, SHUFFLED))
        _controls(generator, make, tuned, frame, shown, truth, key, folder)
        n += len(frame.table)
    return {"n_reconstructions": n, "disclosure": generator.disclosure}


def nearest_target(names: Iterable[str], generator: Generator) -> str:
    """The target in which the nearest training stimulus is looked for."""
    return "retrieval" if "retrieval" in names else (generator.needs or tuple(names))[0]


def training_part(
    inputs: Inputs,
    split: str,
    fold: int,
    stimuli: Mapping[str, Stimulus],
    names: Iterable[str] | None = None,
) -> tuple[list[Stimulus], Tensors]:
    """The distinct training stimuli of one fold and their targets (stimulus, *shape): all, or those
    named.
    """
    uids = inputs.part(split, fold, TRAIN).table["stimulus"].unique()
    digests = [inputs.digests[u] for u in uids]
    # What a trial was answered with is nothing of its stimulus.
    shown = [name for name, store in inputs.features.items() if not store.of_trials]
    truth = {name: inputs.features[name].rows(digests) for name in sorted(names or shown)}
    return [stimuli[u] for u in uids], truth


def seed_of(seed: int, stimulus: str) -> int:
    """One seed per stimulus, whatever else is generated beside it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stimulus}".encode()).digest()[:4], "big")


def _make(
    generator: Generator,
    asked: Mapping[str, Sequence[str]] | None,
    wanted: Tensors,
    table: pd.DataFrame,
    folder: Path,
    *,
    seed: int,
    label: str,
) -> None:
    """Media that are not there yet, in batches, one file each; answers where there are questions
    `asked` by stimulus.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [seed_of(seed, s) for s in table["stimulus"]]
    todo = [i for i in range(len(table)) if not place(folder, i, generator.makes).is_file()]
    chunks = [todo[i : i + CHUNK] for i in range(0, len(todo), CHUNK)]
    for chunk in progress(chunks, f"{label} {folder.name}"):
        part = {k: v[chunk] for k, v in wanted.items()}
        if asked is None:
            made = generator(part, seeds=[seeds[i] for i in chunk])
        else:
            made = generator.replies(part, [asked[table["stimulus"].iloc[i]] for i in chunk])
        for row, media in zip(chunk, made, strict=True):
            write_media(folder, row, media)


def _controls(
    generator: Generator,
    make: Callable[[Tensors, pd.DataFrame, Path], None],
    tuned: Tensors,
    frame: Frame,
    shown: Sequence[Stimulus],
    truth: Tensors,
    key: str,
    folder: Path,
) -> None:
    table = frame.table
    uids = table["stimulus"].drop_duplicates()
    true = frame.tensors(truth_of())
    first = np.array(uids.index)
    once = table.loc[first].reset_index(drop=True)
    for source, weights, wanted in (
        (ORACLE, {}, {k: v[first] for k, v in true.items()}),
        (
            PRIOR,
            tuned,
            {k: v.mean(0, keepdim=True).expand(len(first), *v.shape[1:]) for k, v in truth.items()},
        ),
    ):
        generator.tune(weights)
        # Subjects who saw the same stimulus share these pictures: they do not depend on the brain.
        shared = folder / ONCE / source.name
        make(wanted, once, shared)
        row_of = {u: i for i, u in enumerate(uids)}
        rows = [row_of[u] for u in table["stimulus"]]
        _link(shared, folder_of(folder, source), rows, generator.makes)
    nearest = nearest_rows(frame.tensors(place_of(DECODER))[key], truth[key])
    kind = generator.makes
    if generator.asks or not all(s.is_there_as(kind) for s in shown):
        return
    near = (shown[i].read_as(kind) for i in nearest)
    _write_once(folder_of(folder, NEAREST[kind]), near, len(table), kind)
    if kind in MEAN:
        mean = repeat(mean_of(kind, shown))
        _write_once(folder_of(folder, MEAN[kind]), mean, len(table), kind)


def nearest_rows(predicted: Tensor, truth: Tensor) -> list[int]:
    """Index of the training row most similar (cosine) to each prediction, ties to the first.

    In float64, a block of training rows at a time: image tokens of a whole data set fill the memory
    as they are.
    """
    normalize = torch.nn.functional.normalize
    p = normalize(predicted.flatten(1).double(), dim=1)
    blocks = truth.flatten(1).split(NEAREST_BLOCK)
    likeness = torch.cat([p @ normalize(t.double(), dim=1).T for t in blocks], dim=1)
    return [int(i) for i in likeness.argmax(dim=1)]


def mean_of(kind: Kind, shown: Sequence[Stimulus]) -> Media:
    """The mean of stimuli of a kind that has one."""
    mean = MEDIA[kind].mean
    assert mean is not None
    told = progress(shown, f"mean training {kind}", total=len(shown))
    return Media(kind, *mean((m.data, m.rate) for m in (s.read_as(kind) for s in told)))


def _write_once(folder: Path, made: Iterable[Media], n: int, kind: Kind) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for row, media in zip(range(n), made, strict=False):
        if not place(folder, row, kind).is_file():
            write_media(folder, row, media)


def _link(source: Path, folder: Path, rows: Sequence[int], kind: Kind) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(rows):
        path = place(folder, i, kind)
        if not path.is_file():
            with whole_file(path) as part:
                part.unlink()
                os.link(place(source, row, kind), part)
