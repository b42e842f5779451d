"""`python -m benchmarks`: run all, print one table and write it to outputs/benchmarks.md."""

from __future__ import annotations

import importlib
import platform
import sys
from pathlib import Path

import pandas as pd

PARTS = ("ridge", "brain_diffuser", "training", "image_metrics", "intervals", "stages", "gpu")


def main() -> None:
    tables = []
    for part in PARTS if len(sys.argv) == 1 else sys.argv[1:]:
        print(f"benchmark {part}", file=sys.stderr)
        rows = importlib.import_module(f"benchmarks.{part}").rows()
        tables.append(pd.DataFrame(rows).assign(benchmark=part))
    table = pd.concat(tables, ignore_index=True)
    front = [c for c in ("benchmark", "what", "size", "seconds", "peak_mb") if c in table]
    table = table[front + [c for c in table.columns if c not in front]]
    text = f"{platform.processor() or platform.machine()}, Python {platform.python_version()}\n\n"
    text += as_markdown(table)
    out = Path("outputs") / "benchmarks.md"
    out.parent.mkdir(exist_ok=True)
    out.write_text(text)
    print(text)
    print(out)


def as_markdown(table: pd.DataFrame) -> str:
    """Columns that line up in a terminal and in a page."""
    cells = [list(map(str, table.columns))]
    for row in table.itertuples(index=False):
        cells.append([f"{v:.3g}" if isinstance(v, float) else str(v) for v in row])
    cells = [["" if c == "nan" else c for c in row] for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
