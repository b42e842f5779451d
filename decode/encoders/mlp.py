"""A residual multilayer perceptron on voxels, with one input layer per subject."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from decode.core import Batch, Layout, Shape, Tensors
from decode.networks.blocks import Passport, Residual, SubjectLinear, by_subject
from decode.networks.heads import Head, TokenHeads
from decode.trainable import Encoder


class MLP(Encoder):
    """Linear per subject, norm, GELU, dropout, residual blocks, one linear head per target.

    Targets named in `contrastive` get a projector of width `projector` behind their head (0: none);
    the others come at the mean and spread of the training targets. The MindEye backbone (Scotti et
    al. 2023) is `width` 4096, 4 `blocks`, `dropout_in` .5, `dropout` .15; there the projector has no
    head of its own but reads the tokens that predict the target `share`. `head: factorised` goes
    through `rank` numbers per token, which takes far less memory than a dense head of many tokens.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        width: int = 512,
        blocks: int = 2,
        dropout_in: float = 0.5,
        dropout: float = 0.15,
        contrastive: Sequence[str] = ("retrieval",),
        projector: int = 512,
        share: str | None = None,
        head: Head = "dense",
        rank: int = 128,
    ) -> None:
        super().__init__()
        self.passport = Passport(layouts)
        self.inputs = SubjectLinear(self.passport.features, width)
        self.trunk = nn.Sequential(
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Dropout(dropout_in),
            *(Residual(width, dropout=dropout) for _ in range(blocks)),
        )
        self.heads = TokenHeads(
            width,
            shapes,
            contrastive=contrastive,
            share=share,
            projector=projector,
            head=head,
            rank=rank,
        )

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.heads.learn(train)

    def forward(self, batch: Batch) -> Tensors:
        self.passport.check(batch)
        rows = by_subject(batch, self.passport.n_channels)
        return self.heads(self.trunk(self.inputs(rows, len(batch))))
