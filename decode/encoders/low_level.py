"""The low-level half of MindEye: voxels to the latents of an image autoencoder."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from decode.core import Batch, Layout, Shape, Tensors, refusal
from decode.networks.blocks import Passport, Residual, SubjectLinear, by_subject
from decode.networks.low_level import LowLevelHead, low_level_shapes, without
from decode.trainable import Encoder, Learned


class LowLevel(Encoder):
    """Linear per subject, norm, SiLU, dropout, residual blocks, then an enlarging decoder.

    Predicts the target `latents` (channel, height, width) and, where the experiment has it, `tokens`
    (place of the quarter-size map, feature) for a contrastive loss, whose candidates the target
    `changed` may give: it is not predicted. Scotti et al. 2023: `width` 4096, 4 `blocks`, a map of 64
    `channels`, decoder `sizes` 64, 128, 256.

    Raises InputError when the experiment lacks the latents or has other targets.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        latents: str = "lowlevel",
        tokens: str = "lowlevel_tokens",
        changed: str = "lowlevel_changed",
        width: int = 4096,
        blocks: int = 4,
        dropout_in: float = 0.5,
        dropout: float = 0.25,
        channels: int = 64,
        sizes: Sequence[int] = (64, 128, 256),
    ) -> None:
        super().__init__()
        made, read = low_level_shapes(shapes, latents, tokens)
        if made is None or set(shapes) - {latents, tokens, changed}:
            raise refusal(
                "encoder",
                f"the target {latents!r} and perhaps {tokens!r} alone, which low_level predicts",
                sorted(shapes),
                "give it these targets only",
            )
        self.changed = changed
        self.passport = Passport(layouts)
        self.inputs = SubjectLinear(self.passport.features, width, bias=False)
        self.trunk = nn.Sequential(
            nn.LayerNorm(width),
            nn.SiLU(),
            nn.Dropout(dropout_in),
            *(Residual(width, dropout=dropout, low_level=True) for _ in range(blocks)),
        )
        self.head = LowLevelHead(
            width, made, read, channels=channels, sizes=sizes, dropout=0.0, bias=False
        )

    @classmethod
    def learned(cls, targets: Collection[str], knobs: Mapping[str, Any]) -> Learned:
        return super().learned(set(targets) - {knobs["changed"]}, knobs)

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.head.scale.learn(train)

    def forward(self, batch: Batch) -> Tensors:
        self.passport.check(batch)
        rows = by_subject(batch, self.passport.n_channels)
        return self.head(self.trunk(self.inputs(rows, len(batch))))

    def embed(self, targets: Tensors) -> Tensors:
        return without(targets, self.changed)
