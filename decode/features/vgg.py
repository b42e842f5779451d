"""VGG16 with batch norm: its weights, its maps before each max-pool, and all of them as tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from decode.core import Shape, refusal
from decode.weights.reading import find_weights, loading

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WIDTH = 512
WIDTHS = (64, 128, 256, 512, 512)


def load_vgg(model: str) -> nn.Sequential:
    """The convolutional part. `model` is "torchvision" for its ImageNet weights, or a folder with
    `model.safetensors` that names the tensors as torchvision does (features.0.weight ...).
    """
    from torchvision.models.vgg import cfgs, make_layers

    network: nn.Sequential = make_layers(cfgs["D"], batch_norm=True)
    with loading(model):
        state = _weights(model)
        kept = {k.removeprefix("features."): v for k, v in state.items() if "features." in k}
        network.load_state_dict(kept)
    return network


def _weights(model: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file
    from torchvision.models import VGG16_BN_Weights

    if model == "torchvision":
        # The file is a pickle: weights_only admits tensors and runs no code.
        published = VGG16_BN_Weights.IMAGENET1K_V1
        return dict(published.get_state_dict(weights_only=True, map_location="cpu"))
    return load_file(f"{find_weights(model)}/model.safetensors")


def check_size(size: int, where: str) -> None:
    """Raise InputError for a side of pictures that the five scales do not divide."""
    if size < 32 or size % 16:
        raise refusal(
            where, "a size that is a multiple of 16 from 32 on", size, "take the next such size"
        )


def map_shape(scale: int | None, size: int) -> Shape:
    """Shape of the map of a scale from 1 to 5, or of the tokens of all, for pictures of that side."""
    if scale is not None:
        return (WIDTHS[scale - 1], *(size // 2 ** (scale - 1),) * 2)
    sides = (size // 2, size // 2 - 1, size // 4, size // 8, size // 16)
    return (sum(s**2 for s in sides), WIDTH)


def maps(network: nn.Sequential, x: Tensor, *, last: int = 5) -> list[Tensor]:
    """Maps (picture, channel, h, w) of the scales up to `last`, after the ReLU before each max-pool."""
    found: list[Tensor] = []
    for layer in network:
        if isinstance(layer, nn.MaxPool2d):
            found.append(x)
            if len(found) == last:
                break
        x = layer(x)
    return found


def packed(found: list[Tensor]) -> Tensor:
    """Five maps (picture, channel, h, w) -> (picture, token, 512), finest first."""
    first = unfold(found[0], 2, stride=2)
    second = unfold(found[1], 2, stride=1)
    tokens = [first, second, *(m.flatten(2) for m in found[2:])]
    return torch.cat([t.repeat(1, WIDTH // t.shape[1], 1).transpose(1, 2) for t in tokens], dim=1)
