"""Features of DINOv2 (or any plain vision transformer) through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from decode.core import InputError, Kind, Stimulus
from decode.networks.weights import (
    Precision,
    choose_device,
    choose_dtype,
    find_weights,
    in_batches,
    loading,
    quiet,
)
from decode.pictures import open_image


class Dinov2:
    """DINOv2 (Oquab et al. 2023, arXiv:2304.07193) from a hub name or a `save_pretrained` folder.

    `output` is "cls" (width,) or "patches" (token, width). `layer` None takes the network's output,
    final layer norm included; a number takes the raw output of that block, negative from the end.
    """

    accepts: ClassVar[frozenset[Kind]] = frozenset({"image"})

    def __init__(
        self,
        model: str = "facebook/dinov2-large",
        *,
        output: Literal["cls", "patches"] = "cls",
        layer: int | None = None,
        precision: Precision = "float32",
        batch_size: int = 32,
        device: str = "auto",
    ) -> None:
        if output not in ("cls", "patches"):
            raise InputError(f"dinov2 target: output is cls or patches, got {output!r}")
        self.model, self.output, self.layer = model, output, layer
        self.dtype = choose_dtype(precision)
        self.batch_size, self.device = batch_size, device
        self._network: Any = None
        self._processor: Any = None

    def __call__(self, stimuli: Sequence[Stimulus]) -> Tensor:
        """(stimulus, *shape) float32 on the CPU."""
        self._load()
        label = f"{Path(self.model).name} {self.output}"
        return in_batches(stimuli, self._forward, batch_size=self.batch_size, label=label)

    def _load(self) -> None:
        if self._network is not None:
            return
        from transformers import AutoImageProcessor, AutoModel

        source = find_weights(self.model)
        with quiet(), loading(self.model):
            self._processor = AutoImageProcessor.from_pretrained(source)
            network = AutoModel.from_pretrained(source, use_safetensors=True)
        blocks = network.config.num_hidden_layers
        if self.layer is not None and not -blocks <= self.layer < blocks:
            raise InputError(
                f"dinov2 target: {self.model!r} has {blocks} blocks, got layer {self.layer}; "
                f"give -{blocks} to {blocks - 1} or null"
            )
        self._place = choose_device(self.device)
        self._network = network.to(self._place, self.dtype).eval()

    def _forward(self, stimuli: Sequence[Stimulus]) -> Tensor:
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
