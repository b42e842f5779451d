"""Regions decoded on their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from decode.core import Layout, refusal
from decode.division import Part
from decode.parting import one_length


def regions(
    layouts: Mapping[str, Layout], *, targets: Sequence[str], at_least: int = 10
) -> dict[str, Part]:
    """One part per region that every subject has with `at_least` channels, by name.

    Raises InputError where the channels name no such region.
    """
    counts = [
        {r: layout.rois.count(r) for r in set(layout.rois) - {""}} for layout in layouts.values()
    ]
    shared = [r for r in counts[0] if all(c.get(r, 0) >= at_least for c in counts)]
    if not shared:
        raise refusal(
            "parts.regions",
            f"a region that every subject has with {at_least} channels or more",
            f"channels of {sorted(counts[0])}",
            "give the data masks of regions or leave this part out",
        )
    n_times = one_length(layouts)
    meaning = "a ridge on the channels of the region alone"
    return {
        name: Part(tuple(targets), 0, n_times, (name,), meaning=meaning) for name in sorted(shared)
    }
