"""Tables that people write, events first: read as text, converted to numbers by the name of a column.

Guessing types turns words into other words: a class called None becomes a hole, the code 007 the
number 7, and one n/a among numbers makes 1 into 1.0. So every cell is text until a number is asked for.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from decode.core import InputError, refusal

MISSING = "n/a"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_SAVE = "save it as text in UTF-8 with one row per line"


def read_words(
    path: Path,
    *,
    separator: str = "\t",
    expected: str = "a tab-separated table",
    remedy: str = "put it there",
    only: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Every cell of a table as stripped text, None where it is n/a or empty; rows are counted from 1.

    Between tabs a quotation mark is a character, unless the whole head stands in quotation marks or
    the cell is one that a program has put into them (with each mark inside doubled); between commas
    it encloses a cell (RFC 4180). `only` keeps those columns where they are there. Columns without a
    name are left out; a byte order mark and any ending of lines are read.

    Raises InputError, with the row, for a missing or empty file, other encodings, rows of another
    length than the head, names that come twice, and line breaks inside a cell.
    """
    head, *rows = _rows(path, separator, expected, remedy)
    width = max([len(_filled(head)), *(len(_filled(r)) for r in rows if len(r) == len(head))])
    head = head[:width]
    twice = [name for i, name in enumerate(head) if name and name in head[:i]]
    if twice:
        raise refusal(path, "each column once", f"{twice[0]!r} twice", "rename one of them")
    for number, row in enumerate(rows, start=1):
        if len(row) < width or len(_filled(row)) > width:
            raise refusal(
                f"{path}, row {number}",
                f"{width} cells as in the head",
                f"{len(row)}: {' | '.join(row)[:60]!r}",
                f"write {MISSING} into cells that hold nothing; no cell holds a tab or a line break",
            )
    kept = [i for i, name in enumerate(head) if name and (only is None or name in only)]
    content = {
        head[i]: [_cell(path, n, head[i], r[i]) for n, r in enumerate(rows, 1)] for i in kept
    }
    table = pd.DataFrame(content, index=pd.RangeIndex(1, len(rows) + 1), dtype=object)
    table.attrs["head"] = tuple(filter(None, head))
    return table


def check_columns(
    path: Path, table: pd.DataFrame, names: Sequence[str], remedy: str = "add {}"
) -> None:
    """InputError unless the table has all columns of these names; {} in `remedy` is the first missing."""
    missing = [name for name in names if name not in table]
    if missing:
        there = ", ".join(table.attrs.get("head", list(table))[:20]) or "none"
        raise refusal(path, f"a column {missing[0]!r}", there, remedy.format(missing[0]))


def numbers(path: Path, table: pd.DataFrame, name: str, *, least: float = -np.inf) -> np.ndarray:
    """Column `name` of words as float64 (row,), nan where nothing stands.

    Raises InputError, with the row, for what is no finite decimal number or less than `least`.
    """
    found = np.full(len(table), np.nan)
    for i, (row, word) in enumerate(table[name].items()):
        if word is None:
            continue
        value = float(word) if _NUMBER.fullmatch(word) else np.nan
        if not (np.isfinite(value) and value >= least):
            what = "a number" if least == -np.inf else f"a number of at least {least:g}"
            raise refusal(
                f"{path}, row {row}",
                f"{what} in the column {name}",
                repr(word),
                f"write it with a point, or {MISSING} for none",
            )
        found[i] = value
    return found


def whole_numbers(path: Path, table: pd.DataFrame, name: str) -> np.ndarray:
    """Column `name` of words as int64 (row,) of 0 or more; InputError, with the row, for all else."""
    found = numbers(path, table, name, least=0)
    wrong = np.flatnonzero(~(found % 1 == 0) | (found >= 2**53))
    if len(wrong):
        raise refusal(
            f"{path}, row {table.index[wrong[0]]}",
            f"a whole number in the column {name}",
            repr(table[name].iloc[wrong[0]]),
            "write a whole number there",
        )
    return found.astype(np.int64)


def read_events(
    path: Path, *, shows: str | None = None, others: Sequence[str] = (), remedy: str = "add {}"
) -> pd.DataFrame:
    """A BIDS events table: onset and duration in s (0 where it is n/a), all other columns as text.

    With `shows`, a column, rows that have nothing there are left out before anything else of them is
    looked at, and no two of the others show the same at the same moment. Rows keep their number in the
    file, from 1, as index. Raises InputError where one of the columns `others` is missing, too;
    `remedy` says what to do about it.
    """
    table = read_words(
        path,
        expected="a BIDS events table",
        remedy="write onset and duration (s) and the stimulus of each trial there",
    )
    check_columns(path, table, ["onset", "duration"])
    named = [*([] if shows is None else [shows]), *others]
    check_columns(path, table, named, remedy)
    if shows is not None:
        table = table[table[shows].notna()]
    onset = numbers(path, table, "onset")
    if np.isnan(onset).any():
        row = table.index[np.isnan(onset)][0]
        raise InputError(f"{path}: expected an onset in s in row {row}, got none; write it there")
    duration = numbers(path, table, "duration", least=0.0)
    if shows is not None:
        _check_once(path, table.assign(onset=onset), shows)
    return table.assign(onset=onset, duration=np.nan_to_num(duration))


def _check_once(path: Path, table: pd.DataFrame, shows: str) -> None:
    """A trial that is written twice would be fitted, counted and split as two."""
    twice = table.index[table.duplicated(["onset", shows])]
    if len(twice):
        what, onset = table.loc[twice[0], shows], table.loc[twice[0], "onset"]
        raise refusal(
            f"{path}, row {twice[0]}",
            f"each {shows} once at a moment",
            f"{str(what)!r} at {onset:g} s again ({len(twice)} such)",
            f"take the row out, or write {MISSING} into its {shows}",
        )


def _rows(path: Path, separator: str, expected: str, remedy: str) -> list[list[str]]:
    """Stripped cells of the head and of each row; empty lines are none."""
    text = _text(path, expected, remedy)
    lines = [line for line in re.split(r"\r\n|\n|\r", text) if line.strip(" ")]
    if not lines:
        raise refusal(path, expected, "an empty file", "write a head and a row for each entry")
    head = [cell.strip() for cell in lines[0].split(separator)]
    if separator == "\t" and not all(_wrapped(name) for name in head if name):
        return [[_unescaped(cell.strip()) for cell in line.split(separator)] for line in lines]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        return [[cell.strip() for cell in row] for row in reader if any(row) or len(row) > 1]
    except csv.Error as e:
        raise refusal(
            f"{path}, line {reader.line_num}",
            "cells in whole quotation marks",
            e,
            "double the marks inside a cell",
        ) from e


def _text(path: Path, expected: str, remedy: str) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as e:
        raise refusal(path, expected, "no such file", remedy) from e
    except UnicodeDecodeError as e:
        row = e.object[: e.start].count(b"\n")
        got = f"the byte 0x{e.object[e.start]:02x}, which is none"
        raise refusal(f"{path}, row {row}", "text in UTF-8", got, "save it as UTF-8") from e
    except OSError as e:
        raise refusal(path, expected, e.strerror or e, "make it a readable file") from e
    if "\0" in text:
        raise refusal(
            path, expected, "zero bytes", f"the file is damaged: copy it again or {_SAVE}"
        )
    return text


def _filled(row: list[str]) -> list[str]:
    """The row without the empty cells at its end."""
    last = max((i for i, cell in enumerate(row) if cell), default=-1)
    return row[: last + 1]


def _wrapped(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"'


def _unescaped(cell: str) -> str:
    """Programs escape a mark by doubling it inside marks around the whole cell; others are characters."""
    inside = cell[1:-1]
    if _wrapped(cell) and '""' in inside and '"' not in inside.replace('""', ""):
        return inside.replace('""', '"').strip()
    return cell


def _cell(path: Path, row: int, name: str, cell: str) -> str | None:
    if len(cell.splitlines()) > 1:
        raise refusal(
            f"{path}, row {row}, column {name}", "one line in each cell", repr(cell[:60]), _SAVE
        )
    return None if cell in ("", MISSING) else cell
