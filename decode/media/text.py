"""Texts: plain UTF-8."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any

from decode.media.seen import Seen
from decode.refusals import refusal

ENDING = ".txt"
SUFFIXES = ("txt",)
# Nothing lies between two sentences.
mean: Callable[[Iterable[Any]], Any] | None = None


def check(data: Any, rate: float | None) -> None:
    """A str without a rate."""
    if not isinstance(data, str) or rate is not None:
        raise ValueError(f"a text is a str without a rate, got {type(data).__name__}, {rate}")


def read(path: str, start: float = 0.0, duration: float | None = None) -> tuple[str, None]:
    """The words of a file as they stand."""
    try:
        return Path(path).read_text(encoding="utf-8"), None
    except (OSError, UnicodeDecodeError) as e:
        raise refusal(path, "a text in UTF-8", e, "replace the file") from e


def glance(path: str) -> None:
    read(path)


def look(path: str, start: float = 0.0, duration: float | None = None) -> Seen:
    read(path)
    return Seen()


def write(path: Path, data: str, rate: float | None = None) -> None:
    path.write_text(data, encoding="utf-8")


def view(data: str, rate: float | None = None, label: str = "") -> str:
    return f"<p>{escape(data)}</p>"
