"""Temporal-spatial convolution: the small EEG and MEG encoder that most later ones contain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from torch import nn

from decode.core import Batch, Layout, Shape, Tensors, refusal
from decode.networks.blocks import Passport, projection_heads, subject_input
from decode.trainable import Encoder


class TSConv(Encoder):
    """Convolution over time, pooling, convolution over all channels, then a projection per target.

    NICE (Song et al. 2024): `filters` 40, `kernel` 25, mean of `pool` 51 samples every `stride` 5.
    `subjects: mix` gives each subject a channel-mixing matrix that starts as the identity; `shared`
    gives none and needs equal channels. Targets named in `contrastive` end in a norm, the others at
    the mean and spread of the training targets. Raises InputError for windows that are too short.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        filters: int = 40,
        kernel: int = 25,
        pool: int = 51,
        stride: int = 5,
        dropout: float = 0.5,
        dropout_head: float = 0.5,
        subjects: Literal["mix", "shared"] = "mix",
        contrastive: Sequence[str] = ("retrieval",),
    ) -> None:
        super().__init__()
        self.passport = Passport(layouts)
        channels, times = self.passport.one_size("encoder tsconv")
        needed = kernel - 1 + pool
        if times < needed:
            raise refusal(
                "encoder tsconv",
                f"windows of at least {needed} samples (kernel {kernel}, pool {pool})",
                times,
                "take a longer window, a higher sampling rate or a smaller pool",
            )
        self.mix = subject_input(self.passport, subjects)
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, filters, (1, kernel)),
            nn.AvgPool2d((1, pool), (1, stride)),
            nn.BatchNorm2d(filters),
            nn.ELU(),
            nn.Conv2d(filters, filters, (channels, 1)),
            nn.BatchNorm2d(filters),
            nn.ELU(),
            nn.Dropout(dropout),
            nn.Conv2d(filters, filters, 1),
            nn.Flatten(),
        )
        width = filters * ((times - needed) // stride + 1)
        self.heads = projection_heads(width, shapes, contrastive=contrastive, dropout=dropout_head)

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.heads.scale.learn(train)

    def forward(self, batch: Batch) -> Tensors:
        self.passport.check(batch)
        brain = batch.brain if self.mix is None else self.mix(batch.brain, batch.subject)
        return self.heads(self.convolutions(brain[:, None]))
