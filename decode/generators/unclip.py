"""Latent diffusion conditioned on a CLIP image embedding (Stable unCLIP)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from decode.core import InputError, Shape, Tensors, refusal
from decode.diffusion.pipelines import (
    Predict,
    check_embedding,
    draw,
    guided,
    open_pipeline,
    place_pipeline,
)
from decode.diffusion.sampler import Diffusion


@dataclass(eq=False, kw_only=True)
class Unclip(Diffusion):
    """Stable unCLIP (diffusers' StableUnCLIPImg2ImgPipeline) from predicted image embeddings.

    Hierarchical text-conditional generation (Ramesh et al. 2022, arXiv:2204.06125) as trained on
    Stable Diffusion 2.1. `noise_level` (0 to 999) is the noise put on the embedding of target
    `image`. With "predicted" no noise is put on it: a prediction counts as noisy already, the more
    the shorter it is, see `as_noised`; `norm` is then "keep". The denoiser is told the share `doubt` of
    that noise: what is decoded well of a picture is better than the length of the whole prediction
    says. See `Diffusion` for the other knobs.
    `width` is the embedding width of a published model, so that a wrong target is found before
    anything is fetched; a folder says it itself.
    """

    image: str = "image"
    noise_level: int | Literal["predicted"] = 0
    doubt: float = 1.0
    width: int | None = None
    steps: int = 20
    guidance: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        level = self.noise_level
        known = level == "predicted" if isinstance(level, str) else 0 <= level < 1000
        if not known:
            raise InputError(
                f"generator.noise_level: expected 0 to 999 or predicted, got {level!r}; choose a level of "
                "that range"
            )
        if not 0 <= self.doubt <= 1 or (self.doubt < 1 and level != "predicted"):
            raise InputError(
                "generator.doubt: expected a share from 0 to 1, below 1 only with "
                f"noise_level=predicted, got {self.doubt} with {level}; set doubt to 1 or noise_level to "
                "predicted"
            )
        if level == "predicted" and self.norm != "keep":
            raise refusal(
                "generator.norm",
                "keep, as noise_level=predicted reads the noise from the length of a prediction",
                self.norm,
                "set norm to keep",
            )

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
        noise = draw(tuple(embedding.shape[1:]), rows, embedding)
        if isinstance(self.noise_level, str):
            embedding, level = self._as_noised(embedding)
            # Of a level of 0 the pipeline adds a hundredth of noise; the code of the level is ours.
            classes = pipe.noise_image_embeddings(embedding, 0, noise=torch.zeros_like(noise))
            width = embedding.shape[1]
            classes[:, width:] = level_code(level, width).to(classes)
        else:
            classes = pipe.noise_image_embeddings(embedding, self.noise_level, noise=noise)
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

    def _as_noised(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        pipe = self._pipe
        normaliser = pipe.image_normalizer.to(embedding.device)
        kept = pipe.image_noising_scheduler.alphas_cumprod
        scaled, level = as_noised(
            normaliser.scale(embedding), kept.to(embedding.device), self.doubt
        )
        return normaliser.unscale(scaled).to(embedding.dtype), level


def as_noised(predicted: Tensor, kept: Tensor, doubt: float = 1.0) -> tuple[Tensor, Tensor]:
    """Predictions (row, feature) of standardised embeddings as embeddings with noise, and its level.

    A calibrated prediction y of z has the mean square R^2, the share of z that is known, and y / R is
    R z + sqrt(1 - R^2) e with e of unit variance: just what a noising schedule makes of z at the step
    at which the share `kept` (step,) of the signal's power is R^2. Less doubt than 1 gives the level of
    less noise, 0 that of none.
    """
    share = predicted.float().square().mean(1).clamp(1e-3, 1)
    level = (kept.float()[None] - (1 - doubt * (1 - share[:, None]))).abs().argmin(1)
    scaled = predicted / share.sqrt()[:, None].to(predicted)
    return scaled, level


def level_code(level: Tensor, width: int) -> Tensor:
    """(row, width) code of noise levels (row,), as the pipeline makes it."""
    from diffusers.models.embeddings import get_timestep_embedding

    code: Tensor = get_timestep_embedding(
        level, width, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    return code
