"""Stable Diffusion that reads predicted text tokens and a hint, through a control trained with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from decode.core import Shape, Tensors, refusal
from decode.diffusion.hints import hinted, residuals, trained_control
from decode.diffusion.pipelines import (
    Predict,
    check_tokens,
    guided,
    open_pipeline,
    place_pipeline,
)
from decode.diffusion.sampler import Diffusion


@dataclass(eq=False, kw_only=True)
class Hinted(Diffusion):
    """Stable Diffusion 1 or 2 with the control that objective `hinted_denoising` trains (NeuroPictor,
    Huo et al. 2024, arXiv:2403.18211).

    `text` names a target of text tokens (77, width), `hint` one of the latents' size. `control_scale`
    weighs the residuals. `tune` takes the control; without one, as for the control `oracle`, the text
    alone is read. Guidance steers away from an empty caption with the same hint. See `Diffusion` for
    the other knobs.
    """

    tunable: ClassVar[bool] = True
    text: str = "text"
    hint: str = "latents"
    control_scale: float = 1.0
    width: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.needs = tuple(dict.fromkeys([*self.needs, self.hint]))
        self._tuned: Tensors = {}
        self._control: Any = None

    def conditions(self) -> tuple[str, ...]:
        return (self.text,)

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Compare targets with the folder's configuration; no weights are read."""
        super().check(shapes)
        unet, side = self.told()
        width = None if unet is None else unet["cross_attention_dim"]
        check_tokens(shapes, self.text, width=width, said=self.width, model=self.model)
        shape = tuple(shapes[self.hint])
        if len(shape) != 3 or (side is not None and shape[1:] != (side, side)):
            where = "(channel, h, w)" if side is None else f"(channel, {side}, {side})"
            raise refusal(
                "generator.hint",
                f"a hint that is {where}",
                f"target {self.hint!r} of shape {shape}",
                "set the target's `size` to the generator's",
            )
        self.check_start(shapes, side)

    def tune(self, weights: Tensors) -> None:
        """Sample with this control from now on; {} is Stable Diffusion as it was published."""
        self._tuned, self._control = weights, None

    def open(self) -> Any:
        # Nothing is blacked out: what was shown is known to be fit to be seen.
        unused = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
        return place_pipeline(
            open_pipeline("StableDiffusionPipeline", self.model, self, **unused), self
        )

    def control(self) -> Any:
        """The tuned control on the pipeline's device; None without one."""
        if self._control is None and self._tuned:
            made = trained_control(self._pipe.unet, self._tuned)
            self._control = made.to(self._pipe._execution_device).eval()
        return self._control

    def denoiser(self, wanted: Tensors, rows: list[torch.Generator]) -> Predict:
        pipe, control = self._pipe, self.control()
        text, hint = wanted[self.text], wanted[self.hint]
        twice = self.guidance > 1
        if twice:
            free = pipe.encode_prompt("", text.device, 1, False)[0]
            text = torch.cat([free.to(text).expand_as(text), text])
            hint = torch.cat([hint, hint])

        def predict(latents: Tensor, t: Tensor) -> Tensor:
            seen = torch.cat([latents] * 2) if twice else latents
            seen = pipe.scheduler.scale_model_input(seen, t)
            if control is None:
                made = pipe.unet(seen, t, encoder_hidden_states=text, return_dict=False)[0]
            else:
                down, middle = residuals(control, seen, t, text, hint)
                added = [self.control_scale * d for d in down], self.control_scale * middle
                made = hinted(pipe.unet, seen, t, text, added)
            return guided(made, self.guidance)

        return predict
