"""train: per fold, fit the scaler and the encoders on training rows and keep their weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from decode.artefacts.folds import fold_folder
from decode.artefacts.places import folder_of
from decode.artefacts.trained import TUNED, MakeEncoder, save_scaler, weights_file
from decode.checkpoints import tidy
from decode.core import Generator, refusal
from decode.division import Scaler
from decode.folds import Inputs, Protocol
from decode.progress import progress
from decode.sources import DECODER, Source
from decode.splitting import TRAIN, VALIDATION
from decode.store import write_tensors
from decode.strangers import check_reads, first_strangers, fit_scaler, people
from decode.trainable import Objective
from decode.training import Trainer, fit
from decode.trials import Loader, Trials


def run(
    out: Path,
    *,
    inputs: Inputs,
    scaler: Scaler,
    encoders: Mapping[Source, MakeEncoder],
    parts: Mapping[Source, MakeEncoder],
    objectives: Callable[[], Mapping[str, Objective]],
    trainer: Trainer,
    protocol: Protocol,
    generator: Generator | None,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """One folder per fold, each with scaler.safetensors and a folder per source (`place_of`), which holds
    encoder.safetensors, history.jsonl of what was trained step by step, and generator.safetensors where
    an objective has trained a part of the generator with that encoder.

    `encoders` maps the decoder and its baselines to constructors; those with parameters are trained
    alike. `parts` maps those of parts of the signal, which `initialise` solves. Finished folds are kept
    when an interrupted run is taken up again.
    """
    check_shapes(inputs, encoders, parts, generator, protocol)
    folds = inputs.folds()
    for split, fold in progress(folds, "train", total=len(folds)) if len(folds) > 1 else folds:
        done = fold_folder(out, split, fold)
        if done.exists():
            continue
        part = done.with_name(done.name + ".part")
        part.mkdir(exist_ok=True)
        train = inputs.part(split, fold, TRAIN)
        validation = inputs.part(split, fold, VALIDATION)
        met = people(inputs, split, fold)
        states = fit_scaler(scaler, inputs, met, protocol.unseen_scaling)
        made = partial(_loaders, scaler, states, inputs, trainer, protocol, seed, device)
        shortened = whole = made(train.since(protocol.after), validation.since(protocol.after))
        if parts and protocol.after is not None:
            whole = made(train, validation)
        for source, make in {**encoders, **parts}.items():
            torch.manual_seed(seed)
            loaders = whole if source in parts else shortened
            folder = folder_of(part, source)
            folder.mkdir(parents=True, exist_ok=True)
            encoder = make(loaders[0].trials.layouts, inputs.shapes).to(device)
            encoder.initialise(*loaders)
            learns = any(p.requires_grad for p in encoder.parameters())
            if source not in parts and trainer.epochs and learns:
                wanted = objectives()
                fit(
                    encoder,
                    wanted,
                    loaders[0].showing(trainer.way(protocol.repeats), inputs.drawn),
                    loaders[1] if len(validation) else None,
                    trainer,
                    folder=folder,
                    seed=seed,
                    label=f"train {split} {fold}" + ("" if source == DECODER else f" {source}"),
                )
                tuned = {
                    k: v for objective in wanted.values() for k, v in objective.tuned().items()
                }
                if tuned:
                    write_tensors(folder / TUNED, tuned)
            write_tensors(weights_file(part, source), encoder.state_dict())
        for source in encoders:
            tidy(folder_of(part, source))
        save_scaler(part, states)
        os.replace(part, done)
    for leftover in out.glob("*.part"):
        shutil.rmtree(leftover)
    return {"n_folds": len(folds)}


def _loaders(
    scaler: Scaler,
    states: Mapping[str, Any],
    inputs: Inputs,
    trainer: Trainer,
    protocol: Protocol,
    seed: int,
    device: str,
    train: Trials,
    validation: Trials,
) -> tuple[Loader, Loader]:
    made = []
    for trials, shuffle in ((train, True), (validation, False)):
        if protocol.train_repeats == "before" and len(trials):
            trials = trials.average("stimulus")
        scaled = replace(trials.scale(scaler, states), as_one=protocol.unseen == "shared")
        made.append(
            scaled.loader(
                inputs.features,
                inputs.digests,
                batch_size=trainer.batch_size,
                shuffle=shuffle,
                seed=seed,
                device=device,
            )
        )
    return made[0], made[1]


def check_shapes(
    inputs: Inputs,
    encoders: Mapping[Source, MakeEncoder],
    parts: Mapping[Source, MakeEncoder],
    generator: Generator | None,
    protocol: Protocol,
) -> None:
    """Find targets, encoders and a generator that do not fit together, and people whom no encoder can
    read, before any training.
    """
    shapes = inputs.shapes
    met = first_strangers(inputs, protocol)
    if met is not None:
        for source, make in list(parts.items())[:1]:
            check_reads(protocol, met, source.config_key, make(inputs.trials.layouts, shapes))
    for target, stores in inputs.drawn.items():
        for store in stores:
            if store.shape != shapes[target]:
                raise refusal(
                    f"protocol.drawn.{target}", f"targets of shape {shapes[target]}", store.shape,
                    "name targets made alike",
                )  # fmt: skip
    if generator is not None:
        generator.check(shapes)
    for source, make in encoders.items():
        split, fold = inputs.folds()[0]
        some = inputs.part(split, fold, TRAIN).take([0, 1]).since(protocol.after)
        some = replace(some, as_one=protocol.unseen == "shared")
        batch = next(iter(some.loader(inputs.features, inputs.digests, batch_size=2)))
        encoder = make(some.layouts, shapes).eval()
        if met is not None:
            check_reads(protocol, met, source.config_key, encoder)
        with torch.no_grad():
            predicted = encoder(batch)
            truth = encoder.truth(batch)
        for target in truth:
            got = tuple(predicted[target].shape[1:]) if target in predicted else None
            expected = tuple(truth[target].shape[1:])
            if got != expected:
                raise refusal(
                    f"targets.{target}",
                    f"predictions of its shape, {expected}",
                    f"{got} from {source.config_key} {type(encoder).__name__}",
                    "choose another encoder or target",
                )
