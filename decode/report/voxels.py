"""Scores of voxels and sensors: each beside its ceiling, over time, and their means by region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from decode.core import Measure
from decode.report.content import Curve

ALL = "all"
# Dots of one cloud; more would only be drawn over each other.
MOST = 4000


@dataclass(frozen=True, slots=True, eq=False)
class Cloud:
    """Dots of one score: `dots` maps a subject to ceilings and values, of at most MOST channels in all."""

    title: str
    dots: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class RegionRow:
    """Means over the channels of a region, over `all` of them, by the card's columns; nan where unknown."""

    region: str
    n: int
    means: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class VoxelCard:
    """What a split says of voxels, or sensors (`unit`): `columns` name the means of each row."""

    split: str
    unit: str
    clouds: Sequence[Cloud]
    curves: Sequence[Curve]
    columns: Sequence[str]
    rows: Sequence[RegionRow]


def voxel_cards(scores: pd.DataFrame, measures: Mapping[str, Measure]) -> list[VoxelCard]:
    """One card per split and unit, from the decoder's rows of scores; none where rows are trials."""
    own = scores[(scores["role"] == "decoder") & scores["unit"].isin(["voxel", "sensor"])]
    cards = []
    for (split, unit), rows in own.groupby(["split", "unit"], sort=False):
        names = [n for n in dict.fromkeys(rows["metric"]) if n in measures]
        of = {name: rows[rows["metric"] == name] for name in names}
        cards.append(
            VoxelCard(
                str(split),
                str(unit),
                [cloud(name, part) for name, part in of.items() if part["ceiling"].notna().any()],
                [over_time(name, part) for name, part in of.items() if part["time"].nunique() > 1],
                _columns(of),
                by_region(of),
            )
        )
    return cards


def cloud(name: str, rows: pd.DataFrame) -> Cloud:
    """Value over ceiling of every channel, those without a known ceiling left out; of very many some,
    evenly.
    """
    known = rows[rows["ceiling"].notna()]
    step = -(-len(known) // MOST)
    some = known.iloc[::step]
    dots = {
        str(subject): (part["ceiling"].tolist(), part["value"].tolist())
        for subject, part in some.groupby("subject", sort=False)
    }
    return Cloud(
        name,
        dots,
        f"n = {len(known)}, {len(some)} of them drawn" if step > 1 else f"n = {len(known)}",
    )


def over_time(name: str, rows: pd.DataFrame) -> Curve:
    """Mean over sensors at each time after the stimulus, a line per subject."""
    means = rows.groupby(["subject", "time"], sort=True)["value"].mean()
    lines = {
        str(subject): (list(part.index.get_level_values("time")), part.tolist())
        for subject, part in means.groupby(level="subject")
    }
    n = rows["channel"].nunique()
    return Curve(name, "s after the stimulus", "", lines, 0.0, f"mean over {n} channels")


def by_region(of: Mapping[str, pd.DataFrame]) -> list[RegionRow]:
    """Means of every score, and of its ceiling where one is known, over all channels and in each region."""
    parts = [(ALL, {name: np.ones(len(rows), bool) for name, rows in of.items()})]
    regions = sorted({r for rows in of.values() for r in rows["region"].dropna()} - {""})
    for region in regions:
        parts.append((region, {n: (rows["region"] == region).to_numpy() for n, rows in of.items()}))
    made = []
    for region, chosen in parts:
        means: list[float] = []
        for name, rows in of.items():
            part = rows[chosen[name]]
            means.append(float(part["value"].mean()))
            if _has_ceiling(rows):
                means.append(float(part["ceiling"].mean()))
        made.append(RegionRow(region, int(max(c.sum() for c in chosen.values())), tuple(means)))
    return made


def _columns(of: Mapping[str, pd.DataFrame]) -> list[str]:
    return [
        label
        for name, rows in of.items()
        for label in ([name, "its ceiling"] if _has_ceiling(rows) else [name])
    ]


def _has_ceiling(rows: pd.DataFrame) -> bool:
    return bool(rows["ceiling"].notna().any())
