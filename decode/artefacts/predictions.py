"""What predict leaves: frames of predictions beside the truth."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from decode.core import refusal
from decode.store import Frame


def pooled(folder: Path, split: str, only: Collection[str] | None = None) -> Frame:
    """The test rows of all folds of one split, with all arrays or those named in `only`."""
    named = re.compile(rf"{re.escape(split)}-\d+")
    frames = [Frame.read(p) for p in sorted(folder.iterdir()) if named.fullmatch(p.name)]
    if not frames:
        raise refusal(folder, f"predictions of split {split!r}", "none", "run until=predict")
    table = pd.concat([f.table for f in frames], ignore_index=True)
    names = [n for n in frames[0].arrays if only is None or n in only]
    return Frame(table, {k: np.concatenate([f.arrays[k] for f in frames]) for k in names})
