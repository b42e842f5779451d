"""What a report says, as plain data: scores, controls, galleries, curves, splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from decode.core import InputError

ALL_SUBJECTS = "all"
# In the order of the table's columns; anything else with a slash is a baseline and comes first.
CONTROLS = {
    "shuffled": "the decoder's own output, paired with the truth of random trials; sits at chance "
    "unless a score rewards something else than the brain signal",
    "mean_image": "the mean training picture shown for every trial",
    "nearest_image": "the training picture whose features lie nearest to the prediction",
    "nearest_text": "the first text of the training stimulus whose features lie nearest to the prediction",
    "prestimulus": "a ridge on the samples from before the stimulus; sits at chance unless something "
    "leaks into them",
    "prior": "the generator driven without the brain signal, by its own prior alone",
    "shown": "the shown pictures themselves, for scores of a model of the brain: how good that model is",
    "oracle": "the generator driven by the true features: the ceiling of this generator",
}
BASELINE = "another decoder, fitted next to the main one on the same training rows"


@dataclass(frozen=True, slots=True)
class Score:
    """One line of `summary.json`: the mean of a metric over n rows, with its 95 % interval.

    `chance_is_bound`: chance is the most that can be had without the brain, as by always naming the
    most frequent class, so that shuffled pairs may lie below it.
    """

    metric: str
    subject: str
    n: int
    value: float
    chance: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    better: str = "higher"
    split: str = ""
    split_hash: str = ""
    n_fits: int = 1
    test_conditioned: bool = False
    ceiling: float | None = None
    chance_is_bound: bool = False

    @property
    def control(self) -> str:
        """The control this score belongs to; "" for the decoder itself."""
        return self.metric.rpartition("/")[0]

    @property
    def plain(self) -> str:
        """The metric's name without its control."""
        return self.metric.rpartition("/")[2]

    @property
    def part(self) -> tuple[str, str]:
        """Axis and label of the part of the signal it was decoded from ("window", "100ms"), or "" """
        axis, _, label = self.control.partition("=")
        return (axis, label) if label else ("", "")

    def reaches(self, other: Score) -> bool:
        """Whether this score is as good as `other`."""
        if self.better == "lower":
            return self.value <= other.value
        return self.value >= other.value


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One trial of a gallery: pictures by label ("shown", "decoded", "ridge", ...) and its score.

    A picture is a path or an array, (h, w, 3) uint8 or (3, h, w) in [0, 1]. `texts` are what was
    written by people ("written") and made ("decoded", ...), where texts are made.
    """

    subject: str
    stimulus: str
    value: float
    pictures: Mapping[str, Any]
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """Trials side by side, chosen by `metric`: `groups` maps "best", "median", "worst" to shots."""

    title: str
    metric: str
    groups: Mapping[str, Sequence[Shot]]

    @property
    def told(self) -> bool:
        """Whether its trials are shown as texts beside a picture."""
        return any(shot.texts for shots in self.groups.values() for shot in shots)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Lines over a shared axis: `lines` maps a name to (x, y); `chance` draws a dashed level."""

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    chance: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class SplitCard:
    """One named split: `folds` has a row per fold and part with n_trials and n_stimuli."""

    name: str
    hash: str
    folds: Sequence[Mapping[str, Any]]
    by: str = ""


@dataclass(frozen=True, slots=True)
class Artefact:
    """A folder the report was made from."""

    stage: str
    folder: str
    key: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """Everything on one page. `summary` holds the objects of summary.json.

    `headline` names the metrics shown large (empty: the first four of the decoder); `about` is a
    short list of facts (data set, citation, subjects, encoder ...); `growth` has curves over
    training sessions; `regions` maps a metric to its score in each region; `ceilings` has noise
    ceilings of the test data (see `ceilings.Ceiling`); `approximations` says what a
    simulation leaves out; `limits` says what a reader must not conclude;
    `published` holds published results beside those of the run (see `published.Beside`);
    `classes` has confusion matrices of class targets (see `classes.ClassCard`).
    """

    name: str
    summary: Sequence[Mapping[str, Any]]
    simulated: bool = False
    about: Mapping[str, str] = field(default_factory=dict)
    headline: Sequence[str] = ()
    galleries: Sequence[Gallery] = ()
    learning: Sequence[Curve] = ()
    curves: Sequence[Curve] = ()
    growth: Sequence[Curve] = ()
    regions: Mapping[str, Sequence[Score]] = field(default_factory=dict)
    ceilings: Sequence[Any] = ()
    splits: Sequence[SplitCard] = ()
    config: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    artefacts: Sequence[Artefact] = ()
    baselines: Mapping[str, str] = field(default_factory=dict)
    approximations: Sequence[str] = ()
    limits: Sequence[str] = ()
    published: Any = None
    classes: Sequence[Any] = ()

    @property
    def scores(self) -> list[Score]:
        return [Score(**row) for row in self.summary]


@dataclass(frozen=True, slots=True, eq=False)
class RunCard:
    """A finished run on the index page; `link` is relative to that page, `pictures` as in `Shot`;
    `text` is what was decoded of the shown picture, where texts are made.
    """

    name: str
    link: str
    summary: Sequence[Mapping[str, Any]]
    headline: Sequence[str] = ()
    simulated: bool = False
    finished: str = ""
    about: str = ""
    pictures: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


def overall(scores: Sequence[Score]) -> list[Score]:
    """Per metric and split the score over all subjects, or the only subject's."""
    kept: dict[tuple[str, str], Score] = {}
    for score in scores:
        key = (score.split, score.metric)
        if key not in kept or score.subject == ALL_SUBJECTS:
            kept[key] = score
    return list(kept.values())


def headline_scores(
    scores: Sequence[Score], names: Sequence[str] = (), *, most: int = 4
) -> list[Score]:
    """The decoder's overall scores named in `names`, or its first `most`; every split of each."""
    own = [s for s in overall(scores) if not s.control]
    wanted = list(names) or list(dict.fromkeys(s.metric for s in own))[:most]
    return [s for name in wanted for s in own if s.metric == name]


def control_names(scores: Sequence[Score], baselines: Sequence[str] = ()) -> list[str]:
    """Controls present in `scores`: baselines first, then the usual order; parts are none."""
    present = list(dict.fromkeys(s.control for s in scores if s.control and s.part == ("", "")))
    first = [c for c in baselines if c in present]
    first += [c for c in present if c not in CONTROLS and c not in first]
    return first + [
        c
        for c in (
            "nearest_image",
            "nearest_text",
            "mean_image",
            "prior",
            "prestimulus",
            "shuffled",
            "shown",
            "oracle",
        )
        if c in present
    ]


def choose(rows: pd.DataFrame, metric: str, *, n: int = 6) -> dict[str, list[int]]:
    """Trials of the n best, n median and n worst values of `metric`: never chosen by eye.

    `rows` are score rows (metric, trial, value, better). Ties are ordered by trial, so that the
    choice can be repeated. With fewer than 3 n trials the groups get shorter, never overlap.
    """
    part = rows[rows["metric"] == metric]
    if part.empty:
        raise InputError(
            f"gallery: expected scores of {metric!r}, there are {sorted(rows['metric'].unique())}; "
            "name one of them"
        )
    lower = "better" in part and part["better"].iloc[0] == "lower"
    key = part["value"].to_numpy() * (1 if lower else -1)
    trials = part["trial"].to_numpy()[np.lexsort((part["trial"].to_numpy(), key))]
    n = min(n, max(1, len(trials) // 3))
    middle = max(n, (len(trials) - n) // 2)
    groups = {"best": trials[:n], "median": trials[middle : middle + n]}
    groups["worst"] = trials[max(middle + n, len(trials) - n) :][::-1]
    return {name: [int(t) for t in chosen] for name, chosen in groups.items() if len(chosen)}
