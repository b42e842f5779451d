"""Arithmetic that several objectives share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from decode.core import Batch, refusal
from decode.trainable import Encoder


def pair(encoder: Encoder, batch: Batch, target: str) -> tuple[Tensor, Tensor]:
    """Prediction and truth (batch, *shape) of one target, float32; InputError where they miss."""
    predicted = encoder(batch)
    truth = encoder.truth(batch)
    for side, values in (("encoder predicts", predicted), ("experiment has", truth)):
        if target not in values:
            raise refusal(
                "objective",
                f"a target {target!r} of the {side}",
                sorted(values),
                "set the objective's target or add one of that name",
            )
    made, wanted = predicted[target].float(), truth[target].float()
    if made.shape != wanted.shape:
        raise refusal(
            "objective",
            f"predictions of the shape of target {target!r}, {tuple(wanted.shape[1:])}",
            f"{tuple(made.shape[1:])}",
            "choose another encoder or target",
        )
    return made, wanted


def unit(x: Tensor) -> Tensor:
    """Flattened to (batch, feature) and of length 1."""
    return normalize(x.flatten(1), dim=1)


def same(stimulus: Tensor) -> Tensor:
    """(batch, batch) float: each row spreads 1 evenly over the rows of the same stimulus."""
    equal = (stimulus[:, None] == stimulus[None]).float()
    return equal / equal.sum(1, keepdim=True)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over rows of -sum(target * log softmax(logits))."""
    return -(target * torch.log_softmax(logits, 1)).sum(1).mean()


def both_ways(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of the cross-entropies of rows and of columns."""
    return (soft_cross_entropy(logits, target) + soft_cross_entropy(logits.T, target.T)) / 2
