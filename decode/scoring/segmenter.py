"""Segmentation networks of transformers, with what makes their input of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decode.scoring.picture_scores import eight_bit
from decode.weights.hub import opening
from decode.weights.reading import check_complete, choose_device, find_weights, quiet


@dataclass(frozen=True, slots=True, eq=False)
class Segmenter:
    """A network in place, and its processor of pictures."""

    network: Any
    processor: Any

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> Any:
        """The network's output for pictures (picture, 3, row, column) in [0, 1]."""
        pixels = self.processor(list(eight_bit(pictures)), return_tensors="pt")["pixel_values"]
        return self.network(pixels.to(self.network.device))


def open_segmenter(kind: str, model: str, device: str, remedy: str) -> Segmenter:
    """The network of a hub name or folder, by the name of transformers' auto class.

    Raises InputError, with the `remedy`, when some of its layers have no weights.
    """
    import transformers

    source = find_weights(model)
    place = choose_device(device)
    with quiet(), opening(model):
        processor = transformers.AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        network, found = getattr(transformers, kind).from_pretrained(
            source, use_safetensors=True, output_loading_info=True, trust_remote_code=False
        )
    check_complete(found, model, remedy)
    return Segmenter(network.to(place).eval(), processor)
