"""Mean absolute error of a prediction at the target's own scale."""

from __future__ import annotations

from torch.nn.functional import l1_loss

from decode.core import Batch, Tensors
from decode.networks.losses import pair
from decode.trainable import Encoder, Objective


class L1(Objective):
    """Mean absolute error over all elements of `target`, times `weight`."""

    def __init__(self, *, target: str = "image", weight: float = 1.0) -> None:
        super().__init__()
        self.target, self.weight = target, weight

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        made, wanted = pair(encoder, batch, self.target)
        return {"l1": self.weight * l1_loss(made, wanted)}
