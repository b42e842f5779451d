"""Answers to questions about the shown picture, beside those that people gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from decode.core import Kind, Measure, Metric, Results, Stimulus, refusal
from decode.recordings.answers import about, name_of, read_answers
from decode.scoring.answers import agreement, answer_lines, plain
from decode.scoring.feature_networks import slug
from decode.scoring.rows import Gallery, galleries, made_texts, scores, table

# Question -> plain answers, of one picture.
Given = Mapping[str, Sequence[str]]


class Answers(Metric):
    """`answers_accuracy`, and `answers_accuracy_<category>` for each kind of question.

    All trials are asked the same `questions` (null: all of the table), the `categories` of the
    generator; so a question gives nothing away about the picture. With `own` each trial is asked what
    the table asks about its own picture, the `questions` of the generator. Texts hold a line `QUESTION:
    ANSWER` for each. What a picture has no answer for is not scored. An answer is right when it is,
    as `plain` writes it, the given one; with several people's answers it is scored as in VQA
    (`agreement`). A trial's score is the mean over its questions.

    `table` is a file (.csv) with a row per answer: `stimulus` (the stimulus' uid) or `coco_id` (its
    label), `question`, `answer`, and where questions form kinds `category`.

    Chance is the same answer scored on pictures drawn at random among those of the gallery that have
    one to the question, the own one included: to always say yes is, of one question, chance. With
    `own` it is an answer drawn from those that people gave to all questions of that kind about
    pictures of the gallery. Raises InputError for questions that are not in the table and where
    nothing can be scored.
    """

    looks_at: ClassVar[Literal["media"]] = "media"
    accepts: ClassVar[frozenset[Kind]] = frozenset({"text"})

    def __init__(
        self,
        table: str,
        *,
        questions: Sequence[str] | None = None,
        own: bool = False,
        within: Sequence[str] = ("subject", "split"),
    ) -> None:
        listed = list(questions or ())
        if len(set(listed)) < len(listed) or (questions is not None and not listed):
            raise refusal(
                "metrics.answers.questions",
                "a list of different ones or null",
                listed,
                "name those that the generator asks",
            )
        if own and listed:
            raise refusal(
                "metrics.answers.questions",
                "null with own, which asks what the table has for each picture",
                listed,
                "set one of the two",
            )
        self.table, self.questions, self.within = Path(table), tuple(listed), tuple(within)
        self.own = own

    def measures(self) -> Mapping[str, Measure]:
        said = "Share of questions about the shown picture that are answered as people did{}."
        found = {"answers_accuracy": said.format("")}
        kinds = sorted(set(self._kinds(self._told())))
        if len(kinds) > 1:
            found |= {f"answers_accuracy_{k}": said.format(f", of the kind {k}") for k in kinds}
        return {name: Measure(text, ceiling="generator") for name, text in found.items()}

    def __call__(self, results: Results) -> pd.DataFrame:
        told = self._told()
        of_uid = by_uid(told, results.shown)
        given = [of_uid[s.uid] for s in results.shown]
        kinds = dict(zip(told["question"], self._kinds(told), strict=True))
        asked = [list(answers) if self.own else list(kinds) for answers in given]
        said = answer_lines(made_texts(results, "answers"), asked, "answers")
        parts = []
        for gallery in galleries(results.trials, self.within):
            if self.own:
                parts.append(judge_own(kinds, said, given, gallery))
            else:
                parts += [judge(q, said, given, gallery).assign(kind=k) for q, k in kinds.items()]
        every = pd.concat(parts, ignore_index=True)
        if every.empty:
            raise refusal(
                self.table,
                "answers for the shown pictures",
                f"none for any of {len(results.shown)}",
                "give the table of these pictures",
            )
        named = {"answers_accuracy": every}
        if every["kind"].nunique() > 1:
            named |= {f"answers_accuracy_{k}": d for k, d in every.groupby("kind")}
        found = []
        for name, part in named.items():
            trial = part.groupby("row")[["value", "chance"]].mean()
            value, chance = trial["value"].to_numpy(), trial["chance"].to_numpy()
            found.append(scores(results, name, trial.index.to_numpy(), value, chance=chance))
        return table(found)

    def _told(self) -> pd.DataFrame:
        """The rows of the file about the questions that are asked."""
        told = read_answers(self.table)
        known = set(told["question"])
        unknown = [q for q in self.questions if q not in known]
        if unknown:
            raise refusal(
                self.table,
                f"the question {unknown[0]!r} ({len(unknown)} such)",
                f"{sorted(known)[:5]}",
                "write it as it stands there",
            )
        return told[told["question"].isin(self.questions or known)]

    def _kinds(self, told: pd.DataFrame) -> list[str]:
        """The kind of each row's question: its category; without, each question or, of pictures'
        own ones, all of them.
        """
        if "category" in told:
            return [slug(category) for category in told["category"]]
        return ["every"] * len(told) if self.own else [slug(q) for q in told["question"]]


def judge(
    question: str, said: Sequence[Mapping[str, str]], given: Sequence[Given], gallery: Gallery
) -> pd.DataFrame:
    """A row per trial of the gallery whose picture has an answer to the question: row, value, chance."""
    pictures = [given[i].get(question) for i in gallery.rows[gallery.first]]
    known = [answers for answers in pictures if answers]
    found = []
    for row in (i for i in gallery.rows if question in given[i]):
        answer = plain(said[row].get(question, ""))
        by_chance = float(np.mean([agreement(answer, other) for other in known]))
        found.append((row, agreement(answer, given[row][question]), by_chance))
    return pd.DataFrame(found, columns=["row", "value", "chance"])


def judge_own(
    kinds: Mapping[str, str],
    said: Sequence[Mapping[str, str]],
    given: Sequence[Given],
    gallery: Gallery,
) -> pd.DataFrame:
    """A row per trial of the gallery and question about its picture: row, kind, value, chance."""
    # Of each kind how many questions there are, and how many of them an answer is drawn for.
    n: dict[str, int] = dict.fromkeys(kinds.values(), 0)
    drawn: dict[tuple[str, str], float] = {}
    for row in gallery.rows[gallery.first]:
        for question, answers in given[row].items():
            kind = kinds[question]
            n[kind] += 1
            for answer in answers:
                drawn[kind, answer] = drawn.get((kind, answer), 0.0) + 1 / len(answers)
    found = []
    for row in gallery.rows:
        for question, answers in given[row].items():
            kind = kinds[question]
            right = sum(drawn[kind, a] * agreement(a, answers) for a in set(answers))
            value = agreement(plain(said[row].get(question, "")), answers)
            found.append((row, kind, value, right / n[kind]))
    return pd.DataFrame(found, columns=["row", "kind", "value", "chance"])


def by_uid(told: pd.DataFrame, shown: Sequence[Stimulus]) -> dict[str, Given]:
    """People's plain answers by stimulus and question; none for a stimulus that the table lacks."""
    answers: dict[str, dict[str, list[str]]] = {}
    for name, question, answer in zip(about(told), told["question"], told["answer"], strict=True):
        answers.setdefault(name, {}).setdefault(question, []).append(plain(answer))
    return {s.uid: answers.get(name_of(told, s), {}) for s in shown}
