"""Feature maps of VGG16 with batch norm at its five scales, one by one or packed into tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from decode.core import Stimulus, refusal
from decode.features.network import NetworkTarget
from decode.features.vgg import MEAN, STD, check_size, load_vgg, maps, packed
from decode.pictures import normalised, read_images


@dataclass(eq=False, kw_only=True)
class Vgg(NetworkTarget):
    """Maps of VGG16-BN (Simonyan & Zisserman 2015, arXiv:1409.1556) before each of its max-pools.

    `scale` 1 to 5 gives one map (channel, h, w) after the ReLU; null packs all five into tokens
    (token, 512): scale 1 in patches of 2 x 2, scale 2 in overlapping patches of 2 x 2, the others
    pixel by pixel, narrow ones repeated to the full width. At `size` 112 that is (7190, 512).

    `model` is "torchvision" for its ImageNet weights, or a folder with `model.safetensors` that
    names the tensors as torchvision does (features.0.weight ...).
    """

    model: str = field(default="torchvision", kw_only=False)
    scale: int | None = None
    size: int = 112

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale not in (None, 1, 2, 3, 4, 5):
            raise refusal("targets.*.scale", "1 to 5 or null", self.scale, "choose one of these")
        check_size(self.size, "vgg target")

    def open(self) -> Any:
        return load_vgg(self.model)

    def forward(self, stimuli: Sequence[Stimulus]) -> Tensor:
        pixels = normalised(read_images(stimuli, self.size), self.size, MEAN, STD)
        found = maps(self._network, pixels.to(self._place, self.dtype))
        return packed(found) if self.scale is None else found[self.scale - 1]
