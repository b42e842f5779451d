"""Answers beside people's: the accuracy of VQA by its definition, and the metric on made texts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from scored import means
from worlds import PixelWorld, config

from decode.artefacts.media import read_media
from decode.core import Generator, InputError, Kind, Media, Results, Stimulus, Tensors
from decode.metrics.answers import Answers
from decode.pictures import read_image
from decode.pipeline import execute
from decode.recordings.answers import read_answers
from decode.scoring.answers import agreement, answer_lines, plain
from decode.workshop import Run

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


OWN = [
    ("s0", "Who eats?", "a dog", "who"), ("s0", "Who eats?", "dog", "who"),
    ("s0", "Who eats?", "cat", "who"), ("s0", "Who eats?", "the dog", "who"),
    ("s0", "How many: dogs?", "two", "count"), ("s1", "Who sleeps?", "cat", "who"),
    ("s2", "How many wheels?", "2", "count"), ("s2", "How many doors?", "4", "count"),
]  # fmt: skip
SAID = ["Who eats?: A dog.\nHow many: dogs?: 3", "Who sleeps?: dog",
        "How many wheels?: two\nHow many doors?: 2", ""]  # fmt: skip


def own(tmp_path: Path, *, kinds: bool = True) -> Answers:
    told = pd.DataFrame(OWN, columns=["stimulus", "question", "answer", "category"])
    told.drop(columns=[] if kinds else ["category"]).to_csv(tmp_path / "own.csv", index=False)
    return Answers(str(tmp_path / "own.csv"), own=True)


def test_questions_of_ones_own_picture(tmp_path: Path) -> None:
    rows = own(tmp_path)(results(SAID))
    found = {name: part.set_index("trial") for name, part in rows.groupby("metric")}
    # Three of four said dog: of the others of each person at least two of three, or three of three.
    dog, cat = (
        by_leaving_out("dog", ["dog"] * 3 + ["cat"]),
        by_leaving_out("cat", ["dog"] * 3 + ["cat"]),
    )
    who = found["answers_accuracy_who"]
    assert who["value"].to_dict() == pytest.approx({0: dog, 1: 0})
    # Drawn from both questions alike: dog 3/8, cat 1/8 + 1/2.
    assert who["chance"].to_dict() == pytest.approx({0: 3 / 8 * dog + 5 / 8 * cat, 1: 5 / 8})
    count = found["answers_accuracy_count"]
    assert count["value"].to_dict() == {0: 0, 2: 0.5}
    assert count["chance"].to_dict() == pytest.approx({0: 2 / 3, 2: (2 / 3 + 1 / 3) / 2})
    every = found["answers_accuracy"]
    assert every["value"].to_dict() == pytest.approx({0: dog / 2, 1: 0, 2: 0.5})
    (alone,) = set(own(tmp_path, kinds=False)(results(SAID))["metric"])
    assert alone == "answers_accuracy"


def test_an_own_question_without_an_answer_is_named(tmp_path: Path) -> None:
    half = [SAID[0].splitlines()[0], *SAID[1:]]
    with pytest.raises(InputError, match="expected a line for 'How many: dogs\\?'"):
        own(tmp_path)(results(half))
    assert (own(tmp_path)(results(["a dog eats"] * 4))["value"] == 0).all()
    with pytest.raises(InputError, match="set one of the two"):
        Answers("a.csv", own=True, questions=["Who eats?"])


@dataclass
class Quiz(Generator):
    """Says of a predicted picture whether a colour of a corner is bright, as the question asks."""

    table: str
    makes: ClassVar[Kind] = "text"
    asks = True
    needs = ("pixels",)

    def asked_of(self, shown: Stimulus) -> Sequence[str]:
        told = read_answers(Path(self.table))
        return tuple(told["question"][told["stimulus"] == shown.uid])

    def replies(self, predicted: Tensors, asked: Sequence[Sequence[str]]) -> list[Media]:
        made = []
        for pixels, questions in zip(predicted["pixels"], asked, strict=True):
            lines = [
                f"{q}: {'yes' if bright(pixels, *q.split()[1:4]) else 'no'}" for q in questions
            ]
            made.append(Media("text", "\n".join(lines)))
        return made


def bright(pixels: torch.Tensor, colour: str, row: str, column: str) -> bool:
    half = pixels.shape[-1] // 2
    corner = pixels[int(colour), int(row) * half :, int(column) * half :][:half, :half]
    return float(corner.mean()) > 0.5


def test_each_trial_is_asked_about_its_picture_and_shuffled_pairs_are_at_chance(
    tmp_path: Path,
) -> None:
    rows = []
    for uid, stimulus in PixelWorld(str(tmp_path / "world"), n=160).stimuli().items():
        pixels = read_image(stimulus)
        for place in itertools.product("012", "01", "01"):
            answer = "yes" if bright(pixels, *place) else "no"
            rows.append((uid, f"{uid}: {' '.join(place)} bright?", answer, f"colour {place[0]}"))
    told = pd.DataFrame(rows, columns=["stimulus", "question", "answer", "category"])
    file = str(tmp_path / "quiz.csv")
    told.to_csv(file, index=False)
    changes: dict[str, Any] = {
        "generator": {"_target_": f"{__name__}.Quiz", "table": file},
        "metrics": {
            "answers": {"_target_": "decode.metrics.answers.Answers", "table": file, "own": True}
        },
    }
    node = config(tmp_path, **changes)
    node["data"]["n"] = 160
    node["trainer"]["epochs"] = 20
    run = Run(node)
    execute(run, until="report", force=[], say=lambda s: None)
    scores = pd.read_parquet(Path(run.folder("evaluate") or "") / "scores.parquet")
    value, chance = means(scores), means(scores, "chance")
    assert value["oracle"]["answers_accuracy"] == 1
    assert value["decoder"]["answers_accuracy"] > 0.8
    shuffled = value["shuffled"]["answers_accuracy"]
    assert shuffled == pytest.approx(chance["shuffled"]["answers_accuracy"], abs=0.1)
    folder = Path(run.folder("reconstruct") or "") / "published-00"
    n = len(list((folder / "decoder").iterdir()))
    asked, said = {}, {}
    places = {"decoder": "decoder", "shuffled": "controls/shuffled", "prior": "controls/prior"}
    for source, place in places.items():
        lines = [str(m.data).splitlines() for m in read_media(folder / place, n)]
        asked[source] = [[line.rpartition(":")[0] for line in one] for one in lines]
        said[source] = {tuple(line.rpartition(":")[2] for line in one) for one in lines}
    assert asked["decoder"] == asked["shuffled"] == asked["prior"]
    assert {len(questions) for questions in asked["decoder"]} == {12}
    # Without a brain all stimuli get the same answers.
    assert len(said["prior"]) == 1 < len(said["shuffled"])


def test_a_run_knows_its_table_by_content(tmp_path: Path) -> None:
    file = Path(write(tmp_path / "answers.csv"))
    metric = {"_target_": "decode.metrics.answers.Answers", "table": str(file)}

    def key() -> str:
        return Run(config(tmp_path, metrics={"it": metric}, generator=None)).of("evaluate")[0].key

    before = key()
    file.rename(tmp_path / "moved.csv")
    metric["table"] = str(tmp_path / "moved.csv")
    assert key() == before
    (tmp_path / "moved.csv").write_text("coco_id,question,answer\n70,Is it day?,yes\n")
    assert key() != before


def test_captions_of_a_control_are_wrong_answers(tmp_path: Path) -> None:
    rows = Answers(write(tmp_path / "answers.csv"))(results(["A dog: it runs."] * 4))
    assert (rows["value"] == 0).all()


def test_tables_of_answers_are_words(tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    head = "coco_id,question,answer\n"
    file.write_text(head + '7,"Who,  or what?",None\n07,How?,null\n8,Why?,n/a\n8,Why?,\n9,"",n/a\n')
    told = read_answers(file)
    assert told[["coco_id", "question", "answer"]].to_numpy().tolist() == [
        ["7", "Who, or what?", "None"], ["07", "How?", "null"]
    ]  # fmt: skip
    for rows, words in (
        ('7,"Who\nelse?",me\n', "row 1, column question: expected one line"),
        ("7,Who?,me\nn/a,Who?,me\n", "row 2: expected a coco_id for the answer, got none"),
        ("7,,me\n", "row 1: expected a question for the answer, got none"),
        ("7,Who?,me,too\n", "row 1: expected 3 cells"),
    ):
        file.write_text(head + rows)
        with pytest.raises(InputError, match=rf"answers\.csv, {words}"):
            read_answers(file)


def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "answers.csv")
    with pytest.raises(InputError, match=r"expected a line for 'What colour is largest\?'"):
        Answers(file)(results([t.splitlines()[0] for t in TEXTS]))
    with pytest.raises(InputError, match=r"expected the question 'Is it day\?' \(1 such\)"):
        Answers(file, questions=[PEOPLE, "Is it day?"])(results(TEXTS))
    for wrong in ([], [PEOPLE, PEOPLE]):
        with pytest.raises(InputError, match="a list of different ones or null"):
            Answers(file, questions=wrong)
    with pytest.raises(
        InputError, match=r"none\.csv: expected a table of answers, got no such file"
    ):
        Answers(str(tmp_path / "none.csv"))(results(TEXTS))
    told = pd.read_csv(file).rename(columns={"answer": "said"})
    told.to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(InputError, match=r"the columns question, answer and coco_id or stimulus"):
        Answers(str(tmp_path / "other.csv"))(results(TEXTS))
    told = pd.read_csv(file).assign(coco_id=1)
    told.to_csv(tmp_path / "others.csv", index=False)
    with pytest.raises(
        InputError, match="expected answers for the shown pictures, got none for any of 4"
    ):
        Answers(str(tmp_path / "others.csv"))(results(TEXTS))
    with pytest.raises(InputError, match="metric answers: expected made texts, got none"):
        Answers(file)(Results(results(TEXTS).trials, {}, {}, results(TEXTS).shown, None))


def test_lines_keep_what_follows_the_first_colon() -> None:
    (line,) = answer_lines(["What time is it?: 12:30"], [["What time is it?"]], "answers")
    assert line == {"What time is it?": "12:30"}
