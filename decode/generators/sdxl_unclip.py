"""Stable Diffusion XL turned into an unCLIP: it reads image tokens where it used to read text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decode.core import Shape, Tensors, refusal
from decode.diffusion.pipelines import (
    Predict,
    check_tokens,
    draw,
    guided,
    open_pipeline,
    place_pipeline,
    whole_autoencoder,
)
from decode.diffusion.sampler import Diffusion

NO_TEXT = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))


@dataclass(eq=False, kw_only=True)
class SdxlUnclip(Diffusion):
    """SDXL whose context is a grid of image tokens, as in MindEye2 (Scotti et al. 2024, 2403.11207).

    `model` is a folder of a StableDiffusionXLPipeline without text encoders. Its denoiser has the
    width of the tokens as `cross_attention_dim` and is told four sizes - height and width of the
    original and the corner of the crop - and no pooled text. Guidance steers away from tokens of
    random noise. `offset_noise` adds one random level per picture to the first noise; decoded
    pictures x in [-1, 1] become `gain` x + `lift`. See `Diffusion` for the other knobs.

    The published weights are one checkpoint in another layout, which scripts/convert_sdxl_unclip.py
    turns into a folder by diffusers' own rules for SDXL. Not verified here, for want of the file:
    that its names follow that layout to the last one, that its noise levels agree with diffusers'
    trailing spacing to better than rounding, and that the pictures are the original's. Its tokens
    are those of target clip_bigg_unclip.
    """

    image: str = "image"
    offset_noise: float = 0.04
    gain: float = 0.8
    lift: float = 0.2
    width: int | None = None
    steps: int = 38

    def conditions(self) -> tuple[str, ...]:
        return (self.image,)

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Compare targets with the folder's configuration; no weights are read."""
        super().check(shapes)
        unet, side = self.told()
        width = None
        if unet is not None:
            width = unet["cross_attention_dim"]
            told, each = (
                unet[f"{name}_dim"] or 0
                for name in ("projection_class_embeddings_input", "addition_time_embed")
            )
            if told != 4 * each:
                raise refusal(
                    "generator.model",
                    f"a denoiser that is told {4 * each} values beside its context, those of four sizes",
                    f"{told} in {self.model!r}",
                    "give an unCLIP folder or use generator ip_adapter for a plain SDXL",
                )
        check_tokens(shapes, self.image, width=width, said=self.width, model=self.model)
        self.check_start(shapes, side)

    def open(self) -> Any:
        kind = "StableDiffusionXLPipeline"
        pipe = open_pipeline(kind, self.model, self, add_watermarker=False, **NO_TEXT)
        return place_pipeline(whole_autoencoder(pipe), self)

    def denoiser(self, wanted: Tensors, rows: list[torch.Generator]) -> Predict:
        pipe, tokens = self._pipe, wanted[self.image]
        twice = self.guidance > 1
        if twice:
            tokens = torch.cat([draw(tuple(tokens.shape[1:]), rows, tokens), tokens])
        size = self.latent_shape()[1] * pipe.vae_scale_factor
        told = {
            "text_embeds": tokens.new_zeros(len(tokens), 0),
            "time_ids": tokens.new_tensor([[size, size, 0, 0]]).expand(len(tokens), -1),
        }

        def predict(latents: Tensor, t: Tensor) -> Tensor:
            seen = torch.cat([latents] * 2) if twice else latents
            seen = pipe.scheduler.scale_model_input(seen, t)
            noise = pipe.unet(
                seen, t, encoder_hidden_states=tokens, added_cond_kwargs=told, return_dict=False
            )[0]
            return guided(noise, self.guidance)

        return predict

    def noise(self, rows: list[torch.Generator], like: Tensor) -> Tensor:
        noise = super().noise(rows, like)
        return noise + self.offset_noise * draw((1, 1, 1), rows, like)

    def finish(self, pictures: Tensor) -> Tensor:
        return (pictures * 2 - 1) * self.gain + self.lift
