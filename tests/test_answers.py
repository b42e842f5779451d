"""Answers beside people's: the accuracy of VQA by its definition, and the metric on made texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from decode.core import InputError, Media, Results, Stimulus
from decode.metrics.answers import Answers
from decode.scoring.answers import agreement, answer_lines, plain

PEOPLE, COLOUR = "Are there people?", "What colour is largest?"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes.", "yes"),
        ("The  Red-brown dog!", "red brown dog"),
        ("Two", "2"),
        ("it isn't an apple", "it isnt apple"),
        ("ten thousand", "10 thousand"),
        ("theme", "theme"),
        ("...", ""),
    ],
)
def test_answers_are_compared_in_plain_form(answer: str, expected: str) -> None:
    assert plain(answer) == expected
    assert plain(expected) == expected


def by_leaving_out(answer: str, given: Sequence[str]) -> float:
    """The evaluation of VQA, word for word: each person is left out in turn."""
    each = []
    for i in range(len(given)):
        others = [a for j, a in enumerate(given) if j != i]
        each.append(min(1.0, sum(a == answer for a in others) / 3))
    return float(np.mean(each))


def test_agreement_is_the_accuracy_of_vqa() -> None:
    for n in (4, 5, 10):
        for same in range(n + 1):
            given = ["yes"] * same + [f"other {i}" for i in range(n - same)]
            assert agreement("yes", given) == pytest.approx(by_leaving_out("yes", given))
    assert agreement("yes", ["yes"] * 2 + ["no"] * 8) == pytest.approx(0.6)
    assert agreement("yes", ["no", "yes"]) == 1
    assert agreement("yes", ["no"]) == 0


def results(texts: Sequence[str], subject: Sequence[str] | None = None) -> Results:
    shown = [Stimulus(f"s{i}", "image", f"{i}.png", labels={"coco_id": 70 + i}) for i in range(4)]
    trials = pd.DataFrame({"split": "test", "fold": 0}, index=range(4))
    trials["subject"] = list(subject or "aaaa")
    trials["stimulus"] = [s.uid for s in shown]
    return Results(trials, {}, {}, shown, [Media("text", text) for text in texts])


def write(file: Path, *, by: str = "coco_id", kinds: bool = True) -> str:
    """Two questions about four pictures; the last picture has no answer about its colour."""
    rows = [(i, PEOPLE, answer) for i, answer in enumerate(["yes", "no", "no", "no"])]
    rows += [(i, COLOUR, answer) for i, answer in enumerate(["Red", "the blue", "red"])]
    table = pd.DataFrame(rows, columns=[by, "question", "answer"])
    table[by] = table[by] + 70 if by == "coco_id" else [f"s{i}" for i in table[by]]
    if kinds:
        table["category"] = [
            "presence" if q == PEOPLE else "Main colour" for q in table["question"]
        ]
    table.to_csv(file, index=False)
    return str(file)


TEXTS = [f"{PEOPLE}: {a}\n{COLOUR}: {b}" for a, b in
         [("Yes", "red"), ("Yes", "Blue."), ("no", "green"), ("no", "red")]]  # fmt: skip


@pytest.mark.parametrize("by", ["coco_id", "stimulus"])
def test_accuracy_per_trial_and_kind(tmp_path: Path, by: str) -> None:
    rows = Answers(write(tmp_path / "answers.csv", by=by))(results(TEXTS))
    found = {name: part.set_index("trial") for name, part in rows.groupby("metric")}
    presence = found["answers_accuracy_presence"]
    assert presence["value"].tolist() == [1, 0, 1, 1]
    # what one says, scored on each of the four pictures: yes is right for one, no for three
    assert presence["chance"].tolist() == [0.25, 0.25, 0.75, 0.75]
    colour = found["answers_accuracy_main_colour"]
    assert colour["value"].tolist() == [1, 1, 0]
    np.testing.assert_allclose(colour["chance"], [2 / 3, 1 / 3, 0])
    every = found["answers_accuracy"]
    assert every["value"].tolist() == [1, 0.5, 0.5, 1]
    np.testing.assert_allclose(every["chance"], [11 / 24, 7 / 24, 0.375, 0.75])


def test_one_who_says_the_same_of_all_pictures_is_at_chance(tmp_path: Path) -> None:
    always = [f"{PEOPLE}: no\n{COLOUR}: red"] * 4
    rows = Answers(write(tmp_path / "answers.csv"))(results(always))
    for kind in ("presence", "main_colour"):
        part = rows[rows["metric"] == f"answers_accuracy_{kind}"]
        assert part["value"].mean() == pytest.approx(part["chance"].mean())


def test_others_are_of_the_same_subject(tmp_path: Path) -> None:
    rows = Answers(write(tmp_path / "answers.csv"), questions=[PEOPLE])(results(TEXTS, "aabb"))
    assert set(rows["metric"]) == {"answers_accuracy"}
    assert rows["chance"].tolist() == [0.5, 0.5, 1, 1]


def test_captions_of_a_control_are_wrong_answers(tmp_path: Path) -> None:
    rows = Answers(write(tmp_path / "answers.csv"))(results(["A dog: it runs."] * 4))
    assert (rows["value"] == 0).all()


def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "answers.csv")
    with pytest.raises(InputError, match=r"expected a line for 'What colour is largest\?'"):
        Answers(file)(results([t.splitlines()[0] for t in TEXTS]))
    with pytest.raises(InputError, match=r"expected the question 'Is it day\?' \(1 such\)"):
        Answers(file, questions=[PEOPLE, "Is it day?"])(results(TEXTS))
    for wrong in ([], [PEOPLE, PEOPLE]):
        with pytest.raises(InputError, match="a list of different ones or null"):
            Answers(file, questions=wrong)
    with pytest.raises(InputError, match=r"expected a table of answers at .*none\.csv"):
        Answers(str(tmp_path / "none.csv"))(results(TEXTS))
    told = pd.read_csv(file).rename(columns={"answer": "said"})
    told.to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(InputError, match=r"the columns question, answer and coco_id or stimulus"):
        Answers(str(tmp_path / "other.csv"))(results(TEXTS))
    told = pd.read_csv(file).assign(coco_id=1)
    told.to_csv(tmp_path / "others.csv", index=False)
    with pytest.raises(InputError, match="no answer for any of 4 shown pictures"):
        Answers(str(tmp_path / "others.csv"))(results(TEXTS))
    with pytest.raises(InputError, match="metric answers: nothing was generated"):
        Answers(file)(Results(results(TEXTS).trials, {}, {}, results(TEXTS).shown, None))


def test_lines_keep_what_follows_the_first_colon() -> None:
    (line,) = answer_lines(["What time is it?: 12:30"], ["What time is it?"], "answers")
    assert line == {"What time is it?": "12:30"}
