"""Several encoders side by side, each with targets of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from decode.core import Batch, InputError, Layout, Shape, Tensors
from decode.trainable import Encoder, Learned, left_to_training, predicts_brain


class Joined(Encoder):
    """`encoders` by name, each for the targets that `targets` gives it; nothing is shared.

    Targets that `targets` does not name belong to the first encoder. MindEye (Scotti et al. 2023)
    predicts its tokens and its low-level latents by two such networks; here they are trained in one
    run, at one rate and batch size. Raises InputError for a name in `targets` without an encoder.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        encoders: Mapping[str, Callable[..., Encoder]],
        targets: Mapping[str, Sequence[str]],
    ) -> None:
        super().__init__()
        unknown = [name for name in targets if name not in encoders]
        if unknown or not encoders:
            raise InputError(
                f"encoder.targets: expected names out of the encoders {list(encoders)}, got "
                f"{unknown[:1] or 'no encoders'}; name encoders that are there"
            )
        self.encoders = nn.ModuleDict()
        self.dealt = _dealt(shapes, encoders, targets)
        for name, mine in self.dealt.items():
            self.encoders[name] = encoders[name](layouts, {k: shapes[k] for k in mine})

    @classmethod
    def predicts_brain(cls, knobs: Mapping[str, Any]) -> bool:
        return any(map(predicts_brain, knobs["encoders"].values()))

    @classmethod
    def learned(cls, targets: Collection[str], knobs: Mapping[str, Any]) -> Learned:
        asked: dict[str, frozenset[str]] = {}
        encoders = knobs["encoders"]
        for name, mine in _dealt(targets, encoders, knobs["targets"]).items():
            asked |= left_to_training(encoders[name], mine)
        return asked

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        for encoder in self._parts():
            encoder.initialise(train, validation)

    def forward(self, batch: Batch) -> Tensors:
        return {k: v for encoder in self._parts() for k, v in encoder(batch).items()}

    def before_sampling(self, batch: Batch) -> Tensors:
        return {k: v for e in self._parts() for k, v in e.before_sampling(batch).items()}

    def sampled(self, made: Tensors) -> Tensors:
        for encoder in self._parts():
            made = encoder.sampled(made)
        return made

    def embed(self, targets: Tensors) -> Tensors:
        for encoder in self._parts():
            targets = encoder.embed(targets)
        return targets

    def _parts(self) -> list[Encoder]:
        return [m for m in self.encoders.values() if isinstance(m, Encoder)]

    def truth(self, batch: Batch) -> Tensors:
        made: Tensors = {}
        for encoder, mine in zip(self._parts(), self.dealt.values(), strict=True):
            own = {k: v for k, v in batch.targets.items() if k in mine}
            made |= encoder.truth(replace(batch, targets=own))
        return made

    def ablated(self, batch: Batch) -> dict[str, Tensors]:
        made: dict[str, Tensors] = {}
        for encoder in self._parts():
            for name, values in encoder.ablated(batch).items():
                made[name] = made.get(name, {}) | values
        return made

    def own_terms(self, batch: Batch, progress: float, predicted: Callable[[], Tensors]) -> Tensors:
        """Terms of all encoders; those of one name, such as two priors, are added."""
        made: Tensors = {}
        for encoder in self._parts():
            for name, term in encoder.own_terms(batch, progress, predicted).items():
                made[name] = made[name] + term if name in made else term
        return made


def _dealt(
    targets: Collection[str], encoders: Iterable[str], named: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Encoder -> its own of `targets`, those that `named` does not name with the first; none empty."""
    names = list(encoders)
    owner = {target: name for name, mine in named.items() for target in mine}
    dealt = {name: [t for t in targets if owner.get(t, names[0]) == name] for name in names}
    return {name: mine for name, mine in dealt.items() if mine}
