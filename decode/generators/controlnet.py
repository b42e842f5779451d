"""Stable Diffusion with a ControlNet: a predicted text says what, a predicted map says where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decode.core import Generator, Shape, Stimulus, Tensors, refusal
from decode.diffusion.pipelines import (
    Predict,
    check_tokens,
    guided,
    open_pipeline,
    place_pipeline,
)
from decode.diffusion.sampler import Diffusion, of, within
from decode.pictures import resize
from decode.weights.hub import opening
from decode.weights.reading import choose_dtype, find_weights, quiet


@dataclass(eq=False, kw_only=True)
class ControlNet(Diffusion):
    """Stable Diffusion 1 or 2 with a ControlNet (Zhang et al. 2023, arXiv:2302.05543).

    `text` names a target of text tokens (77, width), target sd_text; `control` one of maps
    (1 or 3, h, w) in [0, 1], such as target depth, with `controlnet` the weights that read them and
    `control_scale` their strength. See `Diffusion` for the other knobs.

    With a `writer`, a whole generator of texts, its captions take the place of predicted tokens and
    `text` is not read (Brain Captioning, Ferrante et al. 2023, arXiv:2305.11560).
    """

    controlnet: str
    text: str = "text"
    writer: Generator | None = None
    control: str = "depth"
    control_scale: float = 1.0
    width: int | None = None
    guidance: float = 7.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.needs = (*self.needs, self.control)
        if self.writer is None:
            return
        if self.writer.makes != "text":
            raise refusal(
                "generator.writer",
                "a generator of texts",
                f"{type(self.writer).__name__}, which makes {self.writer.makes}",
                "set it to null or choose one that writes",
            )
        self.needs = tuple(dict.fromkeys([*self.writer.needs, *self.needs]))
        own = "Pictures were made from captions that were written from the prediction."
        self.disclosure = " ".join(filter(None, [self.writer.disclosure, own, self.disclosure]))

    def conditions(self) -> tuple[str, ...]:
        return (self.text,) if self.writer is None else ()

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Compare targets with the folders' configuration; no weights are read."""
        super().check(shapes)
        find_weights(self.controlnet)
        unet, side = self.told()
        if self.writer is None:
            width = None if unet is None else unet["cross_attention_dim"]
            check_tokens(shapes, self.text, width=width, said=self.width, model=self.model)
        else:
            self.writer.check(shapes)
        shape = tuple(shapes[self.control])
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise refusal(
                "generator.control",
                "a target of maps (1 or 3, h, w)",
                f"{self.control!r} of shape {shape}",
                "name a target of maps, such as depth",
            )
        self.check_start(shapes, side)

    def learn(self, shown: Sequence[Stimulus], truth: Tensors) -> None:
        super().learn(shown, truth)
        if self.writer is not None:
            self.writer.learn(shown, truth)

    def kept(self) -> Tensors | None:
        own, written = super().kept(), {} if self.writer is None else self.writer.kept()
        return None if own is None or written is None else {**own, **within("writer", written)}

    def recall(self, kept: Tensors) -> None:
        super().recall(kept)
        if self.writer is not None:
            self.writer.recall(of("writer", kept))

    def texts(self, predicted: Tensors, *, seeds: Sequence[int]) -> list[str]:
        """What the writer makes of each row."""
        if self.writer is None:
            return []
        return [str(m.data) for m in self.writer(predicted, seeds=seeds)]

    def open(self) -> Any:
        from diffusers import ControlNetModel

        with quiet(), opening(self.controlnet):
            control = ControlNetModel.from_pretrained(
                str(find_weights(self.controlnet)),
                torch_dtype=choose_dtype(self.precision),
                use_safetensors=True,
            )
        # Nothing is blacked out: what was shown is known to be fit to be seen.
        unused = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
        pipe = open_pipeline(
            "StableDiffusionControlNetPipeline", self.model, self, controlnet=control, **unused
        )
        return place_pipeline(pipe, self)

    def denoiser(self, wanted: Tensors, rows: list[torch.Generator]) -> Predict:
        pipe, twice = self._pipe, self.guidance > 1
        if self.writer is None:
            text = wanted[self.text]
        else:
            place = wanted[self.control]
            text = pipe.encode_prompt(self._texts, place.device, 1, False)[0].to(place)
        size = self.picture_size()
        control = resize(wanted[self.control].float().clamp(0, 1), (size, size)).to(text)
        control = control.expand(-1, 3, -1, -1)
        if twice:
            free = pipe.encode_prompt("", text.device, 1, False)[0]
            text = torch.cat([free.to(text).expand_as(text), text])
            control = torch.cat([control, control])

        def predict(latents: Tensor, t: Tensor) -> Tensor:
            seen = torch.cat([latents] * 2) if twice else latents
            seen = pipe.scheduler.scale_model_input(seen, t)
            down, middle = pipe.controlnet(
                seen,
                t,
                encoder_hidden_states=text,
                controlnet_cond=control,
                conditioning_scale=self.control_scale,
                return_dict=False,
            )
            noise = pipe.unet(
                seen,
                t,
                encoder_hidden_states=text,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
                return_dict=False,
            )[0]
            return guided(noise, self.guidance)

        return predict
