"""The losses of a flow between the code of a voxel autoencoder and the tokens of a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from decode.core import Batch, Tensors, refusal
from decode.networks.losses import soft_cross_entropy, unit
from decode.trainable import FLOW, Encoder, Objective


class Flow(Objective):
    """Rebuilt voxels, divergence of the code, speed of the flow, and likeness of code and picture.

    NeuroFlow (Mai et al. 2026) for encoders with `flow_terms`: squared error of the voxels summed per
    trial (`voxels`), divergence (`divergence`), squared error of the speed (`speed`), and SoftCLIP at
    `temperature` between the picture's tokens as they are and the code (`contrast`), and the code and
    projections of the rebuilt voxels (`cycle`). There autoencoder and flow are trained one after the
    other; here at once, the flow without a say in the code. Raises InputError for other encoders.
    """

    def __init__(
        self,
        *,
        voxels: float = 1.0,
        divergence: float = 1e-3,
        speed: float = 1.0,
        contrast: float = 1000.0,
        cycle: float = 1000.0,
        temperature: float = 0.125,
    ) -> None:
        super().__init__()
        self.voxels, self.divergence, self.speed = voxels, divergence, speed
        self.contrast, self.cycle, self.temperature = contrast, cycle, temperature

    @classmethod
    def teaches(cls, knobs: Mapping[str, Any]) -> frozenset[str]:
        return frozenset({FLOW})

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        flowing: Any = encoder
        if getattr(encoder, "flow_terms", None) is None:
            raise refusal(
                "objective flow",
                "an encoder with a flow",
                "one without",
                "choose one that has (encoder=neuroflow) or drop this objective",
            )
        targets = encoder.embed(batch.targets)
        terms = flowing.flow_terms(batch, targets)
        image = unit(flowing.clean(targets))
        return {
            "voxels": self.voxels * terms["voxels"].mean(),
            "divergence": self.divergence * terms["divergence"].mean(),
            "speed": self.speed * terms["speed"].mean(),
            "contrast": self.contrast * self._likeness(terms["code"], image),
            "cycle": self.cycle * sum(self._likeness(code, image) for code in terms["again"]),
        }

    def _likeness(self, code: Tensor, image: Tensor) -> Tensor:
        labels = torch.softmax(image @ image.T / self.temperature, 1)
        logits = unit(code.float()) @ image.T / self.temperature
        return (soft_cross_entropy(logits, labels) + soft_cross_entropy(logits.T, labels)) / 2
