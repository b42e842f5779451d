"""Stretches of time decoded on their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from decode.core import InputError, Layout
from decode.division import Part
from decode.parting import one_length


def windows(
    layouts: Mapping[str, Layout], *, targets: Sequence[str], width: float, step: float
) -> dict[str, Part]:
    """Windows of `width` s every `step` s, labelled by their centre in ms after the stimulus; no two
    share a label.

    Raises InputError where the preprocessed windows are shorter than `width`.
    """
    layout = next(iter(layouts.values()))
    n_times = one_length(layouts)
    size, hop = round(width * layout.sfreq), max(1, round(step * layout.sfreq))
    if not 1 <= size <= n_times:
        raise InputError(
            f"parts.windows: expected a width of {1 / layout.sfreq:g} to "
            f"{n_times / layout.sfreq:g} s, got {width:g}; change it or preprocess.trials.window"
        )
    made = {}
    for first in range(0, n_times - size + 1, hop):
        centre = layout.start + (first + size / 2) / layout.sfreq
        made[f"{round(1000 * centre, 3) + 0.0:.9g}ms"] = Part(
            tuple(targets),
            first,
            first + size,
            pooled=True,
            meaning=f"a ridge on the mean over {width:g} s",
            time=centre,
        )
    return made
