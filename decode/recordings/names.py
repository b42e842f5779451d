"""Names of files: the key-value pairs of BIDS, and an order in which numbers count as numbers."""

from __future__ import annotations

import re
from pathlib import Path

# Entities whose value is an index: zeros in front of it mean nothing.
INDICES = frozenset(("run", "echo", "flip", "inv", "split", "chunk"))


def entities(path: Path) -> dict[str, str]:
    """The key-value pairs of a BIDS file name, as they are written."""
    parts = path.name.split(".")[0].split("_")
    return dict(p.split("-", 1) for p in parts if "-" in p)


def meant(path: Path) -> dict[str, str]:
    """The key-value pairs of a BIDS file name without zeros before an index: run-01 is run-1."""
    return {k: _index(v) if k in INDICES else v for k, v in entities(path).items()}


def _index(value: str) -> str:
    return str(int(value)) if re.fullmatch("[0-9]+", value) else value


def in_order(name: str) -> list[str | int]:
    """Key to sort names by: ses-2 comes before ses-10, run-9 before run-010."""
    return [int(w) if i % 2 else w for i, w in enumerate(re.split("([0-9]+)", name))]
