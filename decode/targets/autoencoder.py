"""Latents of any diffusers autoencoder: the low-level target of latent diffusion models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from decode.core import InputError, Kind, Stimulus
from decode.networks.weights import (
    Precision,
    choose_device,
    choose_dtype,
    find_weights,
    in_batches,
    loading,
    quiet,
    read_config,
)
from decode.pictures import read_images


class Autoencoder:
    """Latents (channel, h, w) of pictures resized to `size` x `size`.

    `model` is a hub name or folder, `subfolder` the autoencoder's place in it; the class (KL, VQ,
    tiny, ...) is the one that its configuration names. Of a distribution the mode is taken, so the
    latents are deterministic. With `scaled` they have the scale at which diffusion models see them:
    (latent - shift_factor) * scaling_factor. Kandinsky's VQ model is the exception: its denoiser
    sees raw latents.
    """

    accepts: ClassVar[frozenset[Kind]] = frozenset({"image"})

    def __init__(
        self,
        model: str,
        *,
        size: int,
        subfolder: str | None = None,
        scaled: bool = True,
        precision: Precision = "float32",
        batch_size: int = 8,
        device: str = "auto",
    ) -> None:
        if size < 1:
            raise InputError(f"autoencoder target: size is at least 1 pixel, got {size}")
        self.model, self.subfolder = model, subfolder
        self.size, self.scaled = size, scaled
        self.dtype = choose_dtype(precision)
        self.batch_size, self.device = batch_size, device
        self._network: Any = None

    def __call__(self, stimuli: Sequence[Stimulus]) -> Tensor:
        """(stimulus, channel, h, w) float32 on the CPU."""
        self._load()
        label = f"{Path(self.model).name} latents"
        return in_batches(stimuli, self._forward, batch_size=self.batch_size, label=label)

    def _load(self) -> None:
        if self._network is not None:
            return
        from diffusers import AutoModel

        read_config(self.model, self.subfolder or "")
        with quiet(), loading(self.model):
            network = AutoModel.from_pretrained(
                str(find_weights(self.model)), subfolder=self.subfolder, use_safetensors=True
            )
        if not hasattr(network, "encode"):
            raise InputError(
                f"autoencoder target: {self.model!r} holds a {type(network).__name__}, expected an "
                "autoencoder; set `subfolder` (often vae or movq)"
            )
        self._place = choose_device(self.device)
        with quiet():
            self._network = network.to(self._place, self.dtype).eval()

    def _forward(self, stimuli: Sequence[Stimulus]) -> Tensor:
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
