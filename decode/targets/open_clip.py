"""Features of any open_clip model: image embedding, token grid, text embedding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from decode.core import InputError, Kind, Stimulus
from decode.networks.weights import (
    Precision,
    choose_device,
    choose_dtype,
    in_batches,
    load_open_clip,
    loading,
    open_clip_name,
)
from decode.pictures import open_image

Output = Literal["pooled", "cls", "tokens", "text"]
EVERYTHING: frozenset[Kind] = frozenset({"image", "text", "audio", "video", "mesh", "event"})


class OpenClip:
    """Features of an open_clip model (Cherti et al. 2023, doi:10.1109/CVPR52729.2023.00276).

    `model` is an architecture of open_clip with `pretrained` naming its weights, `hf-hub:ORG/NAME`,
    a folder in open_clip's format, or `package:FOLDER`. `output` is one of

    * "pooled": the image embedding in the joint space, (width,);
    * "tokens": patch tokens, (token, width). `layer` None gives the tower's own output tokens,
      final layer norm included; a number the raw output of that block, negative from the end;
    * "cls": the class token of block `layer`, (width,);
    * "text": the text embedding of `stimulus.text` put into `prompt`, (width,).

    `normalise` divides each vector by its Euclidean norm; generators that take an embedding want it
    at its true scale.
    """

    accepts: ClassVar[frozenset[Kind]] = EVERYTHING

    def __init__(
        self,
        model: str,
        *,
        pretrained: str | None = None,
        output: Output = "pooled",
        layer: int | None = None,
        normalise: bool = False,
        prompt: str = "{}",
        precision: Precision = "float32",
        batch_size: int = 64,
        device: str = "auto",
    ) -> None:
        if output not in ("pooled", "cls", "tokens", "text"):
            raise InputError(
                f"open_clip target: output is pooled, cls, tokens or text, got {output!r}"
            )
        if layer is not None and output in ("pooled", "text"):
            raise InputError(
                f"open_clip target: output={output!r} has no layer, got layer={layer}; "
                "set output to cls or tokens, or layer to null"
            )
        if "{}" not in prompt:
            raise InputError(f"open_clip target: prompt needs a {{}} for the text, got {prompt!r}")
        self.model, self.pretrained = model, pretrained
        self.output, self.layer = output, layer
        self.normalise, self.prompt = normalise, prompt
        self.dtype = choose_dtype(precision)
        self.batch_size, self.device = batch_size, device
        self._network: Any = None
        self._transform: Any = None

    def __call__(self, stimuli: Sequence[Stimulus]) -> Tensor:
        """(stimulus, *shape) float32 on the CPU."""
        self._load()
        forward = self._texts if self.output == "text" else self._images
        label = f"{Path(self.model).name} {self.output}"
        features = in_batches(stimuli, forward, batch_size=self.batch_size, label=label)
        return normalize(features, dim=-1) if self.normalise else features

    def _load(self) -> None:
        if self._network is None:
            network, transform = load_open_clip(self.model, self.pretrained)
            self._place = choose_device(self.device)
            self._network = network.to(self._place, self.dtype).eval()
            self._transform = transform

    def _images(self, stimuli: Sequence[Stimulus]) -> Tensor:
        pixels = torch.stack([self._transform(open_image(s)) for s in stimuli])
        pixels = pixels.to(self._place, self.dtype)
        if self.output == "pooled":
            return self._network.encode_image(pixels)
        layer = -1 if self.layer is None else self.layer
        final_norm = self.layer is None and self.output == "tokens"
        tokens, prefix = block_tokens(self._network.visual, pixels, layer, final_norm, self.model)
        if self.output == "tokens":
            return tokens
        if prefix is None:
            raise InputError(
                f"open_clip target: the image tower of {self.model!r} has no class token; "
                "set output to tokens or pooled"
            )
        return prefix[:, 0]

    def _texts(self, stimuli: Sequence[Stimulus]) -> Tensor:
        missing = [s.uid for s in stimuli if not s.text]
        if missing:
            raise InputError(
                f"open_clip target: output=text needs a text for each stimulus, {missing[0]!r} has "
                "none; choose output=pooled or data that carry captions or names"
            )
        tokens = self._tokeniser()([self.prompt.format(s.text) for s in stimuli])
        return self._network.encode_text(tokens.to(self._place))

    def _tokeniser(self) -> Any:
        import open_clip

        with loading(self.model):
            return open_clip.get_tokenizer(open_clip_name(self.model))


def block_tokens(
    tower: Any, pixels: Tensor, layer: int, final_norm: bool, model: str
) -> tuple[Tensor, Tensor | None]:
    """Patch tokens (image, token, width) and class tokens (image, 1, width) of one block."""
    # ResNet towers know feature maps only.
    convolutional = not hasattr(tower, "transformer") and not hasattr(tower, "trunk")
    try:
        found = tower.forward_intermediates(
            pixels,
            indices=[layer],
            stop_early=True,
            normalize_intermediates=final_norm,
            intermediates_only=True,
            output_fmt="NCHW" if convolutional else "NLC",
            output_extra_tokens=not convolutional,
        )
    except AssertionError as e:
        raise InputError(f"open_clip target: {model!r} has no block {layer} ({e})") from e
    tokens = found["image_intermediates"][0]
    if convolutional:
        tokens = tokens.flatten(2).transpose(1, 2)
    prefix = found.get("image_intermediates_prefix")
    return tokens, prefix[0] if prefix else None
