"""From a config node to a Python object, and back to all of its arguments.

A node is a dict with `_target_` (a dotted path) and arguments; `_partial_: true` leaves the call for
later. Arguments are bound to the signature before anything runs, so that a misspelt one is found in
the first second.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache, partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from decode.core import InputError
from decode.machine import is_memory
from decode.networks.weights import PACKAGE, find_weights

# Where things lie and how they are computed; what they are does not change with it.
PLACES = frozenset({"root", "cache", "device", "offload", "workers", "checkpointing"})
# Arguments that name a file or folder which may be written anew under the same name.
CONTENTS = frozenset({"weights", "questions", "table"})


def locate(path: str, where: str) -> Any:
    """The object behind a dotted path."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as e:
        raise InputError(
            f"config.{where}: expected an importable _target_, got {path!r} ({e})"
        ) from e


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in node.items() if k not in ("_target_", "_partial_")}


def _signature(target: Any) -> inspect.Signature:
    return inspect.signature(target)


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


def _check_arguments(node: Mapping[str, Any], where: str) -> None:
    target = locate(node["_target_"], where)
    signature = _signature(target)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    given = _arguments(node)
    for name in given:
        if name not in signature.parameters and not takes_any:
            near = difflib.get_close_matches(name, signature.parameters, 1)
            raise InputError(
                f"config.{where}: {node['_target_']} takes no {name!r}"
                + (
                    f"; did you mean {near[0]!r}?"
                    if near
                    else f"; it takes {list(signature.parameters)}"
                )
            )
    if node.get("_partial_"):
        return
    missing = [
        p.name
        for p in signature.parameters.values()
        if p.default is p.empty and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    missing = [name for name in missing if name not in given]
    if missing:
        raise InputError(f"config.{where}: {node['_target_']} needs {missing[0]!r}; add it there")


def _check_kinds(node: Mapping[str, Any], where: str) -> None:
    hints = _hints(locate(node["_target_"], where))
    for name, value in _arguments(node).items():
        if name in hints and not _fits(value, hints[name]):
            raise InputError(
                f"{where}.{name}: expected {_in_words(hints[name])}, got {value!r}; correct it"
            )


def _hints(target: Any) -> dict[str, Any]:
    """What annotations say of the arguments; nothing where they name what only a checker imports."""
    # Fields of a dataclass may come from another module, where their names are known.
    plain = isinstance(target, type) and not is_dataclass(target)
    try:
        return get_type_hints(target.__init__ if plain else target)
    except (NameError, TypeError, AttributeError):
        return {}


SCALARS: Mapping[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    str: ((str, int), "text"),  # a name may look like a number
    NoneType: ((NoneType,), "null"),
}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a config can be what the annotation says; yes where it cannot be told."""
    origin, inside = get_origin(hint), get_args(hint)
    if value == "???" or (isinstance(value, Mapping) and "_target_" in value):
        return True  # another check's business
    if hint in SCALARS:
        return isinstance(value, SCALARS[hint][0]) and isinstance(value, bool) <= (hint is bool)
    if origin in (Union, UnionType):
        return any(_fits(value, h) for h in inside)
    if origin is Literal:
        return any(value == word and type(value) is type(word) for word in inside)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(v, inside[1]) for v in value.values())
    if isinstance(origin, type) and issubclass(origin, Sequence):
        each = inside[:1] if len(inside) == 1 or Ellipsis in inside else inside
        listed = isinstance(value, list | tuple)
        counted = listed and len(each) in (1, len(value))
        return counted and all(_fits(v, each[i % len(each)]) for i, v in enumerate(value))
    return True


def _in_words(hint: Any) -> str:
    origin, inside = get_origin(hint), get_args(hint)
    if hint in SCALARS:
        return SCALARS[hint][1]
    if origin in (Union, UnionType):
        return " or ".join(_in_words(h) for h in inside)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inside))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"names, each with {_in_words(inside[1])}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list of {_in_words(inside[0])} in [brackets]"
    return getattr(hint, "__name__", str(hint))


def build(node: Any, where: str = "") -> Any:
    """The object that a node describes; nested nodes are built first."""
    if isinstance(node, list):
        return [build(v, where) for v in node]
    if not isinstance(node, Mapping):
        return node
    built = {k: build(v, f"{where}.{k}") for k, v in _arguments(node).items()}
    if "_target_" not in node:
        return built
    target = locate(node["_target_"], where)
    if node.get("_partial_"):
        return partial(target, **built)
    return made(target, where, **built)


def made(target: Any, where: str, /, *arguments: Any, **named: Any) -> Any:
    """What `target` makes of its arguments; what it refuses is an InputError that names `where`."""
    try:
        return target(*arguments, **named)
    except (TypeError, ValueError, RuntimeError, AssertionError) as e:
        if is_memory(e):
            raise
        of = target.func if isinstance(target, partial) else target
        reason = " ".join(str(e).split()) or type(e).__name__
        raise InputError(
            f"config.{where}: {of.__module__}.{of.__qualname__} refused its arguments ({reason}); "
            "correct them (debug=true shows where it happened)"
        ) from e


def bound(node: Any) -> Any:
    """The node with every default written out and places left out: what a cache key is made of."""
    if isinstance(node, list):
        return [bound(v) for v in node]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {k: bound(v) for k, v in node.items()}
    signature = _signature(locate(node["_target_"], "node"))
    defaults = {
        p.name: p.default
        for p in signature.parameters.values()
        if p.default is not inspect.Parameter.empty
    }
    everything = {**defaults, **_arguments(node)}
    kept = {
        k: _named_by_content(v) if k in CONTENTS else bound(_plain(v))
        for k, v in everything.items()
        if k not in PLACES
    }
    return {"_target_": node["_target_"], **kept}


@cache
def _content(name: str) -> str:
    folder = Path(find_weights(name))
    h = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        h.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return h.hexdigest()[:12]


def _named_by_content(value: Any) -> Any:
    """A file by the hash of its content, so that it may move and must not change; a folder of a
    trained fold by its encoder, another by all of its files. What is not there keeps its name.
    """
    path = Path(value).expanduser() if isinstance(value, str) else None
    if path is None or not path.exists():
        return bound(_plain(value))
    encoder = path / "encoder.safetensors"
    file = encoder if encoder.is_file() else path
    files = [file] if file.is_file() else sorted(p for p in file.rglob("*") if p.is_file())
    h = hashlib.sha256()
    for one in files:
        name = "" if one == file else one.relative_to(file).as_posix()
        stat = one.stat()
        h.update(f"{name} {_hash(one, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return f"content {h.hexdigest()[:12]}"


@cache
def _hash(file: Path, size: int, time: int) -> str:
    """Hash of a file's bytes, read anew when its `size` or `time` of writing is another."""
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    """Values as a config would write them, so that writing a default down does not change the key.

    Weights that ship with the package are named with a hash of their content, since their name stays
    when they are trained anew.
    """
    if isinstance(value, str) and value.startswith(PACKAGE):
        return f"{value}#{_content(value)}"
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, str | Mapping):
        return value
    if isinstance(value, int | float):
        return float(value)
    return repr(value)
