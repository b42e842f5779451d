"""JSON that people and scanners write beside recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from decode.core import refusal


class KeyTwice(ValueError):
    """One object says two things under the same key, of which json would keep the last."""


def parse_json(content: bytes) -> Any:
    """The value of JSON text in UTF-8, with or without a byte order mark.

    Raises ValueError for what is no JSON (RFC 8259), and KeyTwice for a key that stands twice in an object.
    """
    return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_each_once)


def read_json_object(path: Path) -> dict[str, Any]:
    """The content of a JSON file; InputError where it is not an object or has a key twice."""
    try:
        content = parse_json(path.read_bytes())
    except KeyTwice as e:
        raise refusal(path, "each key once in an object", e, "keep the one that is right") from e
    except (OSError, ValueError, RecursionError) as e:
        raise refusal(path, "JSON in UTF-8", e, "correct the file") from e
    if not isinstance(content, dict):
        raise refusal(path, "a JSON object in braces", type(content).__name__, "correct the file")
    return content


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        raise KeyTwice(f"{next(k for k in names if names.count(k) > 1)!r} twice")
    return found
