"""Feature maps of VGG16 with batch norm at its five scales, one by one or packed into tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import unfold

from decode.core import InputError, Stimulus
from decode.networks.features import NetworkTarget
from decode.networks.weights import find_weights, loading
from decode.pictures import normalised, read_images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WIDTH = 512


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
            raise InputError(f"vgg target: scale is 1 to 5 or null, got {self.scale}")
        if self.size < 32 or self.size % 16:
            raise InputError(f"vgg target: size is a multiple of 16 from 32 on, got {self.size}")

    def open(self) -> Any:
        from torchvision.models.vgg import cfgs, make_layers

        network = make_layers(cfgs["D"], batch_norm=True)
        with loading(self.model):
            state = self._weights()
            kept = {k.removeprefix("features."): v for k, v in state.items() if "features." in k}
            network.load_state_dict(kept)
        return network

    def _weights(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file
        from torchvision.models import VGG16_BN_Weights

        if self.model == "torchvision":
            # The file is a pickle: weights_only admits tensors and runs no code.
            published = VGG16_BN_Weights.IMAGENET1K_V1
            return dict(published.get_state_dict(weights_only=True, map_location="cpu"))
        return load_file(f"{find_weights(self.model)}/model.safetensors")

    def forward(self, stimuli: Sequence[Stimulus]) -> Tensor:
        pixels = normalised(read_images(stimuli, self.size), self.size, MEAN, STD)
        maps = self._maps(pixels.to(self._place, self.dtype))
        return packed(maps) if self.scale is None else maps[self.scale - 1]

    def _maps(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer in self._network:
            if isinstance(layer, torch.nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return maps


def packed(maps: list[Tensor]) -> Tensor:
    """Five maps (picture, channel, h, w) -> (picture, token, 512), finest first."""
    first = unfold(maps[0], 2, stride=2)
    second = unfold(maps[1], 2, stride=1)
    tokens = [first, second, *(m.flatten(2) for m in maps[2:])]
    return torch.cat([t.repeat(1, WIDTH // t.shape[1], 1).transpose(1, 2) for t in tokens], dim=1)
