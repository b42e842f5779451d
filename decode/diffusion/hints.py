"""A trained copy of a denoiser's first half that turns a hint into residuals for its second half."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from decode.core import InputError, Tensors

Residuals = tuple[list[Tensor], Tensor]
_ENTRANCE = "controlnet_cond_embedding"


def hint_control(denoiser: Any, channels: int) -> Any:
    """A ControlNet (Zhang et al. 2023) beside a Stable Diffusion denoiser, in float32.

    It reads hints (row, channel, h, w) of the latents' own size, not pictures eight times as large.
    It begins as a copy of the denoiser's encoder whose residuals are zero.
    """
    from diffusers import ControlNetModel

    control = ControlNetModel.from_unet(denoiser, conditioning_channels=channels).float()
    width = denoiser.config.block_out_channels[0]
    # Not zero at first: the layers behind the copy are, and a second lock would only delay learning.
    entrance = nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 1)
    )
    setattr(control, _ENTRANCE, entrance)
    return control.requires_grad_(True)


def trained_control(denoiser: Any, weights: Tensors) -> Any:
    """The control with weights that were trained; InputError where they do not fit the denoiser."""
    first = weights.get(f"{_ENTRANCE}.0.weight")
    control = hint_control(denoiser, 1 if first is None else first.shape[1])
    own = {name: tuple(value.shape) for name, value in control.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = sorted(name for name in own | found if own.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise InputError(
            f"generator: expected {name} {own.get(name)} of the denoiser's control, found "
            f"{found.get(name)}; choose the model that it was trained with (objectives.*.model) or "
            "train again"
        )
    control.load_state_dict(weights)
    return control.requires_grad_(False).to(denoiser.dtype)


def residuals(control: Any, noisy: Tensor, time: Tensor, text: Tensor, hint: Tensor) -> Residuals:
    """What the control adds to the skips of the denoiser's decoder, scale by scale, and its middle."""
    return control(noisy, time, encoder_hidden_states=text, controlnet_cond=hint, return_dict=False)


def hinted(denoiser: Any, noisy: Tensor, time: Tensor, text: Tensor, added: Residuals) -> Tensor:
    """The denoiser's output with residuals added."""
    down, middle = added
    return denoiser(
        noisy,
        time,
        encoder_hidden_states=text,
        down_block_additional_residuals=[d.to(noisy.dtype) for d in down],
        mid_block_additional_residual=middle.to(noisy.dtype),
        return_dict=False,
    )[0]
