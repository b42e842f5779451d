"""BiMixCo: contrastive learning on mixed brains, early in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from decode.core import Batch, Mix, Tensors
from decode.networks.losses import both_ways, pair, same, unit
from decode.trainable import Encoder, Objective


def partners(subject: Tensor) -> Tensor:
    """A random permutation of the rows (batch,) that stays within each subject.

    Voxel spaces differ between subjects, so only rows of one subject can be mixed.
    """
    out = torch.arange(len(subject), device=subject.device)
    for s in subject.unique():
        rows = (subject == s).nonzero()[:, 0]
        out[rows] = rows[torch.randperm(len(rows)).to(rows.device)]
    return out


def mixed_labels(share: Tensor, partner: Tensor) -> Tensor:
    """(batch, batch): row i holds share[i] at i and the rest at partner[i].

    Added, not assigned: a row that is its own partner keeps all of its mass.
    """
    rows = torch.arange(len(share), device=share.device)
    return torch.diag(share).index_put((rows, partner), 1 - share, accumulate=True)


class BiMixCo(Objective):
    """Each brain is mixed with another of its subject, and must score both stimuli in proportion.

    MindEye (Scotti et al. 2023): a row is mixed with probability `chance`, its share drawn from
    Beta(`alpha`, `alpha`); `temperature` .006; the term is zero once progress reaches `stops`.
    As published, all other objectives see the mixed rows too, beside targets that are not mixed.
    While validating nothing is mixed and the term is always on. A mixed row has trial number -1.
    """

    def __init__(
        self,
        *,
        target: str = "retrieval",
        weight: float = 1.0,
        temperature: float = 0.006,
        alpha: float = 0.15,
        chance: float = 0.5,
        stops: float = 0.33,
    ) -> None:
        super().__init__()
        self.target, self.weight, self.temperature = target, weight, temperature
        self.alpha, self.chance, self.stops = alpha, chance, stops

    @classmethod
    def teaches(cls, knobs: Mapping[str, Any]) -> frozenset[str]:
        return super().teaches(knobs) if knobs["stops"] > 0 else frozenset()

    def draw(self, subject: Tensor) -> tuple[Tensor, Tensor]:
        """Own share (batch,) float and partner (batch,) int64 of each row."""
        n = len(subject)
        beta = torch.distributions.Beta(torch.tensor(self.alpha), torch.tensor(self.alpha))
        share = torch.where(torch.rand(n) < self.chance, beta.sample((n,)), 1.0)
        return share.to(subject.device), partners(subject)

    def prepared(self, batch: Batch, progress: float) -> Batch:
        if progress >= self.stops or batch.mix is not None:
            return batch
        share, partner = self.draw(batch.subject)
        rows = torch.arange(len(batch), device=partner.device)
        pure = (share == 1) | (partner == rows)
        own = share[:, None, None].to(batch.brain)
        return replace(
            batch,
            brain=own * batch.brain + (1 - own) * batch.brain[partner],
            trial=torch.where(pure, batch.trial, -1),
            mix=Mix(share, partner),
        )

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        if not encoder.training:
            return self._loss(encoder, batch, same(batch.stimulus))
        if progress >= self.stops:
            return {"bimixco": 0 * pair(encoder, batch, self.target)[0].sum()}
        batch = self.prepared(batch, progress)
        assert batch.mix is not None
        # Repeats of a stimulus are the same candidate several times: its mass is shared among them.
        labels = mixed_labels(batch.mix.share, batch.mix.partner) @ same(batch.stimulus)
        return self._loss(encoder, batch, labels)

    def _loss(self, encoder: Encoder, batch: Batch, labels: Tensor) -> Tensors:
        made, wanted = pair(encoder, batch, self.target)
        logits = unit(made) @ unit(wanted).T / self.temperature
        return {"bimixco": self.weight * both_ways(logits, labels)}
