"""docs/results.md beside what runs score: what is read from the page, what is found to differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from decode.core import InputError
from scripts.check_results import PAGE, check, claims, differences, rewritten, written

TEXT = """# Scores

| encoder | pixcorr |
|---|---|
| `mlp` | .744 [.726, .761] |

<!-- run: digits -->
| split | metric | decoder | ridge | chance | aim |
|---|---|---|---|---|---|
| kfold | pixcorr | .812 [.794, .828] | .752 | .474 | .78 reached |
| kfold | mse | 1.250 [-.100, 2.000] | - | | |

Words, and .99 of them.

<!-- run: speller -->
| metric | subject | decoder |
|---|---|---|
| auc | S1 | .966 |
| auc | all | .937 |
"""


def score(
    metric: str, value: float, subject: str = "a", source: str = "decoder", **more: Any
) -> dict[str, Any]:
    row = {"metric": metric, "source": source, "part": None, "subject": subject, "split": "kfold"}
    row |= {"value": value, "chance": 0.4736}
    return {**row, "ci_low": value - 0.018, "ci_high": value + 0.016, **more}


DIGITS = [
    score("pixcorr", 0.8121),
    score("pixcorr", 0.7524, source="ridge"),
    score("mse", 1.25, ci_low=-0.1, ci_high=2.0),
    score("pixcorr", 0.9, split="published"),
]
SPELLER = [score("auc", 0.966, "S1"), score("auc", 0.908, "S2"), score("auc", 0.937, "all")]


def test_marked_tables_are_read_and_others_are_not() -> None:
    found = claims(TEXT)
    assert [(c.run, c.column, c.numbers) for c in found] == [
        ("digits", "decoder", (0.812, 0.794, 0.828)),
        ("digits", "ridge", (0.752,)),
        ("digits", "chance", (0.474,)),
        ("digits", "decoder", (1.25, -0.1, 2.0)),
        ("speller", "decoder", (0.966,)),
        ("speller", "decoder", (0.937,)),
    ]


def test_what_differs_is_named_with_both_numbers() -> None:
    assert differences(TEXT, "digits", DIGITS) == []
    assert differences(TEXT, "speller", SPELLER) == []
    other = [score("pixcorr", 0.8302), *DIGITS[1:]]
    assert differences(TEXT, "digits", other) == [
        "line 10: digits, pixcorr, kfold, decoder: the page says .812 [.794, .828], the run "
        ".830 [.812, .846]"
    ]
    longer = [score("pixcorr", 0.8121, ci_low=0.78), *DIGITS[1:]]
    assert "[.780, .828]" in differences(TEXT, "digits", longer)[0]
    assert differences(TEXT, "digits", other, metrics=("mse",)) == []


def test_rows_may_belong_to_runs_of_their_own() -> None:
    table = """
| network | run | kfold pixcorr | kfold pixcorr b |
|---|---|---|---|
| wide: 64 | first | .812 [.794, .828] | .500 |
| deep: 2 | second | .700 | - |
"""
    found = claims(table)
    assert [(c.run, c.keys, c.numbers) for c in found] == [
        ("first", {"split": "kfold", "metric": "pixcorr"}, (0.812, 0.794, 0.828)),
        ("first", {"split": "kfold", "metric": "pixcorr", "subject": "b"}, (0.5,)),
        ("second", {"split": "kfold", "metric": "pixcorr"}, (0.7,)),
    ]
    assert claims(f"{TEXT}{table}")[-3:] == claims("\n" * TEXT.count("\n") + table)
    run = [score("pixcorr", 0.8121, "all"), score("pixcorr", 0.4, "b")]
    assert differences(table, "first", run) == [
        "line 4: first, kfold, pixcorr, b, kfold pixcorr b: the page says .500, the run .400"
    ]
    assert rewritten(table, "first", run) == table.replace(".500", ".400")


def test_a_line_without_its_score_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"line 10: digits, pixcorr, kfold, ridge: expected one score"
    ):
        differences(TEXT, "digits", [DIGITS[0], *DIGITS[2:]])
    with pytest.raises(InputError, match="run: other"):
        differences(TEXT, "other", DIGITS)


def test_the_page_takes_the_numbers_of_a_run(tmp_path: Path) -> None:
    new = [score("pixcorr", 0.9), score("pixcorr", 0.752, source="ridge"), *DIGITS[2:]]
    page = rewritten(TEXT, "digits", new)
    assert "| kfold | pixcorr | .900 [.882, .916] | .752 | .474 | .78 reached |" in page
    assert page.replace(".900 [.882, .916]", ".812 [.794, .828]") == TEXT
    folder = tmp_path / "outputs" / "report" / "digits-01"
    folder.mkdir(parents=True)
    for name, content in (("config", {"name": "digits"}), ("summary", new), ("manifest", {})):
        (folder / f"{name}.json").write_text(json.dumps(content))
    path = tmp_path / "page.md"
    path.write_text(TEXT)
    assert len(check([], tmp_path / "outputs", path, write=False)) == 1
    assert path.read_text() == TEXT
    assert check([folder], tmp_path, path, write=True) == []
    assert path.read_text() == page


def test_numbers_are_written_as_on_the_page() -> None:
    assert written((0.5, 0.25, 1.0)) == ".500 [.250, 1.000]"
    assert written((-0.0312,)) == "-.031"
    for claim in claims(PAGE.read_text()):
        assert claim.text == written(claim.numbers), claim


def test_the_page_says_something_of_every_experiment_that_comes_with_its_data() -> None:
    runs = {claim.run for claim in claims(PAGE.read_text())}
    of_networks = {f"digits69_{n}" for n in ("mlp", "umbrae", "mindbridge", "voxel_tokens")}
    of_people = {f"p300_people_{n}" for n in ("shared", "mean", "own")}
    assert runs == of_networks | of_people | {"digits69", "haxby2001", "p300_speller", "feis"} | {
        f"quickstart{kind}" for kind in ("", "_eeg", "_meg", "_encoding")
    }
