"""Attention between tokens: plain, to a context, and the resampler of many tokens to a few."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    """Normed tokens (batch, token, width) ask a normed context (batch, other token, width).

    `head_width` is width / heads unless given.
    """

    def __init__(self, width: int, heads: int, *, head_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * (head_width or width // heads)
        self.norm, self.norm_context = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, context: Tensor, *, themselves: bool = False) -> Tensor:
        """What each token hears, (batch, token, width); `themselves` adds the tokens to the context."""
        x, context = self.norm(x), self.norm_context(context)
        if themselves:
            context = torch.cat([context, x], 1)
        q = self.query(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(context).unflatten(2, (2, self.heads, -1)).unbind(2)
        heard = scaled_dot_product_attention(q, k.transpose(1, 2), v.transpose(1, 2))
        return self.out(heard.transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    """Norm and two layers, the inner one four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width, bias=False),
            nn.GELU(),
            nn.Linear(4 * width, width, bias=False),
        )


class Resampler(nn.Module):
    """`depth` times: queries (token, width) ask tokens and themselves, then think for themselves.

    The perceiver resampler of Flamingo (Alayrac et al. 2022).
    """

    def __init__(self, width: int, *, depth: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.ask = nn.ModuleList(
            Attention(width, heads, head_width=head_width) for _ in range(depth)
        )
        self.think = nn.ModuleList(FeedForward(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """(batch, query, width) from queries (query, width) and tokens (batch, token, width)."""
        x = queries.expand(len(tokens), *queries.shape)
        for ask, think in zip(self.ask, self.think, strict=True):
            x = x + ask(x, tokens, themselves=True)
            x = x + think(x)
        return self.norm(x)


class CrossTransformer(nn.Module):
    """Queries ask tokens once, then `depth` times each other and the tokens again.

    Every step is followed by a feed-forward; (query, width) and (batch, token, width) in,
    (batch, query, width) out.
    """

    def __init__(self, width: int, *, depth: int, heads: int) -> None:
        super().__init__()
        self.ask = nn.ModuleList(Attention(width, heads) for _ in range(depth + 1))
        self.think = nn.ModuleList(FeedForward(width) for _ in range(depth + 1))
        self.talk = nn.ModuleList(SelfAttention(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        x = queries.expand(len(tokens), *queries.shape)
        for i, (ask, think) in enumerate(zip(self.ask, self.think, strict=True)):
            if i:
                x = x + self.talk[i - 1](x)
            x = x + ask(x, tokens)
            x = x + think(x)
        return self.norm(x)


class SelfAttention(nn.Module):
    """Tokens (batch, token, width), normed first unless `norm` is False, ask each other.

    With `causal` they ask only themselves and those before them.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        bias: bool = False,
        norm: bool = True,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.enter = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.enter(self.norm(x)).unflatten(2, (3, self.heads, -1)).unbind(2)
        heard = scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=self.causal
        )
        return self.out(heard.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Self-attention, then a feed-forward four times as wide; pre-norm and biased, as in ViT."""

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads, bias=True, causal=causal)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.feed(x)
