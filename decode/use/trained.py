"""The decoder of one fold of a finished run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from decode.artefacts.folds import fold_folder
from decode.artefacts.trained import load_scaler, tuned_with, weights_file
from decode.building import build
from decode.checksums import read_manifest
from decode.core import Generator, refusal
from decode.division import Scaler
from decode.folds import Inputs
from decode.sources import DECODER
from decode.splitting import TRAIN
from decode.stages.reconstruct import training_part
from decode.store import read_json, read_tensors
from decode.strangers import people, pooled_state
from decode.trainable import predicts_brain
from decode.trials import Trials
from decode.use.decoder import NODES, Decoder, Person
from decode.workshop import Run

# So many training windows, evenly spread, tell how large the signal is.
LOOKED_AT = 200


def decoder_of(run: Run, split: str | None = None, fold: int | None = None) -> Decoder:
    """The decoder of a fold, by default the first one of the first split."""
    if predicts_brain(build(run.config["encoder"], "encoder")):
        raise refusal(
            run.config["name"], "a run that decodes the brain", "one that predicts it from stimuli",
            "choose one that decodes",
        )  # fmt: skip
    split, fold = chosen_fold(run, split, fold)
    inputs = run.inputs
    weights = fold_folder(run.of("train")[0].folder, split, fold)
    train = inputs.part(split, fold, TRAIN)
    scaler: Scaler = build(run.config["scaler"], "scaler")
    met = people(inputs, split, fold)
    found = {
        name: Person(signal.layout, signal.baseline, spread_of(train, name))
        for name, signal in train.signals.items()
    }
    return Decoder(
        name=str(run.config["name"]),
        nodes={key: run.config[key] for key in NODES},
        people=found,
        known=met.known,
        states=dict(load_scaler(weights)),
        pooled=partial(pooled_state, scaler, train, met.known),
        shapes=inputs.shapes,
        weights=read_tensors(weights_file(weights, DECODER)),
        teach=partial(_teach, run, inputs, split, fold, weights),
        tuned=partial(tuned_with, DECODER, weights),
        facts=facts_of(run, scaler, split, fold),
        device=run.device,
    )


def chosen_fold(run: Run, split: str | None, fold: int | None) -> tuple[str, int]:
    """The fold that is meant; raises InputError where there is none."""
    folds = run.inputs.folds()
    found = [f for f in folds if split in (None, f[0]) and fold in (None, f[1])]
    if not found:
        raise refusal(
            "split and fold", f"one of {[f'{s} {n}' for s, n in folds]}", f"{split} {fold}",
            "correct them or leave them out",
        )  # fmt: skip
    return found[0]


def facts_of(run: Run, scaler: Scaler, split: str, fold: int) -> dict[str, Any]:
    """Where a decoder comes from."""
    told = read_json(run.of("split")[0].folder / "split.json")
    reported = read_manifest(run.of("report")[0].folder) or {}
    return {
        "key": run.of("train")[0].key,
        "split": split,
        "fold": fold,
        "folds": sum(s == split for s, _ in run.inputs.folds()),
        "split_hash": told["hashes"][split],
        "simulated": bool(reported.get("facts", {}).get("simulated")),
        "test_conditioned": run.protocol.test_conditioned or scaler.test_conditioned,
    }


def spread_of(trials: Trials, subject: str) -> float:
    """Median over channels of the standard deviation of a subject's windows; nan where there are none."""
    table = trials.singles.iloc[np.unique(np.concatenate(trials.members))]
    starts = table.loc[table["subject"] == subject, "start"].to_numpy(np.int64)
    if not len(starts):
        return float("nan")
    few = starts[np.linspace(0, len(starts) - 1, min(LOOKED_AT, len(starts))).round().astype(int)]
    windows = trials.signals[subject].windows(few).astype(np.float64)
    return float(np.median(windows.std(axis=(0, 2))))


def _teach(
    run: Run, inputs: Inputs, split: str, fold: int, weights: Path, generator: Generator
) -> None:
    generator.learn(*training_part(inputs, split, fold, run.dataset.stimuli(), generator.needs))
    generator.tune(tuned_with(DECODER, weights))
