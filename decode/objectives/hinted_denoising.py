"""The loss of a frozen text-to-image sampler that a hint steers: what is seen, and where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from decode.core import Batch, Tensors, refusal
from decode.diffusion.hints import hint_control, hinted, residuals
from decode.diffusion.noising import Noising, fitting
from decode.diffusion.pipelines import open_parts
from decode.features.clip_tokens import words_of
from decode.trainable import Encoder, Objective
from decode.weights.reading import Precision, choose_dtype


class HintedDenoising(Objective):
    """Squared error of a frozen denoiser that reads predicted text tokens and a hint, times `weight`.

    The training of NeuroPictor (Huo et al. 2024, arXiv:2403.18211): the Stable Diffusion denoiser of
    `model` removes noise from the latents of the shown picture, target `latents`. It reads the tokens
    predicted of target `text`; the prediction of target `hint`, of `channels` and as large as the
    latents, enters a trained copy of its encoder (a ControlNet), whose residuals are added at every
    scale of its decoder. The gradient reaches the encoder by both ways. The copy is kept for generator
    `hinted`, whose `model` has to be the same, which only names and shapes of layers show.

    The hint of NeuroPictor has 320 channels and no counterpart among the targets. Here it has those of
    a target, by default the latents: it begins as their mean, means whatever lowers this loss, and
    needs no objective of its own.

    While training, a share `drop` of the trials reads the tokens of an empty caption, so that guidance
    is possible. While validating, noise and time steps are seeded and nothing is dropped. `precision`
    is that of the frozen weights. With `checkpointing` the blocks of denoiser and copy are run again for
    the gradient, in place of keeping all they compute: slower, for cards with little memory. Raises
    InputError for targets that do not fit the denoiser and for a schedule without alphas.
    """

    tunes: ClassVar[bool] = True

    def __init__(
        self,
        *,
        model: str,
        text: str = "text",
        hint: str = "latents",
        latents: str = "latents",
        channels: int = 4,
        weight: float = 1.0,
        drop: float = 0.1,
        precision: Precision = "float32",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= drop < 1 or channels < 1:
            raise refusal(
                "objectives.hinted_denoising",
                "drop in [0, 1) and channels of 1 or more",
                f"{drop} and {channels}",
                "correct the one that is not",
            )
        self.text, self.hint, self.latents = text, hint, latents
        self.channels, self.weight, self.drop = channels, weight, drop
        self.precision = precision
        denoiser, self.empty, self.noising = _open(model, self)
        # In a tuple it is no part of this module: its frozen weights are neither saved nor counted.
        self._denoiser = (denoiser,)
        self.control = hint_control(denoiser, channels)
        if checkpointing:
            denoiser.enable_gradient_checkpointing()
            self.control.enable_gradient_checkpointing()

    @property
    def denoiser(self) -> Any:
        return self._denoiser[0]

    @classmethod
    def teaches(cls, knobs: Mapping[str, Any]) -> frozenset[str]:
        return frozenset({knobs["text"], knobs["hint"]})

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        text, hint, clean = self._three(encoder, batch)
        training = bool(encoder.training)
        generator = None if training else torch.Generator().manual_seed(0)
        time, noise = self.noising.draw(clean, generator=generator)
        if training and self.drop:
            free = torch.rand(len(text)).to(text.device) < self.drop
            text = torch.where(free[:, None, None], self.empty.to(text), text)
        noisy = self.noising.noisy(clean, time, noise)
        added = residuals(self.control, noisy, time, text.float(), hint.float())
        dtype = choose_dtype(self.precision)
        denoiser = self.denoiser.to(clean.device)
        made = hinted(denoiser, noisy.to(dtype), time, text.to(dtype), added)
        loss = mse_loss(made.float(), self.noising.wanted(clean, time, noise))
        return {"denoising": self.weight * loss}

    def tuned(self) -> Tensors:
        return {name: value.detach() for name, value in self.control.state_dict().items()}

    def _three(self, encoder: Encoder, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Predicted tokens (row, token, width) and hint, and true latents, (row, channel, h, w)."""
        predicted, own = encoder(batch), "hinted_denoising"
        text = fitting(
            own, predicted, self.text, takes="reads tokens", shape=tuple(self.empty.shape[1:])
        )
        clean = fitting(
            own, batch.targets, self.latents, takes="sees latents",
            shape=(self.denoiser.config.in_channels, "h", "w"),
        )  # fmt: skip
        hint = fitting(
            own, predicted, self.hint, takes="is given a hint",
            shape=(self.channels, *clean.shape[2:]),
        )  # fmt: skip
        return text, hint, clean.float()


def _open(model: str, knobs: Any) -> tuple[Any, Tensor, Noising]:
    """The frozen denoiser, the tokens (1, token, width) of an empty caption, and the schedule."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    networks = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}
    parts = open_parts(model, knobs, networks=networks, plain={"tokenizer": CLIPTokenizer})
    words = words_of(parts["tokenizer"], [""])
    with torch.no_grad():
        empty = parts["text_encoder"](words).last_hidden_state.float()
    return parts["unet"].requires_grad_(False), empty, Noising(parts["scheduler"], model)
