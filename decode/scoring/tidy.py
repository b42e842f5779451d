"""Rows of scores as they are kept: one table, in which every column says one thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from decode.core import Measure, Metric
from decode.refusals import refusal
from decode.sources import Source

COLUMNS = (
    "metric", "source", "role", "part", "time", "unit", "subject", "trial", "stimulus", "channel",
    "value", "chance", "ceiling", "better", "split", "fold", "repeats",
)  # fmt: skip
# Of a row of predictions these are known; rows of voxels and sensors bring their own.
OF_TRIAL = ("stimulus", "split", "fold", "repeats")
TEXT = ("part", "stimulus", "channel")
WHOLE = ("trial", "fold", "repeats")


def measures_of(metrics: Mapping[str, Metric]) -> dict[str, Measure]:
    """All scores of the metrics by name; InputError where two metrics give one name."""
    owner: dict[str, str] = {}
    found: dict[str, Measure] = {}
    for key, metric in metrics.items():
        for name, measure in metric.measures().items():
            if owner.setdefault(name, key) != key:
                raise refusal(
                    f"metrics.{key}",
                    "scores that no other metric gives",
                    f"{name!r}, which metrics.{owner[name]} gives",
                    f"set metrics.{key}.name to another one or drop one of the two",
                )
            found[name] = measure
    return found


def tidy(
    rows: pd.DataFrame,
    trials: pd.DataFrame,
    source: Source,
    measures: Mapping[str, Measure],
    *,
    averaged: bool,
) -> pd.DataFrame:
    """What a metric gave for one source, in the columns of the table of scores.

    `trials` are the rows of the predictions, which are means over repeats where they are `averaged`.
    Raises InputError for a score that the metric does not describe.
    """
    missing = set(rows["metric"]) - set(measures)
    if missing:
        raise refusal(
            f"metric {sorted(missing)[0]}",
            f"one of the scores that it describes, {sorted(measures)}",
            "another",
            "let `measures` of the metric name it",
        )
    unit = {name: unit_of(measure, averaged) for name, measure in measures.items()}
    made = rows.reset_index(drop=True).assign(
        source=source.name,
        role=source.role,
        part=source.part,
        unit=rows["metric"].map(unit).to_numpy(),
        better=rows["metric"].map({k: m.better for k, m in measures.items()}).to_numpy(),
    )
    for name, value in _of_trials(made, trials).items():
        made[name] = value
    for name, default in {"time": source.time, "channel": None, "ceiling": None}.items():
        made[name] = made.get(name, default)
    return _typed(made)


def unit_of(measure: Measure, averaged: bool) -> str:
    """What a row is called: of predictions, a trial or a stimulus whose repeats were averaged."""
    return "stimulus" if measure.unit == "trial" and averaged else measure.unit


def _of_trials(rows: pd.DataFrame, trials: pd.DataFrame) -> dict[str, Any]:
    """Split, fold, stimulus and repeats of each row: of its trial, or as the metric gave them."""
    if "trial" not in rows:
        given = {name: rows.get(name) for name in OF_TRIAL}
        return {"trial": None, **given}
    at = rows["trial"].to_numpy(int)
    return {name: trials[name].to_numpy()[at] for name in OF_TRIAL}


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    kinds = {
        **dict.fromkeys(TEXT, "string"),
        **dict.fromkeys(WHOLE, "Int64"),
        "time": "float64",
        "ceiling": "float64",
    }
    rest = [c for c in rows.columns if c not in COLUMNS]
    return rows[[*COLUMNS, *rest]].astype(kinds)
