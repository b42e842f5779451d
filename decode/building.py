"""From a config node to a Python object, and back to all of its arguments.

A node is a dict with `_target_` (a dotted path) and arguments; `_partial_: true` leaves the call for
later. Arguments are bound to the signature before anything runs, so that a misspelt one is found in
the first second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from decode.core import about, refusal
from decode.kinds import as_annotated, defaults, hints, locate
from decode.machine import is_memory
from decode.weights.reading import PACKAGE, find_weights, trained_encoder

# Where things lie and how they are computed; what they are does not change with it.
PLACES = frozenset({"root", "cache", "outside", "device", "offload", "workers", "checkpointing"})
# Arguments that name a file or folder which may be written anew under the same name.
CONTENTS = frozenset({"weights", "questions", "table"})


def arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in node.items() if k not in ("_target_", "_partial_")}


def build(node: Any, where: str = "") -> Any:
    """The object that a node describes; nested nodes are built first."""
    if isinstance(node, list):
        return [build(v, where) for v in node]
    if not isinstance(node, Mapping):
        return node
    built = {k: build(v, f"{where}.{k}") for k, v in arguments(node).items()}
    if "_target_" not in node:
        return built
    target = locate(node["_target_"], where)
    known = hints(target)
    built = {k: as_annotated(v, known[k]) if k in known else v for k, v in built.items()}
    if node.get("_partial_"):
        return partial(target, **built)
    return made(target, where, **built)


def made(target: Any, where: str, /, *arguments: Any, **named: Any) -> Any:
    """What `target` makes of its arguments; what it refuses is an InputError that names `where`."""
    try:
        with about(where):
            return target(*arguments, **named)
    except (TypeError, ValueError, RuntimeError, AssertionError) as e:
        if is_memory(e):
            raise
        of = target.func if isinstance(target, partial) else target
        reason = " ".join(str(e).split()) or type(e).__name__
        raise refusal(
            f"config.{where}",
            f"arguments that {of.__module__}.{of.__qualname__} takes",
            f"a refusal ({reason})",
            "correct them (debug=true shows where it happened)",
        ) from e


def usual(target: str) -> Mapping[str, Any]:
    """The arguments of the class or function `target` that have a default, and these."""
    return defaults(locate(target, "node"))


def bound(node: Any, usual: Callable[[str], Mapping[str, Any]] = usual) -> Any:
    """The node with every default written out and places left out: what a cache key is made of.

    `usual` gives the defaults of a class by its dotted path.
    """
    if isinstance(node, list):
        return [bound(v, usual) for v in node]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {k: bound(v, usual) for k, v in node.items()}
    everything = {**usual(node["_target_"]), **arguments(node)}
    kept = {
        k: _named_by_content(v) if k in CONTENTS else bound(_plain(v), usual)
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
    encoder = trained_encoder(path)
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
