"""Latent diffusion conditioned on a CLIP image embedding (Stable unCLIP)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from decode.core import Generator, Media, Shape, Stimulus, Tensors
from decode.networks.diffusion import (
    Norm,
    Offload,
    Sampling,
    as_media,
    check_embedding,
    check_low_level,
    check_place,
    conditioned,
    denoise,
    draw,
    first_latents,
    mean_norm,
    open_pipeline,
    place_pipeline,
    row_generators,
    row_slices,
    start_from,
)
from decode.networks.weights import Precision, find_weights, read_config


class Unclip(Generator):
    """Stable unCLIP (diffusers' StableUnCLIPImg2ImgPipeline) from predicted image embeddings.

    Hierarchical text-conditional generation (Ramesh et al. 2022, arXiv:2204.06125) as trained on
    Stable Diffusion 2.1. `noise_level` (0 to 999) is the noise put on the embedding; see `Sampling`
    for the other knobs. `width` is the embedding width of a published model, so that a wrong target
    is found before anything is fetched; a folder says it itself.
    """

    def __init__(
        self,
        model: str,
        *,
        image: str = "image",
        low_level: str | None = None,
        steps: int = 20,
        guidance: float = 10.0,
        strength: float = 1.0,
        noise_level: int = 0,
        size: int | None = None,
        width: int | None = None,
        norm: Norm = "train",
        precision: Precision = "float32",
        offload: Offload = "none",
        batch_size: int = 8,
        device: str = "auto",
    ) -> None:
        self.model, self.noise_level, self.width = model, noise_level, width
        self.knobs = Sampling(
            image, low_level, steps, guidance, strength, size, norm, precision, offload,
            batch_size, device,
        )  # fmt: skip
        self.needs = self.knobs.needs
        self._norm: float | None = None
        self._pipe: Any = None

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Compare targets with the folder's configuration; no weights are read."""
        super().check(shapes)
        find_weights(self.model)
        check_place(self.knobs)
        unet = read_config(self.model, "unet")
        width = side = None
        if unet is not None:
            # The denoiser sees the embedding and, as wide again, the code of its noise level.
            width = unet["projection_class_embeddings_input_dim"] // 2
            side = unet["sample_size"]
            vae = read_config(self.model, "vae") or {}
            if self.knobs.size is not None:
                side = self.knobs.size // 2 ** (len(vae["block_out_channels"]) - 1)
        elif self.knobs.size is not None:
            side = self.knobs.size // 8
        check_embedding(shapes, self.knobs.image, width=width, said=self.width, model=self.model)
        channels = unet["in_channels"] if unet is not None else 4
        check_low_level(shapes, self.knobs.low_level, channels=channels, side=side)

    def learn(self, shown: Sequence[Stimulus], truth: Tensors) -> None:
        """Remember the mean norm of the training embeddings."""
        self._norm = mean_norm(truth[self.knobs.image])

    @torch.no_grad()
    def __call__(self, predicted: Tensors, *, seeds: Sequence[int]) -> list[Media]:
        """One picture (3, size, size) per row."""
        embedding = conditioned(predicted, self.knobs, self._norm)
        low = None if self.knobs.low_level is None else predicted[self.knobs.low_level]
        if self._pipe is None:
            # Predictions replace the image encoder: it need not be read, nor fetched.
            pipe = open_pipeline(
                "StableUnCLIPImg2ImgPipeline",
                self.model,
                self.knobs,
                image_encoder=None,
                feature_extractor=None,
            )
            self._pipe = place_pipeline(pipe, self.knobs)
        made: list[Media] = []
        for rows in row_slices(len(embedding), self.knobs):
            start = None if low is None else low[rows]
            made += as_media(self._sample(embedding[rows], start, seeds[rows]))
        return made

    def _sample(self, embedding: Tensor, low: Tensor | None, seeds: Sequence[int]) -> Tensor:
        """Pictures (row, 3, size, size) of one batch, nominally in [0, 1]."""
        pipe, knobs = self._pipe, self.knobs
        embedding = embedding.to(pipe._execution_device, pipe.unet.dtype)
        rows = row_generators(seeds)
        guided = knobs.guidance > 1
        classes = pipe.noise_image_embeddings(
            embedding, self.noise_level, noise=draw(tuple(embedding.shape[1:]), rows, embedding)
        )
        text = pipe.encode_prompt("", embedding.device, 1, False)[0]
        text = text.expand(len(embedding) * (2 if guided else 1), -1, -1)
        if guided:
            classes = torch.cat([torch.zeros_like(classes), classes])

        def predict(latents: Tensor, t: Tensor) -> Tensor:
            seen = torch.cat([latents] * 2) if guided else latents
            seen = pipe.scheduler.scale_model_input(seen, t)
            noise = pipe.unet(
                seen, t, encoder_hidden_states=text, class_labels=classes, return_dict=False
            )[0]
            if not guided:
                return noise
            free, bound = noise.chunk(2)
            return free + knobs.guidance * (bound - free)

        channels, side = self._latent_shape()
        noise = draw((channels, side, side), rows, embedding)
        start = None if low is None else self._start(low, channels, side)
        timesteps, latents = first_latents(pipe.scheduler, knobs, start, noise)
        step = pipe.prepare_extra_step_kwargs(rows, 0.0)
        latents = denoise(pipe.scheduler, timesteps, latents, predict, **step)
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
        pipe.maybe_free_model_hooks()
        return decoded / 2 + 0.5

    def _latent_shape(self) -> tuple[int, int]:
        pipe = self._pipe
        side = pipe.unet.config.sample_size
        if self.knobs.size is not None:
            side = self.knobs.size // pipe.vae_scale_factor
        return pipe.unet.config.in_channels, side

    def _start(self, low: Tensor, channels: int, side: int) -> Tensor:
        pipe = self._pipe

        def encode(pictures: Tensor) -> Tensor:
            pictures = pictures.to(pipe._execution_device, pipe.vae.dtype)
            return pipe.vae.encode(pictures).latent_dist.mode() * pipe.vae.config.scaling_factor

        size = side * pipe.vae_scale_factor
        return start_from(low, encode, channels=channels, side=side, size=size)
