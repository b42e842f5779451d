"""Which features are worth keeping where there are too many: a score of each on its own."""

from __future__ import annotations

import torch
from torch import Tensor

from decode.linear.ridge import Array, blocks, factor


def rank_features(x: Array, y: Array, *, components: int = 10) -> Tensor:
    """How much of the targets' first principal components each feature explains alone (feature,).

    The score of a feature is its squared correlation with each component, weighted by that
    component's variance; constant features score 0.
    """
    x, target = torch.as_tensor(x), factor(y)
    k = min(components, len(target.values))
    parts = target.left[:, :k].double() * target.values[:k].sqrt()
    scores = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for b in blocks(x.shape[1], len(x)):
        columns = x[:, b].double()
        columns = columns - columns.mean(0)
        norm = columns.norm(dim=0)
        scores[b] = (columns.T @ parts.to(columns)).norm(dim=1) / norm.clamp(min=1e-12)
        scores[b][norm <= 1e-12 * len(x)] = 0
    return scores.square()
