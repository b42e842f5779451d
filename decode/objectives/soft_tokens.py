"""SoftCLIP between single tokens: which place of which picture a low-level map describes."""

from __future__ import annotations

import torch

from decode.core import Batch, Tensors, refusal
from decode.networks.losses import pair, soft_cross_entropy
from decode.trainable import Encoder, Objective


class SoftTokens(Objective):
    """Predicted tokens against the candidates of all places of all pictures in the batch.

    `target` (token, feature) holds features of the pictures, `other` of the same pictures changed at
    random (None: the same). Labels are softmax(target x other / t), so that alike places may be
    confused; both directions count (MindEye's low-level loss, Scotti et al. 2023: `temperature` .075;
    2024: .2). Raises InputError for targets that are no tokens.
    """

    def __init__(
        self,
        *,
        target: str = "lowlevel_tokens",
        other: str | None = None,
        weight: float = 0.1,
        temperature: float = 0.075,
    ) -> None:
        super().__init__()
        self.target, self.other = target, other
        self.weight, self.temperature = weight, temperature

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        made, wanted = pair(encoder, batch, self.target)
        if made.ndim != 3:
            raise refusal(
                "objective soft_tokens",
                f"target {self.target!r} of shape (token, feature)",
                f"{tuple(made.shape[1:])}",
                "choose a target of tokens",
            )
        candidates = wanted
        if self.other is not None:
            if self.other not in batch.targets:
                raise refusal(
                    "objectives.*.other",
                    f"a target {self.other!r}",
                    sorted(batch.targets),
                    "add it or set other to null",
                )
            candidates = batch.targets[self.other].float()
        made, wanted, candidates = (
            torch.nn.functional.normalize(x.flatten(0, 1), dim=1)
            for x in (made, wanted, candidates)
        )
        labels = torch.softmax(wanted @ candidates.T / self.temperature, 1)
        logits = made @ candidates.T / self.temperature
        back = torch.softmax(candidates @ wanted.T / self.temperature, 1)
        loss = (soft_cross_entropy(logits, labels) + soft_cross_entropy(logits.T, back)) / 2
        return {"soft_tokens": self.weight * loss}
