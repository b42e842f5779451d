"""Curves and tables of a report: losses over epochs, scores over time and over regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from decode.core import Measure
from decode.report.content import ALL_SUBJECTS, Curve, Score, overall


def to_stimulus(scores: Sequence[Score], measures: Mapping[str, Measure]) -> list[Score]:
    """Scores without those of retrieval in the direction from stimulus to brain."""
    ranks = {name: measure.ranks for name, measure in measures.items()}
    return [s for s in scores if (of := ranks.get(s.metric)) is None or of.find == "stimulus"]


def time_curves(scores: Sequence[Score], measures: Mapping[str, Measure]) -> list[Curve]:
    """Score by centre of the window after the stimulus, one curve per metric, split and kind of window,
    one line per subject. Retrieval in the direction from stimulus to brain is left out.
    """
    found: dict[tuple[str, str, str], dict[str, list[Score]]] = {}
    for score in to_stimulus(scores, measures):
        if score.role == "part" and score.time is not None and score.subject != ALL_SUBJECTS:
            lines = found.setdefault((score.split, score.source, score.metric), {})
            lines.setdefault(score.subject, []).append(score)
    several = len({source for _, source, _ in found}) > 1
    curves = []
    for (split, source, metric), lines in found.items():
        some = next(iter(lines.values()))[0]
        curves.append(
            Curve(
                f"{metric} ({source})" if several else metric,
                "centre of the window, s after the stimulus",
                "",
                {name: _over_time(line) for name, line in lines.items()},
                some.chance,
                f"a ridge per window, n = {some.n} each, split {split}",
            )
        )
    return curves


def _over_time(line: Sequence[Score]) -> tuple[list[float], list[float]]:
    points = sorted((s.time, s.value) for s in line if s.time is not None)
    return [x for x, _ in points], [y for _, y in points]


def session_curves(scores: Sequence[Score], splits: Mapping[str, Mapping[str, Any]]) -> list[Curve]:
    """Score by number of training sessions, one curve per metric, from the `splits` of a config that
    differ in nothing but the first `sessions` that they train on; one line for the decoder and one per
    other decoder beside it.
    """
    found: dict[tuple[str, str], dict[str, list[tuple[float, Score]]]] = {}
    for score in overall(scores):
        node = splits.get(score.split, {})
        if node.get("sessions") is not None and score.role in ("decoder", "baseline"):
            alike = repr(sorted((k, repr(v)) for k, v in node.items() if k != "sessions"))
            lines = found.setdefault((alike, score.metric), {})
            lines.setdefault(score.source, []).append((float(node["sessions"]), score))
    curves = []
    for (_, metric), lines in found.items():
        drawn = {}
        for name, points in lines.items():
            points.sort(key=lambda p: p[0])
            drawn[name] = ([x for x, _ in points], [s.value for _, s in points])
        some = next(iter(lines.values()))[0][1]
        curves.append(Curve(metric, "training sessions", "", drawn, some.chance))
    return [c for c in curves if any(len(x) > 1 for x, _ in c.lines.values())]


def region_scores(scores: Sequence[Score], measures: Mapping[str, Measure]) -> list[list[Score]]:
    """Per split, kind of region and metric the overall score in each region, the best first."""
    found: dict[tuple[str, str, str], list[Score]] = {}
    for score in to_stimulus(overall(scores), measures):
        if score.role == "part" and score.time is None:
            found.setdefault((score.split, score.source, score.metric), []).append(score)
    return [
        sorted(rows, key=lambda s: s.value * (1 if s.better == "lower" else -1))
        for rows in found.values()
    ]


def learning_curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Curve]:
    """Loss per epoch, mean over fits: one curve per term that has more than one epoch.

    `histories` maps a fit's name to its rows: epoch, train/<term>, validation/<term>, validation.
    """
    table = pd.concat(
        [pd.DataFrame(rows) for rows in histories.values() if len(rows)] or [pd.DataFrame()]
    )
    if table.empty or table["epoch"].nunique() < 2:
        return []
    by_epoch = table.groupby("epoch").mean()
    terms = list(dict.fromkeys(c.partition("/")[2] for c in by_epoch.columns if "/" in c))
    note = f"mean of {len(histories)} fits" if len(histories) > 1 else ""
    curves = []
    for term in terms:
        lines = {}
        for part in ("train", "validation"):
            if f"{part}/{term}" in by_epoch:
                line = by_epoch[f"{part}/{term}"].dropna()
                lines[part] = (list(line.index + 1), list(line))
        curves.append(Curve(term.replace("/", " "), "epoch", "loss", lines, note=note))
    if "validation" in by_epoch and not any(f"validation/{t}" in by_epoch for t in terms):
        line = by_epoch["validation"].dropna()
        lines = {"validation": (list(line.index + 1), list(line))}
        curves.append(Curve("all terms", "epoch", "loss", lines, note=note))
    return curves
