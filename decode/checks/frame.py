"""The frame of a config: which keys it has, and what stands in each."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from decode.checks.knobs import cannot_be_text
from decode.core import InputError, refusal
from decode.keys import CHOICES, KEYS, NAMED, Config, Key
from decode.kinds import fits, in_words, is_node, locate
from decode.stages.table import Stage

LARGEST_SEED = 2**32 - 1


def check_frame(config: Config) -> None:
    """Raise InputError where a key of the config itself lacks or holds something of another kind."""
    for key in KEYS:
        if key.usual and key.name not in config:
            where, remedy = key.name, f"write {key.name}={key.usual}"
            raise refusal(where, "this key in the config", "none", remedy)
        if key.holds == "value":
            _check_value(key, config)
        elif key.holds == "named":
            _check_named(key, config.get(key.name))
        elif key.holds == "choice" or config.get(key.name) is not None:
            _check_node(key, key.name, config.get(key.name))
    if "device" not in config["compute"]:
        raise refusal(
            "compute.device", "auto, cpu, cuda or cuda:N", "none", "write compute.device=auto"
        )
    for place in ("data", "outputs"):
        _check_place(f"paths.{place}", config["paths"].get(place))


def _check_value(key: Key, config: Config) -> None:
    if key.name not in config or fits(config[key.name], key.kind):
        return
    got, wanted = config[key.name], in_words(key.kind)
    listed = f"[{got if isinstance(got, str) else '...'}]"
    example = "true or false" if key.kind is bool else listed if "list" in wanted else "..."
    raise refusal(key.name, wanted, repr(got)[:200], f"write {key.name}={example}")


def _check_named(key: Key, choices: Any) -> None:
    if not isinstance(choices, Mapping):
        raise refusal(
            key.name, "names, each with a choice", repr(choices),
            f"add one by +{key.group}@{key.name}.NAME=...",
        )  # fmt: skip
    for name, node in choices.items():
        _check_node(key, f"{key.name}.{name}", node)


def check_classes(config: Config) -> None:
    """Raise InputError where a node makes something else than its key asks for, or is given what a
    stage gives.
    """
    for key in CHOICES:
        for where, node in named(config, key.name):
            if node.get("_partial_"):
                _check_given(where, node)
            if key.contract:
                _check_contract(key, where, node)


def _check_contract(key: Key, where: str, node: Mapping[str, Any]) -> None:
    made = locate(node["_target_"], where)
    kind = object if key.contract == "type" else locate(key.contract, where)
    if not (isinstance(made, type) and issubclass(made, kind)):
        wanted = "a class" if kind is object else f"a class of {kind.__name__}s"
        raise refusal(f"{where}._target_", wanted, node["_target_"], "choose another one")


def named(config: Config, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Key and node of a choice, or of each of named ones, not of those inside."""
    value = config.get(key)
    if isinstance(value, Mapping) and is_node(value):
        yield key, value
    elif value is not None:
        for name, node in value.items():
            yield f"{key}.{name}", node


def _check_node(key: Key, where: str, node: Any) -> None:
    if not is_node(node):
        chosen = key.group if where == key.group else f"{key.group}@{where}"
        raise refusal(
            where, "a choice with its arguments", repr(node)[:200],
            f"choose one by {chosen}=..., for example {key.example}; decode --help lists them",
        )  # fmt: skip
    later = node.get("_partial_", False)
    wrong = later is not key.later and where != "preprocess"  # which may be a class or a function
    if wrong or not isinstance(later, bool):
        raise refusal(
            f"{where}._partial_",
            str(key.later).lower(),
            repr(later),
            "leave it as the choice has it",
        )


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


def check_filled(config: Config, stages: Collection[Stage]) -> None:
    """Raise InputError when nothing is named of what one of `stages` cannot do without."""
    for stage in stages:
        if stage.lacks and not config[stage.lacks]:
            raise refusal(
                stage.lacks, "one or more", "none", f"add one, for example {stage.example}"
            )


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
