"""The mean response to all training stimuli: what is known of the brain without looking at the stimulus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

import torch

from decode.core import Batch, Layout, Shape, Tensors
from decode.linear.encoding import BRAIN, BrainModel
from decode.networks.blocks import Passport


class MeanResponse(BrainModel):
    """Predicts the mean of each subject's training and validation trials for every stimulus."""

    per_subject = True
    mean: torch.Tensor

    def __init__(self, layouts: Mapping[str, Layout], shapes: Mapping[str, Shape]) -> None:
        super().__init__()
        self.passport = Passport(layouts)
        size = len(layouts), max(self.passport.n_channels), max(self.passport.n_times)
        self.register_buffer("mean", torch.zeros(size))

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        total, count = torch.zeros_like(self.mean), self.mean.new_zeros(len(self.mean), 1, 1)
        for batch in chain(train, validation):
            self.passport.check(batch)
            total.index_add_(0, batch.subject, batch.brain)
            count.index_add_(0, batch.subject, torch.ones_like(batch.brain[:, :1, :1]))
        self.mean.copy_(total / count.clamp(min=1))

    def forward(self, batch: Batch) -> Tensors:
        self.passport.check(batch)
        return {BRAIN: self.mean[batch.subject]}
