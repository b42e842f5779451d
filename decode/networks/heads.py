"""Heads for targets of tokens: dense or factorised, with a projector that shares their output."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from decode.core import Batch, InputError, Shape, Tensors, refusal
from decode.networks.blocks import Projector, TargetScale, numel

Head = Literal["dense", "factorised"]
# A few thousand pictures say where their tokens lie: each is hundreds of tokens.
SEEN = 2000


def as_tokens(shape: Shape) -> tuple[int, int]:
    """(token, feature) of a target: the last axis holds features, a plain vector is one token."""
    return math.prod(shape[:-1]), shape[-1]


class FactorisedHead(nn.Module):
    """(batch, width) -> (batch, *shape) through `rank` numbers per token.

    Every token has its own map from the trunk to `rank` numbers; one map from there to the features
    is shared by all tokens, so that width x tokens x rank + rank x features weights replace
    width x tokens x features. All tokens of all trials lie in one subspace of `rank` dimensions.
    """

    def __init__(self, width: int, shape: Shape, *, rank: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.tokens, features = as_tokens(shape)
        self.enter = nn.Linear(width, self.tokens * rank, bias=False)
        self.leave = nn.Linear(rank, features, bias=False)
        self.bias = nn.Parameter(torch.zeros(self.tokens, features))

    @torch.no_grad()
    def learn(self, targets: Iterable[Tensor]) -> None:
        """Start from the principal components of tokens (batch, *shape) of mean zero, each as large
        as the tokens are along it: both maps from random numbers learn several times slower.
        """
        features, rank = self.leave.weight.shape
        moments, n = self.leave.weight.new_zeros(features, features, dtype=torch.float64), 0
        for batch in targets:
            rows = batch.to(self.leave.weight).reshape(-1, features)
            moments += (rows.T @ rows).double()
            n += len(rows)
        values, vectors = torch.linalg.eigh(moments / max(1, n))
        kept = min(rank, features)
        sizes = values[-kept:].clamp(min=0).sqrt()
        self.leave.weight[:, :kept] = (vectors[:, -kept:] * sizes).to(self.leave.weight)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.leave(self.enter(x).unflatten(1, (self.tokens, -1))) + self.bias
        return tokens.reshape(len(x), *self.shape)


class DenseHead(nn.Module):
    """(batch, width) -> (batch, *shape) by one matrix."""

    def __init__(self, width: int, shape: Shape) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.linear = nn.Linear(width, numel(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).reshape(len(x), *self.shape)


def make_head(width: int, shape: Shape, *, head: Head, rank: int) -> nn.Module:
    """The head of that kind; InputError for another word or a rank below one."""
    if head == "dense":
        return DenseHead(width, shape)
    if head != "factorised":
        raise InputError(
            f"encoder.head: expected 'dense' or 'factorised', got {head!r}; choose one of these"
        )
    if rank < 1:
        raise InputError(f"encoder.rank: expected 1 or more, got {rank}; raise it")
    return FactorisedHead(width, shape, rank=rank)


class ProjectedHead(nn.Module):
    """A head and a projector over its last axis, so that tokens share the projector."""

    def __init__(self, head: nn.Module, features: int, hidden: int) -> None:
        super().__init__()
        self.head, self.projector = head, Projector(features, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.head(x))


class TokenQueries(nn.Module):
    """Learned queries (token, width) of all targets, and the way from answers to features.

    Targets not in `contrastive` come at the mean and spread of the training targets. A target whose
    features are as wide as the answers has no matrix of its own unless `always`. Queries begin as
    normal numbers of spread `spread`.
    """

    def __init__(
        self,
        width: int,
        shapes: Mapping[str, Shape],
        *,
        contrastive: Sequence[str],
        always: bool = False,
        spread: float = 0.02,
    ) -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.contrastive = frozenset(contrastive)
        sizes = [as_tokens(shape) for shape in self.shapes.values()]
        self.tokens = [n for n, _ in sizes]
        self.queries = nn.Parameter(torch.randn(sum(self.tokens), width) * spread)
        self.leave = nn.ModuleList(
            nn.Linear(width, f) if always or f != width else nn.Identity() for _, f in sizes
        )
        regressed = {k: v for k, v in self.shapes.items() if k not in self.contrastive}
        self.scale = TargetScale(regressed)

    def forward(self, answers: Tensor) -> Tensors:
        """Answers (batch, token of all targets, width) -> (batch, *shape) per target."""
        made = {}
        parts = answers.split(self.tokens, dim=1)
        for (name, shape), part, leave in zip(self.shapes.items(), parts, self.leave, strict=True):
            value = leave(part).reshape(len(answers), *shape)
            made[name] = value if name in self.contrastive else self.scale.up(name, value)
        return made


class TokenHeads(nn.Module):
    """One head per target on a trunk (batch, width).

    Targets in `contrastive` get a projector of width `projector` (None: as wide as the features, 0:
    none) behind a head of their own, and their scale means nothing. One of the same shape as the
    target `share` has no head: its projector reads the tokens that predict `share`, as in MindEye
    (Scotti et al. 2023). All others come at the mean and spread of the training targets.
    """

    def __init__(
        self,
        width: int,
        shapes: Mapping[str, Shape],
        *,
        contrastive: Sequence[str],
        share: str | None = None,
        projector: int | None = 512,
        head: Head = "dense",
        rank: int = 128,
    ) -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.contrastive = frozenset(contrastive)
        if share in self.contrastive:
            raise refusal(
                "encoder.share",
                "a target that encoder.contrastive does not name, as its tokens feed the projectors of those",
                f"{share!r}",
                "drop it from one of them",
            )
        common = self.shapes.get(share or "")
        self.projected = tuple(
            name for name, shape in self.shapes.items()
            if name in self.contrastive and shape == common
        )  # fmt: skip
        self.share = share if self.projected else None

        def build(name: str, shape: Shape) -> nn.Module:
            hidden = shape[-1] if projector is None else projector
            if name in self.projected:
                return Projector(shape[-1], hidden) if hidden else nn.Identity()
            made = make_head(width, shape, head=head, rank=rank)
            alone = name not in self.contrastive or not hidden
            return made if alone else ProjectedHead(made, shape[-1], hidden)

        self.heads = nn.ModuleList(build(name, shape) for name, shape in self.shapes.items())
        regressed = {k: v for k, v in self.shapes.items() if k not in self.contrastive}
        self.scale = TargetScale(regressed)

    def learn(self, train: Iterable[Batch]) -> None:
        """Take what the training targets say before the first step: mean and spread of each, and
        where the tokens of factorised heads lie, from the first `SEEN` trials.
        """
        self.scale.learn(train)
        for name, head in zip(self.shapes, self.heads, strict=True):
            if isinstance(head, FactorisedHead) and name not in self.contrastive:
                head.learn(self._targets(name, train))

    def _targets(self, name: str, train: Iterable[Batch]) -> Iterator[Tensor]:
        seen = 0
        for batch in train:
            y = batch.targets[name]
            yield self.scale.down(name, y)
            seen += len(y)
            if seen >= SEEN:
                return

    def forward(self, trunk: Tensor) -> Tensors:
        heads = dict(zip(self.shapes, self.heads, strict=True))
        raw = {name: heads[name](trunk) for name in self.shapes if name not in self.projected}
        for name in self.projected:
            assert self.share is not None
            raw[name] = heads[name](raw[self.share])
        return {
            name: raw[name] if name in self.contrastive else self.scale.up(name, raw[name])
            for name in self.shapes
        }
