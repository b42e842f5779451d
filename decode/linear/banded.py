"""Banded ridge: features that come in bands, each band with a penalty of its own, chosen per target.

The penalty of band b is alpha / share of b, with shares that add up to 1: a band of share 0 is left out.
Scaling the features of each band by the root of its share turns one choice of shares into an ordinary
ridge, so that all strengths and all targets follow from one factorisation per choice. Nunez-Elizalde,
Huth & Gallant 2019, doi:10.1016/j.neuroimage.2019.04.012; Dupre la Tour et al. 2022,
doi:10.1016/j.neuroimage.2022.119728.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from decode.core import refusal
from decode.linear.ridge import (
    Array,
    Factor,
    choose,
    factor,
    generalised_errors,
    left_out_errors,
    solve,
    strengths,
)
from decode.progress import progress

# Concentrations of the Dirichlet draws, in turn: anywhere among the bands, and near one of them.
CONCENTRATIONS = (1.0, 0.1)


@dataclass(frozen=True, slots=True, eq=False)
class BandedFit:
    """A solved banded ridge: prediction = x @ weights + intercept.

    `weights` is (feature, target), `intercept`, `alpha` and `error` (mean squared, held out) are
    (target,), `share` is (band, target).
    """

    weights: Tensor
    intercept: Tensor
    alpha: Tensor
    share: Tensor
    error: Tensor


def candidates(bands: int, *, draws: int, seed: int = 0) -> Tensor:
    """(candidate, band) shares to choose from: all bands alike, each band alone, then random ones."""
    if bands == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    rng = np.random.default_rng(seed)
    drawn = [rng.dirichlet([CONCENTRATIONS[i % 2]] * bands) for i in range(draws)]
    return torch.from_numpy(np.stack([np.full(bands, 1 / bands), *np.eye(bands), *drawn]))


def banded_ridge(
    x: Tensor,
    sizes: Sequence[int],
    y: Array,
    *,
    shares: Tensor,
    alphas: Sequence[float] | None = None,
    by: Literal["loo", "gcv"] = "gcv",
    groups: Array | None = None,
    label: str = "bands",
) -> BandedFit:
    """Fit targets (trial, target) from features (trial, feature), the first `sizes[0]` of which are band 0.

    For each target the shares (candidate, band) and the strength of the lowest held-out error are taken:
    generalised cross-validation (`gcv`) or exact leave-one-out (`loo`, with `groups` of trials left out
    together); of equally good shares the first. `alphas` None is a grid around the mean eigenvalue of each
    candidate. Raises InputError for features that are not finite and sizes that do not add up.
    """
    if sum(sizes) != x.shape[1]:
        raise refusal(
            "banded ridge",
            f"{x.shape[1]} features in bands",
            list(sizes),
            "name every band of the targets",
        )
    width = y.shape[1]
    fit = BandedFit(
        x.new_zeros(x.shape[1], width),
        x.new_zeros(width),
        torch.zeros(width, dtype=torch.float64),
        torch.zeros(len(sizes), width, dtype=torch.float64),
        torch.full((width,), torch.inf, dtype=torch.float64),
    )
    each = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    for share in progress(shares, label, total=len(shares)) if len(shares) > 1 else shares:
        scale = share.sqrt()[each].to(x)
        used = scale > 0
        f = factor(x[:, used] * scale[used])
        grid = strengths(f) if alphas is None else [float(a) for a in alphas]
        errors = (
            generalised_errors(f, y, grid)
            if by == "gcv"
            else left_out_errors(f, y, grid, groups=groups)
        )
        if bool(errors.isnan().any()):
            raise refusal("banded ridge", "finite targets", "NaN or infinite", "clean them first")
        _take_better(fit, f, y, errors, choose(errors, grid), share, scale)
    return fit


def _take_better(
    fit: BandedFit,
    f: Factor,
    y: Array,
    errors: Tensor,
    alpha: Tensor,
    share: Tensor,
    scale: Tensor,
) -> None:
    """Take over the targets that these shares predict better than all before."""
    lowest = errors.amin(0)
    better = (lowest < fit.error).nonzero()[:, 0]
    if not len(better):
        return
    used = scale > 0
    weights, intercept = solve(f, y[:, better], alpha[better])
    scaled = fit.weights.new_zeros(len(scale), len(better))
    scaled[used] = weights * scale[used, None]
    fit.weights[:, better], fit.intercept[better] = scaled, intercept
    fit.alpha[better], fit.error[better] = alpha[better], lowest[better]
    fit.share[:, better] = share[:, None]
