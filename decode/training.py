"""One training loop: step, validate, keep the best weights, go on where a killed run stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from decode.checkpoints import State
from decode.core import Batch, InputError, Tensors, refusal
from decode.passes import Pass, Repeats
from decode.progress import progress
from decode.trainable import Encoder, Objective
from decode.trials import Loader


@dataclass(frozen=True, slots=True)
class Trainer:
    """How long and how fast to learn. `epochs: 0` is for encoders that `initialise` solves.

    The learning rate warms up over `warmup` of all steps and then falls along a cosine to `final` times
    its peak. `schedule: cosine` warms up linearly from zero, `onecycle` along a cosine from a 25th of
    the peak, while AdamW's momentum falls from .95 to .85, and rises again with the rate's fall (Smith
    2018, with the constants and ends of PyTorch's OneCycleLR). `rows`, `per_subject`, `subjects` and
    `always` say what an epoch shows, see `decode.passes.Pass`. With `keep: best` the weights of the
    epoch with the lowest validation loss are kept and training stops after `patience` epochs without a
    better one; `keep: last` ignores validation.
    """

    epochs: int = 30
    batch_size: int = 128
    rate: float = 3e-4
    weight_decay: float = 1e-2
    warmup: float = 0.1
    final: float = 0.01
    clip: float = 1.0
    keep: str = "best"
    patience: int = 10
    precision: Literal["float32", "bfloat16"] = "float32"
    schedule: Literal["cosine", "onecycle"] = "cosine"
    rows: int | None = None
    per_subject: bool = False
    subjects: int | None = None
    always: str | None = None

    def __post_init__(self) -> None:
        if self.keep not in ("best", "last"):
            raise InputError(
                f"trainer.keep: expected best or last, got {self.keep!r}; choose one of these"
            )
        if self.precision not in ("float32", "bfloat16"):
            raise InputError(
                f"trainer.precision: expected float32 or bfloat16, got {self.precision!r}; choose one of "
                "these"
            )
        if self.schedule not in ("cosine", "onecycle"):
            raise refusal(
                "trainer.schedule", "cosine or onecycle", repr(self.schedule), "choose one of these"
            )
        self.way("each")
        for name, good, wanted in (
            ("epochs", self.epochs >= 0, "0 or more"),
            ("batch_size", self.batch_size >= 1, "1 or more"),
            ("rate", 0 < self.rate < math.inf, "a number above 0"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("warmup", 0 <= self.warmup <= 1, "a share of all steps, from 0 to 1"),
            ("final", 0 <= self.final <= 1, "a share of the peak, from 0 to 1"),
            ("clip", 0 <= self.clip < math.inf, "0 (never) or more"),
            ("patience", self.patience >= 1, "1 or more"),
            ("rows", self.rows is None or self.rows >= 1, "1 or more, or null"),
            ("subjects", self.subjects is None or self.subjects >= 1, "1 or more, or null"),
        ):
            if not good:
                raise InputError(
                    f"trainer.{name}: expected {wanted}, got {getattr(self, name)!r}; bring it into that "
                    "range"
                )

    def way(self, repeats: Repeats) -> Pass:
        """What an epoch shows, of rows with these `repeats`."""
        return Pass(repeats, self.rows, self.per_subject, self.subjects, self.always)


class OncePerBatch(Encoder):
    """The encoder as objectives see it: asking twice about one batch costs one forward pass."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        # In a tuple it is no part of this module, which lives for one step.
        self._asked = (encoder,)
        self.training = encoder.training
        self._before: tuple[Batch, Tensors] | None = None
        self._made: tuple[Batch, Tensors] | None = None

    @property
    def encoder(self) -> Encoder:
        return self._asked[0]

    def forward(self, batch: Batch) -> Tensors:
        # While training nothing is sampled, so that both are one and the same pass.
        if self.training:
            return self.before_sampling(batch)
        if self._made is None or self._made[0] is not batch:
            self._made = (batch, self.encoder(batch))
        return self._made[1]

    def before_sampling(self, batch: Batch) -> Tensors:
        if self._before is None or self._before[0] is not batch:
            self._before = (batch, self.encoder.before_sampling(batch))
        return self._before[1]

    def sampled(self, made: Tensors) -> Tensors:
        return self.encoder.sampled(made)

    def embed(self, targets: Tensors) -> Tensors:
        return self.encoder.embed(targets)

    def truth(self, batch: Batch) -> Tensors:
        return self.encoder.truth(batch)

    def ablated(self, batch: Batch) -> dict[str, Tensors]:
        return self.encoder.ablated(batch)

    def own_terms(self, batch: Batch, progress: float, predicted: Callable[[], Tensors]) -> Tensors:
        return self.encoder.own_terms(batch, progress, predicted)


def loss_terms(
    encoder: Encoder, objectives: Mapping[str, Objective], batch: Batch, at: float
) -> Tensors:
    """Every weighted term of every objective, as `objective.term`.

    While training, objectives may mix the rows first: all see the same mixtures, so that one forward
    pass serves them.
    """
    if encoder.training:
        for objective in objectives.values():
            batch = objective.prepared(batch, at)
    once = OncePerBatch(encoder)
    terms: Tensors = {}
    for name, objective in objectives.items():
        made = objective(once, batch, at)
        terms.update({f"{name}.{k}" if k != name else name: v for k, v in made.items()})
    return terms


def fit(
    encoder: Encoder,
    objectives: Mapping[str, Objective],
    train: Loader,
    validation: Loader | None,
    trainer: Trainer,
    *,
    folder: Path,
    seed: int,
    label: str,
) -> list[dict[str, float]]:
    """Train in place; returns one row of losses per epoch.

    State is saved in `folder` after an epoch, when the last time is SAVED_EVERY seconds ago, or as
    much longer as keeps saving at SAVING_SHARE of the time. Random numbers are drawn anew from (seed,
    epoch), so that a run killed in the middle ends with the weights of one that was not.
    """
    bundle = nn.ModuleDict({"encoder": encoder, "objectives": nn.ModuleDict(dict(objectives))})
    bundle.to(train.device)
    optimiser = optimiser_of(bundle, trainer)
    state = State.resume(folder, bundle, optimiser)
    total = max(1, trainer.epochs * len(train))
    epochs = range(state.epoch, trainer.epochs)
    for epoch in progress(epochs, label, total=len(epochs)):
        if trainer.keep == "best" and validation and state.stale >= trainer.patience:
            break
        torch.manual_seed(seed * 100_003 + epoch)
        bundle.train()
        sums: dict[str, float] = {}
        shown = 0
        where = f"{label}, epoch {epoch}"
        for number, batch in enumerate(train.epoch(epoch)):
            done = epoch * len(train) + number
            set_pace(optimiser, trainer, done, total)
            terms = step(encoder, objectives, batch, optimiser, trainer, done / total, where)
            shown += len(batch)
            for k, v in terms.items():
                sums[f"train/{k}"] = sums.get(f"train/{k}", 0.0) + float(v) * len(batch)
        row = {"epoch": float(epoch), **{k: v / shown for k, v in sums.items()}}
        if validation is not None:
            row.update(_validate(encoder, objectives, validation, (epoch + 1) / trainer.epochs))
        state.after_epoch(row, bundle, optimiser, trainer.keep == "best")
    state.finish(bundle, trainer.keep == "best")
    return state.history


def step(
    encoder: Encoder,
    objectives: Mapping[str, Objective],
    batch: Batch,
    optimiser: torch.optim.Optimizer,
    trainer: Trainer,
    at: float,
    where: str,
) -> Tensors:
    """Change the weights by one batch, `at` this share of the training; returns the terms of the loss.

    Raises InputError, which says `where`, when the loss is no number.
    """
    with _autocast(batch.brain.device, trainer):
        terms = loss_terms(encoder, objectives, batch, at)
        loss = torch.stack([t.float() for t in terms.values()]).sum()
    if not torch.isfinite(loss):
        raise InputError(
            f"{where}: expected a finite loss, got {float(loss)}; lower trainer.rate or check the scale "
            "of the targets"
        )
    optimiser.zero_grad()
    loss.backward()
    if trainer.clip:
        changed = [p for group in optimiser.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(changed, trainer.clip)
    optimiser.step()
    return {k: v.detach() for k, v in terms.items()}


def optimiser_of(modules: nn.Module, trainer: Trainer) -> torch.optim.Optimizer:
    """AdamW; biases, norms and temperatures are not decayed."""
    parameters = [p for p in modules.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": trainer.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=trainer.rate, fused=True)


def _autocast(device: torch.device, trainer: Trainer) -> torch.autocast:
    """bfloat16 needs no loss scaling, so that one switch is all there is to it."""
    enabled = trainer.precision == "bfloat16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


# OneCycleLR's: the share of the peak rate at the start, and the momentum at both ends and at the peak.
FIRST, CALM, FAST = 1 / 25, 0.95, 0.85


def set_pace(optimiser: torch.optim.Optimizer, trainer: Trainer, done: int, total: int) -> None:
    """Rate, and momentum where the schedule has one, of the step after `done` of `total`."""
    if trainer.schedule == "onecycle":
        rate, momentum = _one_cycle(trainer, done, total)
    else:
        rate, momentum = _cosine_rate(trainer, done / total), None
    for group in optimiser.param_groups:
        group["lr"] = trainer.rate * rate
        if momentum is not None:
            group["betas"] = (momentum, group["betas"][1])


def _cosine_rate(trainer: Trainer, at: float) -> float:
    if at < trainer.warmup:
        return max(at / trainer.warmup, 1e-3)
    along = (at - trainer.warmup) / max(1 - trainer.warmup, 1e-9)
    return _between(1.0, trainer.final, along)


def _one_cycle(trainer: Trainer, done: int, total: int) -> tuple[float, float]:
    """Share of the peak rate, and momentum."""
    peak, last = trainer.warmup * total - 1, total - 1
    if done <= peak:
        along = done / peak if peak > 0 else 1.0
        return _between(FIRST, 1.0, along), _between(CALM, FAST, along)
    along = min((done - peak) / max(last - peak, 1e-9), 1.0)
    return _between(1.0, trainer.final, along), _between(FAST, CALM, along)


def _between(start: float, end: float, along: float) -> float:
    """On a half cosine from `start` to `end`."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * along))


@torch.no_grad()
def _validate(
    encoder: Encoder, objectives: Mapping[str, Objective], loader: Loader, at: float
) -> dict[str, float]:
    encoder.eval()
    sums: dict[str, float] = {}
    for batch in loader:
        terms = loss_terms(encoder, objectives, batch, at)
        for k, v in terms.items():
            sums[k] = sums.get(k, 0.0) + float(v) * len(batch)
    means = {f"validation/{k}": v / len(loader.trials) for k, v in sums.items()}
    return {**means, "validation": sum(means.values())}
