"""An encoder whose prediction of one target is turned into a clean sample by a diffusion prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from decode.core import Batch, InputError, Layout, Shape, Tensors, refusal
from decode.networks.blocks import TargetScale
from decode.networks.prior import DiffusionPrior
from decode.networks.prior_dalle2 import Dalle2Prior
from decode.trainable import Encoder, Learned, left_to_training, own, predicts_brain


class WithPrior(Encoder):
    """`inner` predicts every target; a `DiffusionPrior` then samples `target` from its prediction.

    Every row is sampled with the same seeded noise, so that a prediction depends on its own signal
    only; repeats are averaged before, see `Encoder.sampled`. While training, `target` is left as
    `inner` predicts it, because no gradient passes through sampling: regression terms teach `inner`,
    the own term `prior` teaches the prior and, through the condition, `inner` too: its squared error
    over random noise levels, at its own scale. The condition is dropped with probability `drop`, so that
    guidance is possible; while validating, noise and levels are seeded. `steps` is the length of the
    schedule; `sample_steps`, `guidance` and `eta` belong to sampling.

    The prior learns the target times `factor`: MindEye (Scotti et al. 2023) has the square root of
    the width, MindEye2 (2024) 1. None brings any target to mean zero and unit spread first.

    With `head_width` the prior is the published one of MindEye: its attention has that many features
    per head, whatever the width of the tokens, which is that of the target; `width` is then null.

    Raises InputError when the experiment has no such target and where width and heads do not fit.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        inner: Callable[..., Encoder],
        target: str = "image",
        width: int | None = 256,
        depth: int = 4,
        heads: int = 8,
        head_width: int | None = None,
        steps: int = 100,
        sample_steps: int = 20,
        guidance: float = 1.0,
        eta: float = 1.0,
        factor: float | None = None,
        drop: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if target not in shapes:
            raise refusal(
                "encoder.target",
                "a target that the prior samples",
                f"{target!r}, where the experiment has {sorted(shapes)}",
                "add a target of that name or name another one",
            )
        if (width is None) == (head_width is None):
            raise InputError(
                f"encoder: expected either width or head_width, got {width} and {head_width}; set "
                "one of them to null"
            )
        if width is not None and width % heads:
            raise refusal(
                "encoder.heads", f"a divisor of the width {width}", heads, "change one of them"
            )
        _check_sampling(steps, sample_steps, eta, factor, drop)
        self.inner = inner(layouts, shapes)
        self.target, self.factor, self.drop = target, factor, drop
        self.sample_steps, self.guidance, self.eta = sample_steps, guidance, eta
        self.scale = TargetScale({target: tuple(shapes[target])})
        shape = tuple(shapes[target])
        self.prior = (
            Dalle2Prior(
                shape, depth=depth, heads=heads, head_width=head_width, steps=steps, seed=seed
            )
            if head_width is not None
            else DiffusionPrior(
                shape, width=int(width or 0), depth=depth, heads=heads, steps=steps, seed=seed
            )
        )

    @classmethod
    def predicts_brain(cls, knobs: Mapping[str, Any]) -> bool:
        return predicts_brain(knobs["inner"])

    @classmethod
    def learned(cls, targets: Collection[str], knobs: Mapping[str, Any]) -> Learned:
        return {
            **left_to_training(knobs["inner"], targets),
            knobs["target"]: frozenset({own("prior")}),
        }

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.inner.initialise(train, validation)
        self.scale.learn(train)

    def embed(self, targets: Tensors) -> Tensors:
        return self.inner.embed(targets)

    def truth(self, batch: Batch) -> Tensors:
        return self.inner.truth(batch)

    def ablated(self, batch: Batch) -> dict[str, Tensors]:
        return self.inner.ablated(batch)

    def own_terms(self, batch: Batch, progress: float, predicted: Callable[[], Tensors]) -> Tensors:
        truth = self.truth(batch)[self.target].float()
        condition = predicted()[self.target].float()
        generator = None if self.training else torch.Generator().manual_seed(0)
        loss = self.prior_loss(condition, truth, drop=self.drop, generator=generator)
        return {**self.inner.own_terms(batch, progress, predicted), "prior": loss.mean()}

    def forward(self, batch: Batch) -> Tensors:
        made = self.before_sampling(batch)
        return made if self.training else self.sampled(made)

    def before_sampling(self, batch: Batch) -> Tensors:
        return dict(self.inner(batch))

    def sampled(self, made: Tensors) -> Tensors:
        clean = self.prior.sample(
            self.scale.down(self.target, made[self.target]),
            steps=self.sample_steps,
            guidance=self.guidance,
            eta=self.eta,
        )
        if self.factor is None:
            clean = self.scale.up(self.target, clean)
        return made | {self.target: clean / (self.factor or 1.0)}

    def prior_loss(
        self, condition: Tensor, truth: Tensor, *, drop: float, generator: torch.Generator | None
    ) -> Tensor:
        """The prior's squared errors per row (batch,) for predictions and truths (batch, *shape)."""
        clean = self.scale.down(self.target, truth) if self.factor is None else self.factor * truth
        told = self.scale.down(self.target, condition)
        return self.prior.loss(clean, told, drop=drop, generator=generator)


def _check_sampling(
    steps: int, sample_steps: int, eta: float, factor: float | None, drop: float
) -> None:
    for name, value, good, wanted in (
        ("sample_steps", sample_steps, 2 <= sample_steps <= steps, f"2 to steps={steps}"),
        ("eta", eta, 0 <= eta <= 1, "a share of noise from 0 to 1"),
        ("drop", drop, 0 <= drop < 1, "a share of rows, 0 or more and below 1"),
        ("factor", factor, factor is None or 0 < factor < math.inf, "a number above 0, or null"),
    ):
        if not good:
            raise refusal(f"encoder.{name}", wanted, value, "bring it into that range")
