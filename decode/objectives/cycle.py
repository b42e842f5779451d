"""Voxels must survive a way through meaning, and meaning a way through another subject's voxels."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import mse_loss

from decode.core import Batch, Encoder, InputError, Objective, Tensors


class Cycle(Objective):
    """Squared errors of rebuilt voxels (`rebuild`) and of re-embedded meaning (`weight`).

    MindBridge (Wang et al. 2024): a row is embedded, built again by its own subject, and built and
    embedded by another subject of the model, drawn anew for every batch; while validating it is the
    next one. Raises InputError for encoders that build no voxels.
    """

    def __init__(self, *, weight: float = 1.0, rebuild: float = 1.0) -> None:
        super().__init__()
        self.weight, self.rebuild = weight, rebuild

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        cycle: Any = getattr(encoder, "cycle", None)
        if cycle is None:
            raise InputError(
                "objective cycle: the encoder builds no voxels; choose one that does "
                "(encoder=mindbridge) or drop this objective"
            )
        known = len(encoder.passport.subjects)  # type: ignore[union-attr, arg-type]
        shift = 1
        if encoder.training and known > 2:
            shift = int(torch.randint(1, known, ()))
        wanted, rebuilt, meant, again = cycle(batch, other=(batch.subject + shift) % known)
        return {
            "rebuilt": self.rebuild * mse_loss(rebuilt.float(), wanted.float()),
            "cycle": self.weight * mse_loss(again.float(), meant.float()),
        }
