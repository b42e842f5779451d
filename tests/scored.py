"""Scores of a run by source and metric, for tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd


def means(scores: pd.DataFrame, column: str = "value") -> dict[str, dict[str, float]]:
    """Mean of a column of a table of scores: source -> metric -> number; parts of the signal left out."""
    whole = scores[scores["part"].isna()]
    found: dict[str, dict[str, float]] = {}
    for (source, metric), rows in whole.groupby(["source", "metric"], sort=False):
        found.setdefault(str(source), {})[str(metric)] = float(rows[column].mean())
    return found


def overall(summary: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Lines of a summary over all subjects: source -> metric -> line; parts of the signal left out."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in summary:
        if row["subject"] == "all" and row["part"] is None:
            found.setdefault(row["source"], {})[row["metric"]] = row
    return found
