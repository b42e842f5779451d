"""Principal components of targets that need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from decode.core import InputError
from decode.store import Columns

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
    mean = torch.cat([part.mean(0) for _, part in _blocks(x)])
    if not bool(mean.isfinite().all()):
        raise InputError("principal components: targets hold NaN or infinite values; clean them")
    if width < rows:
        centred = x[:, :].double() - mean
        values, axes = _first(centred.T @ centred, size)
        _check(values, size)
        return mean.float(), _signed(axes.T).float()
    products = sum(((p - mean[b]) @ (p - mean[b]).T for b, p in _blocks(x)), torch.zeros(()))
    values, sides = _first(products, size)
    _check(values, size)
    weights = (sides / values.sqrt()).T
    axes = torch.cat([weights @ (part - mean[b]) for b, part in _blocks(x)], 1)
    return mean.float(), _signed(axes).float()


def _blocks(x: Tensor | Columns) -> Iterator[tuple[slice, Tensor]]:
    step = max(1, BLOCK // len(x))
    for start in range(0, x.shape[1], step):
        block = slice(start, min(start + step, x.shape[1]))
        yield block, x[:, block].double()


def _first(products: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues (size,) and their vectors (row, size), largest first."""
    values, vectors = torch.linalg.eigh(products)
    return values[-size:].flip(0), vectors[:, -size:].flip(1)


def _check(values: Tensor, size: int) -> None:
    there = int((values > 1e-10 * values[0]).sum())
    if there < size:
        raise InputError(
            f"principal components: the training targets vary in {there} directions, got size={size}; "
            "lower it"
        )


def _signed(axes: Tensor) -> Tensor:
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return axes * largest.sign()
