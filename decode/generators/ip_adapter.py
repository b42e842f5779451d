"""Stable Diffusion XL (or SDXL-Turbo) steered by an IP-Adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
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
from decode.networks.weights import Precision, find_weights, loading, quiet, read_config


class IpAdapter(Generator):
    """SDXL with an IP-Adapter (Ye et al. 2023, arXiv:2308.06721) fed with predicted embeddings.

    `adapter`, `subfolder` and `weight_name` say where the adapter's safetensors lie; it has to be a
    plain one, which reads one image embedding. `scale` weighs it, `prompt` is an optional text for
    all pictures. See `Sampling` for the other knobs, `Unclip` for `width`.
    """

    def __init__(
        self,
        model: str,
        *,
        adapter: str,
        weight_name: str,
        subfolder: str = "",
        scale: float = 1.0,
        prompt: str = "",
        image: str = "image",
        low_level: str | None = None,
        steps: int = 4,
        guidance: float = 0.0,
        strength: float = 1.0,
        size: int | None = None,
        width: int | None = None,
        norm: Norm = "train",
        precision: Precision = "float32",
        offload: Offload = "none",
        batch_size: int = 8,
        device: str = "auto",
    ) -> None:
        self.model, self.adapter, self.width = model, adapter, width
        self.subfolder, self.weight_name = subfolder, weight_name
        self.scale, self.prompt = scale, prompt
        self.knobs = Sampling(
            image, low_level, steps, guidance, strength, size, norm, precision, offload,
            batch_size, device,
        )  # fmt: skip
        if not weight_name.endswith(".safetensors"):
            raise InputError(
                f"ip_adapter generator: weights are a safetensors file, got {weight_name!r}; "
                "choose the .safetensors file of the adapter"
            )
        self.needs = self.knobs.needs
        self._norm: float | None = None
        self._pipe: Any = None

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Compare targets with the folders' configuration; no weights are read."""
        super().check(shapes)
        check_place(self.knobs)
        unet = read_config(self.model, "unet")
        vae = read_config(self.model, "vae")
        factor = 8 if vae is None else 2 ** (len(vae["block_out_channels"]) - 1)
        side = None if unet is None else unet["sample_size"]
        if self.knobs.size is not None:
            side = self.knobs.size // factor
        check_embedding(
            shapes,
            self.knobs.image,
            width=self._adapter_width(),
            said=self.width,
            model=self.adapter,
        )
        check_low_level(shapes, self.knobs.low_level, channels=4, side=side)

    def _adapter_width(self) -> int | None:
        """Embedding width from the header of a local adapter file."""
        from safetensors import safe_open

        folder = find_weights(self.adapter)
        if not isinstance(folder, Path):
            return None
        with (
            loading(self.adapter),
            safe_open(folder / self.subfolder / self.weight_name, framework="pt") as file,
        ):
            if "image_proj.proj.weight" not in file.keys():  # noqa: SIM118
                raise InputError(
                    f"ip_adapter generator: {self.weight_name!r} reads image tokens, expected a "
                    "plain adapter that reads one image embedding; choose another weight_name"
                )
            return int(file.get_slice("image_proj.proj.weight").get_shape()[1])

    def learn(self, shown: Sequence[Stimulus], truth: Tensors) -> None:
        """Remember the mean norm of the training embeddings."""
        self._norm = mean_norm(truth[self.knobs.image])

    @torch.no_grad()
    def __call__(self, predicted: Tensors, *, seeds: Sequence[int]) -> list[Media]:
        """One picture (3, size, size) per row."""
        embedding = conditioned(predicted, self.knobs, self._norm)
        low = None if self.knobs.low_level is None else predicted[self.knobs.low_level]
        if self._pipe is None:
            self._pipe = self._open()
        made: list[Media] = []
        for rows in row_slices(len(embedding), self.knobs):
            start = None if low is None else low[rows]
            made += as_media(self._sample(embedding[rows], start, seeds[rows]))
        return made

    def _open(self) -> Any:
        pipe = open_pipeline(
            "StableDiffusionXLPipeline", self.model, self.knobs, add_watermarker=False
        )
        if pipe.unet.config.time_cond_proj_dim is not None:
            raise InputError(
                f"ip_adapter generator: {self.model!r} is a latent consistency model, which is told "
                "its guidance; choose SDXL or SDXL-Turbo"
            )
        with quiet(), loading(self.adapter):
            # The image encoder is not read: predictions take its place.
            pipe.load_ip_adapter(
                str(find_weights(self.adapter)),
                subfolder=self.subfolder,
                weight_name=self.weight_name,
                image_encoder_folder=None,
            )
        pipe.set_ip_adapter_scale(self.scale)
        if pipe.vae.config.force_upcast and pipe.vae.dtype == torch.float16:
            # SDXL's own autoencoder overflows in float16.
            with quiet():
                pipe.vae.to(torch.float32)
        return place_pipeline(pipe, self.knobs)

    def _sample(self, embedding: Tensor, low: Tensor | None, seeds: Sequence[int]) -> Tensor:
        """Pictures (row, 3, size, size) of one batch, nominally in [0, 1].

        The library's own call repeats a batch of embeddings for every row, so that each row would
        see all of them; this loop gives each row its own.
        """
        pipe, knobs = self._pipe, self.knobs
        embedding = embedding.to(pipe._execution_device, pipe.unet.dtype)
        rows = row_generators(seeds)
        guided = knobs.guidance > 1
        channels, side = pipe.unet.config.in_channels, self._side()
        text, added = self._condition(embedding, side * pipe.vae_scale_factor)

        def predict(latents: Tensor, t: Tensor) -> Tensor:
            seen = torch.cat([latents] * 2) if guided else latents
            seen = pipe.scheduler.scale_model_input(seen, t)
            noise = pipe.unet(
                seen, t, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False
            )[0]
            if not guided:
                return noise
            free, bound = noise.chunk(2)
            return free + knobs.guidance * (bound - free)

        noise = draw((channels, side, side), rows, embedding)
        start = None if low is None else self._start(low, channels, side)
        timesteps, latents = first_latents(pipe.scheduler, knobs, start, noise)
        step = pipe.prepare_extra_step_kwargs(rows, 0.0)
        latents = denoise(pipe.scheduler, timesteps, latents, predict, **step)
        latents = latents.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor
        decoded = pipe.vae.decode(latents, return_dict=False)[0]
        pipe.maybe_free_model_hooks()
        return decoded / 2 + 0.5

    def _side(self) -> int:
        if self.knobs.size is None:
            return int(self._pipe.unet.config.sample_size)
        return self.knobs.size // int(self._pipe.vae_scale_factor)

    def _condition(self, embedding: Tensor, size: int) -> tuple[Tensor, dict[str, Any]]:
        """Text (row, token, width) and the rest of the denoiser's condition, guidance first."""
        guided = self.knobs.guidance > 1
        prompt, negative, pooled, negative_pooled = self._pipe.encode_prompt(
            self.prompt, device=embedding.device, do_classifier_free_guidance=guided
        )
        text = prompt.expand(len(embedding), -1, -1)
        pooled = pooled.expand(len(embedding), -1)
        tokens = embedding[:, None]
        if guided:
            text = torch.cat([negative.expand_as(text), text])
            pooled = torch.cat([negative_pooled.expand_as(pooled), pooled])
            tokens = torch.cat([torch.zeros_like(tokens), tokens])
        # SDXL is told the original size, the crop and the target size.
        sizes = embedding.new_tensor([[size, size, 0, 0, size, size]]).expand(len(text), -1)
        return text, {"text_embeds": pooled, "time_ids": sizes, "image_embeds": [tokens]}

    def _start(self, low: Tensor, channels: int, side: int) -> Tensor:
        pipe = self._pipe

        def encode(pictures: Tensor) -> Tensor:
            pictures = pictures.to(pipe._execution_device, pipe.vae.dtype)
            return pipe.vae.encode(pictures).latent_dist.mode() * pipe.vae.config.scaling_factor

        size = side * pipe.vae_scale_factor
        return start_from(low, encode, channels=channels, side=side, size=size)
