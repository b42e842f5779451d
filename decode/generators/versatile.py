"""Versatile Diffusion: one denoiser guided by image tokens, by text tokens, or by both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from decode.core import Shape, Tensors, refusal
from decode.diffusion.low_rank import attach
from decode.diffusion.mixed_attention import mix, set_length
from decode.diffusion.pipelines import (
    Predict,
    check_tokens,
    guided,
    open_parts,
    place_pipeline,
)
from decode.diffusion.sampler import Diffusion
from decode.features.clip_tokens import versatile_image, versatile_text, words_of
from decode.weights.reading import quiet


@dataclass(eq=False, kw_only=True)
class Versatile(Diffusion):
    """Versatile Diffusion (Xu et al. 2023, arXiv:2211.08332) from predicted tokens.

    `image` names a target of image tokens (257, 768), `text` one of text tokens (77, 768), both from
    target clip_vd; null leaves one out. With both, `text_share` in (0, 1) weighs the two transformers
    of each block. Guidance steers away from the tokens of a picture of the grey level `blank` (0 is
    black; null: from zeros in place of tokens) and of the caption `negative` (null: zeros). Brain-Diffuser
    has middle grey and the empty caption, MindEye and MindBridge have zeros. See `Diffusion` for the
    other knobs.

    `tune` takes low-rank products for the image denoiser (objective `denoising`).

    Uses what diffusers keeps among its deprecated pipelines. Its dual one no longer runs (seen with
    0.42), so the mixture of both conditions is made here.
    """

    parts: ClassVar[tuple[str, str]] = ("image_unet", "vae")
    tunable: ClassVar[bool] = True
    image: str | None = "image"
    text: str | None = None
    text_share: float = 0.4
    blank: float | None = 0.5
    negative: str | None = ""
    width: int | None = None
    guidance: float = 7.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.conditions():
            raise refusal("generator", "a target in image or text", "null in both", "name a target")
        if not 0 < self.text_share < 1:
            raise refusal(
                "generator.text_share",
                "a share between 0 and 1",
                self.text_share,
                "to leave text or image out, set it to null",
            )
        self._tuned: Tensors = {}

    def conditions(self) -> tuple[str, ...]:
        return tuple(name for name in (self.text, self.image) if name is not None)

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Compare targets with the folder's configuration; no weights are read."""
        super().check(shapes)
        unet, side = self.told()
        width = None if unet is None else unet["cross_attention_dim"]
        for name in self.conditions():
            check_tokens(shapes, name, width=width, said=self.width, model=self.model)
        self.check_start(shapes, side, channels=4 if unet is None else unet["in_channels"])

    def tune(self, weights: Tensors) -> None:
        """Sample with these low-rank products from now on. Other weights open the pipeline anew."""
        if weights and self.image is None:
            raise refusal(
                "generator.image",
                "the target of the tokens that the image denoiser was trained with",
                "null",
                "name it",
            )
        same = weights.keys() == self._tuned.keys() and all(
            torch.equal(value, self._tuned[name]) for name, value in weights.items()
        )
        if not same:
            self._tuned, self._pipe = dict(weights), None

    def open(self) -> Any:
        import diffusers

        kind = {(True, True): "DualGuided", (False, True): "TextToImage"}.get(
            (self.image is not None, self.text is not None), "ImageVariation"
        )
        parts = self._parts()
        with quiet():
            pipe = getattr(diffusers, f"VersatileDiffusion{kind}Pipeline")(**parts)
        pipe.set_progress_bar_config(disable=True)
        pipe.model_cpu_offload_seq = "text_encoder->image_encoder->image_unet->vae"
        if self.text:
            # The text transformers sit in the image denoiser now.
            pipe.remove_unused_weights()
        pipe = place_pipeline(pipe, self)
        self._free = self._unconditional(pipe)
        return pipe

    def _parts(self) -> dict[str, Any]:
        """The networks by name; those of the text transformers are mixed into the image denoiser."""
        import diffusers
        import transformers
        from diffusers.pipelines.deprecated.versatile_diffusion import modeling_text_unet

        kinds: dict[str, Any] = {
            "image_unet": diffusers.UNet2DConditionModel,
            "vae": diffusers.AutoencoderKL,
        }
        plain: dict[str, Any] = {}
        if self.image:
            kinds["image_encoder"] = transformers.CLIPVisionModelWithProjection
            plain["image_feature_extractor"] = transformers.CLIPImageProcessor
        if self.text:
            kinds["text_encoder"] = transformers.CLIPTextModelWithProjection
            kinds["text_unet"] = modeling_text_unet.UNetFlatConditionModel
            plain["tokenizer"] = transformers.CLIPTokenizer
        parts = open_parts(self.model, self, networks=kinds, plain=plain)
        attach(parts["image_unet"], self._tuned)
        if self.image and self.text:
            # The library's own dual block no longer takes what its denoiser hands to it.
            kind: Any = diffusers.Transformer2DModel
            mix(parts["image_unet"], parts["text_unet"], kind, share=self.text_share)
            parts["text_unet"] = None
        return parts

    def _unconditional(self, pipe: Any) -> dict[str, Tensor]:
        """Tokens (1, token, width) of nothing, by target."""
        device, free = pipe._execution_device, {}
        if self.text and self.negative is not None:
            words = words_of(pipe.tokenizer, [self.negative]).to(device)
            free[self.text] = versatile_text(pipe.text_encoder, words)
        if self.image and self.blank is not None:
            import numpy as np

            plain = np.full((64, 64, 3), 255 * self.blank, np.float32)
            pixels = pipe.image_feature_extractor(plain, return_tensors="pt")["pixel_values"]
            pixels = pixels.to(device, pipe.image_encoder.dtype)
            free[self.image] = versatile_image(pipe.image_encoder, pixels)
        return free

    @property
    def network(self) -> Any:
        return self._pipe.image_unet

    def denoiser(self, wanted: Tensors, rows: list[torch.Generator]) -> Predict:
        twice = self.guidance > 1
        parts = []
        for name in self.conditions():
            tokens = wanted[name]
            free = self._free.get(name, torch.zeros_like(tokens[:1])).to(tokens).expand_as(tokens)
            parts.append(torch.cat([free, tokens]) if twice else tokens)
        set_length(self.network, parts[0].shape[1])
        context = torch.cat(parts, dim=1)

        def predict(latents: Tensor, t: Tensor) -> Tensor:
            seen = torch.cat([latents] * 2) if twice else latents
            seen = self._pipe.scheduler.scale_model_input(seen, t)
            noise = self.network(seen, t, encoder_hidden_states=context, return_dict=False)[0]
            return guided(noise, self.guidance)

        return predict
