"""Cross-entropy on class targets."""

from __future__ import annotations

from decode.core import Batch, Tensors, refusal
from decode.networks.losses import pair, soft_cross_entropy
from decode.trainable import Encoder, Objective


class CrossEntropy(Objective):
    """Predictions (batch, class) are logits, targets one-hot or probabilities.

    `smoothing` moves that share of each label evenly onto all classes. Raises InputError for
    targets that are no distribution over classes.
    """

    def __init__(
        self, *, target: str = "label", weight: float = 1.0, smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.target, self.weight, self.smoothing = target, weight, smoothing

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        made, wanted = pair(encoder, batch, self.target)
        total = wanted.sum(1) if wanted.ndim == 2 else wanted
        if wanted.ndim != 2 or bool((wanted < 0).any()) or bool(((total - 1).abs() > 1e-3).any()):
            raise refusal(
                "objective cross_entropy",
                f"target {self.target!r} of (batch, class) rows that add up to 1",
                f"shape {tuple(wanted.shape)}",
                "choose a class target (target=labels)",
            )
        smooth = (1 - self.smoothing) * wanted + self.smoothing / wanted.shape[1]
        return {"cross_entropy": self.weight * soft_cross_entropy(made, smooth)}
