"""Answers to questions about the shown picture, beside those that people gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from decode.core import InputError, Results, Stimulus
from decode.scoring.answers import agreement, answer_lines, plain
from decode.scoring.feature_networks import slug
from decode.scoring.rows import Gallery, galleries, made_texts, scores, table

# Question -> plain answers, of one picture.
Given = Mapping[str, Sequence[str]]


class Answers:
    """`answers_accuracy`, and `answers_accuracy_<category>` for each kind of question.

    All trials are asked the same `questions` (null: all of the file), the `categories` of the
    generator, whose texts hold a line `QUESTION: ANSWER` for each; so a question gives nothing away
    about the picture. What a picture has no answer for is not scored. An answer is right when it is,
    as `plain` writes it, the given one; with several people's answers it is scored as in VQA
    (`agreement`). A trial's score is the mean over its questions.

    `file` is a table (.csv) with a row per answer: `stimulus` (the stimulus' uid) or `coco_id` (its
    label), `question`, `answer`, and where questions form kinds `category`.

    Chance is the same answer scored on pictures drawn at random among those of the gallery that have
    one to the question, the own one included: to always say yes is, of one question, chance. Raises
    InputError for questions that are not in the table and where nothing can be scored.
    """

    looks_at: ClassVar[Literal["media"]] = "media"

    def __init__(
        self,
        file: str,
        *,
        questions: Sequence[str] | None = None,
        within: Sequence[str] = ("subject", "split"),
    ) -> None:
        listed = list(questions or ())
        if len(set(listed)) < len(listed) or (questions is not None and not listed):
            raise InputError(
                f"metric answers: questions is a list of different ones or null, got {listed}; name "
                "those that the generator asks"
            )
        self.file, self.questions, self.within = Path(file), tuple(listed), tuple(within)

    def __call__(self, results: Results) -> pd.DataFrame:
        told = self._told()
        kind = told.get("category", told["question"]).map(slug)
        kinds = dict(zip(told["question"], kind, strict=True))
        of_uid = by_uid(told, results.shown)
        given = [of_uid[s.uid] for s in results.shown]
        said = answer_lines(made_texts(results, "answers"), list(kinds), "answers")
        parts = []
        for gallery in galleries(results.trials, self.within):
            parts += [judge(q, said, given, gallery).assign(kind=k) for q, k in kinds.items()]
        every = pd.concat(parts, ignore_index=True)
        if every.empty:
            raise InputError(
                f"metric answers: {self.file} has no answer for any of {len(results.shown)} shown "
                "pictures; give the table of these pictures"
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
        told = read_answers(self.file)
        known = set(told["question"])
        unknown = [q for q in self.questions if q not in known]
        if unknown:
            raise InputError(
                f"metric answers: expected the question {unknown[0]!r} ({len(unknown)} such) in "
                f"{self.file}, which has {sorted(known)[:5]}; write it as it stands there"
            )
        return told[told["question"].isin(self.questions or known)]


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


def by_uid(told: pd.DataFrame, shown: Sequence[Stimulus]) -> dict[str, Given]:
    """People's plain answers by stimulus and question; none for a stimulus that the table lacks."""
    column = "coco_id" if "coco_id" in told else "stimulus"
    answers: dict[str, dict[str, list[str]]] = {}
    for name, question, answer in zip(told[column], told["question"], told["answer"], strict=True):
        answers.setdefault(name, {}).setdefault(question, []).append(plain(answer))
    numbered = column == "coco_id"
    names = {s.uid: str(s.labels.get("coco_id", "")) if numbered else s.uid for s in shown}
    return {uid: answers.get(name, {}) for uid, name in names.items()}


def read_answers(file: Path) -> pd.DataFrame:
    """The table of answers as text; InputError when it is missing or lacks a column."""
    try:
        told = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as e:
        raise InputError(
            f"metric answers: expected a table of answers at {file}, got: {e}; see docs/metrics.md"
        ) from e
    missing = [c for c in ("question", "answer") if c not in told]
    if missing or not {"coco_id", "stimulus"} & set(told):
        raise InputError(
            f"metric answers: expected the columns question, answer and coco_id or stimulus in {file}, "
            f"got {list(told)}; rename them"
        )
    return told
