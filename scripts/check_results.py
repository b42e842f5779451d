"""Does docs/results.md say what finished runs score?

  python scripts/check_results.py [RUN ...] [--outputs outputs] [--page docs/results.md] [--write]

Without RUN (a run folder), every finished run below outputs/report whose name the page has. A table of
the page belongs to the run that the comment above it names, <!-- run: NAME -->. It has a column `metric`,
may have `split`, `part` and `subject`, and every column named by a source, `chance` or `ceiling` holds
`value` or `value [low, high]`; other columns are words. A table with a column `run` needs no comment:
each row belongs to the run that it names, and the other columns are named by what they hold of its
decoder, `SPLIT METRIC` or `SPLIT METRIC SUBJECT`. With --write the page takes the numbers of the runs;
otherwise the exit code is 1 where one differs.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decode.core import InputError, refusal
from decode.scoring.summary import read_summary
from decode.sources import DECODER
from decode.store import is_finished, read_json

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
# The last digit that the page prints may round either way.
NEAR = 0.0011
KEYS = ("metric", "split", "part", "subject")
OF_DECODER = ("chance", "ceiling")
WORDS = ("aim",)
MARK = re.compile(r"<!-- run: (\S+) -->")
NUMBER = re.compile(r"-?\d*\.\d+")
Summary = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Claim:
    """One cell of the page: numbers (value, or value, low, high) of a run's metric in one column."""

    run: str
    line: int
    column: str
    keys: Mapping[str, str]
    numbers: tuple[float, ...]
    text: str
    source: str = ""  # where it is not the column

    def __str__(self) -> str:
        where = ", ".join(self.keys.values())
        return f"line {self.line}: {self.run}, {where}, {self.column}"


def cells(line: str) -> list[str]:
    return [c.strip().strip("`") for c in line.strip().strip("|").split("|")]


def claims(page: str) -> list[Claim]:
    """What the tables of the page say, in its order."""
    found: list[Claim] = []
    run, head = "", list[str]()
    for number, line in enumerate(page.splitlines(), 1):
        mark = MARK.fullmatch(line.strip())
        if mark:
            run, head = mark.group(1), []
        elif line.startswith("|") and (run or head or "run" in cells(line)):
            row = cells(line)
            if not head:
                head = row
            elif not set(line) <= set("|-: "):
                found += row_claims(run, number, dict(zip(head, row, strict=True)))
        elif head:
            run, head = "", []
    return found


def row_claims(run: str, line: int, row: Mapping[str, str]) -> list[Claim]:
    if "run" in row:
        return claims_of_runs(line, row)
    keys = {k: row[k] for k in KEYS if k in row}
    if "metric" not in keys:
        raise refusal(
            f"line {line}", "a column `metric`", sorted(row), "name it in the table's head"
        )
    made = []
    for column, text in row.items():
        numbers = tuple(float(n) for n in NUMBER.findall(text))
        if column not in (*KEYS, *WORDS) and numbers:
            made.append(Claim(run, line, column, keys, numbers, text))
    return made


def claims_of_runs(line: int, row: Mapping[str, str]) -> list[Claim]:
    """Those of a row that names its run: each column is a split, a metric and perhaps a subject."""
    made = []
    for column, text in row.items():
        words, numbers = column.split(), tuple(float(n) for n in NUMBER.findall(text))
        if len(words) in (2, 3) and numbers:
            keys = dict(zip(("split", "metric", "subject"), words, strict=False))
            made.append(Claim(row["run"], line, column, keys, numbers, text, DECODER.name))
    return made


def measured(claim: Claim, summary: Summary) -> tuple[float, ...]:
    """What the run found in the place of the claim: as many numbers."""
    column = claim.column
    source = claim.source or (DECODER.name if column in OF_DECODER else column)
    part = claim.keys.get("part") or None
    rows = [r for r in summary if (r["source"], r["part"]) == (source, part)]
    rows = [r for r in rows if r["metric"] == claim.keys["metric"]]
    rows = [r for r in rows if claim.keys.get("split", r["split"]) == r["split"]]
    subjects = {r["subject"] for r in rows}
    wanted = claim.keys.get("subject") or ("all" if len(subjects) > 1 else next(iter(subjects), ""))
    rows = [r for r in rows if r["subject"] == wanted]
    if len(rows) != 1:
        raise refusal(
            f"{PAGE.name}, {claim}",
            "one score of the run",
            len(rows),
            "correct the table or the run",
        )
    if column in OF_DECODER:
        return (rows[0][column],)
    return tuple(rows[0][k] for k in ("value", "ci_low", "ci_high"))[: len(claim.numbers)]


def written(numbers: Sequence[float]) -> str:
    """`.812 [.794, .828]`: three digits, no zero before the point."""
    value, *ends = (re.sub(r"^(-?)0\.", r"\1.", f"{n:.3f}") for n in numbers)
    return f"{value} [{', '.join(ends)}]" if ends else value


def differences(
    page: str, run: str, summary: Summary, metrics: Sequence[str] = (), columns: Sequence[str] = ()
) -> list[str]:
    """A line per number of the page that the run does not have; InputError where the page says nothing
    of it. Where they are given, only `metrics` and `columns` are compared.
    """
    mine = [c for c in claims(page) if c.run == run]
    mine = [c for c in mine if not metrics or c.keys["metric"] in metrics]
    mine = [c for c in mine if not columns or c.column in columns]
    if not mine:
        raise refusal(PAGE.name, f"a table below <!-- run: {run} -->", "none", "write one")
    made = []
    for claim in mine:
        now = measured(claim, summary)
        if any(abs(a - b) > NEAR for a, b in zip(claim.numbers, now, strict=True)):
            made.append(f"{claim}: the page says {claim.text}, the run {written(now)}")
    return made


def rewritten(page: str, run: str, summary: Summary) -> str:
    """The page with the numbers of the run."""
    lines = page.splitlines()
    for claim in claims(page):
        if claim.run == run:
            row, new = lines[claim.line - 1], written(measured(claim, summary))
            lines[claim.line - 1] = replaced(row, lines, claim, new)
    return "\n".join(lines) + "\n"


def replaced(row: str, lines: Sequence[str], claim: Claim, new: str) -> str:
    """The table's row with `new` in the column of the claim."""
    at = claim.line - 1
    while lines[at - 1].startswith("|"):
        at -= 1
    column = cells(lines[at]).index(claim.column) + 1
    parts = row.split("|")
    parts[column] = parts[column].replace(claim.text, new)
    return "|".join(parts)


def finished(outputs: Path, page: str) -> list[Path]:
    named = {claim.run for claim in claims(page)}
    folders = [p for p in sorted((outputs / "report").glob("*-*")) if is_finished(p)]
    return [p for p in folders if p.name.rpartition("-")[0] in named]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, as `decode` prints them")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--write", action="store_true", help="take the numbers of the runs")
    given = parser.parse_args()
    try:
        different = check(given.runs, given.outputs, given.page, write=given.write)
    except InputError as e:
        print(f"check_results: {e}", file=sys.stderr)
        sys.exit(2)
    print("\n".join(different) or f"{given.page} says what the runs score")
    sys.exit(bool(different))


def check(runs: Sequence[Path], outputs: Path, path: Path, *, write: bool) -> list[str]:
    page, found = path.read_text(encoding="utf-8"), []
    folders = list(runs) or finished(outputs, page)
    if not folders:
        raise refusal(
            outputs, "a finished run that the page names", "none", "run `make demo` first"
        )
    for folder in folders:
        name = str(read_json(folder / "config.json")["name"])
        summary = read_summary(folder)
        if write:
            page = rewritten(page, name, summary)
        found += differences(page, name, summary)
    if write:
        path.write_text(page, encoding="utf-8")
    return found


if __name__ == "__main__":
    main()
