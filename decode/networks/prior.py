"""A diffusion prior: from what a brain says about a vector to a clean sample of that vector."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from decode.core import Shape


class DiffusionPrior(nn.Module):
    """Transformer over [condition | time | noisy vector] tokens that predicts the clean vector.

    DALL-E 2 (Ramesh et al. 2022) as used by MindEye (Scotti et al. 2023): `steps` of a cosine
    schedule, the clean vector itself is predicted, a dropped condition becomes a learned null.
    Positions are learned for all tokens, where the original has relative and rotary ones. `shape`
    (token, feature) keeps its tokens, any other is one token. Inputs should have unit spread.
    """

    survival: Tensor
    noise: Tensor

    def __init__(
        self,
        shape: Shape,
        *,
        width: int,
        depth: int,
        heads: int,
        steps: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.tokens, self.features = shape if len(shape) == 2 else (1, math.prod(shape))
        self.steps, self.seed = steps, seed
        self.build(width, depth, heads)
        self.register_buffer("survival", _cosine(steps), persistent=False)
        # The same noise for all rows and runs: a row's sample depends on its own prediction only.
        start = torch.randn(self.shape, generator=torch.Generator().manual_seed(seed), device="cpu")
        self.register_buffer("noise", start)

    def build(self, width: int, depth: int, heads: int) -> None:
        """Make the layers of the transformer."""
        n = 2 * self.tokens + 1
        self.enter = nn.ModuleDict(
            {"condition": nn.Linear(self.features, width), "noisy": nn.Linear(self.features, width)}
        )
        self.null = nn.Parameter(torch.randn(self.tokens, width) * 0.02)
        self.position = nn.Parameter(torch.randn(n, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, self.features, bias=False))

    def forward(self, noisy: Tensor, time: Tensor, condition: Tensor, keep: Tensor) -> Tensor:
        """Clean vectors (batch, *shape); `time` (batch,) int64; `keep` (batch,): use condition."""
        size = (len(noisy), self.tokens, self.features)
        told = self.enter["condition"](condition.reshape(size))
        told = torch.where(keep[:, None, None], told, self.null.to(told.dtype))
        when = self.time(sinusoid(time, self.position.shape[1]))[:, None]
        x = torch.cat([told, when, self.enter["noisy"](noisy.reshape(size))], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.leave(x[:, -self.tokens :]).reshape(len(noisy), *self.shape)

    def noised(self, clean: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        kept = self.survival[time].reshape(-1, *[1] * (clean.ndim - 1)).to(clean)
        return kept.sqrt() * clean + (1 - kept).sqrt() * noise

    def loss(
        self, clean: Tensor, condition: Tensor, *, drop: float, generator: torch.Generator | None
    ) -> Tensor:
        """Mean squared error of the predicted clean vectors at random times, per row (batch,)."""
        time, noise, keep = self.draw(clean, drop=drop, generator=generator)
        made = self(self.noised(clean, time, noise), time, condition, keep)
        return (made - clean).square().flatten(1).mean(1)

    def draw(
        self, clean: Tensor, *, drop: float, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Random times (batch,), noise like `clean` and who keeps the condition (batch,)."""
        n, device = len(clean), clean.device
        place = device if generator is None else generator.device
        time = torch.randint(self.steps, (n,), generator=generator, device=place).to(device)
        noise = torch.randn(clean.shape, generator=generator, device=place).to(clean)
        keep = torch.rand(n, generator=generator, device=place).to(device) >= drop
        return time, noise, keep

    @torch.no_grad()
    def sample(self, condition: Tensor, *, steps: int, guidance: float, eta: float = 1.0) -> Tensor:
        """Clean samples (batch, *shape) by DDIM (Song 2021), the same noise for every row.

        Each step puts back `eta` times the noise of a Markov chain: 1 samples anew at each step, 0
        follows one path from the first noise. With all steps of the schedule eta 1 is the ancestral
        sampler of DDPM (Ho et al. 2020); for fewer see `short_schedule`.
        """
        x = self.noise.to(condition).expand(len(condition), *self.shape)
        draws = torch.Generator().manual_seed(self.seed + 1)
        schedule = full_schedule if steps >= self.steps else short_schedule
        clean = x
        for now, before, after in schedule(self.survival.cpu(), steps):
            clean = self._guided(x, now, condition, guidance)
            kept = self.survival[now]
            noise = (x - kept.sqrt() * clean) / (1 - kept).sqrt()
            spread = eta * ((1 - before / after) * (1 - after) / (1 - before)).sqrt()
            fresh = torch.randn(self.shape, generator=draws).to(condition)
            x = after.sqrt() * clean + (1 - after - spread**2).clamp(min=0).sqrt() * noise
            x = x + spread * fresh
        return clean

    def _guided(self, x: Tensor, now: int, condition: Tensor, guidance: float) -> Tensor:
        """Clean vectors (batch, *shape) that the network sees in noisy ones at step `now`."""
        time = torch.full((len(x),), now, device=x.device)
        yes = torch.ones(len(x), dtype=torch.bool, device=x.device)
        clean = self(x, time, condition, yes)
        if guidance == 1:
            return clean
        free = self(x, time, condition, ~yes)
        return free + guidance * (clean - free)


Step = tuple[int, Tensor, Tensor]


def full_schedule(survival: Tensor, steps: int) -> list[Step]:
    """Every step from the last to the first: its number, and the share of signal variance before and
    after it.
    """
    after = torch.cat([torch.ones(1), survival[:-1]])
    return [(t, survival[t], after[t]) for t in reversed(range(len(survival)))]


def short_schedule(survival: Tensor, steps: int) -> list[Step]:
    """The same of `steps` - 1 steps, as DALL-E 2's published sampler spaces them.

    Times lie evenly from -1, which is clean, to before the end of the schedule, cut to whole numbers;
    shares of variance before and after a step are those of one time earlier than the network is told.
    """
    even = torch.linspace(-1.0, len(survival), max(2, steps) + 1, device="cpu")[:-1]
    times = even.int().tolist()[::-1]
    earlier = torch.cat([torch.ones(1), survival[:-1]])
    return [
        (now, earlier[now], earlier[after] if after >= 0 else torch.ones(()))
        for now, after in pairwise(times)
    ]


class _Block(nn.Module):
    """Pre-norm self-attention and a four times wider feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        b, n, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, self.heads, w // self.heads).unbind(2)
        seen = scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        x = x + self.out(seen.transpose(1, 2).reshape(b, n, w))
        return x + self.feed(x)


def _cosine(steps: int, offset: float = 0.008) -> Tensor:
    """Share of signal variance left at each step (Nichol & Dhariwal 2021)."""
    at = torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps
    curve = torch.cos((at + offset) / (1 + offset) * math.pi / 2) ** 2
    beta = (1 - curve[1:] / curve[:-1]).clamp(max=0.999)
    return (1 - beta).cumprod(0).float()


def sinusoid(time: Tensor, width: int) -> Tensor:
    """Sines and cosines (batch, width) of times (batch,) at rates from 1 to 1/10,000."""
    half = width // 2
    rate = torch.exp(-math.log(10_000) * torch.arange(half, device=time.device) / max(half - 1, 1))
    angle = time[:, None].float() * rate
    wave = torch.cat([angle.sin(), angle.cos()], 1)
    return nn.functional.pad(wave, (0, width - 2 * half))
