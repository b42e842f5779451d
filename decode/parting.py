"""What ways of parting a signal share."""

from __future__ import annotations

from collections.abc import Mapping

from decode.core import InputError, Layout
from decode.division import Part
from decode.sources import Role, Source


def one_length(layouts: Mapping[str, Layout]) -> int:
    lengths = {layout.n_times for layout in layouts.values()}
    if len(lengths) > 1:
        raise InputError(
            f"parts: expected equally long windows of all subjects, got {sorted(lengths)} samples; "
            "preprocess all subjects alike"
        )
    return lengths.pop()


def source_of(name: str, label: str, part: Part) -> Source:
    """What the scores of a part are called; `name` is its key in the config."""
    role: Role = "control" if part.control else "part"
    return Source(name, role, part.meaning, label or None, part.time)
