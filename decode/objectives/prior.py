"""The loss of a diffusion prior: recover the clean target from noise and what the brain says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from decode.core import Batch, Tensors, refusal
from decode.trainable import PRIOR, Encoder, Objective


class Prior(Objective):
    """Squared error of the predicted clean target over random noise levels, at the prior's own scale.

    Works on an encoder with a prior (`decode.encoders.with_prior`); the condition is dropped with
    probability `drop`, so that guidance is possible. While validating, noise and levels are seeded.
    Raises InputError for other encoders.
    """

    def __init__(self, *, weight: float = 30.0, drop: float = 0.2) -> None:
        super().__init__()
        self.weight, self.drop = weight, drop

    @classmethod
    def teaches(cls, knobs: Mapping[str, Any]) -> frozenset[str]:
        return frozenset({PRIOR})

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        loss_of: Any = getattr(encoder, "prior_loss", None)
        if loss_of is None:
            raise refusal(
                "objective prior",
                "an encoder with a diffusion prior",
                "one without",
                "choose one that has (encoder=mlp_prior) or drop this objective",
            )
        sampled: Any = encoder
        name = sampled.target
        truth = encoder.embed(batch.targets)[name].float()
        if encoder.training:
            condition, generator = encoder(batch)[name], None
        else:
            condition = sampled.condition(batch)
            generator = torch.Generator().manual_seed(0)
        loss = loss_of(condition.float(), truth, drop=self.drop, generator=generator)
        return {"prior": self.weight * loss.mean()}
