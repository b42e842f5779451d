"""Training through a frozen denoiser: targets that fit it, noise as its scheduler puts it on latents, and
what it is asked for in return.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from decode.core import InputError, Tensors, refusal

KINDS = ("epsilon", "v_prediction", "sample")


def fitting(
    objective: str, known: Tensors, name: str, *, takes: str, shape: Sequence[int | str]
) -> Tensor:
    """(row, *shape) of target `name`, for a denoiser that `takes` it; words in `shape` are any length.

    Raises InputError where `known` lacks the target and where it has another shape.
    """
    if name not in known:
        raise refusal(
            f"objective {objective}",
            f"a target {name!r}",
            sorted(known),
            "add it or name another one",
        )
    found = tuple(known[name].shape[1:])
    free = [isinstance(wanted, str) for wanted in shape]
    if len(found) != len(shape) or any(
        not f and size != wanted for f, size, wanted in zip(free, found, shape, strict=True)
    ):
        raise refusal(
            f"objective {objective}",
            f"a target of what the denoiser {takes} ({', '.join(map(str, shape))})",
            f"{name!r} of {found}",
            "choose the tokens and latents of its model",
        )
    return known[name]


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
