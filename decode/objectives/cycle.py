"""Voxels must survive a way through meaning, and meaning a way through another subject's voxels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from decode.core import Batch, Tensors, refusal
from decode.trainable import Encoder, Objective


class Cycle(Objective):
    """Squared errors of rebuilt voxels (`rebuild`) and of re-embedded meaning (`weight`).

    MindBridge (Wang et al. 2024): a row is embedded, built again by its own subject, and built and
    embedded by another subject of the model, drawn anew for every batch; while validating it is the
    next one. `through` names the subject that is always the other one, a new one that is adapted to:
    its own rows go no such way. Raises InputError for encoders that build no voxels and for an unknown
    subject.
    """

    def __init__(
        self, *, weight: float = 1.0, rebuild: float = 1.0, through: str | None = None
    ) -> None:
        super().__init__()
        self.weight, self.rebuild, self.through = weight, rebuild, through

    @classmethod
    def teaches(cls, knobs: Mapping[str, Any]) -> frozenset[str]:
        return frozenset()  # it binds subjects to each other, not to the pictures

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        cycle: Any = getattr(encoder, "cycle", None)
        if cycle is None:
            raise refusal(
                "objective cycle",
                "an encoder that builds voxels",
                "one that builds none",
                "choose one that does (encoder=mindbridge) or drop this objective",
            )
        other = self._other(encoder, batch.subject)
        wanted, rebuilt, meant, again = cycle(batch, other=other)
        away = slice(None) if self.through is None else batch.subject != other
        gone = (again[away].float() - meant[away].float()).square()
        return {
            "rebuilt": self.rebuild * mse_loss(rebuilt.float(), wanted.float()),
            "cycle": self.weight * gone.sum() / max(1, gone.numel()),
        }

    def _other(self, encoder: Encoder, subject: Tensor) -> Tensor:
        """Whose builder and embedder each row goes through (batch,)."""
        names = list(encoder.passport.subjects)  # type: ignore[union-attr, arg-type]
        if self.through is not None:
            if self.through not in names:
                raise refusal(
                    "objective cycle: through", f"one of {names}", self.through,
                    "correct it or add that subject",
                )  # fmt: skip
            return torch.full_like(subject, names.index(self.through))
        shift = 1
        if encoder.training and len(names) > 2:
            shift = int(torch.randint(1, len(names), ()))
        return (subject + shift) % len(names)
