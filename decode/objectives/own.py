"""What an encoder says of itself: terms of the loss that no other model has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decode.core import Batch, Tensors, refusal
from decode.trainable import Encoder, Objective, own


class Own(Objective):
    """The encoder's own terms (`Encoder.own_terms`), each times its weight; others are left out.

    Which there are is told by the encoder: a diffusion prior has `prior`, MindBridge `rebuilt` and `cycle`,
    NeuroFlow `voxels`, `divergence`, `speed`, `contrast` and `cycle`. Raises InputError for a term
    that the encoder has not.
    """

    def __init__(self, *, weights: Mapping[str, float]) -> None:
        super().__init__()
        if not weights:
            raise refusal(
                "objective own: weights",
                "one term or more",
                "none",
                "name some, for example {prior: 30}",
            )
        self.weights = dict(weights)

    @classmethod
    def teaches(cls, knobs: Mapping[str, Any]) -> frozenset[str]:
        return frozenset(own(term) for term, weight in knobs["weights"].items() if weight)

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        terms = encoder.own_terms(batch, progress, lambda: encoder.before_sampling(batch))
        missing = [name for name in self.weights if name not in terms]
        if missing:
            raise refusal(
                "objective own: weights",
                f"terms of the encoder, which has {sorted(terms) or 'none of its own'}",
                missing[0],
                "choose an encoder that has it (mlp_prior has prior, mindbridge cycle, neuroflow speed) or "
                "drop this objective",
            )
        return {name: weight * terms[name] for name, weight in self.weights.items()}
