"""One minus the cosine between a prediction and its target."""

from __future__ import annotations

from decode.core import Batch, Tensors
from decode.networks.losses import pair, unit
from decode.trainable import Encoder, Objective


class Cosine(Objective):
    """Mean over rows of 1 - cosine of the flattened vectors of `target`, times `weight`."""

    def __init__(self, *, target: str = "image", weight: float = 1.0) -> None:
        super().__init__()
        self.target, self.weight = target, weight

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        made, wanted = pair(encoder, batch, self.target)
        cosine = (unit(made) * unit(wanted)).sum(1)
        return {"cosine": self.weight * (1 - cosine).mean()}
