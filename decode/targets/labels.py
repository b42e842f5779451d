"""A known fact about each stimulus, or about each trial, as a one-hot target."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from decode.core import Kind, Reads, Stimulus, refusal


class Labels:
    """One-hot code (class,) of a label of the stimulus; `classes` fixes the order.

    With `of` "trial" it is the value that the trial has in that column: an answer, or whether the stimulus
    was attended, which may differ from one showing to the next.
    """

    accepts: ClassVar[frozenset[Kind]] = frozenset(
        {"image", "text", "audio", "video", "mesh", "event"}
    )

    def __init__(
        self, column: str, classes: Sequence[Any], *, of: Literal["stimulus", "trial"] = "stimulus"
    ) -> None:
        self.column, self.of = column, of
        self.reads: frozenset[Reads] = frozenset({"trial" if of == "trial" else "labels"})
        self.classes = list(classes)
        if len(self.classes) < 2 or len(set(map(str, self.classes))) != len(self.classes):
            raise refusal(
                "targets.*.classes",
                "two or more different values",
                self.classes,
                "leave out what stands there twice",
            )

    def __call__(self, stimuli: Sequence[Stimulus]) -> Tensor:
        """(stimulus, class) float32 of zeros and ones."""
        # Values come from tables and from yaml: 6, "6" and numpy's 6 name the same class.
        number = {str(name): i for i, name in enumerate(self.classes)}
        code = torch.zeros(len(stimuli), len(self.classes))
        for row, stimulus in enumerate(stimuli):
            code[row, self._number(stimulus, number)] = 1.0
        return code

    def _number(self, stimulus: Stimulus, number: dict[str, int]) -> int:
        if self.column not in stimulus.labels:
            near = get_close_matches(self.column, stimulus.labels, n=1)
            hint = f"; did you mean {near[0]!r}" if near else ""
            raise refusal(
                "targets.*.column",
                f"a label of stimulus {stimulus.uid!r}, which has {sorted(stimulus.labels)}",
                f"{self.column!r}{hint}",
                "correct `column`",
            )
        value = str(stimulus.labels[self.column])
        if value not in number:
            raise refusal(
                "targets.*.classes",
                f"the {self.column} of stimulus {stimulus.uid!r} among {self.classes}",
                f"{value!r}",
                "add it to `classes`",
            )
        return number[value]
