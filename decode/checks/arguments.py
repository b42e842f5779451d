"""Whether the arguments of a node are those of its class: their names, kinds and ranges."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from decode.building import arguments
from decode.checks.knobs import MAY_BE_EMPTY, NUMBER, cannot_be_text, numbers, range_of
from decode.core import InputError, refusal
from decode.kinds import defaults, fits, hints, in_words, is_node, locate


def check(node: Any, where: str) -> None:
    """Raise InputError, naming the nearest argument, when a node cannot be bound to its target or a
    value is not of the kind that the target's annotation asks for.
    """
    if isinstance(node, Mapping):
        if "_target_" in node:
            _check_arguments(node, where)
            _check_kinds(node, where)
        for key, value in node.items():
            check(value, f"{where}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            check(value, f"{where}.{number}")


def _check_arguments(node: Mapping[str, Any], where: str) -> None:
    target = locate(node["_target_"], where)
    signature = inspect.signature(target)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    given = arguments(node)
    for name in given:
        if name not in signature.parameters and not takes_any:
            raise unknown_argument(node["_target_"], name, list(signature.parameters), where)
    if node.get("_partial_"):
        return
    missing = [
        p.name
        for p in signature.parameters.values()
        if p.default is p.empty and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    missing = [name for name in missing if name not in given]
    if missing:
        raise refusal(
            f"config.{where}",
            f"{missing[0]!r}, which {node['_target_']} needs",
            "none",
            "add it there",
        )


def unknown_argument(target: str, name: str, takes: Sequence[str], where: str = "") -> InputError:
    """The refusal of an argument that a class, which `takes` others, does not know."""
    near = difflib.get_close_matches(str(name), takes, 1)
    advice = f"did you mean {near[0]!r}?" if near else f"it takes {list(takes)}"
    return refusal(f"config.{where}", f"what {target} takes", repr(name), advice)


def _check_kinds(node: Mapping[str, Any], where: str) -> None:
    target = locate(node["_target_"], where)
    known, usual = hints(target), defaults(target)
    for name, value in arguments(node).items():
        wanted = None
        if name in known and not fits(value, known[name]):
            wanted = in_words(known[name])
        wanted = wanted or _limits(target.__name__, name, value, usual.get(name, ...))
        if wanted:
            remedy = "correct it"
            if name in usual and _is_plain(usual[name]):
                remedy += f" or leave it at its default, {_written(usual[name])}"
            raise refusal(f"{where}.{name}", wanted, repr(value)[:200], remedy)


def _written(value: Any) -> str:
    """A default as a command would write it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_written, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value) if value != "" else "''"


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | tuple)


def _limits(kind: str, name: str, value: Any, usual: Any) -> str | None:
    """What was expected of a value of the right kind that is outside what its knob means."""
    meant = range_of(kind, name) or NUMBER
    if is_node(value) or (isinstance(value, Mapping) and any(map(is_node, value.values()))):
        return None  # these have knobs of their own
    if any(not meant.holds(number) for number in numbers(value)):
        return str(meant)
    if isinstance(value, list | tuple) and not value and name not in MAY_BE_EMPTY:
        return None if usual == () else "a list of one or more"
    if isinstance(value, str):
        return cannot_be_text(value) if value else None if usual == "" else "text that is not empty"
    return None
