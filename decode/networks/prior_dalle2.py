"""The transformer of the published diffusion priors, with their shapes and their sizes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad, scaled_dot_product_attention, silu

from decode.core import Shape
from decode.networks.prior import DiffusionPrior, sinusoid

BUCKETS, FAR = 32, 128
SHARPNESS = 16.0


class Dalle2Prior(DiffusionPrior):
    """The prior of MindEye (Scotti et al. 2023, 2024): DALL-E 2's with tokens of the target's width.

    `heads` x `head_width` queries share one key and one value per token, attention is by cosine, with
    a learned null key, rotary phases of the first features and a bias by relative position; the
    feed-forward is gated. Condition and noisy target have learned nulls of their own, each dropped
    with probability `drop` while training; only the noisy tokens have learned positions.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        depth: int,
        heads: int,
        head_width: int,
        steps: int = 100,
        seed: int = 0,
    ) -> None:
        self.head_width = head_width
        width = shape[-1] if len(shape) == 2 else math.prod(shape)
        super().__init__(shape, width=width, depth=depth, heads=heads, steps=steps, seed=seed)

    def build(self, width: int, depth: int, heads: int) -> None:
        self.width = width
        self.null = nn.Parameter(torch.randn(self.tokens, width) * 0.02)
        self.null_noisy = nn.Parameter(torch.randn(self.tokens, width) * 0.02)
        self.position = nn.Parameter(torch.randn(self.tokens, width) * 0.02)
        self.time = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, width),
        )
        self.nearness = nn.Embedding(BUCKETS, heads)
        self.ask = nn.ModuleList(_Attention(width, heads, self.head_width) for _ in range(depth))
        self.think = nn.ModuleList(_GatedFeed(width) for _ in range(depth))
        self.leave = nn.Sequential(
            nn.LayerNorm(width, bias=False), nn.Linear(width, self.features, bias=False)
        )

    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        condition: Tensor,
        keep: Tensor,
        keep_noisy: Tensor | None = None,
    ) -> Tensor:
        """Clean vectors (batch, *shape); `keep` and `keep_noisy` (batch,) say what is not dropped."""
        size = (len(noisy), self.tokens, self.features)
        told, seen = condition.reshape(size), noisy.reshape(size)
        told = torch.where(keep[:, None, None], told, self.null.to(told.dtype))
        if keep_noisy is not None:
            seen = torch.where(keep_noisy[:, None, None], seen, self.null_noisy.to(seen.dtype))
        when = self.time(sinusoid(time, self.width))[:, None]
        x = torch.cat([told, when.to(told.dtype), seen + self.position], 1)
        bias = self._bias(x.shape[1], x.device)
        for ask, think in zip(self.ask, self.think, strict=True):
            x = x + ask(x, bias)
            x = x + think(x)
        return self.leave(x[:, -self.tokens :]).reshape(len(noisy), *self.shape)

    def loss(
        self, clean: Tensor, condition: Tensor, *, drop: float, generator: torch.Generator | None
    ) -> Tensor:
        n, device = len(clean), clean.device
        time, noise, keep = self.draw(clean, drop=drop, generator=generator)
        place = device if generator is None else generator.device
        keep_noisy = torch.rand(n, generator=generator, device=place).to(device) >= drop
        made = self(self.noised(clean, time, noise), time, condition, keep, keep_noisy)
        return (made - clean).square().flatten(1).mean(1)

    def _bias(self, n: int, device: torch.device) -> Tensor:
        """(head, token, 1 + token): what attention adds for the distance back to a key."""
        place = torch.arange(n + 1, device=device)
        back = (place[:n, None] - place[None]).clamp(min=0)
        return self.nearness(_bucket(back)).permute(2, 0, 1)


def _bucket(distance: Tensor) -> Tensor:
    """Distances (any shape) int64 to numbers: exact when small, on a log scale up to FAR."""
    exact = BUCKETS // 2
    along = (distance.clamp(min=1).float() / exact).log() / math.log(FAR / exact)
    coarse = (exact + (along * (BUCKETS - exact)).long()).clamp(max=BUCKETS - 1)
    return torch.where(distance < exact, distance, coarse)


class _Attention(nn.Module):
    """Cosine attention of many queries to one key and value per token; (batch, token, width)."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.turned = min(32, head_width) // 2 * 2
        self.norm = nn.LayerNorm(width, bias=False)
        self.query = nn.Linear(width, heads * head_width, bias=False)
        self.key_value = nn.Linear(width, 2 * head_width, bias=False)
        self.null = nn.Parameter(torch.randn(2, head_width))
        self.out = nn.Sequential(
            nn.Linear(heads * head_width, width, bias=False), nn.LayerNorm(width, bias=False)
        )

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.norm(x)
        q = rotate(self.query(x).unflatten(2, (self.heads, -1)).transpose(1, 2), self.turned)
        k, v = self.key_value(x).chunk(2, 2)
        null_k, null_v = self.null.to(x.dtype)[:, None, None].expand(2, len(x), 1, -1)
        k, v = torch.cat([null_k, rotate(k, self.turned)], 1), torch.cat([null_v, v], 1)
        seen = hear(normalize(q, dim=-1), normalize(k, dim=-1), v, bias)
        return self.out(seen.transpose(1, 2).flatten(2))


def hear(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """What queries (batch, head, token, width) hear from keys that all heads share, (batch, key, width),
    and their values of the same shape: likeness is SHARPNESS times the product, plus `bias` (head,
    token, key).
    """
    width = q.shape[-1]
    # Widths of GPU kernels are multiples of eight: zeros change no product.
    q, k, v = (pad(x.to(v.dtype), (0, -width % 8)) for x in (q, k, v))
    shape = (*q.shape[:2], *k.shape[1:])
    k, v = (x[:, None].expand(shape) for x in (k, v))
    mask = bias.to(q.dtype).expand(len(q), -1, -1, -1)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=SHARPNESS)[..., :width]


class _GatedFeed(nn.Module):
    """Norm, then a SiLU-gated layer four times as wide (Shazeer 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)
        self.enter = nn.Linear(width, 8 * width, bias=False)
        self.leave = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.enter(self.norm(x)).chunk(2, -1)
        return self.leave(value * silu(gate))


def rotate(x: Tensor, turned: int) -> Tensor:
    """Turn pairs of the first `turned` features of (..., token, feature) by an angle that grows with
    the token's place (Su et al. 2021); the others stay.
    """
    rate = 10_000 ** (-torch.arange(0, turned, 2, device=x.device) / max(turned, 1))
    angle = torch.arange(x.shape[-2], device=x.device)[:, None] * rate
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    even, odd = x[..., 0:turned:2], x[..., 1:turned:2]
    mixed = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)
    return torch.cat([mixed, x[..., turned:]], -1)
