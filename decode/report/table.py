"""The scores as a table of plain text, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from decode.report.content import Score, of_decoder, overall
from decode.sources import SHUFFLED


def score_table(summary: Sequence[Mapping[str, Any]], *, simulated: bool) -> str:
    """The decoder's overall scores with chance, 95 % interval and the shuffled control beside them."""
    scores = overall([Score(**row) for row in summary])
    shuffled = {(s.split, s.metric): s.value for s in scores if s.source == SHUFFLED.name}
    head = ["metric", "split", "n", "value", "95 % interval", "chance", "shuffled", "ceiling"]
    lines = [head]
    for s in of_decoder(scores):
        interval = f"{_number(s.ci_low)} to {_number(s.ci_high)}"
        mixed = _number(shuffled.get((s.split, s.metric)))
        name = s.metric + (" TEST-CONDITIONED" if s.test_conditioned else "")
        numbers = [_number(s.value), interval, _number(s.chance), mixed, _number(s.ceiling)]
        lines.append([name, s.split, str(s.n), *numbers])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    rows = [
        "  ".join(
            c.ljust(w) if i < 2 else c.rjust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    rows.insert(1, "-" * len(rows[0]))
    return "\n".join([*(["simulated data"] if simulated else []), *rows])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
