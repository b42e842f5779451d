"""Encoding models: from features of pictures to every voxel, by one ridge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from decode.linear.ridge import Fit, ridge


@dataclass(frozen=True, slots=True, eq=False)
class EncodingModel:
    """Features (picture, feature) -> responses (picture, voxel) float32.

    Features are z-scored with `mean` and `spread` (feature,) of the training pictures first.
    """

    mean: np.ndarray
    spread: np.ndarray
    fit: Fit

    def __call__(self, features: np.ndarray) -> np.ndarray:
        scaled = ((features - self.mean) / self.spread).astype(np.float32)
        return self.fit(torch.from_numpy(scaled)).numpy()


def fit_encoding(
    features: np.ndarray, responses: np.ndarray, *, alphas: Sequence[float] | None = None
) -> EncodingModel:
    """Fit all voxels from one factorisation, each with its own strength by leave-one-out.

    `features` is (picture, feature), `responses` (picture, voxel): one row per training picture,
    repeats averaged. Naselaris et al. 2011, doi:10.1016/j.neuroimage.2010.07.073.
    """
    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 0, spread, 1)
    x = torch.from_numpy(((features - mean) / spread).astype(np.float32))
    return EncodingModel(mean, spread, ridge(x, responses, alphas=alphas))
