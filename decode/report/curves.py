"""Curves and tables of a report: losses over epochs, scores over time and over regions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from decode.report.content import ALL_SUBJECTS, CONTROLS, Curve, Score, overall


def time_curves(scores: Sequence[Score]) -> list[Curve]:
    """Score by centre of the window after the stimulus, one curve per metric and split, one line
    per subject. Retrieval in the direction from stimulus to brain is left out.
    """
    found: dict[tuple[str, str], dict[str, list[Score]]] = {}
    for score in scores:
        if score.part[0] == "window" and "_brain_" not in score.plain:
            lines = found.setdefault((score.split, score.plain), {})
            lines.setdefault(score.subject, []).append(score)
    curves = []
    for (split, metric), lines in found.items():
        own = {name: line for name, line in lines.items() if name != ALL_SUBJECTS}
        drawn = {}
        for name, line in own.items():
            points = sorted((_seconds(s), s.value) for s in line)
            drawn[name] = ([x for x, _ in points], [y for _, y in points])
        some = next(iter(own.values()))[0]
        curves.append(
            Curve(
                metric, "centre of the window, s after the stimulus", "", drawn, some.chance,
                f"a ridge per window, n = {some.n} each, split {split}",
            )
        )  # fmt: skip
    return curves


def session_curves(scores: Sequence[Score]) -> list[Curve]:
    """Score by number of training sessions, one curve per metric, from splits called `sessions_3`
    and so on; one line for the decoder and one per other decoder that was fitted beside it.
    """
    found: dict[str, dict[str, list[tuple[float, Score]]]] = {}
    for score in overall(scores):
        number = re.fullmatch(r"sessions_(\d+)", score.split)
        if number and score.control not in CONTROLS and score.part == ("", ""):
            lines = found.setdefault(score.plain, {})
            lines.setdefault(score.control or "decoder", []).append((float(number[1]), score))
    curves = []
    for metric, lines in found.items():
        drawn = {}
        for name, points in lines.items():
            points.sort(key=lambda p: p[0])
            drawn[name] = ([x for x, _ in points], [s.value for _, s in points])
        some = next(iter(lines.values()))[0][1]
        curves.append(Curve(metric, "training sessions", "", drawn, some.chance))
    return [c for c in curves if any(len(x) > 1 for x, _ in c.lines.values())]


def region_scores(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """Per metric, the overall score in each region, the best first."""
    found: dict[str, list[Score]] = {}
    for score in overall(scores):
        if score.part[0] == "region" and "_brain_" not in score.plain:
            found.setdefault(score.plain, []).append(score)
    return {
        metric: sorted(rows, key=lambda s: s.value * (1 if s.better == "lower" else -1))
        for metric, rows in found.items()
    }


def _seconds(score: Score) -> float:
    return float(score.part[1].removesuffix("ms")) / 1000


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
