"""evaluate: predictions, pictures and their controls -> rows of scores, and their summary."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from decode.artefacts.folds import fold_folder
from decode.artefacts.predictions import pooled
from decode.core import Dataset, Media, Metric, Responses, Results, Stimulus
from decode.progress import progress
from decode.scoring.intervals import interval
from decode.stages.reconstruct import SHUFFLED, read_media, shuffled_rows
from decode.stages.respond import SHOWN, read_responses
from decode.store import Frame, write_json, write_table

SHUFFLES = {"predictions": 50, "media": 4, "brain": 20}
CONTROLS = ("oracle", "prior", "mean_image", "nearest_image", "nearest_text")
ALL_SUBJECTS = "all"
# Columns of rows that differ from shuffle to shuffle.
NUMBERS = ("value", "chance", "influence")
RANKED = re.compile(r"retrieval_(?P<brain>brain_)?top(?P<k>\d+)")


def run(
    out: Path,
    *,
    predicted: Path,
    made: Path | None,
    responses: Path | None,
    stimuli: Mapping[str, Stimulus],
    metrics: Mapping[str, Metric],
    baselines: Sequence[str],
    parts: Sequence[str],
    split: Mapping[str, Any],
    dataset: Dataset,
    test_conditioned: bool,
    seed: int,
) -> dict[str, Any]:
    """Fill `out` with scores.parquet (a row per metric, subject and trial) and summary.json."""
    rows = []
    for name in split["by"]:
        frame = pooled(predicted, name)
        others = None if made is None else pooled_pictures(frame.table, made, name, SHUFFLED)
        for control, results in sources(frame, made, responses, stimuli, baselines, name):
            rows.append(_score(results, metrics, control, seed, others))
        rows += [_score_part(frame, stimuli, metrics, part) for part in parts]
    scores = pd.concat([r for r in rows if len(r)], ignore_index=True)
    write_table(out / "scores.parquet", scores)
    summary = summarise(scores, split, test_conditioned=test_conditioned)
    add_ceilings(summary, scores, dataset, seed=seed)
    write_json(out / "summary.json", summary)
    return {"n_scores": len(scores)}


def sources(
    frame: Frame,
    made: Path | None,
    responses: Path | None,
    stimuli: Mapping[str, Stimulus],
    baselines: Sequence[str],
    split: str,
) -> Iterator[tuple[str, Results]]:
    """(control, Results): "" for the decoder itself, then baselines, picture controls and, for a
    model of the brain, what it expects of the shown pictures.
    """
    shown = [stimuli[u] for u in frame.table["stimulus"]]
    truth = frame.tensors("truth")

    def pictures(source: str) -> list[Media] | None:
        return None if made is None else pooled_pictures(frame.table, made, split, source)

    def brain(source: str) -> Responses | None:
        return None if responses is None else read_responses(responses, split, frame.table, source)

    for source in ("encoder", *baselines):
        name, folder = ("", "decoded") if source == "encoder" else (source, source)
        media, predicted = pictures(folder), frame.tensors(source)
        yield name, Results(frame.table, predicted, truth, shown, media, brain(folder))
    for control in CONTROLS:
        media = pictures(control)
        if media:
            yield control, Results(frame.table, {}, {}, shown, media, brain(control))
    if responses is not None:
        yield SHOWN, Results(frame.table, {}, {}, shown, None, brain(SHOWN))


def pooled_pictures(table: pd.DataFrame, made: Path, split: str, source: str) -> list[Media] | None:
    """Pictures or texts of one source in the order of the pooled table; None where there are none."""
    media: list[Media] = []
    for fold, rows in table.groupby("fold", sort=False):
        folder = fold_folder(made, split, int(str(fold))) / source
        if not folder.is_dir():
            return None
        media += read_media(folder, len(rows))
    return media


def _score(
    results: Results,
    metrics: Mapping[str, Metric],
    control: str,
    seed: int,
    others: list[Media] | None,
) -> pd.DataFrame:
    """Rows of all metrics that apply; the decoder's own are followed by shuffled pairs, those of
    media by `others` where they were made of other trials' predictions for this.
    """
    rows = []
    label = f"evaluate {control or 'decoded'}"
    for metric in progress(metrics.values(), label, total=len(metrics)):
        there = {
            "predictions": bool(results.predicted),
            "media": results.made is not None,
            "brain": results.brain is not None,
        }
        if not there[metric.looks_at]:
            continue
        rows.append(_labelled(metric(results), results, control))
        if not control:
            pairs = _pairs(results, metric, seed, others)
            shuffled = [_labelled(metric(pair), results, "shuffled") for pair in pairs]
            keys = [c for c in shuffled[0].columns if c not in NUMBERS]
            every = pd.concat(shuffled)
            rows.append(every.groupby(keys, sort=False, dropna=False).mean().reset_index())
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _pairs(
    results: Results, metric: Metric, seed: int, others: list[Media] | None
) -> Iterator[Results]:
    """Shuffled results, one at a time: each holds the predictions anew."""
    if metric.looks_at == "media" and others is not None:
        yield replace(results, made=others)
        return
    for i in range(SHUFFLES[metric.looks_at]):
        yield shuffle(results, seed + i)


def _score_part(
    frame: Frame, stimuli: Mapping[str, Stimulus], metrics: Mapping[str, Metric], part: str
) -> pd.DataFrame:
    """Rows of the metrics of those predictions that a part of the signal was fitted to."""
    shown = [stimuli[u] for u in frame.table["stimulus"]]
    results = Results(frame.table, frame.tensors(part), frame.tensors("truth"), shown)
    rows = [
        _labelled(metric(results), results, part)
        for metric in metrics.values()
        if getattr(metric, "target", None) in results.predicted
    ]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _labelled(rows: pd.DataFrame, results: Results, control: str) -> pd.DataFrame:
    """Add split, fold and stimulus of each row, and the control in front of the metric's name."""
    table = results.trials
    at = rows["trial"].to_numpy(int)
    return rows.assign(
        metric=[f"{control}/{m}" if control else m for m in rows["metric"]],
        split=table["split"].to_numpy()[at],
        fold=table["fold"].to_numpy()[at],
        stimulus=table["stimulus"].to_numpy()[at],
        repeats=table["repeats"].to_numpy()[at],
    )


def shuffle(results: Results, seed: int) -> Results:
    """Pair every trial with the prediction and the picture of another trial of the same subject."""
    order = shuffled_rows(results.trials, seed)
    index, brain = torch.from_numpy(order), results.brain
    return replace(
        results,
        predicted={k: v[index] for k, v in results.predicted.items()},
        made=None if results.made is None else [results.made[int(i)] for i in order],
        brain=brain and replace(brain, expected=brain.expected[index]),
    )


def summarise(
    scores: pd.DataFrame, split: Mapping[str, Any], *, test_conditioned: bool
) -> list[dict[str, Any]]:
    """One object per metric, split and subject, and over all subjects, with a 95 % interval."""
    summary = []
    for (name, metric), rows in scores.groupby(["split", "metric"], sort=False):
        subjects = list(rows["subject"].unique())
        parts = [(s, rows[rows["subject"] == s]) for s in subjects]
        if len(subjects) > 1:
            parts.append((ALL_SUBJECTS, rows))
        for subject, part in parts:
            value, low, high = interval(part)
            summary.append(
                {
                    "metric": metric,
                    "subject": subject,
                    "n": len(part),
                    "value": value,
                    "chance": _mean(part["chance"]),
                    "chance_is_bound": "bound" in part and part["bound"].eq(True).all().item(),
                    "ci_low": low,
                    "ci_high": high,
                    "better": part["better"].iloc[0],
                    "split": name,
                    "split_hash": split["hashes"][name],
                    "n_fits": int(part["fold"].nunique()),
                    "test_conditioned": test_conditioned,
                    "ceiling": _mean(part["ceiling"]) if "ceiling" in part else None,
                }
            )
    return summary


def _mean(values: pd.Series) -> float | None:
    mean = float(values.mean())
    return mean if np.isfinite(mean) else None


def add_ceilings(
    summary: list[dict[str, Any]], scores: pd.DataFrame, dataset: Dataset, *, seed: int
) -> None:
    """Fill `ceiling` where the metric did not: the ideal observer for retrieval where the truth is
    known (simulations), the generator driven by the true targets for picture metrics.
    """
    oracle = {
        (r["split"], r["subject"], r["metric"].removeprefix("oracle/")): r["value"]
        for r in summary
        if r["metric"].startswith("oracle/")
    }
    for row in summary:
        if row["ceiling"] is None:
            row["ceiling"] = oracle.get((row["split"], row["subject"], row["metric"]))
    for row in summary:
        ranked = RANKED.fullmatch(row["metric"])
        if ranked is None:
            continue
        subjects = [row["subject"]] if row["subject"] != ALL_SUBJECTS else None
        part = scores[(scores["split"] == row["split"]) & (scores["metric"] == row["metric"])]
        row["ceiling"] = _retrieval_ceiling(part, subjects, dataset, ranked, seed)


def _retrieval_ceiling(
    part: pd.DataFrame,
    subjects: list[str] | None,
    dataset: Dataset,
    ranked: re.Match[str],
    seed: int,
) -> float | None:
    from decode.scoring.ceiling import retrieval_ceiling

    values = []
    for subject in subjects or list(part["subject"].unique()):
        truth = dataset.truth(subject)
        if truth is None:
            return None
        mine = part[part["subject"] == subject]
        repeats = int(mine["repeats"].iloc[0])
        values.append(
            retrieval_ceiling(
                truth,
                list(mine["stimulus"].unique()),
                repeats=repeats,
                k=int(ranked["k"]),
                find="brain" if ranked["brain"] else "stimulus",
                draws=100,
                seed=seed,
            )
        )
    return float(np.mean(values))
