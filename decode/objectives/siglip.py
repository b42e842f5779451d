"""SigLIP: every pair of the batch is its own yes-or-no question."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import softplus

from decode.core import Batch, Tensors
from decode.networks.losses import pair, unit
from decode.trainable import Encoder, Objective


class SigLIP(Objective):
    """-log sigmoid(+-(exp(theta) cosine + bias)), summed over candidates, mean over rows (Zhai et
    al. 2023). Other rows of the same stimulus are neither right nor wrong: they are left out.
    """

    def __init__(
        self,
        *,
        target: str = "retrieval",
        weight: float = 1.0,
        theta: float = math.log(10.0),
        bias: float = -10.0,
    ) -> None:
        super().__init__()
        self.target, self.weight = target, weight
        self.theta = nn.Parameter(torch.tensor(theta))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        brain, image = pair(encoder, batch, self.target)
        logits = self.theta.exp() * unit(brain) @ unit(image).T + self.bias
        own = torch.eye(len(batch), dtype=torch.bool, device=logits.device)
        repeat = (batch.stimulus[:, None] == batch.stimulus[None]) & ~own
        terms = softplus(torch.where(own, -logits, logits)).masked_fill(repeat, 0)
        return {"siglip": self.weight * terms.sum(1).mean()}
