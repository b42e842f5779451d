"""A decoder as a folder that can be given away: weights, layouts, scaler, scores and a model card.

Nothing of single trials, and nothing that was shown, is in it, unless the one who shares asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from decode.artefacts.trained import load_scaler, save_scaler
from decode.checksums import check_folder
from decode.core import Generator, Layout, Tensors, refusal
from decode.division import State
from decode.notices import tell
from decode.store import (
    fill_folder,
    is_finished,
    read_json,
    read_tensors,
    whole_file,
    write_json,
    write_tensors,
)
from decode.trainable import held_by
from decode.trust import check_trusted
from decode.use.card import card
from decode.use.decoder import NODES, Decoder, Person
from decode.use.opened import OpenedRun, UsableDecoder
from decode.weights.reading import ENCODER

PASSPORT = "decoder.json"
FORMAT = 1
# Under this name lies the scaler's state for people who were not trained on.
OTHERS = "others"
GENERATOR = "generator"
KEPT = "kept.safetensors"
INCLUDED = ("signals", "stimuli")


def share(
    run: OpenedRun,
    folder: Path,
    *,
    split: str | None = None,
    fold: int | None = None,
    include: Collection[str] = (),
) -> Path:
    """Write the decoder of a fold into a new folder; returns it.

    `include` names what of the training data its weights may hold: "signals" (of single trials) and
    "stimuli". Raises InputError where they hold more than that, and for a folder that is not empty.
    """
    if wrong := [name for name in include if name not in INCLUDED]:
        raise refusal("include", f"some of {list(INCLUDED)}", repr(wrong[0]), "correct it")
    if folder.exists() and (is_finished(folder) or any(folder.iterdir())):
        raise refusal(folder, "a folder that is not there yet", "one with files", "name another")
    decoder = run.decoder(split, fold).decoder
    check_held(decoder, include)
    if folder.exists():
        folder.rmdir()
    fill_folder(folder, partial(_fill, run, decoder), keep=False)
    return folder


def check_held(decoder: Decoder, include: Collection[str]) -> None:
    """Raise InputError where data that are not to be given away could be read out of the weights."""
    more = sorted(held_by(decoder.encoder) - set(include))
    if more:
        said = {"signals": "brain signals of single training trials", "stimuli": "what was shown"}
        raise refusal(
            f"encoder {type(decoder.encoder).__name__}",
            "weights out of which no training data can be read",
            " and ".join(said[name] for name in more),
            f"add include=[{','.join(more)}] if all who own them agree, or share a run with another "
            "encoder (of a ridge, form: weights)",
        )


def _fill(run: OpenedRun, decoder: Decoder, out: Path) -> dict[str, Any]:
    write_tensors(out / ENCODER, decoder.weights)
    states = {name: decoder.states.get(name, {}) for name in decoder.known}
    save_scaler(out, states | _state_of_others(decoder))
    generates = _write_generator(decoder, out)
    every = read_json(run.folder / "summary.json")
    summary = [row for row in every if row["split"] == decoder.facts["split"]]
    write_json(out / "scores.json", summary)
    with whole_file(out / PASSPORT) as part:
        # In its own order: that of targets, subjects and steps has a meaning.
        part.write_text(json.dumps(_passport(decoder, generates), indent=1) + "\n", "utf-8")
    text = card(run, decoder, summary, generates)
    (out / "README.md").write_text(text, encoding="utf-8")
    return {"decoder": dict(decoder.facts)}


def _state_of_others(decoder: Decoder) -> dict[str, State]:
    """The scaler's state for people who were not trained on, where the decoder reads such."""
    if not decoder.reads_others() or decoder.protocol.unseen_scaling == "own":
        return {}
    return {OTHERS + "/": decoder.pooled()}


def _write_generator(decoder: Decoder, out: Path) -> bool:
    """Whether others can make media with the decoder: what its generator has learnt is written."""
    generator = decoder.generator
    if generator is None:
        return False
    kept = generator.kept()
    if kept is None:
        tell(
            "generator",
            f"{type(generator).__name__} shows training stimuli or says nothing of what it keeps: it is "
            "not shared, and the shared decoder makes no media",
        )
        return False
    folder = out / GENERATOR
    folder.mkdir()
    write_tensors(folder / KEPT, kept)
    tuned = decoder.tuned()
    if tuned:
        write_tensors(folder / "tuned.safetensors", tuned)
    return True


def _passport(decoder: Decoder, generates: bool) -> dict[str, Any]:
    nodes = {key: decoder.nodes[key] for key in NODES}
    for key, path in local_paths(nodes):
        tell(
            key,
            f"{path} is a file or folder of this machine, which others have not: say where they get it",
        )
    return {
        "format": FORMAT,
        "name": decoder.name,
        "nodes": nodes if generates else {**nodes, "generator": None},
        "people": {name: _person(decoder.people[name]) for name in decoder.people},
        "known": list(decoder.known),
        "shapes": {name: list(shape) for name, shape in decoder.shapes.items()},
        "facts": dict(decoder.facts),
    }


def local_paths(node: Any, key: str = "") -> list[tuple[str, str]]:
    """(key, value) of every text in a config that names a file or folder of this machine."""
    if isinstance(node, Mapping):
        return [found for k, v in node.items() for found in local_paths(v, f"{key}.{k}".strip("."))]
    if isinstance(node, list):
        return [found for i, v in enumerate(node) for found in local_paths(v, f"{key}.{i}")]
    is_path = isinstance(node, str) and ("/" in node or "\\" in node)
    return [(key, node)] if is_path and Path(node).expanduser().exists() else []


def _person(person: Person) -> dict[str, Any]:
    layout = person.layout
    return {
        "modality": layout.modality,
        "names": list(layout.names),
        "positions": [[None if np.isnan(x) else float(x) for x in p] for p in layout.positions],
        "rois": list(layout.rois),
        "sfreq": layout.sfreq,
        "n_times": layout.n_times,
        "start": layout.start,
        "baseline": person.baseline,
        "spread": None if np.isnan(person.spread) else person.spread,
    }


def open_decoder(
    folder: str | Path, *, packages: Collection[str] = (), device: str = "cpu"
) -> UsableDecoder:
    """The decoder that somebody shared as a folder.

    It is data: plug-ins of `packages`, and of those listed in DECODE_PACKAGES, are built, others that do
    not come with this package are refused. Raises InputError for a folder that holds none, or is damaged.
    """
    place = Path(folder)
    if not (place / PASSPORT).is_file():
        raise refusal(place, f"a shared decoder with {PASSPORT}", "none", "correct the path")
    check_folder(place)
    told = read_json(place / PASSPORT)
    if told.get("format") != FORMAT:
        raise refusal(
            place / PASSPORT, f"format {FORMAT}", told.get("format"), "share it again, or use the version "
            "that wrote it",
        )  # fmt: skip
    check_trusted(told["nodes"], place / PASSPORT, tuple(packages))
    states = load_scaler(place)
    others = states.pop(OTHERS + "/", None)
    decoder = Decoder(
        name=str(told["name"]),
        nodes=told["nodes"],
        people={str(name): _read_person(kept) for name, kept in told["people"].items()},
        known=tuple(told["known"]),
        states=dict(states),
        pooled=partial(dict, others or {}),
        shapes={name: tuple(shape) for name, shape in told["shapes"].items()},
        weights=read_tensors(place / ENCODER),
        teach=partial(_recall, place),
        tuned=partial(_tuned, place),
        facts=told["facts"],
        device=device,
    )
    return UsableDecoder(decoder)


def _read_person(kept: Mapping[str, Any]) -> Person:
    positions = [[np.nan if x is None else x for x in p] for p in kept["positions"]]
    layout = Layout(
        modality=kept["modality"],
        names=tuple(kept["names"]),
        positions=np.array(positions, np.float64).reshape(-1, 3),
        rois=tuple(kept["rois"]),
        sfreq=kept["sfreq"],
        n_times=kept["n_times"],
        start=kept["start"],
    )
    baseline = kept["baseline"]
    spread = np.nan if kept["spread"] is None else float(kept["spread"])
    return Person(layout, tuple(baseline) if baseline else None, spread)


def _recall(place: Path, generator: Generator) -> None:
    generator.recall(read_tensors(place / GENERATOR / KEPT))
    generator.tune(_tuned(place))


def _tuned(place: Path) -> Tensors:
    path = place / GENERATOR / "tuned.safetensors"
    return read_tensors(path) if path.is_file() else {}
