"""Trials as targets see them: events whose labels are the columns of their row.

What is asked about in an experiment may lie in the stimulus (what was shown) or in the trial (whether it
was attended, what was answered, how fast). A target that reads trials gets one event for each of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from decode.core import Stimulus

if TYPE_CHECKING:
    import pandas as pd

# Between the digest of a stimulus and the key of a trial, where both say what the targets of a trial are.
BETWEEN = " "
# Columns that say how trials were put together, nothing of the trial.
MADE = frozenset({"repeats"})


def trial_keys(table: pd.DataFrame) -> list[str]:
    """(trial,) what the targets of each trial alone are known by: a hash of all of its row."""
    names = sorted(set(table.columns) - MADE)
    rows = table[names].astype(str).to_numpy()
    return [_hash("\x1f".join(f"{n}={v}" for n, v in zip(names, r, strict=True))) for r in rows]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def events_of(table: pd.DataFrame) -> dict[str, Stimulus]:
    """One event for each row of a table of trials, by its key; what is missing there is no label."""
    import pandas as pd

    names = [c for c in table.columns if c not in MADE]
    rows = table[names].to_dict("records")
    return {
        key: Stimulus(key, "event", labels={str(k): v for k, v in row.items() if pd.notna(v)})
        for key, row in zip(trial_keys(table), rows, strict=True)
    }


def contents_of(
    table: pd.DataFrame, digests: Mapping[str, str], *, by_trial: bool
) -> Sequence[str]:
    """(trial,) what a trial's targets are known by: the digest of its stimulus and, where there are targets
    that read trials (`by_trial`), the trial's own key.
    """
    mine = [digests[uid] for uid in table["stimulus"]]
    if not by_trial:
        return mine
    return [f"{d}{BETWEEN}{key}" for d, key in zip(mine, trial_keys(table), strict=True)]
