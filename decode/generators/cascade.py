"""Stable Cascade: a small latent is sampled from the image embedding, then decoded by diffusion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decode.core import Shape, Size, Tensors, refusal
from decode.diffusion.pipelines import (
    Predict,
    check_embedding,
    draw,
    open_parts,
    place_pipeline,
    row_generators,
)
from decode.diffusion.sampler import Diffusion
from decode.weights.hub import opening
from decode.weights.reading import find_weights, quiet, read_config

# Pixels of a picture per latent of the prior, and latents of the decoder per one of these, as published.
RESOLUTION_MULTIPLE, LATENT_SCALE = 42.67, 10.67


@dataclass(eq=False, kw_only=True)
class Cascade(Diffusion):
    """Stable Cascade (Pernias et al. 2023, arXiv:2306.00637) from predicted image embeddings.

    `model` holds the prior, which samples latents (16, side, side) from the CLIP ViT-L/14 embedding
    of target `image` and the text `prompt`, and `decoder` the second stage with its autoencoder; the
    decoder takes `decoder_steps` without guidance. A `low_level` start can only be latents of the
    prior: the network that makes them from pictures is not among those published in this format.
    There is no energy, since estimates of the prior's latents are not yet pictures. See `Diffusion`
    for the other knobs.
    """

    decoder: str
    image: str = "image"
    prompt: str = ""
    decoder_steps: int = 10
    width: int | None = None
    size: int = 1024
    steps: int = 20
    guidance: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.energy is not None:
            raise refusal(
                "generator.energy",
                "null, as latents of the prior cannot be decoded at each step to be steered",
                "an energy",
                "set energy to null or use candidates with a judge",
            )
        if (self.scheduler, self.spacing, self.start_size) != (None, None, None):
            raise refusal(
                "generator",
                "scheduler, spacing and start_size of null, as both stages step as they were trained "
                "from latents of their own",
                "other values",
                "set scheduler, spacing and start_size to null",
            )
        if self.start_generator is not None:
            raise refusal(
                "generator.low_level",
                "a target of the prior's latents, which nothing here makes from pictures",
                "a generator",
                "name a target of such latents in low_level or set it to null",
            )

    def conditions(self) -> tuple[str, ...]:
        return (self.image,)

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Compare targets with the folders' configuration; no weights are read."""
        super().check(shapes)
        find_weights(self.decoder)
        prior = read_config(self.model, "prior")
        width = None if prior is None else prior["clip_image_in_channels"]
        check_embedding(shapes, self.image, width=width, said=self.width, model=self.model)
        if self.start_target is not None:
            channels = 16 if prior is None else prior["in_channels"]
            found = tuple(shapes[self.start_target])
            if len(found) != 3 or found[0] != channels:
                raise refusal(
                    "generator.low_level",
                    f"latents of the prior, ({channels}, h, w)",
                    f"target {self.start_target!r} of shape {found}",
                    "set low_level to null",
                )

    def size_of(self, shapes: Mapping[str, Shape]) -> Size:
        """From `size`, or from the latents that sampling starts from, by what both folders say."""
        start = None if self.start_target is None else shapes[self.start_target]
        first = read_config(self.model, name="model_index.json") or {}
        second = read_config(self.decoder, name="model_index.json") or {}
        decoder = read_config(self.decoder, "vqgan") or {}
        multiple = first.get("resolution_multiple", RESOLUTION_MULTIPLE)
        small = math.ceil(self.size / multiple) if start is None else start[-1]
        side = int(small * second.get("latent_dim_scale", LATENT_SCALE))
        halvings = decoder.get("levels", 2) - 1
        return (side * decoder.get("up_down_scale_factor", 2) * 2**halvings,) * 2

    def open(self) -> Any:
        import transformers
        from diffusers import StableCascadeDecoderPipeline, StableCascadePriorPipeline
        from diffusers.models import StableCascadeUNet
        from diffusers.pipelines.stable_cascade import pipeline_stable_cascade as stages

        text = {"text_encoder": transformers.CLIPTextModelWithProjection}
        plain = {"tokenizer": transformers.CLIPTokenizer}
        networks: dict[str, Any] = {"prior": StableCascadeUNet, **text}
        first = open_parts(self.model, self, networks=networks, plain=plain)
        networks = {"decoder": StableCascadeUNet, "vqgan": stages.PaellaVQModel}
        second = open_parts(self.decoder, self, networks=networks, plain={})
        with quiet(), opening(self.model):
            told = StableCascadePriorPipeline.load_config(str(find_weights(self.model)))
            multiple = told.get("resolution_multiple", RESOLUTION_MULTIPLE)
            prior = StableCascadePriorPipeline(**first, resolution_multiple=multiple)
            told = StableCascadeDecoderPipeline.load_config(str(find_weights(self.decoder)))
            scale = told.get("latent_dim_scale", LATENT_SCALE)
            # Both stages read the same text, which the first has encoded by then.
            none = {"text_encoder": None, "tokenizer": None}
            decoder = StableCascadeDecoderPipeline(**second, **none, latent_dim_scale=scale)
        pipes: list[Any] = [prior, decoder]
        for pipe in pipes:
            pipe.set_progress_bar_config(disable=True)
        self._second = place_pipeline(decoder, self)
        return place_pipeline(prior, self)

    @property
    def network(self) -> Any:
        return self._pipe.prior

    def latent_shape(self) -> tuple[int, int]:
        side = math.ceil(self.size / self._pipe.config.resolution_multiple)
        return self._pipe.prior.config.in_channels, side

    def sample(self, wanted: Tensors, predicted: Tensors, seeds: Sequence[int]) -> Tensor:
        """Pictures (row, 3, size, size) of one batch, nominally in [0, 1]."""
        rows = row_generators(seeds)
        place = {"device": self._pipe._execution_device, "dtype": self.network.dtype}
        wanted = {name: values.to(**place) for name, values in wanted.items()}
        predict = self.denoiser(wanted, rows)
        like = torch.empty(0, **place)
        start = None if self.start_target is None else wanted[self.start_target]
        channels, side = self.latent_shape()
        if start is not None:
            side = start.shape[-1]
        noise = draw((channels, side, side), rows, like)
        latents = descend(
            self._pipe.scheduler, predict, noise, rows, steps=self.steps,
            strength=self.strength, start=start,
        )  # fmt: skip
        pictures = self._decoded(latents, rows)
        self._pipe.maybe_free_model_hooks()
        self._second.maybe_free_model_hooks()
        return pictures

    def denoiser(self, wanted: Tensors, rows: list[torch.Generator]) -> Predict:
        pipe, embedding = self._pipe, wanted[self.image][:, None]
        twice = self.guidance > 1
        text, pooled, negative, negative_pooled = (
            # Without guidance there is no negative prompt.
            torch.empty(0) if part is None else part.expand(len(embedding), -1, -1)
            for part in pipe.encode_prompt(embedding.device, 1, 1, twice, prompt=self.prompt)
        )
        self._pooled = pooled
        if twice:
            text, pooled = torch.cat([text, negative]), torch.cat([pooled, negative_pooled])
            embedding = torch.cat([embedding, torch.zeros_like(embedding)])

        def predict(latents: Tensor, t: Tensor) -> Tensor:
            noise = pipe.prior(
                sample=torch.cat([latents] * 2) if twice else latents,
                timestep_ratio=torch.cat([t, t]) if twice else t,
                clip_text_pooled=pooled,
                clip_text=text,
                clip_img=embedding,
                return_dict=False,
            )[0]
            if not twice:
                return noise
            bound, free = noise.chunk(2)
            return torch.lerp(free, bound, self.guidance)

        return predict

    def _decoded(self, small: Tensor, rows: list[torch.Generator]) -> Tensor:
        """The second stage: latents of the prior -> pictures."""
        pipe, pooled = self._second, self._pooled
        side = int(small.shape[-1] * pipe.config.latent_dim_scale)

        def predict(latents: Tensor, t: Tensor) -> Tensor:
            return pipe.decoder(
                sample=latents, timestep_ratio=t, clip_text_pooled=pooled, effnet=small,
                return_dict=False,
            )[0]  # fmt: skip

        noise = draw((pipe.decoder.config.in_channels, side, side), rows, small)
        latents = descend(pipe.scheduler, predict, noise, rows, steps=self.decoder_steps)
        latents = pipe.vqgan.config.scale_factor * latents
        return pipe.vqgan.decode(latents).sample


def descend(
    scheduler: Any,
    predict: Predict,
    noise: Tensor,
    rows: list[torch.Generator],
    *,
    steps: int,
    strength: float = 1.0,
    start: Tensor | None = None,
) -> Tensor:
    """Latents sampled over times from 1 to 0, which this family counts per row and not in steps."""
    scheduler.set_timesteps(steps, device=noise.device)
    times = scheduler.timesteps[:-1][steps - int(steps * strength) :].to(noise.dtype)
    latents = noise * scheduler.init_noise_sigma
    if start is not None:
        latents = scheduler.add_noise(start, noise, times[:1].expand(len(noise)))
    for time in times:
        t = time.expand(len(latents))
        made = scheduler.step(predict(latents, t), t, latents, generator=rows, return_dict=False)
        latents = made[0]
    return latents
