"""Stable Diffusion XL (or SDXL-Turbo) steered by an IP-Adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decode.core import InputError, Shape, Tensors, refusal
from decode.diffusion.pipelines import (
    Predict,
    check_embedding,
    guided,
    open_pipeline,
    place_pipeline,
    whole_autoencoder,
)
from decode.diffusion.sampler import Diffusion
from decode.weights.hub import opening
from decode.weights.reading import find_weights, loading, quiet


@dataclass(eq=False, kw_only=True)
class IpAdapter(Diffusion):
    """SDXL with IP-Adapters (Ye et al. 2023, arXiv:2308.06721) fed with predicted embeddings.

    `adapter`, `subfolder` and `weight_name` say where the adapter's safetensors lie; it has to be a
    plain one, which reads one image embedding. `scale` weighs it: one number, or diffusers' mapping
    of blocks to numbers, such as {down: {block_2: [0, 1]}, up: {block_0: [0, 1, 0]}}. Several
    adapters are lists of equal length of `weight_name`, `image` and, if they differ, `scale`.
    `prompt` is an optional text for all pictures. See `Diffusion` for the other knobs, `Unclip` for
    `width`.

    The library's own call repeats a batch of embeddings for every row, so that each row would see
    all of them; here each row has its own.
    """

    adapter: str
    weight_name: str | list[str]
    subfolder: str = ""
    scale: float | dict[str, Any] | list[Any] = 1.0
    prompt: str = ""
    image: str | list[str] = "image"
    width: int | None = None
    steps: int = 4
    guidance: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self._files():
            if not name.endswith(".safetensors"):
                raise refusal(
                    "generator.weight_name",
                    "a safetensors file",
                    f"{name!r}",
                    "choose the .safetensors file of the adapter",
                )
        counts = {"image": len(self.conditions())}
        counts |= {"scale": len(self.scale)} if isinstance(self.scale, list) else {}
        for knob, count in counts.items():
            if count != len(self._files()):
                raise InputError(
                    f"generator.{knob}: expected one for each of {len(self._files())} adapters of "
                    f"weight_name, got {count}; make the lists equally long"
                )

    def _files(self) -> list[str]:
        return [self.weight_name] if isinstance(self.weight_name, str) else list(self.weight_name)

    def conditions(self) -> tuple[str, ...]:
        return (self.image,) if isinstance(self.image, str) else tuple(self.image)

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Compare targets with the folders' configuration; no weights are read."""
        super().check(shapes)
        _, side = self.told()
        for name, target in zip(self._files(), self.conditions(), strict=True):
            width = self._adapter_width(name)
            check_embedding(shapes, target, width=width, said=self.width, model=self.adapter)
        self.check_start(shapes, side)

    def _adapter_width(self, name: str) -> int | None:
        """Embedding width from the header of a local adapter file."""
        from safetensors import safe_open

        folder = find_weights(self.adapter)
        if not isinstance(folder, Path):
            return None
        with (
            loading(self.adapter),
            safe_open(folder / self.subfolder / name, framework="pt") as file,
        ):
            if "image_proj.proj.weight" not in file.keys():  # noqa: SIM118
                raise refusal(
                    "generator.weight_name",
                    "a plain adapter that reads one image embedding",
                    f"{name!r}, which reads image tokens",
                    "choose another weight_name",
                )
            return int(file.get_slice("image_proj.proj.weight").get_shape()[1])

    def open(self) -> Any:
        pipe = open_pipeline("StableDiffusionXLPipeline", self.model, self, add_watermarker=False)
        if pipe.unet.config.time_cond_proj_dim is not None:
            raise refusal(
                "generator.model",
                "a model that is not told its guidance",
                f"{self.model!r}, a latent consistency model, which is",
                "choose SDXL or SDXL-Turbo",
            )
        with quiet(), opening(self.adapter):
            # The image encoder is not read: predictions take its place.
            pipe.load_ip_adapter(
                str(find_weights(self.adapter)),
                subfolder=self.subfolder,
                weight_name=self._files(),
                image_encoder_folder=None,
            )
        pipe.set_ip_adapter_scale(self.scale)
        return place_pipeline(whole_autoencoder(pipe), self)

    def denoiser(self, wanted: Tensors, rows: list[torch.Generator]) -> Predict:
        pipe = self._pipe
        size = self.latent_shape()[1] * pipe.vae_scale_factor
        text, added = self._condition([wanted[name] for name in self.conditions()], size)
        twice = self.guidance > 1

        def predict(latents: Tensor, t: Tensor) -> Tensor:
            seen = torch.cat([latents] * 2) if twice else latents
            seen = pipe.scheduler.scale_model_input(seen, t)
            noise = pipe.unet(
                seen, t, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False
            )[0]
            return guided(noise, self.guidance)

        return predict

    def _condition(self, embeddings: list[Tensor], size: int) -> tuple[Tensor, dict[str, Any]]:
        """Text (row, token, width) and the rest of the denoiser's condition, guidance first."""
        twice = self.guidance > 1
        rows = len(embeddings[0])
        prompt, negative, pooled, negative_pooled = self._pipe.encode_prompt(
            self.prompt, device=embeddings[0].device, do_classifier_free_guidance=twice
        )
        text = prompt.expand(rows, -1, -1)
        pooled = pooled.expand(rows, -1)
        tokens = [embedding[:, None] for embedding in embeddings]
        if twice:
            text = torch.cat([negative.expand_as(text), text])
            pooled = torch.cat([negative_pooled.expand_as(pooled), pooled])
            tokens = [torch.cat([torch.zeros_like(t), t]) for t in tokens]
        # SDXL is told the original size, the crop and the target size.
        sizes = embeddings[0].new_tensor([[size, size, 0, 0, size, size]]).expand(len(text), -1)
        return text, {"text_embeds": pooled, "time_ids": sizes, "image_embeds": tokens}
