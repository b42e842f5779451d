"""An encoder whose prediction of one target is turned into a clean sample by a diffusion prior."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from decode.core import Batch, Encoder, InputError, Layout, Shape, Tensors
from decode.networks.blocks import TargetScale
from decode.networks.prior import DiffusionPrior
from decode.networks.prior_dalle2 import Dalle2Prior


class WithPrior(Encoder):
    """`inner` predicts every target; a `DiffusionPrior` then samples `target` from its prediction.

    Sampling starts from one seeded noise, so that a prediction depends on its own signal only.
    While training, `target` is left as `inner` predicts it, because no gradient passes through
    sampling: regression terms teach `inner`, the objective `prior` teaches the prior and, through
    the condition, `inner` too. `steps` is the length of the schedule, `sample_steps` and `guidance`
    belong to sampling.

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
        seed: int = 0,
    ) -> None:
        super().__init__()
        if target not in shapes:
            raise InputError(
                f"encoder.target: the prior samples {target!r}, the experiment has "
                f"{sorted(shapes)}; add a target of that name or name another one"
            )
        if (width is None) == (head_width is None):
            raise InputError(
                f"encoder: expected either width or head_width, got {width} and {head_width}; set "
                "one of them to null"
            )
        if width is not None and width % heads:
            raise InputError(f"encoder: width {width} is no multiple of heads {heads}; change one")
        self.inner = inner(layouts, shapes)
        self.target, self.sample_steps, self.guidance = target, sample_steps, guidance
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

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.inner.initialise(train, validation)
        self.scale.learn(train)

    def embed(self, targets: Tensors) -> Tensors:
        return self.inner.embed(targets)

    def forward(self, batch: Batch) -> Tensors:
        made = dict(self.inner(batch))
        if not self.training:
            condition = self.scale.down(self.target, made[self.target])
            clean = self.prior.sample(condition, steps=self.sample_steps, guidance=self.guidance)
            made[self.target] = self.scale.up(self.target, clean)
        return made

    def condition(self, batch: Batch) -> Tensor:
        """What `inner` predicts of the sampled target, (batch, *shape)."""
        return self.inner(batch)[self.target]
