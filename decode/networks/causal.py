"""A causal transformer over volumes, the kind that is pretrained on many hours of brain activity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from decode.core import InputError
from decode.networks.attention import TransformerBlock


class CausalVolumes(nn.Module):
    """Volumes (batch, time, channel) -> tokens (batch, time + 1, width), the last one for them all.

    A GPT-type network on linearly embedded volumes with a learned closing token (Thomas et al.
    2022): `depth` layers of `heads`, learned positions of up to `longest` volumes. Raises InputError
    for longer windows.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 768,
        depth: int = 4,
        heads: int = 12,
        longest: int = 512,
    ) -> None:
        super().__init__()
        self.width, self.longest = width, longest
        self.enter = nn.Sequential(nn.Linear(channels, width), nn.LayerNorm(width))
        self.closing = nn.Parameter(torch.randn(1, width) * 0.02)
        self.position = nn.Parameter(torch.randn(longest + 1, width) * 0.02)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, causal=True) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, volumes: Tensor) -> Tensor:
        times = volumes.shape[1]
        if times > self.longest:
            raise InputError(
                f"encoder.network: expected windows of at most {self.longest} volumes, got {times}; "
                "raise `longest` or take shorter windows"
            )
        x = torch.cat([self.enter(volumes), self.closing.expand(len(volumes), 1, -1)], 1)
        x = x + self.position[: times + 1]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
