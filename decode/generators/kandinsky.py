"""Kandinsky 2.2: latent diffusion conditioned on a CLIP ViT-bigG image embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from decode.core import Generator, InputError, Media, Shape, Stimulus, Tensors
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
from decode.networks.weights import (
    Precision,
    choose_dtype,
    find_weights,
    loading,
    quiet,
    read_config,
)

CHANNELS = 4


class Kandinsky(Generator):
    """The decoder of Kandinsky 2.2 (Razzhigaev et al. 2023, arXiv:2310.03502).

    Guidance steers away from the embedding of an all-black picture; `prior` is the model whose
    `image_encoder` makes it (null: a vector of zeros, and no encoder is read). Low-level latents
    are the unscaled ones of its VQ model. See `Sampling` for the other knobs, `Unclip` for `width`.
    """

    def __init__(
        self,
        model: str,
        *,
        prior: str | None,
        image: str = "image",
        low_level: str | None = None,
        steps: int = 50,
        guidance: float = 4.0,
        strength: float = 1.0,
        size: int = 512,
        width: int | None = None,
        norm: Norm = "train",
        precision: Precision = "float32",
        offload: Offload = "none",
        batch_size: int = 8,
        device: str = "auto",
    ) -> None:
        self.model, self.prior, self.width = model, prior, width
        self.knobs = Sampling(
            image, low_level, steps, guidance, strength, size, norm, precision, offload,
            batch_size, device,
        )  # fmt: skip
        self.size = size
        self.needs = self.knobs.needs
        self._norm: float | None = None
        self._pipe: Any = None
        self._black: Tensor | None = None

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Compare targets with the folder's configuration; no weights are read."""
        super().check(shapes)
        check_place(self.knobs)
        for model in (self.model, self.prior):
            if model is not None:
                find_weights(model)
        unet = read_config(self.model, "unet")
        movq = read_config(self.model, "movq")
        factor = 8 if movq is None else 2 ** (len(movq["block_out_channels"]) - 1)
        if self.size % factor**2:
            raise InputError(
                f"kandinsky generator: size is a multiple of {factor**2}, got {self.size}"
            )
        width = None if unet is None else unet["encoder_hid_dim"]
        check_embedding(shapes, self.knobs.image, width=width, said=self.width, model=self.model)
        side = self.size // factor
        check_low_level(shapes, self.knobs.low_level, channels=CHANNELS, side=side)

    def learn(self, shown: Sequence[Stimulus], truth: Tensors) -> None:
        """Remember the mean norm of the training embeddings."""
        self._norm = mean_norm(truth[self.knobs.image])

    @torch.no_grad()
    def __call__(self, predicted: Tensors, *, seeds: Sequence[int]) -> list[Media]:
        """One picture (3, size, size) per row."""
        embedding = conditioned(predicted, self.knobs, self._norm)
        low = None if self.knobs.low_level is None else predicted[self.knobs.low_level]
        if self._pipe is None:
            pipe = open_pipeline("KandinskyV22Pipeline", self.model, self.knobs)
            self._pipe = place_pipeline(pipe, self.knobs)
            self._black = self._embed_black(embedding.shape[1])
        made: list[Media] = []
        for rows in row_slices(len(embedding), self.knobs):
            start = None if low is None else low[rows]
            made += as_media(self._sample(embedding[rows], start, seeds[rows]))
        return made

    def _embed_black(self, width: int) -> Tensor:
        """(1, width): what guidance steers away from."""
        if self.prior is None or self.knobs.guidance <= 1:
            return torch.zeros(1, width)
        from transformers import CLIPVisionModelWithProjection

        with quiet(), loading(self.prior):
            encoder = CLIPVisionModelWithProjection.from_pretrained(
                find_weights(self.prior),
                subfolder="image_encoder",
                dtype=choose_dtype(self.knobs.precision),
                use_safetensors=True,
            )
        side: Any = encoder.config.image_size
        device = self._pipe._execution_device
        # Zeros after the encoder's normalisation, as the published prior does it.
        black = torch.zeros(1, 3, side, side, device=device, dtype=encoder.dtype)
        return encoder.to(device)(black).image_embeds

    def _sample(self, embedding: Tensor, low: Tensor | None, seeds: Sequence[int]) -> Tensor:
        """Pictures (row, 3, size, size) of one batch, nominally in [0, 1]."""
        pipe, knobs = self._pipe, self.knobs
        embedding = embedding.to(pipe._execution_device, pipe.unet.dtype)
        rows = row_generators(seeds)
        guided = knobs.guidance > 1
        if guided and self._black is not None:
            black = self._black.to(embedding).expand_as(embedding)
            embedding = torch.cat([black, embedding])
        learned = pipe.scheduler.config.get("variance_type") in ("learned", "learned_range")

        def predict(latents: Tensor, t: Tensor) -> Tensor:
            output = pipe.unet(
                sample=torch.cat([latents] * 2) if guided else latents,
                timestep=t,
                encoder_hidden_states=None,
                added_cond_kwargs={"image_embeds": embedding},
                return_dict=False,
            )[0]
            noise, variance = output.split(latents.shape[1], dim=1)
            if guided:
                free, bound = noise.chunk(2)
                noise, variance = free + knobs.guidance * (bound - free), variance.chunk(2)[1]
            # The denoiser also predicts a variance, which only some schedulers use.
            return torch.cat([noise, variance], dim=1) if learned else noise

        side = self.size // pipe.movq_scale_factor
        noise = draw((CHANNELS, side, side), rows, embedding)
        start = None if low is None else self._start(low, side)
        timesteps, latents = first_latents(pipe.scheduler, knobs, start, noise)
        latents = denoise(pipe.scheduler, timesteps, latents, predict, generator=rows)
        decoded = pipe.movq.decode(latents, force_not_quantize=True)["sample"]
        pipe.maybe_free_model_hooks()
        return decoded / 2 + 0.5

    def _start(self, low: Tensor, side: int) -> Tensor:
        pipe = self._pipe

        def encode(pictures: Tensor) -> Tensor:
            pictures = pictures.to(pipe._execution_device, pipe.movq.dtype)
            return pipe.movq.encode(pictures)["latents"]

        return start_from(low, encode, channels=CHANNELS, side=side, size=self.size)
