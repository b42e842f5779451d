"""Rows of scores -> one line per score, source, split and subject, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from decode.core import refusal
from decode.scoring.intervals import interval
from decode.sources import ALL_SUBJECTS
from decode.store import read_json

# What tells one score from another, whoever's it is.
SCORE = ["split", "source", "part", "metric"]


def summarise(
    scores: pd.DataFrame, hashes: Mapping[str, str], *, test_conditioned: bool
) -> list[dict[str, Any]]:
    """One object per split, source, part, metric and subject, and over all subjects, with a 95 %
    interval; `hashes` are those of the splits.
    """
    summary = []
    for _, rows in scores.groupby(SCORE, sort=False, dropna=False):
        groups = dict(list(rows.groupby("subject", sort=False)))
        if len(groups) > 1:
            groups[ALL_SUBJECTS] = rows
        summary += [
            {
                **line(part, subject),
                "split_hash": hashes[part["split"].iloc[0]],
                "test_conditioned": test_conditioned,
            }
            for subject, part in groups.items()
        ]
    return summary


def line(rows: pd.DataFrame, subject: Any) -> dict[str, Any]:
    """The score that `rows` make, of one subject or all."""
    value, low, high = interval(rows)
    first = rows.iloc[0]
    told = ("metric", "source", "role", "part", "unit", "better", "split")
    return {
        **{name: _plain(first[name]) for name in told},
        "time": _mean(rows["time"]) if rows["time"].nunique() == 1 else None,
        "subject": subject,
        "n": len(rows),
        "value": value,
        "chance": _mean(rows["chance"]),
        "chance_is_bound": "bound" in rows and rows["bound"].eq(True).all().item(),
        "ci_low": low,
        "ci_high": high,
        "n_fits": int(rows["fold"].nunique()),
        "ceiling": _mean(rows["ceiling"]),
    }


def _plain(value: Any) -> Any:
    return None if pd.isna(value) else value


def _mean(values: pd.Series) -> float | None:
    mean = float(values.mean())
    return mean if np.isfinite(mean) else None


def is_current(summary: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a summary has the columns of this version; older ones kept the source in the name."""
    return all("source" in row for row in summary)


def read_summary(folder: Path) -> list[dict[str, Any]]:
    """The summary of a run folder; InputError for one that an older version wrote."""
    summary: list[dict[str, Any]] = read_json(folder / "summary.json")
    if not is_current(summary):
        raise refusal(
            folder / "summary.json",
            "scores with a column `source`",
            "those of an older version of decode",
            "run the experiment again",
        )
    return summary
