"""Features of a network that somebody else's package builds, such as the latents of a VDVAE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from decode.core import InputError, Kind, Reads, Stimulus, refusal
from decode.features.network import check_store
from decode.pictures import read_images
from decode.weights.reading import Precision, choose_device, in_batches


class External:
    """Any function of pictures as a target; in a yaml it is a node of its own, with its weights.

    `network` takes pictures (picture, 3, size, size) float32 in [0, 1] and gives a tensor or a
    sequence of tensors, each (picture, ...), which are flattened and joined in their order; `first`
    keeps that many of them. `values` is how many numbers a picture then has to have, checked at the
    first batch. A torch module is moved to `device`. Nothing here knows what the function reads: its
    weights are its own matter, and a change of them is seen only if their path changes.
    """

    accepts: ClassVar[frozenset[Kind]] = frozenset({"image"})
    reads: ClassVar[frozenset[Reads]] = frozenset({"file"})

    def __init__(
        self,
        network: Callable[[Tensor], Any],
        *,
        size: int,
        first: int | None = None,
        values: int | None = None,
        batch_size: int = 32,
        device: str = "auto",
        store: Precision = "float32",
    ) -> None:
        if not callable(network):
            raise refusal(
                "targets.*.network",
                "a function of pictures",
                type(network).__name__,
                "let the node of `network` build one",
            )
        self.network, self.size, self.first, self.values = network, size, first, values
        self.batch_size, self.device, self.store = batch_size, device, check_store(store)

    def __call__(self, stimuli: Sequence[Stimulus]) -> Tensor:
        """(stimulus, value) float32 on the CPU."""
        self._place = choose_device(self.device)
        if isinstance(self.network, torch.nn.Module):
            self.network.to(self._place).eval()
        return in_batches(stimuli, self._forward, batch_size=self.batch_size, label="external")

    def _forward(self, stimuli: Sequence[Stimulus]) -> Tensor:
        found = self.network(read_images(stimuli, self.size).to(self._place))
        parts = [found] if isinstance(found, Tensor) else list(found)[: self.first]
        rows = {len(part) for part in parts}
        if rows != {len(stimuli)}:
            raise InputError(
                f"external target: expected tensors of {len(stimuli)} rows from the network, one "
                f"per picture, got {sorted(rows)}; correct what it returns"
            )
        joined = torch.cat([part.flatten(1).float() for part in parts], dim=1)
        if self.values is not None and joined.shape[1] != self.values:
            raise refusal(
                "targets.*.values",
                f"{self.values} values per picture",
                f"{joined.shape[1]} from the network",
                "correct `values`, `first` or `size`",
            )
        return joined
