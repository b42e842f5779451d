"""The picture itself as a target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor

from decode.core import Kind, Reads, Stimulus, refusal
from decode.pictures import read_images, to_grey
from decode.weights.reading import in_batches


class Pixels:
    """Pictures resized to (channel, size, size), values in [0, 1].

    `colour` is "rgb" (three channels) or "grey" (one, BT.601 luma).
    """

    accepts: ClassVar[frozenset[Kind]] = frozenset({"image"})
    reads: ClassVar[frozenset[Reads]] = frozenset({"file"})

    def __init__(self, size: int = 64, *, colour: Literal["rgb", "grey"] = "rgb") -> None:
        if colour not in ("rgb", "grey"):
            raise refusal("targets.*.colour", "'rgb' or 'grey'", f"{colour!r}", "choose one")
        if size < 1:
            raise refusal("targets.*.size", "at least 1", size, "give the side of the pictures")
        self.size = size
        self.colour = colour

    def __call__(self, stimuli: Sequence[Stimulus]) -> Tensor:
        """(stimulus, channel, size, size) float32."""
        return in_batches(stimuli, self._read, batch_size=256, label="pixels")

    def _read(self, stimuli: Sequence[Stimulus]) -> Tensor:
        images = read_images(stimuli, self.size)
        return to_grey(images) if self.colour == "grey" else images
