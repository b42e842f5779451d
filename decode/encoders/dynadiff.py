"""The brain module of Dynadiff: single-trial windows of BOLD to the tokens of a picture."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from decode.core import Batch, Layout, Shape, Tensors
from decode.networks.blocks import Passport, SubjectLinear, scatter
from decode.networks.heads import Head, TokenHeads
from decode.networks.low_level import without
from decode.trainable import Encoder, Learned


class Dynadiff(Encoder):
    """Linear per subject on every volume, a layer per volume, learned mean over time, linear heads.

    Reads windows of volumes, (batch, voxel, time), without a model of the response. Published (Careil
    et al. 2025, arXiv:2505.14556): 6 volumes, `width` 1552, `dropout` .5, tokens 257 x 768, trained
    through the diffusion loss of a generator (objective `denoising`), for which the target `latents`
    is there: it is not predicted. Objectives on the tokens work too. Raises InputError where windows
    differ in length between subjects.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        width: int = 1552,
        dropout: float = 0.5,
        contrastive: Sequence[str] = ("retrieval",),
        share: str | None = "image",
        projector: int = 2048,
        head: Head = "dense",
        rank: int = 128,
        latents: str = "latents",
    ) -> None:
        super().__init__()
        self.latents = latents
        self.passport = Passport(layouts)
        _, times = self.passport.one_size("encoder dynadiff")
        self.inputs = SubjectLinear(self.passport.n_channels, width)
        self.volumes = nn.ModuleList(nn.Linear(width, width) for _ in range(times))
        self.after = nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout))
        self.mean = nn.Linear(times, 1)
        self.heads = TokenHeads(
            width,
            {name: shape for name, shape in shapes.items() if name != latents},
            contrastive=contrastive,
            share=share,
            projector=projector,
            head=head,
            rank=rank,
        )

    @classmethod
    def learned(cls, targets: Collection[str], knobs: Mapping[str, Any]) -> Learned:
        return super().learned(set(targets) - {knobs["latents"]}, knobs)

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.heads.learn(train)

    def forward(self, batch: Batch) -> Tensors:
        self.passport.check(batch)
        parts = []
        for s in batch.subject.unique().tolist():
            row = (batch.subject == s).nonzero()[:, 0]
            volumes = batch.brain[row, : self.passport.n_channels[s]].transpose(1, 2)
            parts.append((row, self.inputs.layers[s](volumes)))
        volumes = scatter(parts, len(batch))
        seen = torch.stack([layer(volumes[:, t]) for t, layer in enumerate(self.volumes)], 2)
        return self.heads(self._mean(self.after(seen.transpose(1, 2))))

    def embed(self, targets: Tensors) -> Tensors:
        return without(targets, self.latents)

    def _mean(self, x: Tensor) -> Tensor:
        return self.mean(x.transpose(1, 2))[..., 0]
