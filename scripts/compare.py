"""Is run A better than run B? Paired differences on the items that both were tested on.

  python scripts/compare.py A B [--outputs outputs] [--metric NAME ...] [--source NAME ...]

A and B are run folders (the paths that `decode` prints) or names of runs below outputs/report. Compared
are the decoders, or the sources that are named: `--source ridge` compares the baseline of that name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from decode.core import InputError, refusal
from decode.scoring.compare import Difference, compare
from decode.scoring.summary import read_summary
from decode.sources import DECODER
from decode.store import is_finished, read_json, read_table


@dataclass(frozen=True)
class Finished:
    """What a finished run folder says about itself."""

    folder: Path
    scores: pd.DataFrame
    hashes: dict[str, str]
    config: dict[str, Any]
    marks: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--outputs", default="outputs", help="where names of runs are looked up")
    parser.add_argument("--metric", action="append", help="compare this one (may be repeated)")
    parser.add_argument("--source", action="append", help="compare this one (may be repeated)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        outputs, sources = Path(given.outputs), given.source or [DECODER.name]
        print(report(given.a, given.b, outputs, given.metric, given.seed, sources))
    except InputError as e:
        print(f"compare: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)


def report(
    a: str,
    b: str,
    outputs: Path,
    metrics: list[str] | None,
    seed: int,
    sources: Sequence[str] = (DECODER.name,),
) -> str:
    """The comparison as text; InputError when the runs cannot be compared."""
    first, second = read(find(a, outputs)), read(find(b, outputs))
    splits = same_splits(first, second)
    tables = []
    for run in (first, second):
        rows = run.scores[run.scores["split"].isin(splits)]
        for column, asked in (("source", sources), ("metric", metrics)):
            rows = only(rows, column, asked, run.folder)
        tables.append(rows)
    found = compare(*tables, seed=seed)
    return "\n".join([*heading(first, second), "", *lines(found), "", *FOOT])


FOOT = (
    "difference = A - B on shared rows, with a 95 % interval over subjects and stimuli;",
    "p from flipping signs of stimuli (these subjects, other stimuli); Holm corrects for all lines.",
)


def only(
    rows: pd.DataFrame, column: str, asked: Sequence[str] | None, folder: Path
) -> pd.DataFrame:
    """The rows whose `column` is among those asked for (None: all of them)."""
    if asked is None:
        return rows
    known = sorted(set(rows[column]))
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise refusal(
            f"--{column}", f"one of {known} of {folder}", repr(unknown[0]), "name one of them"
        )
    return rows[rows[column].isin(asked)]


def find(name: str, outputs: Path) -> Path:
    """The run folder that a path or a name means; the name must mean one."""
    if (Path(name) / "summary.json").is_file():
        return Path(name)
    found = [p for p in sorted((outputs / "report").glob("*-*")) if is_finished(p)]
    mine = [p for p in found if name in (p.name, p.name.rpartition("-")[0])]
    if len(mine) == 1:
        return mine[0]
    if mine:
        raise InputError(
            f"{name!r} means {len(mine)} runs ({', '.join(p.name for p in mine)}); give one of these"
        )
    known = ", ".join(sorted(p.name for p in found)) or "none"
    raise InputError(
        f"expected a run folder or the name of a run in {outputs}, got {name!r} ({known})"
    )


def read(folder: Path) -> Finished:
    summary = read_summary(folder)
    manifest = read_json(folder / "manifest.json")
    marks = ["simulated data"] if manifest["facts"].get("simulated") else []
    if any(row["test_conditioned"] for row in summary):
        marks.append("TEST-CONDITIONED")
    return Finished(
        folder,
        read_table(folder / "scores.parquet"),
        dict(read_json(folder / "split.json")["hashes"]),
        read_json(folder / "config.json"),
        marks,
    )


def same_splits(a: Finished, b: Finished) -> list[str]:
    """Names of the splits that both runs have; InputError unless they are the very same splits."""
    shared = [name for name in a.hashes if name in b.hashes]
    for name in shared:
        if a.hashes[name] != b.hashes[name]:
            raise InputError(
                f"split {name!r} of {a.folder.name} is {a.hashes[name]}, that of {b.folder.name} "
                f"{b.hashes[name]}: they were tested on different trials; run both on one split"
            )
    if not shared:
        raise InputError(
            f"the runs share no split ({sorted(a.hashes)} and {sorted(b.hashes)}); run both on one"
        )
    return shared


def heading(a: Finished, b: Finished) -> list[str]:
    out = []
    for label, run in (("A", a), ("B", b)):
        out.append(f"{label}  {run.folder.name}" + "".join(f"  {m}" for m in run.marks))
    both = a.config["metrics"], b.config["metrics"]
    other = sorted(k for k in set(both[0]) & set(both[1]) if both[0][k] != both[1][k])
    if other:
        out.append(f"careful: configured differently in the two runs: metrics {', '.join(other)}")
    return out


def lines(found: list[Difference]) -> list[str]:
    head = [
        "metric",
        "source",
        "split",
        "rows",
        "A",
        "B",
        "difference",
        "95 % interval",
        "p",
        "p (Holm)",
    ]
    rows = [head]
    for d in found:
        interval = "-" if d.low != d.low else f"{d.low:+.3f} to {d.high:+.3f}"
        name = d.metric + (" (lower is better)" if d.better == "lower" else "")
        whose = f"{d.source} {d.part}" if d.part else d.source
        numbers = [f"{d.a:.3f}", f"{d.b:.3f}", f"{d.value:+.3f}", interval]
        rows.append([name, whose, d.split, str(d.n), *numbers, f"{d.p:.4f}", f"{d.p_holm:.4f}"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    text = [
        "  ".join(
            c.ljust(w) if i < 3 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [text[0], "-" * len(text[0]), *text[1:]]


if __name__ == "__main__":
    main()
