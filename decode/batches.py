"""Putting batches together: numbers for names, weighted means of rows, targets out of several stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from decode.core import Batch
from decode.vectors import FeatureStore

T = TypeVar("T")
R = TypeVar("R")


def numbered(names: Sequence[str]) -> tuple[list[str], Tensor]:
    """Each name once, in order, and the number of each in that list."""
    known = list(dict.fromkeys(names))
    number = {name: i for i, name in enumerate(known)}
    return known, torch.tensor([number[name] for name in names], dtype=torch.int64)


def one_ahead(read: Callable[[T], R], asked: Iterable[T]) -> Iterator[R]:
    """What `read` gives for each thing asked for, in order; a thread reads one ahead."""
    with ThreadPoolExecutor(1) as thread:
        coming: Future[R] | None = None
        for one in asked:
            now, coming = coming, thread.submit(read, one)
            if now is not None:
                yield now.result()
        if coming is not None:
            yield coming.result()


def from_one_of(stores: Sequence[FeatureStore], digests: Sequence[str], chance: Tensor) -> Tensor:
    """(len(digests), *shape), row i from the store number `chance[i]`, counted around."""
    which = chance % len(stores)
    parts = {}
    for number, store in enumerate(stores):
        rows = torch.nonzero(which == number).flatten()
        parts[number] = store.stored([digests[i] for i in rows.tolist()])
    out = torch.empty(len(digests), *stores[0].shape, dtype=parts[0].dtype)
    for number, values in parts.items():
        out[which == number] = values
    return out


def weighed(batch: Batch, weights: Tensor | None) -> Batch:
    """Weighted means of as many rows in a row as there are weights (row, of each); None: as they are."""
    if weights is None:
        return batch
    n, k = weights.shape
    share = weights.to(batch.brain).view(n, k, 1, 1)
    first = batch._map(lambda x: x.view(n, k, *x.shape[1:])[:, 0])
    brain = (batch.brain.view(n, k, *batch.brain.shape[1:]) * share).sum(1)
    single = (weights > 0).sum(1) == 1
    return replace(
        first, brain=brain, trial=torch.where(single.to(first.trial.device), first.trial, -1)
    )


def joined(parts: Sequence[Batch]) -> Batch:
    """One batch of several without targets."""
    return Batch(
        torch.cat([p.brain for p in parts]),
        {},
        torch.cat([p.subject for p in parts]),
        torch.cat([p.stimulus for p in parts]),
        torch.cat([p.trial for p in parts]),
    )
