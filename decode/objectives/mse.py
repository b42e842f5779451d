"""Mean squared error of a prediction at the target's own scale."""

from __future__ import annotations

from torch.nn.functional import mse_loss

from decode.core import Batch, Encoder, Objective, Tensors
from decode.networks.losses import pair


class MSE(Objective):
    """Mean squared error over all elements of `target`, times `weight`."""

    def __init__(self, *, target: str = "image", weight: float = 1.0) -> None:
        super().__init__()
        self.target, self.weight = target, weight

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        made, wanted = pair(encoder, batch, self.target)
        return {"mse": self.weight * mse_loss(made, wanted)}
