"""A vision transformer on one-channel maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from decode.networks.attention import TransformerBlock


class MapTransformer(nn.Module):
    """Maps (batch, side, side) -> tokens (batch, 1 + patch, width), the first one for the whole map.

    The encoder of a masked autoencoder (He et al. 2022), all patches seen; positions are learned.
    """

    def __init__(self, side: int, *, patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.side = side
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.tokens = 1 + (side // patch) ** 2
        self.whole = nn.Parameter(torch.randn(1, width) * 0.02)
        self.position = nn.Parameter(torch.randn(self.tokens, width) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, maps: Tensor) -> Tensor:
        x = self.patches(maps[:, None]).flatten(2).transpose(1, 2)
        x = torch.cat([self.whole.expand(len(x), 1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
