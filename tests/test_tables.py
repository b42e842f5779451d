"""Tables that people write: words stay words, numbers are asked for by name, damage is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from decode.core import InputError
from decode.recordings.tables import (
    check_columns,
    numbers,
    read_events,
    read_words,
    whole_numbers,
)


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "table.tsv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def words(folder: Path, content: str | bytes, **knobs: object) -> list[list[str | None]]:
    table = read_words(written(folder, content), **knobs)  # type: ignore[arg-type]
    return [list(table), *table.to_numpy().tolist()]


def refused(folder: Path, content: str | bytes, **knobs: object) -> str:
    with pytest.raises(InputError) as e:
        words(folder, content, **knobs)
    assert "\n" not in str(e.value)
    assert "table.tsv" in str(e.value)
    return str(e.value)


WORDS = [
    "None",
    "NA",
    "null",
    "nan",
    "NaN",
    "N/A",
    "",
    "n/a",
    "007",
    "1.0",
    "True",
    "1e3",
    "+5",
    "#N/A",
]


def test_only_n_a_and_nothing_are_missing(tmp_path: Path) -> None:
    (_, *rows) = words(tmp_path, "onset\tword\n" + "".join(f"1\t{w}\n" for w in WORDS))
    assert [w for _, w in rows] == [None if w in ("", "n/a") else w for w in WORDS]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n\n"])
def test_marks_endings_and_blanks_around_cells(
    tmp_path: Path, ending: str, mark: bytes, last: str
) -> None:
    text = ("a\tüber b \n face \tn/a \n\n2\thouse" + last).replace("\n", ending)
    found = words(tmp_path, mark + text.encode())
    assert found == [["a", "über b"], ["face", None], ["2", "house"]]


def test_a_quotation_mark_is_a_character(tmp_path: Path) -> None:
    said = ['"Hello', "world", 'she"', '5" disc', '"all"', '"', '""', "it's"]
    (_, *rows) = words(tmp_path, "w\tn\n" + "".join(f"{w}\t1\n" for w in said))
    assert [w for w, _ in rows] == said


def test_marks_that_programs_put_around_cells_are_taken_away(tmp_path: Path) -> None:
    table = pd.DataFrame({"w": ['say "hi"', '"Hello', "plain"], "n": ["1", "2", "3"]})
    table.to_csv(tmp_path / "table.tsv", sep="\t", index=False)
    pd.testing.assert_frame_equal(
        read_words(tmp_path / "table.tsv").reset_index(drop=True), table.astype(object)
    )
    every = '"w"\t"n"\n"say ""hi"""\t1\n"a\tb"\t2\n'
    assert words(tmp_path, every) == [["w", "n"], ['say "hi"', "1"], ["a\tb", "2"]]


def test_commas_enclose_cells_in_marks(tmp_path: Path) -> None:
    found = words(tmp_path, 'q,a\n"Who, me?","say ""no"""\nnone,n/a\n', separator=",")
    assert found == [["q", "a"], ["Who, me?", 'say "no"'], ["none", None]]
    assert "row 1, column q" in refused(tmp_path, 'q,a\n"Who\nme?",no\n', separator=",")
    assert "quotation marks" in refused(tmp_path, 'q,a\n"Who",no\n"me,no\n', separator=",")


def test_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    assert words(tmp_path, "\ta\t\tb\n0\t1\t2\t3\n") == [["a", "b"], ["1", "3"]]
    assert words(tmp_path, "a\tb\t\n1\t2\t\n3\t4\n5\t6\t\t\n")[1:] == [
        ["1", "2"],
        ["3", "4"],
        ["5", "6"],
    ]
    assert words(tmp_path, "a\tb\tc\n1\t2\t3\n", only=["c", "z", "a"]) == [["a", "c"], ["1", "3"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "an empty file"),
        ("\n \n", "an empty file"),
        ("a\tb\n1\t2\n3\n", r"table\.tsv, row 2: expected 2 cells as in the head, got 1: '3'"),
        ("a\tb\n1\t2\t3\n", r"row 1: expected 2 cells as in the head, got 3: '1 \| 2 \| 3'"),
        ('a\tb\n1\t"Hel\nlo"\n', r"row 2: expected 2 cells .* line break"),
        ("a\tb\n1\tHel\u2028lo\n", "row 1, column b: expected one line in each cell"),
        ("a\tb\ta\n1\t2\t3\n", "expected each column once, got 'a' twice"),
        ("a\tb\n1\t2\n".encode("utf-16"), "row 0: expected text in UTF-8, got the byte 0xff"),
        ("a\tb\nV1ü\t2\n".encode("latin-1"), "row 1: expected text in UTF-8, got the byte 0xfc"),
        ("a\tb\n1\t2\n\0\0\0\n", "got zero bytes"),
    ],
)  # fmt: skip
def test_damaged_tables_are_refused_by_row(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        words(tmp_path, content)
    assert refused(tmp_path, content)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.tsv: expected a list, got no such file; make one"):
        read_words(tmp_path / "gone.tsv", expected="a list", remedy="make one")
    with pytest.raises(InputError, match="Is a directory"):
        read_words(tmp_path)


def test_numbers_are_decimal_and_finite(tmp_path: Path) -> None:
    good = ["1", "-2.5", "+.5", "3.", "1e-3", "2E+2", "007", "n/a", ""]
    path = written(tmp_path, "x\ty\n" + "".join(f"{w}\t0\n" for w in good))
    np.testing.assert_array_equal(
        numbers(path, read_words(path), "x"), [1, -2.5, 0.5, 3, 0.001, 200, 7, np.nan, np.nan]
    )
    for bad in (
        "2,0",
        "two",
        "inf",
        "-inf",
        "nan",
        "NaN",
        "1_000",
        "0x10",
        "1e999",
        "１",
        "1 2",
        "-",
    ):
        path = written(tmp_path, f"x\ty\n1\t0\n{bad}\t0\n")
        with pytest.raises(InputError, match="row 2: expected a number in the column x") as e:
            numbers(path, read_words(path), "x")
        assert repr(bad) in str(e.value)
    path = written(tmp_path, "x\n-0.5\n")
    with pytest.raises(InputError, match=r"a number of at least 0 in the column x, got '-0\.5'"):
        numbers(path, read_words(path), "x", least=0)


def test_whole_numbers_and_columns(tmp_path: Path) -> None:
    path = written(tmp_path, "x\ty\n3\t1\n04\tn/a\n5.0\t1.5\n")
    table = read_words(path, only=["x", "y"])
    assert whole_numbers(path, table, "x").tolist() == [3, 4, 5]
    with pytest.raises(
        InputError, match="row 2: expected a whole number in the column y, got None"
    ):
        whole_numbers(path, table, "y")
    with pytest.raises(InputError, match="expected a column 'z', got x, y; add z or rename one"):
        check_columns(path, table[["y"]], ["y", "z"], "add {} or rename one")


def test_events_that_show_nothing_are_not_looked_at(tmp_path: Path) -> None:
    rows = ["n/a\tn/a\tn/a\tx", "1.5\tn/a\tface\t007", "soon\t-3\t\ty", "4\t2\tNone\tn/a"]
    path = written(tmp_path, "onset\tduration\tw\tcode\n" + "\n".join(rows))
    found = read_events(path, shows="w")
    assert found.index.tolist() == [2, 4]
    assert found.to_dict("list") == {
        "onset": [1.5, 4.0], "duration": [0.0, 2.0], "w": ["face", "None"], "code": ["007", None]
    }  # fmt: skip
    with pytest.raises(
        InputError, match="row 3: expected a number in the column onset, got 'soon'"
    ):
        read_events(path)
    path = written(tmp_path, "onset\tduration\n" + "n/a\tn/a\n")
    with pytest.raises(InputError, match="expected an onset in s in row 1, got none"):
        read_events(path)


@pytest.mark.parametrize("word", ["-1.0", "2,0", "two", "inf", "nan"])
@pytest.mark.parametrize("column", ["onset", "duration"])
def test_times_that_are_none_are_refused_by_row(tmp_path: Path, word: str, column: str) -> None:
    row = {"onset": "1", "duration": "2", column: word}
    path = written(tmp_path, f"onset\tduration\n0\t0\n{row['onset']}\t{row['duration']}\n")
    if (column, word) == ("onset", "-1.0"):  # BIDS allows it; whoever has the recording judges
        assert read_events(path)["onset"].tolist() == [0.0, -1.0]
        return
    with pytest.raises(
        InputError, match=f"row 2: expected a number.*column {column}, got '{word}'"
    ):
        read_events(path)


def test_a_trial_that_is_written_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.tsv"
    head = "onset\tduration\ttrial_type\n"
    path.write_text(head + "1\t1\tcat\n1\t2\tdog\n5\t1\tcat\n5.0\t1\tn/a\n")
    assert len(read_events(path, shows="trial_type")) == 3
    path.write_text(head + "1\t1\tcat\n5\t1\tdog\n1.0\t2\tcat\n")
    with pytest.raises(InputError, match=r"row 3: expected each trial_type once .*'cat' at 1 s"):
        read_events(path, shows="trial_type")
