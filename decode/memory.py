"""What is remembered between commands, so that a plan that was checked once is not checked again.

Checking a config loads every class that it names, and with them libraries that take seconds. None of it
can turn out otherwise while the code stays: which defaults a class has, and whether a config is sound as
far as can be seen without data, files and devices. Only classes of this package are remembered.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from decode.kinds import defaults, locate

HERE = Path(__file__).resolve().parent
# Configs that are remembered, the last ones.
MOST = 200


class Memory:
    """Arguments of classes and digests of sound configs, kept in `file` for the code `stamp`."""

    def __init__(self, file: Path | None = None, stamp: str = "") -> None:
        self.file, self.stamp = file, stamp
        self._classes: dict[str, dict[str, Any]] = {}
        self._sound: list[str] = []
        self._new = False

    @classmethod
    def of_user(cls) -> Memory:
        """What this account remembers of this installation; empty where the code is another now."""
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "decode"
        name = hashlib.sha256(str(HERE).encode()).hexdigest()[:12]
        memory = cls(place / f"{name}.json", code_stamp())
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(memory.file.read_text()) if memory.file else {}
            if kept["stamp"] == memory.stamp:
                memory._classes, memory._sound = dict(kept["classes"]), list(kept["sound"])
        return memory

    def defaults(self, target: str) -> Mapping[str, Any]:
        """The arguments of the class or function `target` that have a default, and these."""
        if target not in self._classes:
            found = locate(target, "node")
            usual = {k: _plain(v) for k, v in defaults(found).items()}
            if not target.startswith("decode."):
                return usual
            self._classes[target] = {"usual": usual, "takes": named_arguments(found)}
            self._new = True
        usual = self._classes[target]["usual"]
        return usual

    def takes(self, target: str) -> list[str]:
        """The arguments of a class or function that is remembered; [] where it is not, or takes any."""
        names: list[str] = self._classes.get(target, {}).get("takes", [])
        return names

    def is_sound(self, config: Mapping[str, Any]) -> bool:
        return digest(config) in self._sound

    def add(self, config: Mapping[str, Any]) -> None:
        """Remember that a config is sound."""
        if all(name.startswith("decode.") for name in _targets(config)):
            self._sound.append(digest(config))
            self._new = True

    def keep(self) -> None:
        """Write down what is new; a place that cannot be written to keeps nothing."""
        if self.file is None or not self._new:
            return
        kept = {"stamp": self.stamp, "classes": self._classes, "sound": self._sound[-MOST:]}
        part = self.file.with_name(f"{self.file.name}.{os.getpid()}")
        with suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(kept))
            os.replace(part, self.file)


def named_arguments(target: Any) -> list[str]:
    """The names of the arguments that `target` takes; [] where it takes any."""
    every = inspect.signature(target).parameters.values()
    return [] if any(p.kind is p.VAR_KEYWORD for p in every) else [p.name for p in every]


def code_stamp() -> str:
    """Hash of the names, sizes and times of this package's files, and of the interpreter."""
    h = hashlib.sha256(sys.version.encode())
    for path in sorted(HERE.rglob("*.py")):
        stat = path.stat()
        h.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return h.hexdigest()[:16]


def digest(config: Mapping[str, Any]) -> str:
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _targets(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        mine = [str(value["_target_"])] if "_target_" in value else []
        return mine + [name for v in value.values() for name in _targets(v)]
    return [name for v in value for name in _targets(v)] if isinstance(value, list) else []


def _plain(value: Any) -> Any:
    """A default as JSON keeps it; what it cannot keep by its representation, as in a key."""
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
