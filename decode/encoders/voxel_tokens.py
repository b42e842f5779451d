"""Voxels as points of one space shared by all subjects, clusters of them as tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from decode.core import Batch, Layout, Shape, Tensors
from decode.networks.attention import CrossTransformer
from decode.networks.blocks import Passport, by_subject, scatter
from decode.networks.heads import TokenQueries
from decode.trainable import Encoder


class VoxelTokens(Encoder):
    """Embedding per voxel, tokens of voxel clusters, cross-attention from learned queries.

    The design of Brain-IT (2026): nothing but the embeddings (voxel, `width`) knows a subject or a
    number of voxels, so a new subject is fitted through them alone. Clusters choose voxels by
    attention to the embeddings, so that similar voxels of all subjects meet in one token; published
    is a mixture of Gaussians fitted beforehand. Targets in `semantic` and the other targets, features
    of the picture, have one branch each: learned queries ask the `clusters` once and `depth` times
    more, with `heads` heads. While training only `sample` random voxels are read (None: all).
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        width: int = 512,
        clusters: int = 128,
        depth: int = 5,
        heads: int = 8,
        semantic: Sequence[str] = ("image", "retrieval"),
        contrastive: Sequence[str] = ("retrieval",),
        sample: int | None = 15_000,
    ) -> None:
        super().__init__()
        self.passport = Passport(layouts)
        self.sample = sample
        self.voxels = VoxelEmbeddings(self.passport.features, width)
        self.gather = ClusterTokens(width, clusters)
        sides = (
            {k: v for k, v in shapes.items() if k in semantic},
            {k: v for k, v in shapes.items() if k not in semantic},
        )
        self.branches = nn.ModuleList(
            _Branch(width, side, depth=depth, heads=heads, contrastive=contrastive)
            for side in sides
            if side
        )

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        for branch in self.branches:
            branch.queries.scale.learn(train)  # type: ignore[union-attr, operator]

    def forward(self, batch: Batch) -> Tensors:
        self.passport.check(batch)
        parts = []
        for s, row, x in by_subject(batch, self.passport.n_channels):
            voxels = self.voxels(s)
            if self.training and self.sample is not None and self.sample < len(voxels):
                kept = torch.randperm(len(voxels), device=x.device)[: self.sample]
                voxels, x = voxels[kept], x[:, kept]
            parts.append((row, self.gather(voxels, x)))
        tokens = scatter(parts, len(batch))
        made: Tensors = {}
        for branch in self.branches:
            made |= branch(tokens)
        return made


class VoxelEmbeddings(nn.Module):
    """A vector (width,) per voxel of each subject."""

    per_subject = True

    def __init__(self, features: Sequence[int], width: int) -> None:
        super().__init__()
        self.tables = nn.ParameterList(nn.Parameter(0.1 * torch.randn(f, width)) for f in features)

    def forward(self, subject: int) -> Tensor:
        return self.tables[subject]


class ClusterTokens(nn.Module):
    """Tokens (batch, cluster, width): mean of embedding x activity, weighted by attention."""

    def __init__(self, width: int, clusters: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.key, self.value = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.centres = nn.Parameter(torch.randn(clusters, width))
        self.norm_tokens = nn.LayerNorm(width)
        self.place = nn.Parameter(torch.randn(clusters, width) * 0.02)

    def forward(self, voxels: Tensor, activity: Tensor) -> Tensor:
        """From embeddings (voxel, width) and activity (batch, voxel)."""
        normed = self.norm(voxels)
        chosen = torch.softmax(self.centres @ self.key(normed).T / normed.shape[1] ** 0.5, 1)
        # Means of many voxels are small: brought to the size of one voxel of independent ones.
        weight = chosen / chosen.square().sum(1, keepdim=True).sqrt()
        heard = (activity[:, None] * weight) @ self.value(normed)
        return self.norm_tokens(relu(heard)) + self.place


class _Branch(nn.Module):
    """Learned queries of some targets, answered from cluster tokens."""

    def __init__(
        self,
        width: int,
        shapes: Mapping[str, Shape],
        *,
        depth: int,
        heads: int,
        contrastive: Sequence[str],
    ) -> None:
        super().__init__()
        self.queries = TokenQueries(width, shapes, contrastive=contrastive, always=True)
        self.transformer = CrossTransformer(width, depth=depth, heads=heads)

    def forward(self, tokens: Tensor) -> Tensors:
        return self.queries(self.transformer(self.queries.queries, tokens))
