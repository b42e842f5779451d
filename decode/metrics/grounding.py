"""Boxes in made texts beside those that people drew around the objects of the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from decode.core import InputError, Results, Stimulus
from decode.recordings.coco_boxes import WHOLE, Boxes, read_boxes, read_crops
from decode.scoring.boxes import area, overlap, parse_boxes
from decode.scoring.rows import galleries, scores, table


class Grounding:
    """`grounding_iou`, intersection over union, and `grounding_accuracy`, the share that reaches
    `threshold` (as UMBRAE scores them, Xia et al. 2024, arXiv:2404.07202).

    The first box in a text counts (see `parse_boxes` for its form); a text without one scores 0. It
    is compared with the objects of `category` (null: of all categories): with the `largest`, or with
    whichever it meets best (`against: any`). Trials whose picture has no such object are left out.
    One prompt serves all trials, so `category` is the one that the prompt asks for.

    Boxes are the stimulus' label `boxes`, category -> list of [left, top, right, bottom] as shares of
    the picture, or, with `files`, come from COCO's instances_*.json by the label `coco_id`; `crops` is
    NSD's table of what was cut off each picture (null: nothing was).

    Chance is the score against the boxes of a picture drawn at random from the gallery, the stimuli
    that agree in the columns `within`. Raises InputError where nothing can be scored.
    """

    looks_at: ClassVar[Literal["media"]] = "media"

    def __init__(
        self,
        *,
        category: str | None = None,
        against: Literal["largest", "any"] = "largest",
        threshold: float = 0.5,
        files: Sequence[str] = (),
        crops: str | None = None,
        within: Sequence[str] = ("subject", "split"),
    ) -> None:
        if against not in ("largest", "any"):
            raise InputError(f"metric grounding: against is largest or any, got {against!r}")
        if not 0 < threshold <= 1:
            raise InputError(f"metric grounding: threshold lies in (0, 1], got {threshold}")
        self.category, self.against, self.threshold = category, against, threshold
        self.files, self.crops, self.within = [Path(f) for f in files], crops, tuple(within)
        self._read: dict[int, Boxes] = {}

    def __call__(self, results: Results) -> pd.DataFrame:
        made = [parse_boxes(text)[:1] for text in _texts(results)]
        told = self._told(results.shown)
        drawn = [self._wanted(told[s.uid]) for s in results.shown]
        parts: list[pd.DataFrame] = []
        for gallery in galleries(results.trials, self.within):
            first = [i for i in gallery.rows[gallery.first] if len(drawn[i])]
            rows = np.array([i for i in gallery.rows if len(drawn[i])], int)
            against = np.array([[_best(made[i], drawn[j]) for j in first] for i in rows])
            own = np.array([_best(made[i], drawn[i]) for i in rows])
            for name, cut in (("grounding_iou", None), ("grounding_accuracy", self.threshold)):
                value, chance = (x if cut is None else x >= cut for x in (own, against))
                if len(rows):
                    level = float(chance.mean())
                    parts.append(scores(results, name, rows, value, chance=level))
        if not parts:
            raise InputError(
                f"metric grounding: none of {len(results.shown)} pictures has a box of category "
                f"{self.category!r}; name another, as the boxes spell it, or null for all"
            )
        return table(parts)

    def _wanted(self, told: Mapping[str, Sequence[Sequence[float]]]) -> np.ndarray:
        """The boxes (box, 4) of one picture that count."""
        names = told if self.category is None else [self.category]
        listed = [box for name in names for box in told.get(name, ())]
        boxes = np.array(listed, np.float64).reshape(-1, 4)
        if self.against == "any" or not len(boxes):
            return boxes
        return boxes[[int(area(boxes).argmax())]]

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


def _best(made: np.ndarray, drawn: np.ndarray) -> float:
    return float(overlap(made, drawn).max()) if len(made) else 0.0


def _label(stimulus: Stimulus, name: str, other: str) -> Any:
    if name not in stimulus.labels:
        raise InputError(
            f"metric grounding: expected the label {name!r} of stimulus {stimulus.uid!r}, it has "
            f"{sorted(stimulus.labels)}; give the data set that label {other}, or drop this metric"
        )
    return stimulus.labels[name]


def _texts(results: Results) -> list[str]:
    made = results.made or []
    if len(made) != len(results.shown) or any(not isinstance(m.data, str) for m in made):
        raise InputError(
            "metric grounding: expected a made text per trial; choose a generator of texts or drop "
            "this metric"
        )
    return [str(m.data) for m in made]
