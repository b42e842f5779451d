"""Latents of any diffusers autoencoder: the low-level target of latent diffusion models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from decode.core import Stimulus, refusal
from decode.features.network import NetworkTarget
from decode.pictures import read_images
from decode.weights.hub import opening
from decode.weights.reading import find_weights, quiet, read_config


@dataclass(eq=False, kw_only=True)
class Autoencoder(NetworkTarget):
    """Latents (channel, h, w) of pictures resized to `size` x `size`.

    `model` is a hub name or folder, `subfolder` the autoencoder's place in it; the class (KL, VQ,
    tiny, ...) is the one that its configuration names. Of a distribution the mode is taken, so the
    latents are deterministic. With `scaled` they have the scale at which diffusion models see them:
    (latent - shift_factor) * scaling_factor. Kandinsky's VQ model is the exception: its denoiser
    sees raw latents.
    """

    size: int
    subfolder: str | None = None
    scaled: bool = True
    batch_size: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise refusal(
                "targets.*.size", "at least 1 pixel", self.size, "give the side of the pictures"
            )

    def open(self) -> Any:
        from diffusers import AutoModel

        read_config(self.model, self.subfolder or "")
        with quiet(), opening(self.model):
            network = AutoModel.from_pretrained(
                str(find_weights(self.model)),
                subfolder=self.subfolder,
                use_safetensors=True,
                trust_remote_code=False,
            )
        if not hasattr(network, "encode"):
            raise refusal(
                "targets.*.model",
                f"an autoencoder in {self.model!r}",
                f"a {type(network).__name__}",
                "set `subfolder` (often vae or movq)",
            )
        return network

    def forward(self, stimuli: Sequence[Stimulus]) -> Tensor:
        pixels = read_images(stimuli, self.size) * 2 - 1
        found = self._network.encode(pixels.to(self._place, self.dtype))
        # KL models return a distribution, VQ and tiny ones the latents, each under its own name.
        if "latent_dist" in found:
            latents = found.latent_dist.mode()
        else:
            latents = found["latents"] if "latents" in found else found["latent"]
        if not self.scaled:
            return latents
        config = self._network.config
        shift = config.get("shift_factor") or 0.0
        return (latents - shift) * (config.get("scaling_factor") or 1.0)
