"""Low-rank products in the cross-attention of a denoiser: where they go, and putting trained ones in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from decode.core import InputError, Tensors, refusal
from decode.networks.adaptation import LowRankLinear, add_low_rank

# How diffusers names the attention that reads the condition, and its four linear layers.
_CROSS = "attn2"
_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
_DOWN, _UP = ".lora_down", ".lora_up"


def cross_attention(denoiser: nn.Module) -> list[str]:
    """Names of the linear layers of all cross-attentions; InputError where there are none."""
    ends = tuple(f"{_CROSS}.{layer}" for layer in _LAYERS)
    found = [name for name, _ in denoiser.named_modules() if name.endswith(ends)]
    if not found:
        raise InputError(
            f"{type(denoiser).__name__}: expected a denoiser with cross-attention, found none; "
            "choose another model"
        )
    return found


def add_products(denoiser: nn.Module, *, rank: int) -> dict[str, LowRankLinear]:
    """Freeze a denoiser and put trainable products, in float32, into its cross-attention."""
    if rank < 1:
        raise InputError(f"objective.rank: expected 1 or more, got {rank}; raise it")
    denoiser.requires_grad_(False)
    return add_low_rank(denoiser, cross_attention(denoiser), rank=rank, dtype=torch.float32)


def products(layers: dict[str, LowRankLinear]) -> dict[str, nn.Parameter]:
    """The trained factors by name, as `attach` takes them."""
    down = {f"{name}{_DOWN}": layer.lora_down for name, layer in layers.items()}
    return down | {f"{name}{_UP}": layer.lora_up for name, layer in layers.items()}


def attach(denoiser: nn.Module, weights: Tensors) -> None:
    """Put trained products into a denoiser, at its own precision; InputError where they do not fit."""
    layers = dict(denoiser.named_modules())
    for name in sorted({name.rpartition(".")[0] for name in weights}):
        nothing = torch.empty(0, 0)
        down, up = weights.get(name + _DOWN, nothing), weights.get(name + _UP, nothing)
        layer = layers.get(name)
        if not isinstance(layer, nn.Linear) or not _fits(layer, down, up):
            raise refusal(
                "generator",
                "low-rank products that fit the denoiser",
                f"others for its layer {name}",
                "choose the model that they were trained in (objectives.*.model) or train again",
            )
        added = add_low_rank(denoiser, [name], rank=len(down))[name].requires_grad_(False)
        added.lora_down.copy_(down)
        added.lora_up.copy_(up)


def _fits(layer: nn.Linear, down: Tensor, up: Tensor) -> bool:
    rank = len(down)
    return down.shape == (rank, layer.in_features) and up.shape == (layer.out_features, rank)
