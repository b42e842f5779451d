"""How often 95 % intervals hold the true score: simulated experiments, scored by the metrics.

Each world draws trials, people and stimuli anew a thousand times and asks for the score of the
population, which is the mean over all draws. With 1000 draws a coverage of .950 is known to .007.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from decode.core import Metric, Results
from decode.metrics.accuracy import Accuracy
from decode.metrics.auc import Auc
from decode.metrics.brain_correlation import contributions
from decode.metrics.retrieval import Retrieval
from decode.metrics.vector_correlation import VectorCorrelation
from decode.scoring.captions import bleu_contributions
from decode.scoring.intervals import interval

DRAWS = 1000
Draw = Callable[[np.random.Generator], pd.DataFrame]


@dataclass(frozen=True)
class World:
    """One row of the table: `draw` gives the rows of one experiment's scores, of one metric or of
    several that are counted one by one.
    """

    what: str
    size: str
    draw: Draw


def scored(
    metric: Metric, predicted: np.ndarray, truth: np.ndarray, subject: Any, stimulus: Any
) -> pd.DataFrame:
    """Rows of a metric with the stimulus of each; vectors are (row, feature)."""
    trials = pd.DataFrame({"subject": subject, "stimulus": stimulus}, index=range(len(truth)))
    trials = trials.assign(split="test", fold=0)
    pair = [{"x": torch.from_numpy(np.asarray(v, np.float64))} for v in (predicted, truth)]
    rows = metric(Results(trials, *pair, []))
    return rows.assign(stimulus=trials["stimulus"].to_numpy()[rows["trial"].to_numpy(int)])


def crossed(subjects: int, items: int, repeats: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(row,) numbers of subject and item when everyone sees all items `repeats` times."""
    grid = np.meshgrid(np.arange(subjects), np.arange(items), np.arange(repeats), indexing="ij")
    return grid[0].ravel(), grid[1].ravel()


def auc(positive: int, negative: int, apart: float, subjects: int = 1, differ: float = 0.0) -> Draw:
    """Normal scores `apart` standard deviations from each other, people `differ`ing in that."""

    def draw(rng: np.random.Generator) -> pd.DataFrame:
        label = np.tile(np.repeat([1, 0], [positive, negative]), subjects)
        subject = np.repeat(np.arange(subjects), positive + negative)
        distance = apart + differ * rng.normal(size=subjects)[subject]
        score = rng.normal(size=len(label)) + distance * label
        return scored(Auc("x"), score[:, None], label[:, None], subject, label)

    return draw


def accuracy(
    trials: tuple[int, ...], signal: float, subjects: int = 1, differ: float = 0.0, repeats: int = 1
) -> Draw:
    """`trials` of each class, of a picture each or of `repeats` of one that is easy or hard."""

    def draw(rng: np.random.Generator) -> pd.DataFrame:
        number = np.repeat(np.arange(len(trials)), trials)
        label = np.tile(np.repeat(number, repeats), subjects)
        subject = np.repeat(np.arange(subjects), len(number) * repeats)
        item = np.tile(np.repeat(np.arange(len(number)), repeats), subjects)
        truth = np.eye(len(trials))[label]
        strength = signal + differ * rng.normal(size=subjects)[subject]
        if repeats > 1:
            strength = strength * (0.4 + 1.2 * rng.random(len(number)))[item]
        made = truth * strength[:, None] + rng.normal(size=truth.shape)
        stimulus = item if repeats > 1 else label
        return scored(Accuracy("x"), made, truth, subject, stimulus)

    return draw


def vectors(
    metric: Metric,
    items: int,
    noise: float,
    subjects: int = 1,
    repeats: int = 1,
    differ: float = 0.0,
    features: int = 60,
) -> Draw:
    """Features predicted with noise that differs from item to item and from person to person."""

    def draw(rng: np.random.Generator) -> pd.DataFrame:
        subject, item = crossed(subjects, items, repeats)
        true = rng.normal(size=(items, features))
        hard = noise * np.exp(0.4 * rng.normal(size=items))[item]
        hard = hard * np.exp(differ * rng.normal(size=subjects))[subject]
        made = true[item] + hard[:, None] * rng.normal(size=(len(item), features))
        return scored(metric, made, true[item], subject, item)

    return draw


def errors(items: int, subjects: int = 1, differ: float = 0.0) -> Draw:
    """Squared errors, which have a long tail: means over rows of scores without bounds."""

    def draw(rng: np.random.Generator) -> pd.DataFrame:
        subject, item = crossed(subjects, items)
        value = 2 * rng.gamma(2, size=items)[item] * rng.gamma(3, size=len(item))
        value = value * np.exp(differ * rng.normal(size=subjects))[subject]
        return pd.DataFrame({"metric": "mse", "subject": subject, "stimulus": item, "value": value})

    return draw


def voxels(items: int, signal: float, n: int = 40) -> Draw:
    """Mean correlation over voxels whose noise is shared in part."""

    def draw(rng: np.random.Generator) -> pd.DataFrame:
        expected = rng.normal(size=(items, n))
        noise = 0.7 * rng.normal(size=(items, n)) + 0.7 * rng.normal(size=(items, 1))
        value = contributions(signal * expected + noise, expected).mean(axis=1)
        return pd.DataFrame({"metric": "r", "subject": 0, "stimulus": range(items), "value": value})

    return draw


def sentences(items: int) -> Draw:
    """BLEU-1 to BLEU-4 of ten words, each right by a chance that differs from item to item."""

    def draw(rng: np.random.Generator) -> pd.DataFrame:
        chance = rng.beta(6, 3, size=items)
        right = rng.random((items, 10)) < chance[:, None]
        runs = [np.lib.stride_tricks.sliding_window_view(right, k, axis=1) for k in (1, 2, 3, 4)]
        matched = np.stack([r.all(axis=-1).sum(axis=1) for r in runs], axis=1)
        made = np.tile([10, 9, 8, 7, 10, 10], (items, 1))
        value = bleu_contributions(np.c_[matched, made].astype(float))
        parts = {f"bleu{k + 1}": value[:, k] for k in (0, 3)}
        return pd.concat(
            pd.DataFrame({"metric": m, "subject": 0, "stimulus": range(items), "value": v})
            for m, v in parts.items()
        )

    return draw


RETRIEVAL = Retrieval("x", k=(1, 5), n_way=(2,))
CORRELATION = VectorCorrelation("x")

WORLDS = (
    World("AUC, one subject", "100 / 100", auc(100, 100, 1)),
    World("AUC, one subject", "100 / 20", auc(100, 20, 1)),
    World("AUC, one subject", "20 / 100", auc(20, 100, 1)),
    World("AUC, one subject", "20 / 20", auc(20, 20, 1)),
    World("AUC, one subject", "10 / 50, near 1", auc(10, 50, 2.5)),
    World("AUC, one subject", "150 / 1050, near 1", auc(150, 1050, 2.5)),
    World("AUC, 3 subjects", "100 / 20 each", auc(100, 20, 1, 3, 0.3)),
    World("AUC, 8 subjects", "100 / 20 each", auc(100, 20, 1, 8, 0.3)),
    World("AUC, 8 subjects alike", "100 / 20 each", auc(100, 20, 1, 8)),
    World("accuracy, one subject", "2 x 10", accuracy((10, 10), 1)),
    World("accuracy, one subject", "2 x 50", accuracy((50, 50), 1)),
    World("accuracy, one subject", "100 / 20", accuracy((100, 20), 1)),
    World("accuracy, one subject", "100 / 20, near 1", accuracy((100, 20), 2)),
    World("accuracy, one subject", "8 x 12, near 1", accuracy((12,) * 8, 4)),
    World("accuracy, one subject", "16 x 10, events", accuracy((10,) * 16, 1)),
    World("accuracy, pictures x 5", "8 x 6", accuracy((6,) * 8, 2, repeats=5)),
    World("accuracy, 3 subjects", "4 x 25 each", accuracy((25,) * 4, 1.5, 3, 0.5)),
    World("accuracy, 8 subjects", "4 x 25 each", accuracy((25,) * 4, 1.5, 8, 0.5)),
    World("retrieval, one subject", "20", vectors(RETRIEVAL, 20, 2.5)),
    World("retrieval, one subject", "100", vectors(RETRIEVAL, 100, 2.5)),
    World("retrieval, one subject", "100, near 1", vectors(RETRIEVAL, 100, 1.2)),
    World("retrieval, one subject", "300", vectors(RETRIEVAL, 300, 4)),
    World("retrieval, one subject", "50 x 3", vectors(RETRIEVAL, 50, 3, repeats=3)),
    World("retrieval, 2 subjects", "80", vectors(RETRIEVAL, 80, 3, 2, differ=0.1)),
    World("retrieval, 4 subjects", "100", vectors(RETRIEVAL, 100, 3, 4, differ=0.2)),
    World("retrieval, 8 subjects", "50", vectors(RETRIEVAL, 50, 3, 8, differ=0.2)),
    World("correlation, one subject", "12", vectors(CORRELATION, 12, 1)),
    World("correlation, one subject", "100", vectors(CORRELATION, 100, 1)),
    World("correlation, one subject", "30 x 3", vectors(CORRELATION, 30, 1, repeats=3)),
    World("correlation, 2 subjects", "80", vectors(CORRELATION, 80, 1, 2, differ=0.1)),
    World("correlation, 4 subjects", "100", vectors(CORRELATION, 100, 1, 4, differ=0.2)),
    World("correlation, 8 subjects", "50", vectors(CORRELATION, 50, 1, 8, differ=0.2)),
    World("squared error, one subject", "12", errors(12)),
    World("squared error, one subject", "100", errors(100)),
    World("squared error, 8 subjects", "100", errors(100, 8, 0.2)),
    World("brain correlation, one subject", "12", voxels(12, 1)),
    World("brain correlation, one subject", "100", voxels(100, 1)),
    World("brain correlation, one subject", "515, weak", voxels(515, 0.2)),
    World("BLEU, one subject", "100", sentences(100)),
    World("BLEU, one subject", "500", sentences(500)),
)


def coverage(world: World, draws: int, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Per metric of the world: its true score, how often the interval held it, the mean width."""
    rng = np.random.default_rng([seed, len(world.what), len(world.size)])
    found: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(draws):
        for metric, rows in world.draw(rng).groupby("metric", sort=False):
            found.setdefault(str(metric), []).append(interval(rows))
    return {metric: summarise(np.array(x)) for metric, x in found.items()}


def summarise(found: np.ndarray) -> tuple[float, float, float]:
    """True score, coverage and mean width from (draw, 3): value, low, high."""
    value, low, high = found.T
    truth = value.mean()
    held = (low <= truth) & (truth <= high)
    return float(truth), float(held.mean()), float((high - low).mean())


def rows(worlds: Iterable[World] = WORLDS, draws: int = DRAWS) -> list[Mapping[str, Any]]:
    """The table of docs/metrics.md."""
    made = []
    for world in worlds:
        for metric, (truth, held, width) in coverage(world, draws).items():
            print(f"{world.what} {world.size} {metric}: {held:.3f}", file=sys.stderr, flush=True)
            made.append(
                {
                    "what": world.what,
                    "size": world.size,
                    "score": metric,
                    "true": f"{truth:.3f}",
                    "coverage": f"{held:.3f}",
                    "width": f"{width:.3f}",
                }
            )
    return made
