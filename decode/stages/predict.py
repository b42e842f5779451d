"""predict: open the test part once, with the weights of its fold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from decode.artefacts.folds import fold_folder
from decode.artefacts.places import ablated_of, place_of, truth_of
from decode.artefacts.responses import write_response_ceilings, write_sites
from decode.artefacts.trained import MakeEncoder, load_encoder, load_scaler, weights_file
from decode.ceilings import from_repeats, response_ceilings
from decode.core import Batch, Tensors
from decode.division import Scaler
from decode.folds import Inputs, Protocol
from decode.linear.encoding import BRAIN
from decode.scoring.ceiling import (
    by_region,
)
from decode.sources import DECODER, Source
from decode.splitting import TEST, TRAIN
from decode.store import Frame, write_table
from decode.strangers import with_strangers
from decode.trainable import Encoder
from decode.trials import Loader, Trials

BATCH = 256
CEILINGS = "ceilings.parquet"


def run(
    out: Path,
    *,
    inputs: Inputs,
    trained: Path,
    scaler: Scaler,
    encoders: Mapping[Source, MakeEncoder],
    parts: Mapping[Source, MakeEncoder],
    protocol: Protocol,
    device: str,
) -> dict[str, Any]:
    """One Frame per fold: predictions in the folder of each source, by target, a row per test trial, and
    what they are judged on in `truth/decoder`; a source whose truth is another has its own beside that.

    A model of the brain predicts `brain`, and in `ablated` what it does when it is fitted without one of the
    targets that it reads; beside the frames lie sites and ceilings of the responses.
    Beside it, where test stimuli were repeated, ceilings.parquet: see `ceilings`.
    """
    for split, fold in inputs.folds():
        done = fold_folder(out, split, fold)
        if done.exists():
            continue
        weights = fold_folder(trained, split, fold)
        states = load_scaler(weights)
        test = singles = inputs.part(split, fold, TEST).scale(scaler, states)
        if protocol.test_repeats == "before":
            test = test.average("stimulus")
        table = test.table.assign(split=split, fold=fold).drop(columns="start")
        groups = repeats_of(table) if protocol.test_repeats == "after" else None
        arrays: dict[str, np.ndarray] = {}
        made = partial(_loader, inputs, device)
        test = replace(test, as_one=protocol.unseen == "shared")
        loader = whole = made(test.since(protocol.after))
        if parts and protocol.after is not None:
            whole = made(test)
        for source, make in {**encoders, **parts}.items():
            seen = whole if source in parts else loader
            encoder = load_encoder(make, seen.trials, inputs, weights_file(weights, source))
            encoder = with_strangers(encoder.to(device), inputs, split, fold, protocol).eval()
            predicted, truth = predict(encoder, seen, groups)
            without = ablations(encoder, seen, groups) if source == DECODER else {}
            if protocol.rescale == "transductive":
                train = inputs.part(split, fold, TRAIN)
                predicted = rescale_by_test(
                    predicted, _training_truth(encoder, train, inputs, device)
                )
            arrays |= {f"{truth_of(source)}/{k}": v for k, v in differing(truth, arrays).items()}
            arrays |= {f"{place_of(source)}/{k}": v for k, v in predicted.items()}
            arrays |= {f"{ablated_of(k)}/{BRAIN}": v for k, v in without.items()}
        if groups is not None:
            table = table.iloc[[g[0] for g in groups]].reset_index(drop=True)
            table = table.assign(repeats=[len(g) for g in groups])
        frame = Frame(table, arrays)
        part = done.with_name(done.name + ".part")
        frame.write(part)
        if f"{truth_of()}/{BRAIN}" in arrays:
            there = singles.since(protocol.after)
            write_response_ceilings(out, split, fold, response_ceilings(there, table))
            write_sites(out, there.layouts)
        known = ceilings(singles.since(protocol.after))
        if len(known):
            write_table(part / CEILINGS, known.assign(split=split, fold=fold))
        os.replace(part, done)
    return {"n_folds": len(inputs.folds())}


def differing(
    truth: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The arrays of a source's truth that the decoder's among `arrays` does not hold already."""
    known = {name: arrays.get(f"{truth_of()}/{name}") for name in truth}
    return {
        name: value
        for name, value in truth.items()
        if (there := known[name]) is None or not np.array_equal(there, value)
    }


def ceilings(singles: Trials) -> pd.DataFrame:
    """Noise ceilings of test trials as the decoder sees them: a row per subject and region (see
    `by_region`) with the number of stimuli that were shown once, twice, ... as "1:206 2:279 3:515".
    """
    rows = []
    for subject, found in from_repeats(singles).items():
        mine = singles.table.loc[singles.table["subject"] == subject, "stimulus"]
        counts = mine.value_counts()
        times = " ".join(f"{k}:{n}" for k, n in counts.value_counts().sort_index().items())
        layout = singles.layouts[subject]
        regions = np.repeat(layout.rois, layout.n_times).tolist()
        rows += [
            {"subject": subject, **row, "shown": times}
            for row in by_region(found, regions, counts.tolist())
        ]
    return pd.DataFrame(rows)


def _loader(inputs: Inputs, device: str, test: Trials) -> Loader:
    return test.loader(inputs.features, inputs.digests, batch_size=BATCH, device=device)


@torch.no_grad()
def predict(
    encoder: Encoder, loader: Iterable[Batch], groups: Sequence[np.ndarray] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Predictions and embedded truth, (trial, *shape) per target.

    With `groups`, the rows of each stimulus' repeats, (group, *shape): what the encoder may average
    is averaged, and samples are drawn of the mean.
    """
    asked = encoder if groups is None else encoder.before_sampling
    predicted: dict[str, list[np.ndarray]] = {}
    truth: dict[str, list[np.ndarray]] = {}
    for batch in loader:
        _keep(predicted, asked(batch))
        _keep(truth, encoder.truth(batch))
    if groups is None:
        return _joined(predicted), _joined(truth)
    means = _means(_joined(predicted), groups)
    predicted = {}
    for first in range(0, len(groups), BATCH):
        some = {k: torch.from_numpy(v[first : first + BATCH]) for k, v in means.items()}
        _keep(predicted, encoder.sampled({k: v.to(batch.brain.device) for k, v in some.items()}))
    return _joined(predicted), _means(_joined(truth), groups)


@torch.no_grad()
def ablations(
    encoder: Encoder, loader: Iterable[Batch], groups: Sequence[np.ndarray] | None
) -> dict[str, np.ndarray]:
    """Responses (trial, channel, time), or of groups, of a model of the brain fitted without something."""
    parts: dict[str, list[np.ndarray]] = {}
    for batch in loader:
        _keep(parts, {left_out: made[BRAIN] for left_out, made in encoder.ablated(batch).items()})
    found = _joined(parts)
    return found if groups is None else _means(found, groups)


def _keep(parts: dict[str, list[np.ndarray]], made: Tensors) -> None:
    for name, value in made.items():
        parts.setdefault(name, []).append(value.float().cpu().numpy())


def repeats_of(table: pd.DataFrame) -> list[np.ndarray]:
    """Row numbers of each subject and stimulus, in the order in which they first appear."""
    groups = table.groupby(["subject", "stimulus"], sort=False).indices
    return [np.asarray(rows) for rows in groups.values()]


def _means(arrays: Mapping[str, np.ndarray], groups: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {k: np.stack([v[g].mean(axis=0) for g in groups]) for k, v in arrays.items()}


def _joined(parts: Mapping[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    return {k: np.concatenate(v) for k, v in parts.items()}


def _training_truth(
    encoder: Encoder, train: Trials, inputs: Inputs, device: str
) -> dict[str, np.ndarray]:
    contents = inputs.contents(train)
    targets: Tensors = {
        name: store.rows(contents).to(device) for name, store in inputs.features.items()
    }
    with torch.no_grad():
        return {k: v.cpu().numpy() for k, v in encoder.embed(targets).items()}


def rescale_by_test(
    predicted: Mapping[str, np.ndarray], training: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Give test predictions, standardised over the whole test set, the training targets' mean and
    spread (Ozcelik & VanRullen 2023). Needs all test trials at once, hence the stamp.
    """
    made = {}
    for name, value in predicted.items():
        spread = value.std(axis=0)
        z = (value - value.mean(axis=0)) / np.where(spread > 0, spread, 1)
        made[name] = z * training[name].std(axis=0) + training[name].mean(axis=0)
    return made
