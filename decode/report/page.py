"""The report of one run and the index of all runs, each as one string of HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from markupsafe import Markup

from decode.report.charts import chart, dots, known, scale_of, span
from decode.report.content import (
    ALL_SUBJECTS,
    Report,
    RunCard,
    Score,
    headline_scores,
    of_decoder,
    overall,
    shown_beside,
)
from decode.report.pictures import view
from decode.sources import SHUFFLED, Source

PACKAGE = "decode.report"


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """One row of the control table: the decoder's score and the same metric of each control."""

    score: Score
    controls: list[Score | None]


def page(report: Report) -> str:
    """The report as one HTML page that needs no network: pictures and style are inside."""
    scores = report.scores
    own = of_decoder(scores)
    scored = {s.metric for s in own}
    controls = shown_beside(scores, report.sources)
    return render(
        "report.html.j2",
        report=report,
        headline=headline_scores(scores, report.headline),
        splits=list(dict.fromkeys(s.split for s in own)),
        beside=beside(scores, controls),
        controls=controls,
        definitions={str(source): source.meaning for source in controls},
        own=own,
        subjects=list(dict.fromkeys(s.subject for s in own)),
        axes={(s.split, s.metric): scale_of(_same(own, s)) for s in own},
        meanings={m: measure.meaning for m, measure in report.measures.items() if m in scored},
        few_people=len({s.subject for s in own} - {ALL_SUBJECTS}) in (2, 3),
        meant=[c for c in controls if c.ideal],
        by_trial=bool(report.classes) and not report.galleries,
        stamped=any(s.test_conditioned for s in scores),
        chance_is_missed=chance_is_missed(scores),
    )


def index_page(runs: Sequence[RunCard]) -> str:
    """The index of finished runs: headline scores beside chance, pictures, links to the reports."""
    cards = []
    for run in runs:
        scores = [Score(**row) for row in run.summary]
        cards.append((run, headline_scores(scores, run.headline, most=3)))
    return render("index.html.j2", cards=cards)


def beside(scores: Sequence[Score], controls: Sequence[Source]) -> dict[str, list[Beside]]:
    """Per split, the decoder's overall scores with those of the controls."""
    total = overall(scores)
    found = {(s.split, s.origin, s.metric): s for s in total}
    rows: dict[str, list[Beside]] = {}
    for score in of_decoder(total):
        others = [found.get((score.split, c.key, score.metric)) for c in controls]
        rows.setdefault(score.split, []).append(Beside(score, others))
    return rows


def chance_is_missed(scores: Sequence[Score]) -> list[Score]:
    """Shuffled scores that lie off chance by more than twice what their interval allows: a sign that
    a metric is not honest, too rare to come by luck in a page of scores.
    """
    return [s for s in overall(scores) if s.source == SHUFFLED.name and _is_off(s)]


def _is_off(score: Score) -> bool:
    if not (known(score.chance) and known(score.ci_low) and known(score.ci_high)):
        return False
    assert score.chance is not None
    assert score.ci_low is not None
    assert score.ci_high is not None
    if score.chance_is_bound and not score.reaches(replace(score, value=score.chance)):
        return False
    edge = score.ci_low if score.chance < score.value else score.ci_high
    return abs(score.chance - score.value) > 2 * abs(edge - score.value)


def _same(scores: Sequence[Score], like: Score) -> list[Score]:
    return [s for s in scores if s.split == like.split and s.metric == like.metric]


def number(value: float | None, digits: int = 3) -> str:
    """A score for a table cell; a dash where there is none."""
    if not known(value):
        return "–"
    assert value is not None
    return f"{value:.{digits}f}".replace("-", "−")


def count(n: float) -> str:
    """A number of trials; with a decimal where trials were shared."""
    return f"{n:.0f}" if float(n).is_integer() else f"{n:.1f}"


def render(template: str, **content: Any) -> str:
    """A template of this room with its style, filters and content, as one string of HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["count"] = count
    environment.globals.update(
        span=span, chart=chart, dots=dots, scale_of=scale_of, show=view, known=known
    )
    style = resources.files(PACKAGE).joinpath("templates", "style.css").read_text("utf-8")
    return environment.get_template(template).render(style=Markup(style), **content)
