"""Features of EfficientNet-Lite0, a small ImageNet network that installs from the package index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from decode.core import Stimulus, refusal
from decode.features.network import NetworkTarget
from decode.pictures import open_image
from decode.weights.reading import load_efficientnet_lite


@dataclass(eq=False, kw_only=True)
class EfficientNetLite(NetworkTarget):
    """EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946; the Lite variant has no squeeze-excite).

    `output` is "pooled" (1280,), "logits" (1000,) of ImageNet's classes, or "maps", the output
    (channel, h, w) of block `layer` (0 to 15, negative from the end).
    """

    model: str = field(default="efficientnet_lite", init=False)
    output: Literal["pooled", "logits", "maps"] = "pooled"
    layer: int | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        output, layer = self.output, self.layer
        if output not in ("pooled", "logits", "maps"):
            raise refusal("targets.*.output", "pooled, logits or maps", f"{output!r}", "choose one")
        if (layer is not None) != (output == "maps"):
            raise refusal(
                "targets.*.layer",
                "a layer just where output=maps",
                f"layer={layer} and output={output!r}",
                "set both or leave layer null",
            )
        if layer is not None and not -16 <= layer < 16:
            raise refusal(
                "targets.*.layer", "one of the 16 blocks, from 0", layer, "name one of them"
            )

    def open(self) -> Any:
        return load_efficientnet_lite()

    def forward(self, stimuli: Sequence[Stimulus]) -> Tensor:
        from torchvision.transforms import v2

        # The weights were trained with (value - 127) / 128 and a .875 centre crop.
        transform = v2.Compose(
            [
                v2.Resize(256, v2.InterpolationMode.BICUBIC),
                v2.CenterCrop(224),
                v2.PILToTensor(),
            ]
        )
        raw = torch.stack([transform(open_image(s)) for s in stimuli])
        pixels = ((raw.float() - 127) / 128).to(self._place, self.dtype)
        if self.output == "maps":
            return self._maps(pixels)
        if self.output == "logits":
            return self._network(pixels)
        return self._network.extract_features(pixels).mean((2, 3))

    def _maps(self, pixels: Tensor) -> Tensor:
        found: list[Tensor] = []
        block = self._network._blocks[self.layer]
        handle = block.register_forward_hook(lambda module, inputs, output: found.append(output))
        try:
            self._network.extract_features(pixels)
        finally:
            handle.remove()
        return found[0]
