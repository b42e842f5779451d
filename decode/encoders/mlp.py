"""A residual multilayer perceptron on voxels, with one input layer per subject."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from decode.core import Batch, Encoder, Layout, Shape, Tensors
from decode.networks.blocks import (
    Heads,
    Passport,
    Projector,
    Residual,
    SubjectLinear,
    by_subject,
    numel,
)


class MLP(Encoder):
    """Linear per subject, norm, GELU, dropout, residual blocks, one linear head per target.

    Targets named in `contrastive` get a projector of width `projector` behind their head (0: none);
    the others come at the mean and spread of the training targets. The MindEye backbone (Scotti et
    al. 2023; 2024 with subject layers) is `width` 4096, 4 `blocks`, `dropout_in` .5, `dropout` .15.
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

        def contrast(w: int, shape: Shape) -> nn.Module:
            return _Projected(w, shape, projector) if projector else nn.Linear(w, numel(shape))

        self.heads = Heads(
            width,
            shapes,
            contrastive=contrastive,
            contrast=contrast,
            regress=lambda w, s: nn.Linear(w, numel(s)),
        )

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.heads.scale.learn(train)

    def forward(self, batch: Batch) -> Tensors:
        self.passport.check(batch)
        rows = by_subject(batch, self.passport.n_channels)
        return self.heads(self.trunk(self.inputs(rows, len(batch))))


class _Projected(nn.Module):
    """A linear head and a projector over its last axis, so that tokens share the projector."""

    def __init__(self, width: int, shape: Shape, hidden: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.head = nn.Linear(width, numel(shape))
        self.projector = Projector(shape[-1], hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.head(x).reshape(len(x), *self.shape))
