"""InfoNCE: the right stimulus must score above the other stimuli of the batch, and vice versa."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from decode.core import Batch, InputError, Tensors, refusal
from decode.networks.losses import both_ways, pair, same, soft_cross_entropy
from decode.trainable import Encoder, Objective

CLIP_THETA = math.log(1 / 0.07)
LARGEST = math.log(100.0)


class InfoNCE(Objective):
    """Cross-entropy of scaled dot products between predictions and candidates, both flattened.

    `normalise` says whose vectors get length 1: `both` (CLIP, Radford et al. 2021), `image` (the
    free length of the brain side acts as confidence; UBP, Wu et al. 2025, Defossez et al. 2023),
    `brain` or `none`. The scale is exp(theta) (at most 100), theta itself (`raw`, a slip of ATM
    that became a recipe), softplus(theta), or `fixed`: the number `theta`, 1 by default. Otherwise
    theta starts at ln(1/0.07) and is learnt if `learnable`. `directions: both` averages
    brain-to-image and image-to-brain. `positives: stimulus` shares the mass evenly among all rows
    that show the same stimulus, `row` counts every other row as wrong.
    """

    def __init__(
        self,
        *,
        target: str = "retrieval",
        weight: float = 1.0,
        normalise: Literal["both", "image", "brain", "none"] = "both",
        scale: Literal["exp", "raw", "softplus", "fixed"] = "exp",
        theta: float | None = None,
        learnable: bool = True,
        directions: Literal["both", "brain_to_image"] = "both",
        positives: Literal["stimulus", "row"] = "stimulus",
    ) -> None:
        super().__init__()
        choices = {
            "normalise": (normalise, ("both", "image", "brain", "none")),
            "scale": (scale, ("exp", "raw", "softplus", "fixed")),
            "directions": (directions, ("both", "brain_to_image")),
            "positives": (positives, ("stimulus", "row")),
        }
        for name, (got, allowed) in choices.items():
            if got not in allowed:
                raise InputError(
                    f"objective.{name}: expected one of {list(allowed)}, got {got!r}; choose one of these"
                )
        if scale == "fixed" and learnable:
            raise refusal(
                "objectives.*.learnable",
                "false where the scale is fixed",
                "true",
                "set learnable: false",
            )
        self.target, self.weight = target, weight
        self.normalise, self.scale = normalise, scale
        self.directions, self.positives = directions, positives
        start = theta if theta is not None else (1.0 if scale == "fixed" else CLIP_THETA)
        self.theta = nn.Parameter(torch.tensor(start), requires_grad=learnable)

    def temperature(self) -> Tensor:
        """What dot products are multiplied by."""
        if self.scale == "exp":
            return self.theta.clamp(max=LARGEST).exp()
        return softplus(self.theta) if self.scale == "softplus" else self.theta

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        brain, image = (x.flatten(1) for x in pair(encoder, batch, self.target))
        if self.normalise in ("both", "brain"):
            brain = normalize(brain, dim=1)
        if self.normalise in ("both", "image"):
            image = normalize(image, dim=1)
        logits = self.temperature() * brain @ image.T
        rows = torch.arange(len(batch), device=logits.device)
        wanted = same(batch.stimulus if self.positives == "stimulus" else rows)
        loss = both_ways if self.directions == "both" else soft_cross_entropy
        return {"infonce": self.weight * loss(logits, wanted)}
