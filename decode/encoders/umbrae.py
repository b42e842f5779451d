"""UMBRAE: each subject's voxels become tokens, and a resampler shared by all reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from decode.core import Batch, Layout, Shape, Tensors
from decode.networks.attention import Resampler
from decode.networks.blocks import Passport, by_subject, scatter, spread_and_gather
from decode.networks.heads import TokenQueries
from decode.trainable import Encoder


class Umbrae(Encoder):
    """Tokenizer per subject, then a perceiver resampler to the tokens of an image encoder.

    The tokenizer spreads each voxel over `tokens` numbers and maps the voxels of each to `width`. They are
    normed and one learned vector, of the medium, is added to all. The resampler has `depth` layers of
    `heads` x `head_width` and one learned query per token of every target, and its answers are
    projected. Published (Xia et al. 2024, arXiv:2404.07202): 256 tokens, width 1024, depth 6, 16 heads
    of 96, one target of 256 x 1024, squared error only; a new subject needs a new tokenizer only.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        tokens: int = 256,
        width: int = 1024,
        depth: int = 6,
        heads: int = 16,
        head_width: int = 96,
        contrastive: Sequence[str] = ("retrieval",),
    ) -> None:
        super().__init__()
        self.passport = Passport(layouts)
        self.tokenizer = SubjectTokens(self.passport.features, tokens, width)
        self.norm = nn.LayerNorm(width)
        self.medium = nn.Parameter(torch.randn(width))
        self.resampler = Resampler(width, depth=depth, heads=heads, head_width=head_width)
        self.queries = TokenQueries(width, shapes, contrastive=contrastive, always=True, spread=1.0)

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.queries.scale.learn(train)

    def forward(self, batch: Batch) -> Tensors:
        self.passport.check(batch)
        tokens = self.tokenizer(by_subject(batch, self.passport.n_channels), len(batch))
        tokens = self.norm(tokens) + self.medium
        return self.queries(self.resampler(self.queries.queries, tokens))


class SubjectTokens(nn.Module):
    """Per subject, Linear(1 -> token) on every voxel, then Linear(voxel -> width) on every token.

    See `spread_and_gather`.
    """

    per_subject = True

    def __init__(self, features: Sequence[int], tokens: int, width: int) -> None:
        super().__init__()
        self.spread = nn.ModuleList(nn.Linear(1, tokens) for _ in features)
        self.gather = nn.ModuleList(nn.Linear(f, width) for f in features)

    def forward(self, rows: Sequence[tuple[int, Tensor, Tensor]], size: int) -> Tensor:
        """(batch, token, width)."""
        parts = []
        for s, row, x in rows:
            spread: Any = self.spread[s]
            parts.append((row, spread_and_gather(x, spread.weight, spread.bias, self.gather[s])))
        return scatter(parts, size)
