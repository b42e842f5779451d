"""A flow between two sets of tokens: the way, its speed, and a transformer that learns the speed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from decode.networks.attention import SelfAttention


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
    (DiT, Peebles & Xie 2023; SiT, Ma et al. 2024). Positions are a fixed code of sines and cosines, and
    so is time, in [0, 1]; tokens as wide as the transformer enter as they are.
    """

    position: Tensor

    def __init__(self, tokens: int, features: int, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.enter = nn.Linear(features, width) if features != width else nn.Identity()
        cosines, sines = waves(torch.arange(tokens), width)
        position = nn.functional.pad(torch.cat([sines, cosines], 1), (0, width % 2))
        self.register_buffer("position", position, persistent=False)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.turn = _Turn(nn.SiLU(), nn.Linear(width, 2 * width))
        self.leave = nn.Linear(width, features)
        self.apply(_spread_evenly)
        for layer in (self.time[0], self.time[2]):
            nn.init.normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
        still = [m for m in self.modules() if isinstance(m, _Turn)]
        for layer in (self.leave, *(turn[1] for turn in still)):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        when = self.time(torch.cat(waves(time, 256), 1).to(x.dtype))
        x = self.enter(x) + self.position
        for block in self.blocks:
            x = block(x, when)
        shift, scale = self.turn(when)[:, None].chunk(2, -1)
        return self.leave(self.norm(x) * (1 + scale) + shift)


class _Turn(nn.Sequential):
    """From time to shifts, scales and gates, which start at 0."""


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads, bias=True, norm=False)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.turn = _Turn(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, when: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.turn(when)[:, None].chunk(6, -1)
        x = x + gate * self.attention(self.norm(x) * (1 + scale) + shift)
        return x + gate2 * self.feed(self.norm(x) * (1 + scale2) + shift2)


def waves(place: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (place, width / 2), at rates from 1 down to 1/10,000 (Vaswani et al. 2017)."""
    half = width // 2
    rate = torch.exp(-math.log(10_000) * torch.arange(half, device=place.device) / half)
    angle = place[:, None].float() * rate
    return angle.cos(), angle.sin()


def _spread_evenly(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Averaged(nn.Module):
    """The mean of a network's weights over its training, old steps forgotten by `decay` per step.

    Each step counts `decay` times as much as the next one and what came before the first not at all, so
    that a short training is averaged too.
    """

    steps: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("steps", torch.zeros((), dtype=torch.float64))
        for i, parameter in enumerate(network.parameters()):
            self.register_buffer(f"sum_{i}", torch.zeros_like(parameter))

    @torch.no_grad()
    def add(self, network: nn.Module) -> None:
        """Count the weights as they are now."""
        self.steps += 1
        for i, parameter in enumerate(network.parameters()):
            self.get_buffer(f"sum_{i}").lerp_(parameter, 1 - self.decay)

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """The mean by the names of `network`; its own weights before any step."""
        seen = 1 - self.decay**self.steps
        return {
            name: torch.where(seen > 0, self.get_buffer(f"sum_{i}") / seen, own)
            for i, (name, own) in enumerate(network.named_parameters())
        }
