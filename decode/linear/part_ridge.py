"""Parts of a signal - one region, or one stretch of time - decoded on their own by a ridge.

What a part can tell is shown in the report as a curve over time or a table over regions; samples
from before the stimulus are a control.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from decode.core import Batch, InputError, Layout, Shape, Tensors
from decode.division import Part
from decode.linear.subject_ridge import Per, RidgeKnobs, SubjectRidge
from decode.networks.blocks import Passport
from decode.trainable import Encoder


class PartRidge(Encoder):
    """A ridge from one part of the signal to the part's targets.

    `alphas` are the strengths to choose from, by leave-one-out, None a grid around the mean
    eigenvalue. Raises InputError for a target that the experiment does not have.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        part: Part,
        alphas: Sequence[float] | None = None,
        per: Per = "target",
    ) -> None:
        super().__init__()
        missing = [name for name in part.targets if name not in shapes]
        if missing:
            raise InputError(
                f"parts: expected targets out of {sorted(shapes)}, got {missing[0]!r}; correct "
                "`targets` of the part"
            )
        self.part, self.passport = part, Passport(layouts)
        self.kept = [torch.from_numpy(part.channels(layout)) for layout in layouts.values()]
        self.ridge = SubjectRidge(
            {name: part.of(layout) for name, layout in layouts.items()},
            {name: shapes[name] for name in part.targets},
            RidgeKnobs(alphas=alphas, per=per, time="mean" if part.pooled else "flatten"),
        )

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.ridge.fit(_Cut(self, train), _Cut(self, validation))

    def forward(self, batch: Batch) -> Tensors:
        return self.ridge(self.cut(batch))

    def cut(self, batch: Batch) -> Batch:
        """The part of a batch: (batch, channel of the part, time of the part)."""
        self.passport.check(batch)
        width = max(len(k) for k in self.kept)
        span = batch.brain[:, :, self.part.first : self.part.end]
        brain = span.new_zeros(len(batch), width, span.shape[2])
        for s in batch.subject.unique().tolist():
            mine = torch.nonzero(batch.subject == s).flatten()
            brain[mine, : len(self.kept[s])] = _select(span, mine, self.kept[s])
        return replace(batch, brain=brain)


def _select(brain: Tensor, rows: Tensor, channels: Tensor) -> Tensor:
    return brain.index_select(0, rows).index_select(1, channels.to(brain.device))


class _Cut:
    """Batches cut to the part, as often as they are asked for."""

    def __init__(self, encoder: PartRidge, batches: Iterable[Batch]) -> None:
        self.encoder, self.batches = encoder, batches

    def __iter__(self) -> Iterator[Batch]:
        return (self.encoder.cut(batch) for batch in self.batches)
