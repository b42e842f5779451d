"""What a decoder made of new recordings, as one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from decode.core import Media, Stimulus
from decode.report.page import render
from decode.use.apply import Applied

MOST_ROWS = 40


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Something to look at or listen to, or words."""

    picture: Any = None
    text: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One prediction: what was shown and made, and what it is most similar to (name, similarity, view)."""

    title: str
    shown: View | None
    made: View | None
    matches: Sequence[tuple[str, float, View | None]] = field(default_factory=tuple)
    found_at: float | None = None


def page(applied: Applied, about: dict[str, str]) -> str:
    """The page as HTML that needs no network; `about` are facts in words."""
    n = len(applied.trials)
    rows = np.unique(np.linspace(0, n - 1, min(n, MOST_ROWS)).round().astype(int))
    facts = applied.decoder.facts
    return render(
        "applied.html.j2",
        title=f"{applied.decoder.name} on new recordings",
        about={**about, "trials": str(n)},
        stamped=bool(facts.get("test_conditioned")),
        simulated=bool(facts.get("simulated")),
        fits=applied.fits,
        told=applied.told,
        scores=applied.scores().to_dict("records"),
        gallery=None if applied.gallery is None else len(applied.gallery.names),
        target=None if applied.gallery is None else applied.gallery.target,
        classes=applied.gallery is not None and applied.gallery.of_classes,
        lines=[_line(applied, int(row)) for row in rows],
        left_out=n - len(rows),
    )


def _line(applied: Applied, row: int) -> Line:
    trial = applied.trials.iloc[row]
    found = trial.get("found_at", float("nan"))
    return Line(
        title=f"{trial['subject']}, {trial['stimulus']}",
        shown=_shown(applied.shown[row]),
        made=None if applied.media is None else _made(applied.media[row]),
        matches=_matches(applied, row),
        found_at=None if pd.isna(found) else float(found),
    )


def _matches(applied: Applied, row: int) -> list[tuple[str, float, View | None]]:
    if applied.matches is None or applied.gallery is None:
        return []
    mine = applied.matches[applied.matches["row"] == row]
    of = {s.uid: s for s in applied.gallery.stimuli}
    return [
        (str(item), float(similarity), _shown(of.get(item)))
        for item, similarity in mine[["item", "similarity"]].itertuples(index=False)
    ]


def _shown(stimulus: Stimulus | None) -> View | None:
    if stimulus is None:
        return None
    if stimulus.can_be_seen:
        return View(picture=stimulus)
    return View(text=stimulus.text) if stimulus.text else None


def _made(media: Media) -> View:
    if isinstance(media.data, str):
        return View(text=media.data)
    return View(picture=media)
