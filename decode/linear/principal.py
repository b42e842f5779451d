"""Principal components of targets that need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from decode.core import InputError, refusal
from decode.vectors import Columns

BLOCK = 2**26  # numbers of targets held at once


def principal(x: Tensor | Columns, size: int) -> tuple[Tensor, Tensor]:
    """Mean (feature,) and the first `size` axes (size, feature), float32, of rows (row, feature).

    Axes have length 1 and fall in variance; the largest entry of each is positive. With fewer rows
    than features they come from products between rows, a block of columns at a time. Raises
    InputError where the rows do not vary in so many directions.
    """
    rows, width = x.shape
    if not 1 <= size <= min(rows - 1, width):
        raise InputError(
            f"principal components: expected a size from 1 to {min(rows - 1, width)} for {rows} training "
            f"stimuli with {width} numbers each, got {size}; set another size"
        )
    if width < rows:
        mean, centred = _centred(x[:, :])
        _check_finite(mean)
        values, axes = _first(centred.T @ centred, size)
        _check(values, size)
        return mean.float(), _signed(axes.T).float()
    means = []
    products = torch.zeros(())
    for block in _blocks(x):
        mean, centred = _centred(x[:, block])
        means.append(mean)
        products = products + centred @ centred.T
    mean = torch.cat(means)
    _check_finite(mean)
    values, sides = _first(products, size)
    _check(values, size)
    weights = (sides / values.sqrt()).T
    axes = torch.cat([weights @ _centred(x[:, block])[1] for block in _blocks(x)], 1)
    return mean.float(), _signed(axes).float()


def _blocks(x: Tensor | Columns) -> Iterator[slice]:
    step = max(1, BLOCK // len(x))
    for start in range(0, x.shape[1], step):
        yield slice(start, min(start + step, x.shape[1]))


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (feature,) and what is left of rows (row, feature) without it, float64."""
    x = x.double()
    mean = x.mean(0)
    return mean, x - mean


def _check_finite(mean: Tensor) -> None:
    if not bool(mean.isfinite().all()):
        raise refusal(
            "principal components",
            "finite targets",
            "NaN or infinite values",
            "take the rows out that hold them",
        )


def _first(products: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues (size,) and their vectors (row, size), largest first."""
    values, vectors = torch.linalg.eigh(products)
    return values[-size:].flip(0), vectors[:, -size:].flip(1)


def _check(values: Tensor, size: int) -> None:
    there = int((values > 1e-10 * values[0]).sum())
    if there < size:
        raise refusal(
            "encoder.size",
            f"at most {there}, the directions in which the training targets vary",
            size,
            "lower it",
        )


def _signed(axes: Tensor) -> Tensor:
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return axes * largest.sign()
