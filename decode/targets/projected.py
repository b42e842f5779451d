"""Another target through a random projection: long features at a fraction of their size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decode.core import Stimulus, Target, refusal
from decode.features.network import check_store
from decode.weights.reading import Precision

BLOCK = 4096


class Projected:
    """Features of `target` times a random matrix with `size` columns, seeded and never stored.

    Entries are normal with variance 1 / size, so that norms and angles are kept up to a relative
    error of about sqrt(2 / size) (Johnson & Lindenstrauss 1984). Nothing is learnt, so the same
    projection serves every fold. It suits retrieval and objectives on angles; a generator cannot
    undo it. The matrix is drawn block by block, each time anew: memory stays at `size` times 4096.
    """

    def __init__(
        self, target: Target, *, size: int, seed: int = 0, store: Precision = "float32"
    ) -> None:
        if size < 1:
            raise refusal("targets.*.size", "at least 1", size, "give the length of the projection")
        self.target, self.size, self.seed = target, size, seed
        self.store = check_store(store)
        self.accepts: Any = target.accepts
        self.reads: Any = target.reads

    def __call__(self, stimuli: Sequence[Stimulus]) -> Tensor:
        """(stimulus, size) float32."""
        features = self.target(stimuli).float().flatten(1)
        made = torch.zeros(len(features), self.size)
        for number, start in enumerate(range(0, features.shape[1], BLOCK)):
            part = features[:, start : start + BLOCK]
            # torch looks at 32 bits of a seed only, so both numbers are mixed into that many.
            mixed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
            drawn = torch.Generator().manual_seed(mixed)
            made += part @ torch.randn(part.shape[1], self.size, generator=drawn)
        return made / math.sqrt(self.size)
