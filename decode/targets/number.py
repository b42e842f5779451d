"""A number that each trial, or each stimulus, comes with, as a target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from decode.core import Kind, Reads, Stimulus, refusal


class Number:
    """(1,) the value in a column of the trials (a reaction time, a rating), or a label of the stimulus.

    Raises InputError where nothing or no finite number stands there: leave such trials out of the events.
    """

    accepts: ClassVar[frozenset[Kind]] = frozenset(
        {"image", "text", "audio", "video", "mesh", "event"}
    )

    def __init__(self, column: str, *, of: Literal["stimulus", "trial"] = "trial") -> None:
        self.column, self.of = column, of
        self.reads: frozenset[Reads] = frozenset({"trial" if of == "trial" else "labels"})

    def __call__(self, stimuli: Sequence[Stimulus]) -> Tensor:
        """(stimulus, 1) float32."""
        return torch.tensor([[self._value(s)] for s in stimuli], dtype=torch.float32)

    def _value(self, stimulus: Stimulus) -> float:
        said = stimulus.labels.get(self.column)
        try:
            value = math.nan if said is None else float(said)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise refusal(
                f"number target: column {self.column!r} of {_named(stimulus)}", "a finite number",
                "nothing" if said is None else repr(said),
                f"correct it, or `column`; there are {sorted(stimulus.labels)}",
            )  # fmt: skip
        return value


def _named(event: Stimulus) -> str:
    """How a message names what has the label: a trial by its run and onset."""
    if {"subject", "run", "onset"} <= set(event.labels):
        here = event.labels
        return f"subject {here['subject']}, run {here['run']}, onset {here['onset']} s"
    return f"stimulus {event.uid!r}"
