"""Noise on clean latents as a scheduler puts it there, and what a denoiser is asked for in return."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from decode.core import InputError

KINDS = ("epsilon", "v_prediction", "sample")


class Noising:
    """The training side of a diffusers scheduler, from the folder `model`.

    `kind` is what the denoiser gives (noise, velocity or clean latents); `kept` (step,) is the share of
    the signal's power left at each time step. Raises InputError for a schedule without such shares.
    """

    def __init__(self, scheduler: Any, model: str) -> None:
        self.kind = getattr(scheduler.config, "prediction_type", None)
        kept = getattr(scheduler, "alphas_cumprod", None)
        if self.kind not in KINDS or kept is None:
            raise InputError(
                f"{model!r}: expected a schedule with alphas whose denoiser gives one of {list(KINDS)}, "
                f"got {type(scheduler).__name__} and {self.kind!r}; choose another model"
            )
        self.kept = torch.as_tensor(kept).float()

    def draw(self, clean: Tensor, *, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Uniform time steps (row,) and noise like `clean`, drawn on the CPU for every device alike."""
        time = torch.randint(len(self.kept), (len(clean),), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        return time.to(clean.device), noise.to(clean)

    def noisy(self, clean: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        signal, rest = self._shares(clean, time)
        return signal * clean + rest * noise

    def wanted(self, clean: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """What the denoiser ought to give."""
        signal, rest = self._shares(clean, time)
        if self.kind == "epsilon":
            return noise
        return clean if self.kind == "sample" else signal * noise - rest * clean

    def _shares(self, clean: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        kept = self.kept.to(clean)[time].view(-1, 1, 1, 1)
        return kept.sqrt(), (1 - kept).sqrt()
