"""Flat projection: the whole window as one vector, one projection per target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from decode.core import Batch, Layout, Shape, Tensors
from decode.networks.blocks import Passport, projection_heads, subject_input
from decode.trainable import Encoder


class Flat(Encoder):
    """Channel x time -> linear, residual GELU-linear-dropout, norm (UBP, Wu et al. 2025).

    `subjects: mix` gives each subject a channel-mixing matrix that starts as the identity; `shared`
    gives none and needs equal channels. Targets named in `contrastive` end in a norm, the others at
    the mean and spread of the training targets.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        dropout: float = 0.3,
        subjects: Literal["mix", "shared"] = "mix",
        contrastive: Sequence[str] = ("retrieval",),
    ) -> None:
        super().__init__()
        self.passport = Passport(layouts)
        channels, times = self.passport.one_size("encoder flat")
        self.mix = subject_input(self.passport, subjects)
        self.heads = projection_heads(
            channels * times, shapes, contrastive=contrastive, dropout=dropout
        )

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.heads.scale.learn(train)

    def forward(self, batch: Batch) -> Tensors:
        self.passport.check(batch)
        brain = batch.brain if self.mix is None else self.mix(batch.brain, batch.subject)
        return self.heads(brain.flatten(1))
