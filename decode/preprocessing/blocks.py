"""Events of a design in blocks: what follows of one stimulus is one trial."""

from __future__ import annotations

import numpy as np
import pandas as pd

# s; events that begin sooner after the last one of their stimulus belong to its block
GAP_S = 6.0
# s; single trials are shorter
LONG_S = 8.0


def joined(events: pd.DataFrame, gap: float = GAP_S, *, by: str = "stimulus") -> pd.DataFrame:
    """One row per block, in order of onset: that of its first event, lasting until its last one ends.

    Events of the same `by` (and the same split, where there is one) that begin less than `gap` s after
    the end of the one before are one block.
    """
    events = events.sort_values("onset", kind="stable", ignore_index=True)
    ends = (events["onset"] + events["duration"].fillna(0.0)).to_numpy(float)
    same = [c for c in (by, "split") if c in events]
    starts = np.ones(len(events), bool)
    starts[1:] = (events[same].to_numpy()[1:] != events[same].to_numpy()[:-1]).any(axis=1)
    starts[1:] |= events["onset"].to_numpy(float)[1:] - ends[:-1] >= gap
    first = events[starts].reset_index(drop=True)
    last = pd.Series(ends).groupby(np.cumsum(starts)).max().to_numpy()
    return first.assign(duration=last - first["onset"])


def typical_block(events: pd.DataFrame) -> float | None:
    """Median length (s) of the blocks that events make up, None where they are single trials."""
    typical = float(joined(events)["duration"].median()) if len(events) else 0.0
    return typical if typical >= LONG_S else None
