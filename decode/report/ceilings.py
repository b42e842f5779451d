"""Noise ceilings of the test data, as `predict` has kept them, for the page of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from decode.store import read_table


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Median share of explainable variance over the features of a region, of single trials and of
    the mean of all repeats; `shown` says how many of `n_stimuli` test stimuli were shown how often.
    """

    split: str
    subject: str
    region: str
    n_features: int
    single: float
    averaged: float
    n_stimuli: int
    shown: str


def read_ceilings(predicted: Path, splits: Sequence[str]) -> list[Ceiling]:
    """One line per split, subject and region, folds weighted alike; [] where nothing was repeated."""
    made = []
    for split in splits:
        # A split may be called what another begins with, so the folder's number ends its name.
        paths = sorted(predicted.glob(f"{split}-[0-9]*/ceilings.parquet"))
        if not paths:
            continue
        table = pd.concat([read_table(p) for p in paths], ignore_index=True)
        table = table[table["split"] == split]
        for (subject, region), rows in table.groupby(["subject", "region"], sort=False):
            counts = Counter[int]()
            for text in rows["shown"]:
                counts.update({int(k): int(n) for k, n in (w.split(":") for w in text.split())})
            made.append(
                Ceiling(
                    split,
                    str(subject),
                    str(region),
                    round(float(rows["n_features"].mean())),
                    float(rows["single"].mean()),
                    float(rows["averaged"].mean()),
                    counts.total(),
                    ", ".join(f"{n} × {k}" for k, n in sorted(counts.items(), reverse=True)),
                )
            )
    return made
