"""The two contracts of what is trained: an encoder predicts, an objective says how wrong it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import nn

from decode.core import Batch, Tensors
from decode.kinds import defaults

Learned = Mapping[str, frozenset[str]]
# Brain signals of single trials, and what was shown in them.
Held = Literal["signals", "stimuli"]


class Encoder(nn.Module):
    """A batch of brain windows -> one prediction per target.

    A model of the brain goes the other way: it reads `batch.targets` and predicts `{"brain": (batch,
    channel, time)}`, padded as `batch.brain` is. `truth` says what predictions are held against.

    Subclasses take `(layouts: Mapping[subject, Layout], shapes: Mapping[target, Shape], *, knobs)`.
    The order of `layouts` is the meaning of `Batch.subject`.
    """

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        """Solve what has a closed form, from training rows (validation rows may choose strengths)."""

    @classmethod
    def learned(cls, targets: Collection[str], knobs: Mapping[str, Any]) -> Learned:
        """What `initialise` leaves to training: predicted target -> any of what an objective must teach
        for it. An encoder that solves some of `targets` in closed form, or does not predict them, says
        so here; `knobs` are its arguments, encoders inside as functions of (layouts, shapes).
        """
        return {name: frozenset({name}) for name in targets}

    @classmethod
    def predicts_brain(cls, knobs: Mapping[str, Any]) -> bool:
        """Whether it goes from stimuli to the brain; `knobs` as in `learned`."""
        return False

    @classmethod
    def check_node(cls, node: Mapping[str, Any], where: str) -> None:
        """Raise InputError for what can be seen in a config's node alone, at the key `where`."""

    def forward(self, batch: Batch) -> Tensors:
        """Predictions (batch, *shape) per target: always the inference meaning."""
        raise NotImplementedError(f"{type(self).__name__} must say how it predicts")

    def before_sampling(self, batch: Batch) -> Tensors:
        """What may be averaged over the repeats of a stimulus: predictions, before any is sampled."""
        return self(batch)

    def sampled(self, made: Tensors) -> Tensors:
        """Predictions of what `before_sampling` gave; the identity unless a model draws samples.

        An encoder that does is `sampled(before_sampling(batch))`, so that repeats are averaged first
        and one sample is drawn of their mean. While training it samples nothing, since no gradient
        passes through: it is `before_sampling(batch)`.
        """
        return made

    def embed(self, targets: Tensors) -> Tensors:
        """The stimulus side of a two-sided model; the identity unless a model says otherwise."""
        return targets

    def truth(self, batch: Batch) -> Tensors:
        """What predictions of this batch are held against, under the same names and of the same shapes."""
        return self.embed(batch.targets)

    def ablated(self, batch: Batch) -> dict[str, Tensors]:
        """Predictions of the same model fitted without one of the targets that it reads, by its name; {}
        for models that are not fitted so.
        """
        return {}

    def own_terms(self, batch: Batch, progress: float, predicted: Callable[[], Tensors]) -> Tensors:
        """Terms of the loss that only this model knows, unweighted: of its prior, its flow, what it
        rebuilds. The objective `own` weighs them.

        `predicted()` is `before_sampling(batch)`, which all objectives share: asking costs one forward
        pass per batch, not asking none. An encoder around others passes on what they have.
        """
        return {}


@runtime_checkable
class HoldsData(Protocol):
    """A module whose weights may be data themselves, not only what was learnt from them."""

    def holds(self) -> frozenset[Held]:
        """What of the training data could be read out of its weights as they are."""
        ...


def held_by(encoder: nn.Module) -> frozenset[Held]:
    """What of the training data lies in the weights of an encoder and of all that is inside it."""
    parts = (module.holds() for module in encoder.modules() if isinstance(module, HoldsData))
    return frozenset[Held]().union(*parts)


def own(term: str) -> str:
    """How `Encoder.learned` and `Objective.teaches` call one of `Encoder.own_terms`, which no target is
    named like.
    """
    return f"own term {term!r}"


def left_to_training(make: Callable[..., Any], targets: Collection[str]) -> Learned:
    """`Encoder.learned` of what `make` makes, a class or a partial of one; nothing of a function."""
    of, knobs = _made_by(make)
    return of.learned(targets, knobs) if of else {}


def predicts_brain(make: Callable[..., Any]) -> bool:
    """`Encoder.predicts_brain` of what `make` makes; not that of a function."""
    of, knobs = _made_by(make)
    return of is not None and of.predicts_brain(knobs)


def _made_by(make: Callable[..., Any]) -> tuple[type[Encoder] | None, dict[str, Any]]:
    of, given = (make.func, make.keywords) if isinstance(make, partial) else (make, {})
    if not (isinstance(of, type) and issubclass(of, Encoder)):
        return None, {}
    return of, defaults(of) | given


class Objective(nn.Module):
    """(encoder, batch, progress) -> named, weighted loss terms; the trainer minimises their sum.

    `progress` runs from 0 to 1 over training. Calling `encoder(batch)` twice with the same batch
    costs one forward pass. With `tunes` it also trains parts of the generator's own network, which
    are kept with the fold and given to `Generator.tune`.
    """

    tunes: ClassVar[bool] = False

    @classmethod
    def teaches(cls, knobs: Mapping[str, Any]) -> frozenset[str]:
        """Names of the targets whose predictions it pulls, with these `knobs`: the one called `target` if
        not said otherwise; or `own` terms of the encoder that it weighs.
        """
        return frozenset({knobs["target"]} if "target" in knobs else ())

    def prepared(self, batch: Batch, progress: float) -> Batch:
        """While training, the batch that every objective is given: as it is, or with mixed rows."""
        return batch

    def forward(self, encoder: Encoder, batch: Batch, progress: float) -> Tensors:
        raise NotImplementedError(f"{type(self).__name__} must say what it minimises")

    def tuned(self) -> Tensors:
        """The generator's weights that it has trained, by the names that the generator knows."""
        return {}
