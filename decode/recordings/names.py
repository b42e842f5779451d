"""Names of files: the key-value pairs of BIDS, and an order in which numbers count as numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decode.core import refusal

# Entities whose value is an index: zeros in front of it mean nothing.
INDICES = frozenset(("run", "echo", "flip", "inv", "split", "chunk"))
# Entities that other keys choose.
ELSEWHERE = {"sub": "subjects", "task": "data.task"}


def entities(path: Path) -> dict[str, str]:
    """The key-value pairs of a BIDS file name, as they are written."""
    parts = path.name.split(".")[0].split("_")
    return dict(p.split("-", 1) for p in parts if "-" in p)


def meant(path: Path) -> dict[str, str]:
    """The key-value pairs of a BIDS file name without zeros before an index: run-01 is run-1."""
    return {k: _index(v) if k in INDICES else v for k, v in entities(path).items()}


def chosen_entities(asked: Mapping[str, Any]) -> dict[str, str | None]:
    """What `data.entities` asks of names, as `meant` has it; None: the name has no such entity.

    Raises InputError for what is no entity of BIDS or has a key of its own.
    """
    for key, value in asked.items():
        if key in ELSEWHERE:
            what, got = "entities without a key of their own", f"{key}: {value}"
            raise refusal("data.entities", what, got, f"set {ELSEWHERE[key]} instead")
        word = value is None or (isinstance(value, str | int) and str(value).isalnum())
        if not key.isalnum() or not word or isinstance(value, bool):
            what = "entities of BIDS names and values, such as {acq: fast, echo: 1}"
            raise refusal(
                "data.entities", what, f"{key}: {value!r}", "correct it, with quotes for a text"
            )
    found = {k: None if v is None else str(v) for k, v in asked.items()}
    return {k: _index(v) if v is not None and k in INDICES else v for k, v in found.items()}


def with_entities(paths: Sequence[Path], asked: Mapping[str, str | None]) -> list[Path]:
    """The files whose names say what is asked for; InputError where none does."""
    found = [p for p in paths if all(meant(p).get(k) == v for k, v in asked.items())]
    if paths and not found:
        there = [", ".join(f"{k}: {meant(p).get(k, 'null')}" for k in asked) for p in paths]
        raise refusal(
            paths[0].parent, f"recordings with {', '.join(f'{k}: {v}' for k, v in asked.items())}",
            f"only such with {' or '.join(dict.fromkeys(there))}", "correct data.entities",
        )  # fmt: skip
    return found


def told_apart(one: Path, other: Path) -> str:
    """How to choose the first of two recordings of one run."""
    mine, theirs = meant(one), meant(other)
    keys = [k for k in (*mine, *theirs) if mine.get(k) != theirs.get(k) and k not in ELSEWHERE]
    if not keys:
        return "keep one of them there"
    return f"choose by data.entities={{{keys[0]}:{mine.get(keys[0], 'null')}}}, or keep one of them there"


def _index(value: str) -> str:
    return str(int(value)) if re.fullmatch("[0-9]+", value) else value


def in_order(name: str) -> list[str | int]:
    """Key to sort names by: ses-2 comes before ses-10, run-9 before run-010."""
    return [int(w) if i % 2 else w for i, w in enumerate(re.split("([0-9]+)", name))]
