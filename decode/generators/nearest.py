"""The training stimulus whose target is nearest to the prediction."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from decode.core import Generator, InputError, Kind, Media, Stimulus, Tensors, refusal
from decode.media.medium import KINDS


def check_made(kind: Kind) -> Kind:
    """The kind, if anything of it can be made."""
    if kind not in KINDS:
        raise refusal("generator.makes", f"one of {list(KINDS)}", repr(kind), "correct it")
    return kind


class Nearest(Generator):
    """Nearest training stimulus by cosine similarity in the named target, ties to the first.

    `makes` is the kind of the stimuli that it shows again: pictures, sounds, films, meshes or texts.

    `learn` keeps the training stimuli and their targets; nothing is ever made that was not shown in
    training, which is why the same thing serves as a control.
    """

    def __init__(self, target: str = "image", *, makes: Kind = "image") -> None:
        self.target = target
        self.makes = check_made(makes)  # type: ignore[misc]
        self.needs = (target,)
        self._shown: list[Stimulus] = []
        self._gallery: Tensor | None = None

    def check_shown(self, kinds: Collection[Kind]) -> None:
        if self.makes != "text" and set(kinds) != {self.makes}:
            got = " and ".join(sorted(kinds))
            raise refusal(
                "generator.makes", f"{got}, as all stimuli are", self.makes, "leave makes out"
            )

    def learn(self, shown: Sequence[Stimulus], truth: Tensors) -> None:
        """Remember training stimuli and their targets (stimulus, *shape)."""
        if len(shown) != len(truth[self.target]) or not len(shown):
            raise InputError(
                f"nearest generator: expected one row of target {self.target!r} per training "
                f"stimulus, got {len(truth[self.target])} rows for {len(shown)} stimuli"
                "; give learn the stimuli and their targets in one order"
            )
        lacking = [s for s in shown if not s.is_there_as(self.makes)]
        if lacking:
            raise refusal(
                "generator.makes", f"what training stimuli can be shown as ({lacking[0].kind})",
                self.makes, "leave makes out",
            )  # fmt: skip
        self._shown = list(shown)
        self._gallery = normalize(truth[self.target].float().flatten(1), dim=1)

    def __call__(self, predicted: Tensors, *, seeds: Sequence[int]) -> list[Media]:
        """The chosen training stimuli as they are; seeds do not matter."""
        return [self._shown[i].read_as(self.makes) for i in self.choose(predicted)]

    def choose(self, predicted: Tensors) -> list[int]:
        """Index of the nearest training stimulus, per row."""
        if self._gallery is None:
            raise refusal(
                "nearest generator",
                "training stimuli",
                "none yet",
                "call learn(shown, truth) first",
            )
        query = normalize(predicted[self.target].float().flatten(1), dim=1)
        if not bool(torch.isfinite(query).all()):
            raise refusal(
                "nearest generator",
                f"a finite prediction of {self.target!r}",
                "NaN or infinite values",
                "look at the losses of train (history.jsonl) and lower trainer.rate",
            )
        return [int(i) for i in (query @ self._gallery.T).argmax(dim=1)]
