"""Mean squared error of a prediction at the target's own scale."""

from __future__ import annotations

from torch.nn.functional import mse_loss

from decode.core import Batch, Tensors
from decode.networks.losses import pair, unit
from decode.trainable import Encoder, Objective


class MSE(Objective):
    """Mean squared error over all elements of `target`, times `weight`.

    With `normalise` both sides are flattened and brought to length 1 first.
    """

    def __init__(
        self, *, target: str = "image", weight: float = 1.0, normalise: bool = False
    ) -> None:
        super().__init__()
        self.target, self.weight, self.normalise = target, weight, normalise

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        made, wanted = pair(encoder, batch, self.target)
        if self.normalise:
            made, wanted = unit(made), unit(wanted)
        return {"mse": self.weight * mse_loss(made, wanted)}
