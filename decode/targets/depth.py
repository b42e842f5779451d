"""Depth maps, estimated from the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from decode.core import Stimulus, refusal
from decode.features.network import NetworkTarget
from decode.pictures import open_image
from decode.weights.hub import opening
from decode.weights.reading import find_weights, quiet


@dataclass(eq=False, kw_only=True)
class Depth(NetworkTarget):
    """Relative nearness (1, size, size), the farthest point of each picture 0 and the nearest 1.

    Any depth model of transformers, such as DPT (Ranftl et al. 2021, arXiv:2103.13413). Models that
    give metric distance instead of nearness need `inverted`. Pictures of one depth are all zeros.
    """

    model: str = field(default="Intel/dpt-large", kw_only=False)
    size: int = 64
    inverted: bool = False
    batch_size: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise refusal(
                "targets.*.size", "at least 1 pixel", self.size, "give the side of the maps"
            )

    def open(self) -> Any:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation

        source = find_weights(self.model)
        with quiet(), opening(self.model):
            self._processor: Any = AutoImageProcessor.from_pretrained(
                source, trust_remote_code=False
            )
            return AutoModelForDepthEstimation.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False
            )

    def forward(self, stimuli: Sequence[Stimulus]) -> Tensor:
        pictures = [open_image(s) for s in stimuli]
        pixels = self._processor(pictures, return_tensors="pt")["pixel_values"]
        found = self._network(pixels.to(self._place, self.dtype)).predicted_depth[:, None].float()
        side = (self.size, self.size)
        maps = interpolate(
            -found if self.inverted else found, side, mode="bilinear", antialias=True
        )
        low = maps.amin((2, 3), keepdim=True)
        return (maps - low) / (maps.amax((2, 3), keepdim=True) - low).clamp_min(1e-6)
