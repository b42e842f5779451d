"""Latent diffusion conditioned on a CLIP image embedding (Stable unCLIP)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decode.core import Shape, Tensors
from decode.networks.diffusion import (
    Predict,
    check_embedding,
    draw,
    guided,
    open_pipeline,
    place_pipeline,
)
from decode.networks.sampler import Diffusion


@dataclass(eq=False, kw_only=True)
class Unclip(Diffusion):
    """Stable unCLIP (diffusers' StableUnCLIPImg2ImgPipeline) from predicted image embeddings.

    Hierarchical text-conditional generation (Ramesh et al. 2022, arXiv:2204.06125) as trained on
    Stable Diffusion 2.1. `noise_level` (0 to 999) is the noise put on the embedding of target
    `image`; see `Diffusion` for the other knobs. `width` is the embedding width of a published
    model, so that a wrong target is found before anything is fetched; a folder says it itself.
    """

    image: str = "image"
    noise_level: int = 0
    width: int | None = None
    steps: int = 20
    guidance: float = 10.0

    def conditions(self) -> tuple[str, ...]:
        return (self.image,)

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Compare targets with the folder's configuration; no weights are read."""
        super().check(shapes)
        unet, side = self.told()
        # The denoiser sees the embedding and, as wide again, the code of its noise level.
        width = None if unet is None else unet["projection_class_embeddings_input_dim"] // 2
        check_embedding(shapes, self.image, width=width, said=self.width, model=self.model)
        self.check_start(shapes, side, channels=4 if unet is None else unet["in_channels"])

    def open(self) -> Any:
        # Predictions replace the image encoder: it need not be read, nor fetched.
        none = {"image_encoder": None, "feature_extractor": None}
        pipe = open_pipeline("StableUnCLIPImg2ImgPipeline", self.model, self, **none)
        return place_pipeline(pipe, self)

    def denoiser(self, wanted: Tensors, rows: list[torch.Generator]) -> Predict:
        pipe, embedding = self._pipe, wanted[self.image]
        twice = self.guidance > 1
        classes = pipe.noise_image_embeddings(
            embedding, self.noise_level, noise=draw(tuple(embedding.shape[1:]), rows, embedding)
        )
        text = pipe.encode_prompt("", embedding.device, 1, False)[0]
        text = text.expand(len(embedding) * (2 if twice else 1), -1, -1)
        if twice:
            classes = torch.cat([torch.zeros_like(classes), classes])

        def predict(latents: Tensor, t: Tensor) -> Tensor:
            seen = torch.cat([latents] * 2) if twice else latents
            seen = pipe.scheduler.scale_model_input(seen, t)
            noise = pipe.unet(
                seen, t, encoder_hidden_states=text, class_labels=classes, return_dict=False
            )[0]
            return guided(noise, self.guidance)

        return predict
