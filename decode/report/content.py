"""What a report says, as plain data: scores, controls, galleries, curves, splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from decode.core import Measure, refusal
from decode.scoring.summary import ALL_SUBJECTS
from decode.sources import DECODER, Role, Source, in_order


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
    source: str = DECODER.name
    role: Role = DECODER.role
    part: str | None = None
    time: float | None = None
    unit: str = "trial"
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
    def origin(self) -> tuple[str, str | None]:
        """Which source it is of: `Source.key`."""
        return self.source, self.part

    def reaches(self, other: Score) -> bool:
        """Whether this score is as good as `other`."""
        if self.better == "lower":
            return self.value <= other.value
        return self.value >= other.value


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One trial of a gallery: pictures by source ("shown", "decoder", "ridge", ...) and its score.

    A picture is a path or an array, (h, w, 3) uint8 or (3, h, w) in [0, 1]. Where texts are made,
    `texts` are those of each source and `written` is what people wrote.
    """

    subject: str
    stimulus: str
    value: float
    pictures: Mapping[str, Any]
    texts: Mapping[str, str] = field(default_factory=dict)
    written: str = ""


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
    """Everything on one page. `summary` holds the objects of summary.json, `measures` and `sources` say
    what its scores are and whose.

    `headline` names the metrics shown large (empty: the first four of the decoder); `about` is a
    short list of facts (data set, citation, subjects, encoder ...); `growth` has curves over
    training sessions; `regions` has lists of one metric's scores in each region; `ceilings` has noise
    ceilings of the test data (see `ceilings.Ceiling`), `voxels` scores of single voxels or sensors (see
    `voxels.VoxelCard`); `approximations` says what a
    simulation leaves out; `limits` says what a reader must not conclude;
    `published` holds published results beside those of the run (see `published.Beside`);
    `classes` has confusion matrices of class targets (see `classes.ClassCard`).
    """

    name: str
    summary: Sequence[Mapping[str, Any]]
    measures: Mapping[str, Measure] = field(default_factory=dict)
    sources: Sequence[Source] = ()
    simulated: bool = False
    about: Mapping[str, str] = field(default_factory=dict)
    headline: Sequence[str] = ()
    galleries: Sequence[Gallery] = ()
    learning: Sequence[Curve] = ()
    curves: Sequence[Curve] = ()
    growth: Sequence[Curve] = ()
    regions: Sequence[Sequence[Score]] = ()
    ceilings: Sequence[Any] = ()
    voxels: Sequence[Any] = ()
    splits: Sequence[SplitCard] = ()
    config: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    artefacts: Sequence[Artefact] = ()
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
    `text` is what was decoded of the shown picture, where texts are made; an `outdated` run has scores
    that an older version wrote, which are not shown here.
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
    outdated: bool = False


def overall(scores: Sequence[Score]) -> list[Score]:
    """Per metric, source and split the score over all subjects, or the only subject's."""
    kept: dict[tuple[Any, ...], Score] = {}
    for score in scores:
        key = (score.split, score.metric, score.origin)
        if key not in kept or score.subject == ALL_SUBJECTS:
            kept[key] = score
    return list(kept.values())


def of_decoder(scores: Sequence[Score]) -> list[Score]:
    return [s for s in scores if s.role == "decoder"]


def headline_scores(
    scores: Sequence[Score], names: Sequence[str] = (), *, most: int = 4
) -> list[Score]:
    """The decoder's overall scores named in `names`, or its first `most`; every split of each."""
    own = of_decoder(overall(scores))
    wanted = list(names) or list(dict.fromkeys(s.metric for s in own))[:most]
    return [s for name in wanted for s in own if s.metric == name]


def shown_beside(scores: Sequence[Score], sources: Sequence[Source]) -> list[Source]:
    """The sources that have a column beside the decoder: baselines and controls with a score, in order."""
    present = {s.origin for s in scores}
    return [s for s in in_order(sources) if s.role in ("baseline", "control") and s.key in present]


def choose(rows: pd.DataFrame, metric: str, *, n: int = 6) -> dict[str, list[int]]:
    """Trials of the n best, n median and n worst values of `metric`: never chosen by eye.

    `rows` are score rows (metric, trial, value, better). Ties are ordered by trial, so that the
    choice can be repeated. With fewer than 3 n trials the groups get shorter, never overlap.
    """
    part = rows[rows["metric"] == metric]
    if part.empty:
        raise refusal(
            "gallery", f"scores of {metric!r}", sorted(rows["metric"].unique()), "name one of them"
        )
    lower = "better" in part and part["better"].iloc[0] == "lower"
    key = part["value"].to_numpy() * (1 if lower else -1)
    trials = part["trial"].to_numpy()[np.lexsort((part["trial"].to_numpy(), key))]
    n = min(n, max(1, len(trials) // 3))
    middle = max(n, (len(trials) - n) // 2)
    groups = {"best": trials[:n], "median": trials[middle : middle + n]}
    groups["worst"] = trials[max(middle + n, len(trials) - n) :][::-1]
    return {name: [int(t) for t in chosen] for name, chosen in groups.items() if len(chosen)}
