"""Whose names are built from a folder that somebody else made: a run is data, never code.

A config names Python objects by dotted paths, and whoever may name any may run anything: a library's
`os.system`, but also what this package itself moves or deletes. From a folder only that is built which
a yaml of this package builds, or which lies in a package that the user lists.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import Any

from decode.core import refusal
from decode.kinds import locate
from decode.shipped import shipped_names

# Packages of the user, with commas between.
VARIABLE = "DECODE_PACKAGES"


def listed(packages: Sequence[str] = ()) -> tuple[str, ...]:
    """The packages that the user lists: here, and in the environment."""
    said = os.environ.get(VARIABLE, "").split(",")
    return tuple(dict.fromkeys(name.strip() for name in (*packages, *said) if name.strip()))


def check_trusted(config: Any, where: object, packages: Sequence[str] = ()) -> None:
    """Raise InputError, importing nothing strange, for a `_target_` in the config of the folder `where`
    that neither a yaml of this package builds nor a package of the user defines.
    """
    mine = listed(packages)
    for key, name in named(config):
        if isinstance(name, str) and (name in shipped_names() or _is_of(name, mine, key)):
            continue
        raise refusal(
            f"{where}: {key}", "a name that a yaml of this version builds", repr(name)[:200],
            f"if you know who made the folder, list the package of that name in {VARIABLE}",
        )  # fmt: skip


def named(node: Any, key: str = "config") -> Iterator[tuple[str, Any]]:
    """(key, value) of every `_target_` in a config, however deep."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node["_target_"]
        for name, value in node.items():
            yield from named(value, f"{key}.{name}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from named(value, f"{key}.{number}")


def _is_of(name: str, packages: Sequence[str], key: str) -> bool:
    """Whether a class or function is defined in one of the packages, not only imported there."""
    if not _below(name, packages):
        return False
    found = locate(name, key)
    return isinstance(found, type | FunctionType) and _below(found.__module__, packages)


def _below(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
