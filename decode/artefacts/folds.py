"""Where folds lie."""

from __future__ import annotations

from pathlib import Path


def fold_folder(out: Path, split: str, fold: int) -> Path:
    """Where what belongs to a fold lies in the folder of a stage."""
    return out / f"{split}-{fold:02d}"
