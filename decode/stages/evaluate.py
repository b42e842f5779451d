"""evaluate: predictions, pictures and their controls -> rows of scores, and their summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from decode.artefacts.folds import fold_folder
from decode.artefacts.media import read_media
from decode.artefacts.places import folder_of, place_of, truth_of
from decode.artefacts.predictions import pooled
from decode.artefacts.responses import predicted_responses, read_responses
from decode.core import Dataset, Measure, Media, Metric, Ranking, Responses, Results, Stimulus
from decode.linear.encoding import BRAIN
from decode.notices import tell
from decode.progress import progress
from decode.scoring.rows import galleries, shuffled_rows
from decode.scoring.summary import summarise
from decode.scoring.tidy import measures_of, tidy
from decode.sources import DECODER, MADE, ORACLE, SHOWN, SHUFFLED, Source, in_order
from decode.store import Frame, write_json, write_table

SHUFFLES = {"predictions": 50, "media": 4, "brain": 20}
# Columns of rows that differ from shuffle to shuffle.
NUMBERS = ("value", "chance", "influence")
# Draws of an ideal observer's noise.
DRAWS = 100


def run(
    out: Path,
    *,
    predicted: Path,
    made: Path | None,
    responses: Path | None,
    stimuli: Mapping[str, Stimulus],
    metrics: Mapping[str, Metric],
    sources: Sequence[Source],
    split: Mapping[str, Any],
    dataset: Dataset,
    test_conditioned: bool,
    averaged: bool,
    seed: int,
) -> dict[str, Any]:
    """Fill `out` with scores.parquet (a row per metric, source, subject and trial), summary.json, and
    glossary.json, which says what metrics and sources mean.

    `sources` are the decoder, its baselines and parts; controls are found by what was made of them.
    """
    measures = measures_of(metrics)
    rows, known = [], {DECODER: None}
    for name in split["by"]:
        frame = pooled(predicted, name)
        others = None if made is None else pooled_pictures(frame.table, made, name, SHUFFLED)
        found = []
        places = (predicted, made, responses)
        for source, results in origins(frame, places, stimuli, sources, name):
            scored = _score(results, metrics, source, seed, others)
            found += [
                tidy(part, frame.table, of, measures, averaged=averaged) for of, part in scored
            ]
            known |= dict.fromkeys(of for of, _ in scored)
        rows.append(with_ceilings(pd.concat(found), frame.table, measures, dataset, seed))
    scores = pd.concat(rows, ignore_index=True)
    write_table(out / "scores.parquet", scores)
    summary = summarise(scores, split["hashes"], test_conditioned=test_conditioned)
    write_json(out / "summary.json", summary)
    scored_names = dict.fromkeys(scores["metric"])
    glossary = {
        "metrics": {name: asdict(measures[name]) for name in scored_names},
        "sources": [asdict(source) for source in in_order(known)],
    }
    write_json(out / "glossary.json", glossary)
    return {"n_scores": len(scores)}


def origins(
    frame: Frame,
    places: tuple[Path, Path | None, Path | None],
    stimuli: Mapping[str, Stimulus],
    sources: Sequence[Source],
    split: str,
) -> Iterator[tuple[Source, Results]]:
    """Every source with what it gave: predictions, media and responses of the brain, which it predicts
    itself or which a model of the brain expects of the media. Controls of media have no predictions, parts
    of the signal nothing else. `places` are the folders of predictions, media and responses.
    """
    predictions, made, responses = places
    shown = [stimuli[u] for u in frame.table["stimulus"]]
    truth = frame.tensors(truth_of())
    measured = truth.pop(BRAIN, None)

    def pictures(source: Source) -> list[Media] | None:
        return None if made is None else pooled_pictures(frame.table, made, split, source)

    def brain(source: Source) -> Responses | None:
        if responses is None:
            return None
        return read_responses(responses, split, frame.table, source)

    for source in sources:
        media, expected, found = pictures(source), brain(source), frame.tensors(place_of(source))
        own, answered = truth | frame.tensors(truth_of(source)), found.pop(BRAIN, None)
        own.pop(BRAIN, None)
        if answered is not None and measured is not None:
            ablated = source == DECODER
            expected = predicted_responses(
                predictions, split, frame, measured, answered, ablated=ablated
            )
        yield source, Results(frame.table, found, own, shown, media, expected)
    for source in (ORACLE, *MADE):
        media = pictures(source)
        if media:
            yield source, Results(frame.table, {}, {}, shown, media, brain(source))
    if responses is not None:
        yield SHOWN, Results(frame.table, {}, {}, shown, None, brain(SHOWN))


def pooled_pictures(
    table: pd.DataFrame, made: Path, split: str, source: Source
) -> list[Media] | None:
    """Pictures or texts of one source in the order of the pooled table; None where there are none."""
    media: list[Media] = []
    for fold, rows in table.groupby("fold", sort=False):
        folder = folder_of(fold_folder(made, split, int(str(fold))), source)
        if not folder.is_dir():
            return None
        media += read_media(folder, len(rows))
    return media


def _score(
    results: Results,
    metrics: Mapping[str, Metric],
    source: Source,
    seed: int,
    others: list[Media] | None,
) -> list[tuple[Source, pd.DataFrame]]:
    """What all metrics that apply say of a source; the decoder's are followed by those of shuffled pairs,
    of media by `others` where they were made of other trials' predictions for this.
    """
    found = []
    for name, metric in progress(metrics.items(), f"evaluate {source}", total=len(metrics)):
        if not applies(metric, results, source):
            continue
        found.append((source, metric(results)))
        if source == DECODER and found[-1][1].empty:
            tell(
                f"metrics.{name}",
                "found nothing of the decoder to score; choose an encoder that it is for",
            )
        elif source == DECODER:
            every = [metric(pair) for pair in _pairs(results, metric, seed, others)]
            found.append((SHUFFLED, _mean_of(every)))
    return found


def applies(metric: Metric, results: Results, source: Source) -> bool:
    """Whether there is what the metric looks at; a part of the signal predicts some targets only."""
    if metric.looks_at != "predictions":
        return (results.made if metric.looks_at == "media" else results.brain) is not None
    if source.role in ("decoder", "baseline"):
        return bool(results.predicted)
    return metric.target in results.predicted


def _mean_of(shuffles: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows of several shuffles as one, their numbers averaged."""
    keys = [c for c in shuffles[0].columns if c not in NUMBERS]
    every = pd.concat(shuffles)
    return every.groupby(keys, sort=False, dropna=False).mean().reset_index()


def _pairs(
    results: Results, metric: Metric, seed: int, others: list[Media] | None
) -> Iterator[Results]:
    """Shuffled results, one at a time: each holds the predictions anew."""
    if metric.looks_at == "media" and others is not None:
        yield replace(results, made=others)
        return
    for i in range(SHUFFLES[metric.looks_at]):
        yield shuffle(results, seed + i)


def shuffle(results: Results, seed: int) -> Results:
    """Pair every trial with the prediction and the picture of another trial of the same subject."""
    order = shuffled_rows(results.trials, seed)
    index, brain = torch.from_numpy(order), results.brain
    return replace(
        results,
        predicted={k: v[index] for k, v in results.predicted.items()},
        made=None if results.made is None else [results.made[int(i)] for i in order],
        brain=brain
        and replace(
            brain,
            expected=brain.expected[index],
            without={k: v[index] for k, v in brain.without.items()},
        ),
    )


def with_ceilings(
    rows: pd.DataFrame,
    trials: pd.DataFrame,
    measures: Mapping[str, Measure],
    dataset: Dataset,
    seed: int,
) -> pd.DataFrame:
    """Fill `ceiling` for the decoder and its baselines where the metric does not know it itself: the
    ideal observer where the truth is known (simulations), the generator driven by the true targets.
    """
    rows = rows.reset_index(drop=True)
    bounded = rows["role"].isin(["decoder", "baseline"]) & rows["trial"].notna()
    oracle = rows[rows["source"] == ORACLE.name]
    for name, measure in measures.items():
        mine = bounded & (rows["metric"] == name)
        if measure.ceiling == "generator":
            best = oracle[oracle["metric"] == name].set_index("trial")["value"]
        elif measure.ceiling == "observer" and measure.ranks is not None and mine.any():
            best = pd.Series(ideal(measure.ranks, trials, dataset, seed))
        else:
            continue
        at = rows.loc[mine, "trial"].to_numpy(int)
        rows.loc[mine, "ceiling"] = best.reindex(at).to_numpy(np.float64)
    return rows


def ideal(ranks: Ranking, trials: pd.DataFrame, dataset: Dataset, seed: int) -> np.ndarray:
    """(trial,) how often an ideal observer of the trial's subject finds the right one of its gallery; nan
    where the noiseless responses are not known.
    """
    from decode.scoring.ceiling import retrieval_ceiling

    truth = cache(dataset.truth)
    found = np.full(len(trials), np.nan)
    stimulus, subject = trials["stimulus"].to_numpy(), trials["subject"].to_numpy()
    for gallery in galleries(trials, ranks.within):
        uids = list(stimulus[gallery.rows[gallery.first]])
        for name in dict.fromkeys(subject[gallery.rows]):
            mine = gallery.rows[subject[gallery.rows] == name]
            known = truth(name)
            if known is not None:
                found[mine] = retrieval_ceiling(
                    known,
                    uids,
                    repeats=int(trials["repeats"].iloc[mine[0]]),
                    k=min(ranks.k or 1, len(uids)),
                    find=ranks.find,
                    draws=DRAWS,
                    seed=seed,
                )
    return found
