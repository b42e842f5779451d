"""The loss of a latent diffusion model itself: noisy latents, denoised with what the brain says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from decode.core import Batch, Tensors, refusal
from decode.diffusion.low_rank import add_products, products
from decode.diffusion.noising import Noising, fitting
from decode.diffusion.pipelines import open_parts
from decode.trainable import Encoder, Objective
from decode.weights.reading import Precision, choose_dtype

Levels = Literal["cubic", "uniform"]
Draw = tuple[Tensor, Tensor, Tensor]


class Denoising(Objective):
    """Squared error of a frozen denoiser that reads the predicted tokens, times `weight`.

    Single-stage training as in Dynadiff (Careil et al. 2025, arXiv:2505.14556). The denoiser, folder
    `part` of `model`, is conditioned on the tokens predicted of target `image` and denoises the
    latents of the shown picture, target `latents`; it is asked for what it was trained to give (noise,
    velocity or clean latents). The gradient reaches the encoder and, in the denoiser's
    cross-attention, low-rank products of `rank` (LoRA, Hu et al. 2021), which are kept for the
    generator; its `model` has to be the same, which only names and shapes of layers show.

    While training, a share `drop` of the trials has zeros for tokens, so that guidance is possible,
    and the noise of a channel shares an offset of spread `offset`. `levels` "cubic" draws time steps
    as 1 - u^3 of the schedule, mostly noisy ones. While validating, noise and levels are seeded, and
    nothing is dropped or offset.

    `precision` is that of the frozen weights. With `checkpointing` the denoiser's blocks are run again
    for the gradient, in place of keeping all they compute: slower, for cards with little memory. Raises
    InputError for targets that do not fit the denoiser, and for a schedule without cumulative products
    of alpha.
    """

    tunes: ClassVar[bool] = True

    def __init__(
        self,
        *,
        model: str,
        part: str = "image_unet",
        image: str = "image",
        latents: str = "latents",
        rank: int = 4,
        weight: float = 1.0,
        drop: float = 0.1,
        offset: float = 0.1,
        levels: Levels = "cubic",
        precision: Precision = "float32",
        checkpointing: bool = False,
    ) -> None:
        import diffusers

        super().__init__()
        if levels not in get_args(Levels) or not 0 <= drop < 1 or offset < 0:
            raise refusal(
                "objectives.denoising",
                f"levels out of {list(get_args(Levels))}, drop in [0, 1) and offset of at least 0",
                f"{levels!r}, {drop} and {offset}",
                "correct the one that is not",
            )
        self.image, self.latents, self.weight = image, latents, weight
        self.drop, self.offset, self.levels = drop, offset, levels
        self.precision = precision
        kind = {part: diffusers.UNet2DConditionModel}
        parts = open_parts(model, self, networks=kind, plain={})
        self.noising = Noising(parts["scheduler"], model)
        # In a tuple it is no part of this module: its frozen weights are neither saved nor counted.
        self._denoiser = (parts[part],)
        self._names = products(add_products(parts[part], rank=rank))
        self.low_rank = nn.ParameterList(self._names.values())
        if checkpointing:
            self.denoiser.enable_gradient_checkpointing()

    @property
    def denoiser(self) -> Any:
        return self._denoiser[0]

    @classmethod
    def teaches(cls, knobs: Mapping[str, Any]) -> frozenset[str]:
        return frozenset({knobs["image"]})

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        tokens, clean = self._both(encoder, batch)
        training = bool(encoder.training)
        time, noise, keep = self.draw(clean, training=training)
        noisy = self.noising.noisy(clean, time, noise)
        tokens = tokens * keep.view(-1, 1, 1).to(tokens)
        dtype = choose_dtype(self.precision)
        denoiser = self.denoiser.to(clean.device)
        made = denoiser(
            noisy.to(dtype), time, encoder_hidden_states=tokens.to(dtype), return_dict=False
        )[0]
        wanted = self.noising.wanted(clean, time, noise)
        return {"denoising": self.weight * mse_loss(made.float(), wanted)}

    def draw(self, clean: Tensor, *, training: bool) -> Draw:
        """Time steps (row,), noise like `clean` and who keeps the condition (row,).

        Drawn on the CPU, so that every device trains on the same noise.
        """
        n, channels = clean.shape[:2]
        g = None if training else torch.Generator().manual_seed(0)
        u = torch.rand(n, generator=g)
        share = 1 - u**3 if self.levels == "cubic" else u
        n_steps = len(self.noising.kept)
        time = (share * n_steps).long().clamp(max=n_steps - 1)
        noise = torch.randn(clean.shape, generator=g)
        keep = torch.ones(n, dtype=torch.bool)
        if training:
            noise = noise + self.offset * torch.randn(n, channels, 1, 1)
            keep = torch.rand(n) >= self.drop
        return time.to(clean.device), noise.to(clean), keep.to(clean.device)

    def tuned(self) -> Tensors:
        return {name: value.detach() for name, value in self._names.items()}

    def _both(self, encoder: Encoder, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predicted tokens (row, token, width) and true latents (row, channel, h, w)."""
        config, own = self.denoiser.config, "denoising"
        tokens = fitting(
            own, encoder(batch), self.image, takes="reads tokens",
            shape=("token", config.cross_attention_dim),
        )  # fmt: skip
        clean = fitting(
            own, batch.targets, self.latents, takes="sees latents",
            shape=(config.in_channels, "h", "w"),
        )  # fmt: skip
        return tokens, clean.float()
