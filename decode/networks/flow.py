"""A flow between two sets of tokens: the way, its speed, and a transformer that learns the speed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from decode.networks.attention import SelfAttention
from decode.networks.prior import sinusoid


def between(image: Tensor, brain: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Where a row is at `time` (batch,) on the quarter circle from image (0) to brain (1), and how
    fast it moves there; all others (batch, token, width).
    """
    angle = (time * math.pi / 2).reshape(-1, *[1] * (image.ndim - 1)).to(image)
    cos, sin = angle.cos(), angle.sin()
    return cos * image + sin * brain, math.pi / 2 * (cos * brain - sin * image)


@torch.no_grad()
def travel(
    speed: Callable[[Tensor, Tensor], Tensor], x: Tensor, *, steps: int, start: float, end: float
) -> Tensor:
    """Follow `speed(x, time)` from `start` to `end` in Euler steps; (batch, token, width)."""
    step = (end - start) / steps
    for i in range(steps):
        time = torch.full((len(x),), start + i * step, device=x.device)
        x = x + step * speed(x, time)
    return x


class SpeedTransformer(nn.Module):
    """Tokens (batch, token, features) and time (batch,) to a speed per token (batch, token, features).

    A transformer whose norms are scaled, shifted and gated by time and start as doing nothing
    (DiT, Peebles & Xie 2023; SiT, Ma et al. 2024).
    """

    def __init__(self, tokens: int, features: int, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.enter = nn.Linear(features, width)
        self.position = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.turn = nn.Sequential(nn.SiLU(), _zero(nn.Linear(width, 2 * width)))
        self.leave = _zero(nn.Linear(width, features))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        when = self.time(sinusoid(1000 * time, 256).to(x.dtype))
        x = self.enter(x) + self.position
        for block in self.blocks:
            x = block(x, when)
        shift, scale = self.turn(when)[:, None].chunk(2, -1)
        return self.leave(self.norm(x) * (1 + scale) + shift)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads, bias=True, norm=False)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.turn = nn.Sequential(nn.SiLU(), _zero(nn.Linear(width, 6 * width)))

    def forward(self, x: Tensor, when: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.turn(when)[:, None].chunk(6, -1)
        x = x + gate * self.attention(self.norm(x) * (1 + scale) + shift)
        return x + gate2 * self.feed(self.norm(x) * (1 + scale2) + shift2)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
