"""How voxels respond to pictures: a Gaussian process over pictures with correlated voxel noise.

All voxels share one kernel over pictures, so that everything follows from matrices of the size of
the training set. Used backwards, the model says how well any picture explains a response (Naselaris
et al. 2009, doi:10.1016/j.neuron.2009.09.006; Schoenmakers et al. 2013,
doi:10.1016/j.neuroimage.2013.07.043).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_AT_ONCE = 2048  # pictures blurred together


class PictureKernel:
    """Similarity exp(-d^2 / (2 reach v)) of blurred pictures with those of the fitted trials.

    d is the Euclidean distance, v the mean squared distance of the fitted pictures from their mean;
    `blur` is the standard deviation of a Gaussian in pixels.
    """

    def __init__(self, fitted: Tensor, *, blur: float, reach: float) -> None:
        self.blur = blur
        features = self._features(fitted)
        self.mean = features.mean(0)
        self.fitted = features - self.mean
        self.scale = 2 * reach * float(self.fitted.square().sum(1).mean().clamp_min(1e-12))

    def __call__(self, pictures: Tensor) -> Tensor:
        """(picture, channel, height, width) -> (picture, fitted picture)."""
        parts = []
        for some in pictures.split(_AT_ONCE):
            features = self._features(some) - self.mean
            distance = features.square().sum(1)[:, None] + self.fitted.square().sum(1)
            distance = (distance - 2 * features @ self.fitted.T).clamp_min(0)
            parts.append(torch.exp(-distance / self.scale))
        return torch.cat(parts)

    def _features(self, pictures: Tensor) -> Tensor:
        return blurred(pictures, self.blur).flatten(1)


def blurred(pictures: Tensor, sd: float) -> Tensor:
    """Gaussian blur of (picture, channel, height, width) with black outside; `sd` in pixels."""
    if sd <= 0:
        return pictures
    reach = max(1, round(4 * sd))
    window = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sd) ** 2).to(pictures)
    window = (window / window.sum()).view(1, 1, -1)
    lines = pictures.flatten(0, 1).unsqueeze(1)
    lines = F.conv2d(lines, window.unsqueeze(-1), padding=(reach, 0))
    lines = F.conv2d(lines, window.unsqueeze(-2), padding=(0, reach))
    return lines.view(pictures.shape)


@dataclass(frozen=True, slots=True, eq=False)
class ResponseModel:
    """A fitted model: a picture's expected response is kernel @ inverse @ training responses.

    `inverse` is (trial, trial); `reading` is (voxel, trial), the noise-whitened training responses;
    `overlap` is (trial, trial), their inner products.
    """

    inverse: Tensor
    reading: Tensor
    overlap: Tensor

    def loadings(self, kernel: Tensor) -> Tensor:
        """Weights of the training responses (picture, trial) in the expected response."""
        return kernel @ self.inverse

    def offsets(self, loadings: Tensor) -> Tensor:
        """What each picture's expected response costs (picture,): half its squared length."""
        return -0.5 * ((loadings @ self.overlap) * loadings).sum(1)

    def evidence(self, brain: Tensor, loadings: Tensor, offsets: Tensor) -> Tensor:
        """Log likelihood of responses (trial, voxel) under pictures, up to a constant per trial."""
        return brain @ self.reading @ loadings.T + offsets


def fit_responses(
    kernel: Tensor, brain: Tensor, *, noise: float, shrinkage: float
) -> ResponseModel:
    """Fit centred responses (trial, voxel) given the kernel (trial, trial) of their pictures.

    `noise` is the variance of the noise in units of the kernel. The noise covariance of the voxels
    comes from exact leave-one-out errors, its correlations shrunk towards none by `shrinkage`,
    which lies above 0 and reaches 1 for independent voxels.
    """
    n = len(brain)
    eye = torch.eye(n, dtype=brain.dtype, device=brain.device)
    inverse = torch.linalg.inv(kernel + noise * eye)
    certainty = inverse.diagonal()[:, None]
    # The error of a left-out trial has variance 1 / certainty where plain noise has `noise`.
    errors = inverse @ brain / certainty * (noise * certainty).sqrt()
    diagonal = (shrinkage * errors.square().mean(0)).clamp_min(1e-12)
    shared = ((1 - shrinkage) / n) ** 0.5 * errors
    # Woodbury: the voxel covariance is diagonal plus a rank below the number of trials.
    whitened = brain / diagonal
    core = torch.linalg.inv(eye + (shared / diagonal) @ shared.T)
    reading = whitened.T - (shared / diagonal).T @ (core @ (shared @ whitened.T))
    return ResponseModel(inverse, reading, brain @ reading)
