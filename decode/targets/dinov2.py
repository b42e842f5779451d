"""Features of DINOv2 (or any plain vision transformer) through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from decode.core import Stimulus, refusal
from decode.features.network import NetworkTarget
from decode.pictures import open_image
from decode.weights.hub import opening
from decode.weights.reading import find_weights, quiet


@dataclass(eq=False, kw_only=True)
class Dinov2(NetworkTarget):
    """DINOv2 (Oquab et al. 2023, arXiv:2304.07193) from a hub name or a `save_pretrained` folder.

    `output` is "cls" (width,) or "patches" (token, width). `layer` None takes the network's output,
    final layer norm included; a number takes the raw output of that block, negative from the end.
    """

    model: str = field(default="facebook/dinov2-large", kw_only=False)
    output: Literal["cls", "patches"] = "cls"
    layer: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output not in ("cls", "patches"):
            raise refusal("targets.*.output", "cls or patches", f"{self.output!r}", "choose one")

    def open(self) -> Any:
        from transformers import AutoImageProcessor, AutoModel

        source = find_weights(self.model)
        with quiet(), opening(self.model):
            self._processor: Any = AutoImageProcessor.from_pretrained(
                source, trust_remote_code=False
            )
            network = AutoModel.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False
            )
        blocks = network.config.num_hidden_layers
        if self.layer is not None and not -blocks <= self.layer < blocks:
            raise refusal(
                "targets.*.layer",
                f"null, or -{blocks} to {blocks - 1}, the blocks of {self.model!r}",
                self.layer,
                "name one of them",
            )
        return network

    def forward(self, stimuli: Sequence[Stimulus]) -> Tensor:
        pictures = [open_image(s) for s in stimuli]
        pixels = self._processor(pictures, return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self._place, self.dtype)
        if self.layer is None:
            tokens = self._network(pixels).last_hidden_state
        else:
            hidden = self._network(pixels, output_hidden_states=True).hidden_states
            # The first hidden state is the embedding that enters block 0.
            tokens = hidden[1:][self.layer]
        if self.output == "cls":
            return tokens[:, 0]
        # Some DINOv2 variants carry register tokens between the class token and the patches.
        registers = getattr(self._network.config, "num_register_tokens", 0)
        return tokens[:, 1 + registers :]
