"""What stands between the subject layers and the heads of MindEye2: as published, and as meant."""

from __future__ import annotations

from torch import Tensor, nn


class LegacyMixer(nn.Module):
    """The published blocks (Scotti et al. 2024) on a sequence of one: (batch, width) -> the same.

    The second half of each block normalises over an axis of length one, so that whatever the first
    half made is lost, and the residual path bypasses it: the output is the input plus one number,
    the same for all trials and features. Kept with the published names of its weights, so that
    published checkpoints fit.
    """

    def __init__(self, width: int, *, blocks: int, dropout: float) -> None:
        super().__init__()
        self.mixer_blocks1 = nn.ModuleList(_half(width, dropout) for _ in range(blocks))
        self.mixer_blocks2 = nn.ModuleList(_half(1, dropout) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        first, second = x, x.transpose(1, 2)
        for one, two in zip(self.mixer_blocks1, self.mixer_blocks2, strict=True):
            x = first = one(x) + first
            second = two(x.transpose(1, 2)) + second
            x = second.transpose(1, 2)
        return x[:, 0]


class ResidualMixer(nn.Module):
    """x + the first half of each published block, in turn: blocks that learn, of the same size."""

    def __init__(self, width: int, *, blocks: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_half(width, dropout) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def _half(width: int, dropout: float) -> nn.Sequential:
    inner = nn.Sequential(
        nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width)
    )
    return nn.Sequential(nn.LayerNorm(width), inner)
