"""Seconds of a training's steps, and of reading their batches alone."""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

import torch
from torch import nn

from decode.training import Trainer, step
from decode.trials import Loader


def seconds_per_step(
    bundle: nn.ModuleDict,
    loader: Loader,
    optimiser: Any,
    trainer: Trainer,
    at: float,
    *,
    warm: int,
    steps: int,
) -> float:
    """Mean over `steps` steps after `warm` others, reading of their batches included.

    `bundle` holds the encoder and the objectives, as a training has them.
    """
    encoder: Any = bundle["encoder"]
    objectives: Any = dict(bundle["objectives"].items())  # type: ignore[operator]
    start = 0.0
    for number, batch in enumerate(islice(loader.epoch(1), warm + steps)):
        if number == warm:
            wait(loader.device)
            start = time.perf_counter()
        step(encoder, objectives, batch, optimiser, trainer, at, "benchmark")
    wait(loader.device)
    return (time.perf_counter() - start) / steps


def seconds_per_batch(loader: Loader) -> float:
    """Mean time to have a batch on the device; what a resident loader reads first is not counted."""
    for _ in loader.epoch(0):
        pass
    wait(loader.device)
    start = time.perf_counter()
    for _ in loader.epoch(1):
        pass
    wait(loader.device)
    return (time.perf_counter() - start) / len(loader)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
