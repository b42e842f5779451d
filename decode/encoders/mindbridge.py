"""MindBridge: one input size for all subjects, and voxels rebuilt from what they mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool1d, mse_loss

from decode.core import Batch, Layout, Shape, Tensors, refusal
from decode.networks.blocks import Passport, Residual, by_subject, scatter
from decode.networks.heads import Head, TokenHeads
from decode.trainable import Encoder


class MindBridge(Encoder):
    """Max-pooled voxels, embedder per subject, shared residual network, a head per target.

    Voxels are pooled to `pooled` numbers whatever their count. Each subject has an embedder, an
    adapter of `adapter` numbers and a layer to `width`, and a builder that goes back, which the own terms
    (objective `cycle`) train: squared errors of `rebuilt` voxels and, in `cycle`, of meaning that was
    built and embedded by another subject of the model, drawn anew for every batch (while validating the
    next one). `through` names the subject that is always the other one, a new one that is adapted to:
    its own rows go no such way. Published (Wang et al. 2024, arXiv:2404.07850): 8192 to 2048, adapters
    of 128, 4 `blocks`, heads 257 x 768 and 77 x 768. For a new subject everything is frozen but its
    embedder and builder: `adapted` with `what: input`. Raises InputError for an unknown subject.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        pooled: int = 8192,
        adapter: int = 128,
        width: int = 2048,
        blocks: int = 4,
        dropout_in: float = 0.5,
        dropout: float = 0.15,
        contrastive: Sequence[str] = ("retrieval",),
        share: str | None = "image",
        projector: int = 2048,
        head: Head = "dense",
        rank: int = 128,
        through: str | None = None,
    ) -> None:
        super().__init__()
        if through is not None and through not in layouts:
            raise refusal(
                "encoder.through", f"one of {list(layouts)}", through,
                "correct it or add that subject",
            )  # fmt: skip
        self.passport = Passport(layouts)
        self.size, self.through = pooled, through
        n = len(layouts)
        self.embedders = _PerSubject(
            nn.Sequential(
                Adapter(pooled, adapter),
                nn.Linear(pooled, width),
                nn.LayerNorm(width),
                nn.GELU(),
                nn.Dropout(dropout_in),
            )
            for _ in range(n)
        )
        self.builders = _PerSubject(
            nn.Sequential(
                nn.Linear(width, pooled), nn.LayerNorm(pooled), nn.GELU(), Adapter(pooled, adapter)
            )
            for _ in range(n)
        )
        self.trunk = nn.Sequential(*(Residual(width, dropout=dropout) for _ in range(blocks)))
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
        return self.heads(self.trunk(self.embedded(batch)))

    def pooled(self, batch: Batch) -> Tensor:
        """Max-pooled voxels (batch, pooled)."""
        self.passport.check(batch)
        rows = by_subject(batch, self.passport.n_channels)
        parts = [(row, adaptive_max_pool1d(x[:, None], self.size)[:, 0]) for _, row, x in rows]
        return scatter(parts, len(batch))

    def embedded(self, batch: Batch) -> Tensor:
        """What the voxels mean (batch, width)."""
        return self.embedders(self.pooled(batch), batch.subject)

    def own_terms(self, batch: Batch, progress: float, predicted: Callable[[], Tensors]) -> Tensors:
        other = self._other(batch.subject)
        wanted, rebuilt, meant, again = self.cycle(batch, other=other)
        away = slice(None) if self.through is None else batch.subject != other
        gone = (again[away].float() - meant[away].float()).square()
        return {
            "rebuilt": mse_loss(rebuilt.float(), wanted.float()),
            "cycle": gone.sum() / max(1, gone.numel()),
        }

    def _other(self, subject: Tensor) -> Tensor:
        """Whose builder and embedder each row goes through (batch,)."""
        names = list(self.passport.subjects)
        if self.through is not None:
            return torch.full_like(subject, names.index(self.through))
        shift = 1
        if self.training and len(names) > 2:
            shift = int(torch.randint(1, len(names), ()))
        return (subject + shift) % len(names)

    def cycle(self, batch: Batch, *, other: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pooled voxels and what the own builder makes of them (batch, pooled); their embedding and
        that of the voxels that subject `other` (batch,) would have had (batch, width).
        """
        pooled = self.pooled(batch)
        own = self.embedders(pooled, batch.subject)
        rebuilt = self.builders(own, batch.subject)
        return pooled, rebuilt, own, self.embedders(self.builders(own, other), other)


class Adapter(nn.Module):
    """x + a way through a bottleneck that starts at zero (Houlsby et al. 2019)."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(torch.relu(self.down(x)))


class _PerSubject(nn.Module):
    """One network per subject on rows (batch, width)."""

    per_subject = True

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(networks)

    def forward(self, x: Tensor, subject: Tensor) -> Tensor:
        parts = []
        for s in subject.unique().tolist():
            row = (subject == s).nonzero()[:, 0]
            parts.append((row, self.layers[s](x[row])))
        return scatter(parts, len(x))
