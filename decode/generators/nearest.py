"""The training picture whose target is nearest to the prediction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from decode.core import Generator, InputError, Media, Stimulus, Tensors
from decode.pictures import read_image


class Nearest(Generator):
    """Nearest training picture by cosine similarity in the named target, ties to the first.

    `learn` keeps the training stimuli and their targets; nothing is ever made that was not shown in
    training, which is why the same thing serves as a control.
    """

    def __init__(self, target: str = "image") -> None:
        self.target = target
        self.needs = (target,)
        self._shown: list[Stimulus] = []
        self._gallery: Tensor | None = None

    def learn(self, shown: Sequence[Stimulus], truth: Tensors) -> None:
        """Remember training stimuli and their targets (stimulus, *shape)."""
        if len(shown) != len(truth[self.target]) or not len(shown):
            raise InputError(
                f"nearest generator: expected one row of target {self.target!r} per training "
                f"stimulus, got {len(truth[self.target])} rows for {len(shown)} stimuli"
                "; correct it"
            )
        self._shown = list(shown)
        self._gallery = normalize(truth[self.target].float().flatten(1), dim=1)

    def __call__(self, predicted: Tensors, *, seeds: Sequence[int]) -> list[Media]:
        """The chosen training pictures, at their own size; seeds do not matter."""
        return [Media("image", read_image(self._shown[i])) for i in self.choose(predicted)]

    def choose(self, predicted: Tensors) -> list[int]:
        """Index of the nearest training stimulus, per row."""
        if self._gallery is None:
            raise InputError(
                "nearest generator: asked to generate before it has seen training stimuli; "
                "call learn(shown, truth) first"
            )
        query = normalize(predicted[self.target].float().flatten(1), dim=1)
        if not bool(torch.isfinite(query).all()):
            raise InputError(
                f"nearest generator: prediction of {self.target!r} is not finite"
                "; look at the losses of train (history.jsonl) and lower trainer.rate"
            )
        return [int(i) for i in (query @ self._gallery.T).argmax(dim=1)]
