"""Ridge with fewer trials than features, kept as coefficients of the training trials.

Prediction = (x - mean) @ trials.T @ coefficients + intercept, where `trials` are the centred
training features. It is the same function as `decode.linear.ridge.solve` gives, with trials x
targets numbers in place of features x targets (Saunders, Gammerman & Vovk 1998).
"""

from __future__ import annotations

import torch
from torch import Tensor

from decode.linear.ridge import Factor, centred_gram


def solve_dual(f: Factor, y: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients (trial, target) and intercept (target,) for one strength per target `alpha`."""
    y = y.to(f.left)
    mean = y.mean(0, dtype=torch.float64)
    coordinates = f.left.T @ (y - mean.to(y))
    shrunk = coordinates.double() / (f.values[:, None] + alpha.to(f.values))
    return f.left @ shrunk.to(f.left), mean.to(y)


class FixedDual:
    """Coefficients for strengths that are given, not chosen: no decomposition, and one matrix
    product per target.

    The penalised Gram matrix is inverted whenever another strength comes than the last time, so
    targets of one strength should come one after another.
    """

    def __init__(self, x: Tensor) -> None:
        self._gram, self.mean = centred_gram(x, of="trials")
        self._precision = x.dtype
        self._last: tuple[float, Tensor, Tensor] | None = None

    def __call__(self, y: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        """Coefficients (trial, target) and intercept (target,) of targets (trial, target)."""
        inverse, _ = self._inverse(alpha)
        y = y.to(inverse)
        mean = y.mean(0, dtype=torch.float64).to(y)
        return inverse @ (y - mean), mean

    def left_out(self, y: Tensor, coefficients: Tensor, alpha: float) -> Tensor:
        """Predictions (trial, target) of every training row by the model fitted without it.

        The residual is alpha times the coefficient, and I - H is alpha times the inverse less the
        part of the mean; so nothing has to be multiplied again.
        """
        _, diagonal = self._inverse(alpha)
        free = alpha * diagonal - 1 / len(diagonal)
        return y - (alpha * coefficients / free[:, None].to(coefficients))

    def _inverse(self, alpha: float) -> tuple[Tensor, Tensor]:
        """The inverse (trial, trial) and, in float64, its diagonal."""
        if self._last is None or self._last[0] != alpha:
            self._last = None
            inverse = self._gram.clone()
            inverse.diagonal().add_(alpha)
            torch.linalg.cholesky(inverse, out=inverse)
            torch.cholesky_inverse(inverse, out=inverse)
            self._last = alpha, inverse.to(self._precision), inverse.diagonal().clone()
        return self._last[1:]
