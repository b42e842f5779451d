"""One picture that is as similar as possible to many candidates, each as likely as its weight.

The mean of the candidates has the smallest squared error but is blurred, which structural
similarity punishes. Here the expected score itself is raised, starting from the mean: the Bayes
decision for that score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from decode.core import refusal

_WINDOW, _SD = 11, 1.5  # structural similarity as in Wang et al. 2004
_C1, _C2 = 0.01**2, 0.03**2
_RATE = 0.08  # grey levels moved in the first step
_ROWS = 8  # pictures searched together


def local_means(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Matrices (height - 10, height) and (width - 10, width): Gaussian windows inside a picture."""
    if min(height, width) < _WINDOW:
        raise refusal(
            "structural similarity",
            f"pictures of {_WINDOW} pixels or more",
            f"{height}x{width}",
            "choose a larger size of the picture target",
        )
    window = torch.exp(-0.5 * (torch.arange(_WINDOW) - _WINDOW // 2) ** 2 / _SD**2)
    window = window / window.sum()

    def matrix(n: int) -> Tensor:
        rows = torch.zeros(n - _WINDOW + 1, n)
        for i in range(len(rows)):
            rows[i, i : i + _WINDOW] = window
        return rows

    return matrix(height), matrix(width)


class Crowd:
    """Candidates (row, candidate, channel, height, width) in [0, 1], ready to be compared with."""

    def __init__(self, candidates: Tensor) -> None:
        rows, columns = local_means(*candidates.shape[-2:])
        self.rows, self.columns = rows.to(candidates), columns.T.to(candidates)
        self.candidates = candidates
        self.mean = self._local(candidates)
        self.spread = self._local(candidates.square()) - self.mean.square()
        self.direction = _unit(candidates).mean(1)

    def ssim(self, pictures: Tensor) -> Tensor:
        """Mean structural similarity (row,) of pictures (row, channel, height, width)."""
        one = pictures.unsqueeze(1)
        mean = self._local(one)
        spread = self._local(one.square()) - mean.square()
        common = self._local(one * self.candidates) - mean * self.mean
        top = (2 * mean * self.mean + _C1) * (2 * common + _C2)
        bottom = (mean.square() + self.mean.square() + _C1) * (spread + self.spread + _C2)
        return (top / bottom).mean((1, 2, 3, 4))

    def correlation(self, pictures: Tensor) -> Tensor:
        """Mean Pearson correlation (row,) of pictures with the candidates."""
        return (_unit(pictures.unsqueeze(1)).squeeze(1) * self.direction).sum(1)

    def score(self, pictures: Tensor, structure: float) -> Tensor:
        """`structure` x structural similarity + (1 - `structure`) x correlation (row,)."""
        return structure * self.ssim(pictures) + (1 - structure) * self.correlation(pictures)

    def _local(self, pictures: Tensor) -> Tensor:
        return self.rows @ pictures @ self.columns


def _unit(pictures: Tensor) -> Tensor:
    """(row, candidate, ...) -> (row, candidate, value), centred and of length one."""
    flat = pictures.flatten(2)
    flat = flat - flat.mean(2, keepdim=True)
    return flat / flat.norm(dim=2, keepdim=True).clamp_min(1e-6)


def representatives(weights: Tensor, n: int) -> Tensor:
    """Numbers (row, n) of candidates, each about n x its weight times: systematic resampling."""
    points = (torch.arange(n, dtype=torch.float64, device=weights.device) + 0.5) / n
    total = weights.double().cumsum(1)
    total = total / total[:, -1:]
    found = torch.searchsorted(total, points.expand(len(weights), n).contiguous())
    return found.clamp_max(weights.shape[1] - 1)


def consensus(
    bank: Tensor, weights: Tensor, *, structure: float = 0.5, n: int = 96, steps: int = 40
) -> Tensor:
    """Pictures (row, channel, height, width) of the highest expected score under `weights`.

    `bank` is (candidate, channel, height, width) in [0, 1], `weights` (row, candidate), each row
    summing to 1. The score mixes structural similarity and correlation; its expectation is taken
    over `n` representatives. With `steps` 0 the weighted mean is returned.
    """
    # Predictions may be asked for in inference mode, where nothing can be differentiated.
    with torch.inference_mode(False), torch.enable_grad():
        bank, weights = bank.detach().clone(), weights.detach().clone()
        parts = [_search(bank, some, structure, n, steps) for some in weights.split(_ROWS)]
    return torch.cat(parts) if parts else bank[:0]


def _search(bank: Tensor, weights: Tensor, structure: float, n: int, steps: int) -> Tensor:
    mean = (weights.to(bank) @ bank.flatten(1)).view(-1, *bank.shape[1:]).clamp(0, 1)
    if steps == 0:
        return mean
    crowd = Crowd(bank[representatives(weights, n)])
    picture, first, second = mean, torch.zeros_like(mean), torch.zeros_like(mean)
    for step in range(1, steps + 1):
        picture = picture.requires_grad_(True)
        (slope,) = torch.autograd.grad(crowd.score(picture, structure).sum(), picture)
        # Adam by hand (Kingma & Ba 2015): importing torch.optim takes longer than the search.
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope.square()
        move = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        rate = _RATE * (1 - (step - 1) / steps)
        picture = (picture.detach() + rate * move).clamp(0, 1)
    return picture
