"""Where the files that a table names may lie."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from decode.content import lies_below
from decode.core import refusal


def check_place(table: Path, path: Path, folders: Iterable[Path]) -> None:
    """InputError where a table names a file above the folders that a study was said to lie in."""
    if not lies_below(path, folders):
        raise refusal(
            table,
            f"files below {' or '.join(map(str, dict.fromkeys(folders)))}",
            path,
            "put or link the file there, or, where you trust the table, set data.outside=true",
        )
