"""Kandinsky 2.2: latent diffusion conditioned on a CLIP ViT-bigG image embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from decode.core import Shape, Tensors, refusal
from decode.diffusion.pipelines import Predict, check_embedding, open_pipeline, place_pipeline
from decode.diffusion.sampler import Diffusion
from decode.weights.hub import opening
from decode.weights.reading import choose_dtype, find_weights, quiet

CHANNELS = 4


@dataclass(eq=False, kw_only=True)
class Kandinsky(Diffusion):
    """The decoder of Kandinsky 2.2 (Razzhigaev et al. 2023, arXiv:2310.03502).

    Guidance steers away from the embedding of an all-black picture; `prior` is the model whose
    `image_encoder` makes it (null: a vector of zeros, and no encoder is read). Low-level latents
    are the unscaled ones of its VQ model. See `Diffusion` for the other knobs, `Unclip` for `width`.
    """

    parts: ClassVar[tuple[str, str]] = ("unet", "movq")
    prior: str | None
    image: str = "image"
    width: int | None = None
    size: int = 512
    guidance: float = 4.0

    def conditions(self) -> tuple[str, ...]:
        return (self.image,)

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Compare targets with the folder's configuration; no weights are read."""
        super().check(shapes)
        if self.prior is not None:
            find_weights(self.prior)
        unet, side = self.told()
        assert side is not None
        if self.size % (self.size // side) ** 2:
            raise refusal(
                "generator.size",
                f"a multiple of {(self.size // side) ** 2}",
                self.size,
                "take the next one",
            )
        width = None if unet is None else unet["encoder_hid_dim"]
        check_embedding(shapes, self.image, width=width, said=self.width, model=self.model)
        self.check_start(shapes, side, channels=CHANNELS)

    def open(self) -> Any:
        pipe = place_pipeline(open_pipeline("KandinskyV22Pipeline", self.model, self), self)
        # The autoencoder of this pipeline goes by another name.
        pipe.vae_scale_factor = pipe.movq_scale_factor
        self._black = self._embed_black(pipe)
        return pipe

    def _embed_black(self, pipe: Any) -> Tensor:
        """(1, width): what guidance steers away from."""
        if self.prior is None or self.guidance <= 1:
            return torch.zeros(1, pipe.unet.config.encoder_hid_dim)
        from transformers import CLIPVisionModelWithProjection

        with quiet(), opening(self.prior):
            encoder = CLIPVisionModelWithProjection.from_pretrained(
                find_weights(self.prior),
                subfolder="image_encoder",
                dtype=choose_dtype(self.precision),
                use_safetensors=True,
            )
        side: Any = encoder.config.image_size
        device = pipe._execution_device
        # Zeros after the encoder's normalisation, as the published prior does it.
        black = torch.zeros(1, 3, side, side, device=device, dtype=encoder.dtype)
        return encoder.to(device)(black).image_embeds

    def denoiser(self, wanted: Tensors, rows: list[torch.Generator]) -> Predict:
        pipe, embedding = self._pipe, wanted[self.image]
        twice = self.guidance > 1
        if twice:
            embedding = torch.cat([self._black.to(embedding).expand_as(embedding), embedding])
        learned = pipe.scheduler.config.get("variance_type") in ("learned", "learned_range")

        def predict(latents: Tensor, t: Tensor) -> Tensor:
            output = pipe.unet(
                sample=torch.cat([latents] * 2) if twice else latents,
                timestep=t,
                encoder_hidden_states=None,
                added_cond_kwargs={"image_embeds": embedding},
                return_dict=False,
            )[0]
            noise, variance = output.split(latents.shape[1], dim=1)
            if twice:
                free, bound = noise.chunk(2)
                noise, variance = free + self.guidance * (bound - free), variance.chunk(2)[1]
            # The denoiser also predicts a variance, which only some schedulers use.
            return torch.cat([noise, variance], dim=1) if learned else noise

        return predict

    def latent_shape(self) -> tuple[int, int]:
        return CHANNELS, self.size // int(self._pipe.movq_scale_factor)

    def decode(self, latents: Tensor) -> Tensor:
        return self._pipe.movq.decode(latents, force_not_quantize=True)["sample"] / 2 + 0.5

    def encode(self, pictures: Tensor) -> Tensor:
        pictures = pictures.to(self._pipe._execution_device, self._pipe.movq.dtype)
        return self._pipe.movq.encode(pictures)["latents"]
