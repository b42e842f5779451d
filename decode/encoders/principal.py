"""Any encoder, fitted to the principal components of its targets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from decode.core import Batch, InputError, Layout, Shape, Tensors
from decode.linear.principal import principal
from decode.linear.subject_ridge import Streamed
from decode.networks.blocks import numel
from decode.trainable import Encoder, Learned, left_to_training, predicts_brain
from decode.vectors import Columns


class Principal(Encoder):
    """`inner` predicts the first `size` principal components of `targets` (None: all); what it says
    is turned back, so that generators, metrics and objectives see targets in their own shape.

    Mean and axes are fitted in `initialise`, on the stimuli of the fold's training rows alone, each
    counted once: neither validation nor test rows are looked at. They are kept with the weights,
    `size` times the length of the target. What lies outside the axes is predicted as its mean.

    What the inner encoder samples or knows of itself, such as its prior, lives among the components.
    Raises InputError for targets that the experiment lacks and for sizes that the training stimuli do
    not span.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        inner: Callable[..., Encoder],
        size: int = 500,
        targets: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if size < 1:
            raise InputError(f"encoder.size: expected 1 component or more, got {size}; raise it")
        self.size, self.targets = size, tuple(shapes if targets is None else targets)
        unknown = [name for name in self.targets if name not in shapes]
        if unknown:
            raise InputError(
                f"encoder.targets: expected names out of {sorted(shapes)}, got {unknown[0]!r}; correct "
                "the list"
            )
        self.shapes = {name: tuple(shapes[name]) for name in self.targets}
        for name, shape in self.shapes.items():
            self.register_buffer(f"mean_{name}", torch.zeros(numel(shape)))
            self.register_buffer(f"axes_{name}", torch.zeros(size, numel(shape)))
        self.inner = inner(layouts, {**shapes, **dict.fromkeys(self.targets, (size,))})
        self.encodes = predicts_brain(inner)

    @classmethod
    def predicts_brain(cls, knobs: Mapping[str, Any]) -> bool:
        return predicts_brain(knobs["inner"])

    @classmethod
    def learned(cls, targets: Collection[str], knobs: Mapping[str, Any]) -> Learned:
        return left_to_training(knobs["inner"], targets)

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        for name, x in stimuli(train, self.targets).items():
            mean, axes = principal(x, self.size)
            self.get_buffer(f"mean_{name}").copy_(mean)
            self.get_buffer(f"axes_{name}").copy_(axes)
        self.inner.initialise(Reduced(train, self), Reduced(validation, self))

    def forward(self, batch: Batch) -> Tensors:
        return self._backed(self.inner(self._seen(batch)))

    def before_sampling(self, batch: Batch) -> Tensors:
        return self._backed(self.inner.before_sampling(self._seen(batch)))

    def _seen(self, batch: Batch) -> Batch:
        """What the inner encoder reads: a model of the brain reads the components."""
        return self._less(batch) if self.encodes else batch

    def sampled(self, made: Tensors) -> Tensors:
        less = self.reduced(made)
        out = self.inner.sampled(less)
        # What was not sampled stays as it is, to the last digit.
        return {k: made[k] if v is less.get(k) else self._back(k, v) for k, v in out.items()}

    def embed(self, targets: Tensors) -> Tensors:
        return self._whole(self.inner.embed(self.reduced(targets)), targets)

    def truth(self, batch: Batch) -> Tensors:
        return self._whole(self.inner.truth(self._less(batch)), batch.targets)

    def ablated(self, batch: Batch) -> dict[str, Tensors]:
        less = self.inner.ablated(self._less(batch))
        return {name: self._backed(made) for name, made in less.items()}

    def own_terms(self, batch: Batch, progress: float, predicted: Callable[[], Tensors]) -> Tensors:
        return self.inner.own_terms(self._less(batch), progress, lambda: self.reduced(predicted()))

    def _less(self, batch: Batch) -> Batch:
        return replace(batch, targets=self.reduced(batch.targets))

    def _whole(self, kept: Tensors, targets: Tensors) -> Tensors:
        return {k: targets[k] if k in self.shapes else v for k, v in kept.items()}

    def _backed(self, made: Tensors) -> Tensors:
        return {k: self._back(k, v) for k, v in made.items()}

    def _back(self, name: str, value: Tensor) -> Tensor:
        return self.back(name, value) if name in self.shapes else value

    def reduced(self, targets: Tensors) -> Tensors:
        """Components (row, size) in place of the targets that have them."""
        made = dict(targets)
        for name in self.shapes.keys() & targets.keys():
            mean, axes = self.get_buffer(f"mean_{name}"), self.get_buffer(f"axes_{name}")
            made[name] = (targets[name].flatten(1).float() - mean) @ axes.T
        return made

    def back(self, name: str, components: Tensor) -> Tensor:
        """Components (row, size) -> targets (row, *shape)."""
        flat = components @ self.get_buffer(f"axes_{name}") + self.get_buffer(f"mean_{name}")
        return flat.reshape(len(flat), *self.shapes[name])


@dataclass(frozen=True, slots=True)
class Reduced:
    """Batches with components in place of targets."""

    batches: Iterable[Batch]
    encoder: Principal

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            yield self.encoder._less(batch)


def stimuli(batches: Iterable[Batch], names: Sequence[str]) -> dict[str, Tensor | Columns]:
    """The targets (stimulus, feature) of each distinct stimulus, read in blocks where that is possible."""
    streamed = batches if isinstance(batches, Streamed) else None
    seen: set[int] = set()
    trials: list[Tensor] = []
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    for batch in batches if streamed is None else streamed.without_targets():
        new = []
        for row, number in enumerate(batch.stimulus.tolist()):
            if number not in seen:
                seen.add(number)
                new.append(row)
        trials.append(batch.trial[new])
        if streamed is None:
            for name in names:
                parts[name].append(batch.targets[name][new].flatten(1).float())
    if streamed is not None:
        return {name: streamed.columns([name], torch.cat(trials)) for name in names}
    return {name: torch.cat(values) for name, values in parts.items()}
