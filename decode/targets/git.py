"""Image tokens of GIT, from which its language model writes captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from decode.core import Stimulus
from decode.features.network import NetworkTarget
from decode.pictures import open_image
from decode.weights.hub import opening
from decode.weights.reading import find_weights, quiet


@dataclass(eq=False, kw_only=True)
class Git(NetworkTarget):
    """Tokens (token, width) of the image encoder of GIT (Wang et al. 2022, arXiv:2205.14100).

    They are what the encoder gives after its final norm, class token first: (257, 1024) for
    git-large-coco. The whole model is read, since its files are not split.
    """

    model: str = field(default="microsoft/git-large-coco", kw_only=False)

    def open(self) -> Any:
        from transformers import CLIPImageProcessor, GitForCausalLM

        source = find_weights(self.model)
        with quiet(), opening(self.model):
            self._processor: Any = CLIPImageProcessor.from_pretrained(source)
            network = GitForCausalLM.from_pretrained(source, use_safetensors=True)
        return network.git.image_encoder

    def forward(self, stimuli: Sequence[Stimulus]) -> Tensor:
        pictures = [open_image(s) for s in stimuli]
        pixels = self._processor(pictures, return_tensors="pt")["pixel_values"]
        return self._network(pixels.to(self._place, self.dtype)).last_hidden_state
