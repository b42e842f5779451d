"""The frame of a config: which keys it has, and what stands in each."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from decode.checks.knobs import cannot_be_text
from decode.core import Generator, InputError, refusal
from decode.kinds import fits, in_words, is_node, locate
from decode.trainable import Objective

Config = Mapping[str, Any]
NODES = (
    "data", "preprocess", "scaler", "splits", "targets", "encoder", "baselines", "parts", "objectives",
    "trainer", "generator", "voxel_model", "metrics",
)  # fmt: skip
LARGEST_SEED = 2**32 - 1
# What stands in the keys of the config itself: plain values, one choice, perhaps one, and named ones.
PLAIN: Mapping[str, Any] = {
    "name": str,
    "notes": Sequence[str],
    "subjects": Sequence[str] | None,
    "force": Sequence[str],
    "until": str,
    "dry": bool,
    "debug": bool,
    "published": str | None,
    "paths": Mapping[str, str],
    "protocol": Mapping[str, Any],
    "compute": Mapping[str, str],
}
ONE = ("data", "preprocess", "scaler", "encoder", "trainer")
PERHAPS = ("generator", "voxel_model")
NAMED = ("splits", "targets", "baselines", "parts", "objectives", "metrics")
# Those whose function is called later, with arguments that only a stage has.
LATER = frozenset({"encoder", "splits", "baselines", "parts"})
CLASSES: Mapping[str, type] = {
    "data": object, "scaler": object, "trainer": object, "objectives": Objective, "generator": Generator,
}  # fmt: skip
GROUPS = {"splits": "split", "targets": "target", "baselines": "encoder", "parts": "part",
          "objectives": "objective", "metrics": "metric", "voxel_model": "target"}  # fmt: skip
CHOICES = {"data": "digits69", "preprocess": "betas", "scaler": "zscore", "trainer": "closed_form",
           "split": "kfold", "target": "pixels", "part": "regions", "objective": "mse",
           "metric": "retrieval", "generator": "pixels"}  # fmt: skip


def check_frame(config: Config) -> None:
    """Raise InputError where a key of the config itself holds something of another kind."""
    for key, kind in PLAIN.items():
        if key in config and not fits(config[key], kind):
            got, wanted = config[key], in_words(kind)
            listed = f"[{got if isinstance(got, str) else '...'}]"
            example = "true or false" if kind is bool else listed if "list" in wanted else "..."
            raise refusal(key, wanted, repr(got)[:200], f"write {key}={example}")
    for key in (*ONE, *PERHAPS):
        if config.get(key) is not None or key in ONE:
            _check_node(key, config.get(key), partial=key in LATER)
    for key in NAMED:
        choices = config.get(key)
        if not isinstance(choices, Mapping):
            raise refusal(
                key, "names, each with a choice", repr(choices), f"add one by +{GROUPS[key]}@{key}.NAME=..."
            )  # fmt: skip
        for name, node in choices.items():
            _check_node(f"{key}.{name}", node, partial=key in LATER)
    for key, kind in CLASSES.items():
        for where, node in named(config, key):
            made = locate(node["_target_"], where)
            if not (isinstance(made, type) and issubclass(made, kind)):
                wanted = "a class" if kind is object else f"a class of {kind.__name__}s"
                raise refusal(f"{where}._target_", wanted, node["_target_"], "choose another one")
    if "device" not in config["compute"]:
        raise refusal(
            "compute.device", "auto, cpu, cuda or cuda:N", "none", "write compute.device=auto"
        )
    for key in ("data", "outputs"):
        _check_place(f"paths.{key}", config["paths"].get(key))


def named(config: Config, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Key and node of a choice, or of each of named ones, not of those inside."""
    value = config.get(key)
    if isinstance(value, Mapping) and is_node(value):
        yield key, value
    elif value is not None:
        for name, node in value.items():
            yield f"{key}.{name}", node


def _check_node(where: str, node: Any, *, partial: bool) -> None:
    group = GROUPS.get(where.split(".")[0], where)
    if not is_node(node):
        raise refusal(
            where, "a choice with its arguments", repr(node)[:200],
            f"choose one by {group if where == group else f'{group}@{where}'}=..., for example "
            f"{CHOICES.get(group, 'ridge')}; decode --help lists them",
        )  # fmt: skip
    later = node.get("_partial_", False)
    wrong = later is not partial and where != "preprocess"  # which may be a class or a function
    if wrong or not isinstance(later, bool):
        raise refusal(
            f"{where}._partial_", str(partial).lower(), repr(later), "leave it as the choice has it"
        )
    if later:
        _check_given(where, node)


def _check_given(where: str, node: Mapping[str, Any]) -> None:
    """What stands in front of the knobs of a function that is called later is given by a stage."""
    for p in inspect.signature(locate(node["_target_"], where)).parameters.values():
        if p.name in node and p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty:
            key = f"{where}.{p.name}"
            raise refusal(key, "no value, the stage gives it", "one", f"leave {key} out")


def _check_place(where: str, place: Any) -> None:
    if not isinstance(place, str) or not place.strip() or cannot_be_text(place):
        raise refusal(where, "a folder", repr(place)[:120], f"write {where}=/path/to/folder")
    path = Path(place).expanduser()
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            raise refusal(
                where, "a folder", f"{place}, and {part} is a file", "choose another place"
            )


def nodes(value: Any, keys: Collection[str] | None = None, where: str = "") -> Iterator[Any]:
    """(key, node) of every node with a `_target_`, those inside others too; below `keys` only."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield where, value
        for key, inside in value.items():
            if keys is None or key in keys:
                yield from nodes(inside, None, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for number, inside in enumerate(value):
            yield from nodes(inside, None, f"{where}.{number}")


def check_seed(seed: Any) -> None:
    whole = isinstance(seed, int) and not isinstance(seed, bool)
    if not whole or not 0 <= seed <= LARGEST_SEED:
        raise InputError(
            f"seed: expected a whole number from 0 to {LARGEST_SEED}, got {seed!r}; take a number in "
            "that range"
        )


def check_list(key: str, value: Any) -> None:
    """Raise InputError when one name stands where a list of names belongs."""
    if not isinstance(value, list | tuple):
        raise refusal(key, "a list", repr(value), f"write {key}=[{value}]")


def check_subjects(asked: Any) -> None:
    """Raise InputError when the list of subjects is none, is empty, or names one twice."""
    check_list("subjects", asked)
    if not asked:
        raise refusal("subjects", "a list of one or more", "[]", "write subjects=null for all")
    twice = [s for i, s in enumerate(asked) if s in asked[:i]]
    if twice:
        raise refusal(
            "subjects", "each subject once", f"{twice[0]!r} twice", "leave one of them out"
        )


def check_filled(config: Config, stages: Collection[str]) -> None:
    """Raise InputError when nothing is named of what one of `stages` cannot do without."""
    for stage, key, example in (
        ("split", "splits", "+split@splits.kfold=kfold"),
        ("train", "targets", "+target@targets.image=tiny_clip"),
        ("evaluate", "metrics", "+metric@metrics.retrieval=retrieval"),
    ):
        if stage in stages and not config[key]:
            raise refusal(key, "one or more", "none", f"add one, for example {example}")


def short(node: Mapping[str, Any]) -> str:
    """The name of a node's class."""
    return str(node["_target_"]).rpartition(".")[2]


LONGEST_NAME = 100


def check_file_names(config: Config) -> None:
    """Raise InputError for a name that is part of a file's name and would lead out of its folder."""
    names = [("name", config["name"]), *((k, n) for k in NAMED for n in config[k] or ())]
    for key, name in names:
        text = str(name)
        if re.search(r"[/\\\0]|^\.|^$", text) or len(text.encode()) > LONGEST_NAME:
            raise refusal(
                key,
                f"a name of 1 to {LONGEST_NAME} bytes that begins with no dot and has no / or \\",
                repr(text[:LONGEST_NAME]),
                "folders and files are named by it: choose another",
            )
