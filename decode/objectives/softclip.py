"""SoftCLIP: the batch's own image-to-image similarities are the labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from decode.core import Batch, Tensors
from decode.networks.losses import pair, soft_cross_entropy, unit
from decode.trainable import Encoder, Objective


class SoftCLIP(Objective):
    """Cross-entropy against softmax(image x image / t) in both directions (MindEye, Scotti 2023).

    The temperature goes along a cosine from `first` to `last` between progress `starts` and 1;
    before `starts` the term is zero. While validating it is always on, at `last`, so that losses of
    different epochs can be compared.
    """

    def __init__(
        self,
        *,
        target: str = "retrieval",
        weight: float = 1.0,
        first: float = 0.004,
        last: float = 0.0075,
        starts: float = 0.0,
    ) -> None:
        super().__init__()
        self.target, self.weight = target, weight
        self.first, self.last, self.starts = first, last, starts

    @classmethod
    def teaches(cls, knobs: Mapping[str, Any]) -> frozenset[str]:
        return super().teaches(knobs) if knobs["starts"] < 1 else frozenset()

    def temperature(self, progress: float) -> float:
        along = (progress - self.starts) / max(1 - self.starts, 1e-9)
        share = (1 - math.cos(math.pi * min(max(along, 0.0), 1.0))) / 2
        return self.first + (self.last - self.first) * share

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        made, wanted = pair(encoder, batch, self.target)
        if encoder.training and progress < self.starts:
            return {"softclip": 0 * made.sum()}
        at = self.temperature(progress) if encoder.training else self.last
        brain, image = unit(made), unit(wanted)
        labels = torch.softmax(image @ image.T / at, 1)
        logits = brain @ image.T / at
        loss = (soft_cross_entropy(logits, labels) + soft_cross_entropy(logits.T, labels)) / 2
        return {"softclip": self.weight * loss}
