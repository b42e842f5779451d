"""Boxes in made texts beside those that people drew around the objects of the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from decode.core import InputError, Kind, Measure, Metric, Results, Stimulus, refusal
from decode.recordings.coco_boxes import WHOLE, Boxes, read_boxes, read_crops
from decode.scoring.answers import answer_lines
from decode.scoring.boxes import area, overlap, parse_boxes
from decode.scoring.feature_networks import slug
from decode.scoring.rows import Gallery, galleries, made_texts, scores, table


class Grounding(Metric):
    """`grounding_iou`, intersection over union, and `grounding_accuracy`, the share that reaches
    `threshold` (as UMBRAE scores them, Xia et al. 2024, arXiv:2404.07202).

    The first box in a text counts (see `parse_boxes` for its form); a text without one scores 0. It
    is compared with the objects of `category` (null: of all categories): with the `largest`, or with
    whichever it meets best (`against: any`). Trials whose picture has no such object are left out.
    One prompt serves all trials, so `category` is the one that the prompt asks for.

    Where the generator was asked for several categories, and wrote a line `CATEGORY: ...` for each, a
    list of them in `category` reads those lines: a trial's score is the mean over the categories of
    the list that its picture has, what was written about others is not looked at. Every picture
    counts once, where UMBRAE counts every pair of picture and category. A text without lines has no box.
    `groups` names parts of that list, such as BrainHub's by salience: each gives `grounding_iou_<group>`
    and `grounding_accuracy_<group>` besides, over the pictures that have a category of it.

    Boxes are the stimulus' label `boxes`, category -> list of [left, top, right, bottom] as shares of
    the picture, or, with `files`, come from COCO's instances_*.json by the label `coco_id`; `crops` is
    NSD's table of what was cut off each picture (null: nothing was).

    Chance is the score against the boxes, of the same category, of a picture drawn at random from those
    of the gallery that have some; a gallery is the stimuli that agree in the columns `within`. Raises
    InputError where nothing can be scored and for a category that was not asked for.
    """

    looks_at: ClassVar[Literal["media"]] = "media"
    accepts: ClassVar[frozenset[Kind]] = frozenset({"text"})

    def __init__(
        self,
        *,
        category: str | Sequence[str] | None = None,
        against: Literal["largest", "any"] = "largest",
        threshold: float = 0.5,
        groups: Mapping[str, Sequence[str]] | None = None,
        files: Sequence[str] = (),
        crops: str | None = None,
        within: Sequence[str] = ("subject", "split"),
    ) -> None:
        if against not in ("largest", "any"):
            raise refusal(
                "metrics.grounding.against", "largest or any", f"{against!r}", "choose one"
            )
        if not 0 < threshold <= 1:
            raise refusal(
                "metrics.grounding.threshold",
                "a number in (0, 1]",
                threshold,
                "take .5, as published",
            )
        one = category is None or isinstance(category, str)
        self.categories: tuple[Any, ...] = (category,) if one else tuple(category or ())
        self.listed = not one
        if not self.categories or len(set(self.categories)) < len(self.categories):
            raise refusal(
                "metrics.grounding.category",
                "a name, a list of different names or null",
                f"{category!r}",
                "write one name or [name, name]",
            )
        self.groups = {slug(name): tuple(members) for name, members in (groups or {}).items()}
        strange = [
            c for members in self.groups.values() for c in members if c not in self.categories
        ]
        if strange or not all(self.groups.values()):
            raise InputError(
                f"metric grounding: expected groups of categories that `category` lists, got "
                f"{strange[0] if strange else 'an empty one'!r}; correct one of them"
            )
        self.against, self.threshold = against, threshold
        self.files, self.crops, self.within = [Path(f) for f in files], crops, tuple(within)
        self._read: dict[int, Boxes] = {}

    def measures(self) -> Mapping[str, Measure]:
        told = {
            "iou": "Intersection over union of the written box with the one that people drew{}; 0 where no "
            "box was written.",
            "accuracy": "Share of written boxes that overlap enough with the one that people drew{}.",
        }
        endings = {"": "", **{f"_{g}": f", of the group of categories {g}" for g in self.groups}}
        return {
            f"grounding_{score}{ending}": Measure(text.format(which), ceiling="generator")
            for ending, which in endings.items()
            for score, text in told.items()
        }

    def __call__(self, results: Results) -> pd.DataFrame:
        made, told = self._answered(made_texts(results, "grounding")), self._told(results.shown)
        drawn = [self._wanted(told[s.uid]) for s in results.shown]
        parts: list[pd.DataFrame] = []
        for gallery in galleries(results.trials, self.within):
            asked = self._asked(made, drawn, gallery)
            if not len(asked):
                continue
            of = {"": self.categories, **{f"_{name}": c for name, c in self.groups.items()}}
            for ending, members in of.items():
                part = asked[asked["category"].isin([self.categories.index(c) for c in members])]
                if part.empty:
                    continue
                trial = part.drop(columns="category").groupby("row").mean()
                for score in ("iou", "accuracy"):
                    level, value = float(trial[f"chance_{score}"].mean()), trial[score].to_numpy()
                    name, rows = f"grounding_{score}{ending}", trial.index.to_numpy()
                    parts.append(scores(results, name, rows, value, chance=level))
        if not parts:
            raise refusal(
                "metrics.grounding.category",
                "a category that a shown picture has a box of",
                f"{self._said()}, of which none of {len(results.shown)} has",
                "name another, as the boxes spell it, or null for all",
            )
        return table(parts)

    def _asked(
        self,
        made: Sequence[Sequence[np.ndarray]],
        drawn: Sequence[Sequence[np.ndarray]],
        gallery: Gallery,
    ) -> pd.DataFrame:
        """A row per trial and category that its picture has, with the scores of both and by chance;
        `category` is its place in the list.
        """
        found = []
        for k in range(len(self.categories)):
            first = [drawn[i][k] for i in gallery.rows[gallery.first] if len(drawn[i][k])]
            for row in (i for i in gallery.rows if len(drawn[i][k])):
                own, others = (_best(made[row][k], boxes) for boxes in ([drawn[row][k]], first))
                right, by_chance = (x >= self.threshold for x in (own, others))
                found.append((row, k, own.mean(), others.mean(), right.mean(), by_chance.mean()))
        columns = ["row", "category", "iou", "chance_iou", "accuracy", "chance_accuracy"]
        return pd.DataFrame(found, columns=columns)

    def _said(self) -> str:
        return repr(list(self.categories)) if self.listed else repr(self.categories[0])

    def _answered(self, texts: Sequence[str]) -> list[list[np.ndarray]]:
        """The box (0 or 1, 4) of each text in answer to each category."""
        if not self.listed:
            return [[parse_boxes(text)[:1]] for text in texts]
        lines = answer_lines(texts, [self.categories] * len(texts), "grounding")
        return [[parse_boxes(told.get(c, ""))[:1] for c in self.categories] for told in lines]

    def _wanted(self, told: Mapping[str, Sequence[Sequence[float]]]) -> list[np.ndarray]:
        """For each category the boxes (box, 4) of one picture that count."""
        made = []
        for category in self.categories:
            names = told if category is None else [category]
            found = [box for name in names for box in told.get(name, ())]
            boxes = np.array(found, np.float64).reshape(-1, 4)
            if self.against == "largest" and len(boxes):
                boxes = boxes[[int(area(boxes).argmax())]]
            made.append(boxes)
        return made

    def _told(self, shown: Sequence[Stimulus]) -> dict[str, Mapping[str, Any]]:
        """All boxes of each stimulus by uid."""
        if not self.files:
            return {s.uid: _label(s, "boxes", "or the metric's files") for s in shown}
        number = {s.uid: int(_label(s, "coco_id", "or boxes as labels")) for s in shown}
        missing = set(number.values()) - set(self._read)
        if missing:
            crops = {} if self.crops is None else read_crops(Path(self.crops))
            self._read |= read_boxes(self.files, {n: crops.get(n, WHOLE) for n in missing})
        return {uid: self._read[n] for uid, n in number.items()}


def _best(made: np.ndarray, drawn: Sequence[np.ndarray]) -> np.ndarray:
    """(picture,): overlap of a made box (0 or 1, 4) with that of each picture's boxes it meets best."""
    if not len(made):
        return np.zeros(len(drawn))
    starts = np.cumsum([0, *map(len, drawn[:-1])])
    return np.maximum.reduceat(overlap(made, np.vstack(drawn))[0], starts)


def _label(stimulus: Stimulus, name: str, other: str) -> Any:
    if name not in stimulus.labels:
        raise refusal(
            "metric grounding",
            f"the label {name!r} of stimulus {stimulus.uid!r}",
            sorted(stimulus.labels),
            f"give the data set that label {other}, or drop this metric",
        )
    return stimulus.labels[name]
