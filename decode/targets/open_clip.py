"""Features of any open_clip model: image embedding, token grid, text embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from decode.core import Kind, Reads, Stimulus, refusal
from decode.features.network import NetworkTarget
from decode.pictures import open_image
from decode.weights.hub import from_hub, opening
from decode.weights.reading import load_open_clip, open_clip_name

Output = Literal["pooled", "cls", "tokens", "text"]
EVERYTHING: frozenset[Kind] = frozenset({"image", "text", "audio", "video", "mesh", "event"})


@dataclass(eq=False, kw_only=True)
class OpenClip(NetworkTarget):
    """Features of an open_clip model (Cherti et al. 2023, doi:10.1109/CVPR52729.2023.00276).

    `model` is an architecture of open_clip with `pretrained` naming its weights, `hf-hub:ORG/NAME`,
    a folder in open_clip's format, or `package:FOLDER`. `output` is one of

    * "pooled": the image embedding in the joint space, (width,);
    * "tokens": patch tokens, (token, width). `layer` None gives the tower's own output tokens,
      final layer norm included; a number the raw output of that block, negative from the end;
    * "cls": the class token of block `layer`, (width,);
    * "text": the text embedding of `stimulus.text` put into `prompt`, (width,).

    `normalise` divides each vector by its Euclidean norm; generators that take an embedding want it
    at its true scale. `half_range` squeezes pictures from [0, 1] into [0.5, 1] before mean and std
    are applied: the features on which the SDXL unCLIP of MindEye2 (Scotti et al. 2024,
    arXiv:2403.11207) was trained, whose preprocessing expected pictures in [-1, 1].
    """

    pretrained: str | None = None
    output: Output = "pooled"
    layer: int | None = None
    normalise: bool = False
    half_range: bool = False
    prompt: str = "{}"
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output not in ("pooled", "cls", "tokens", "text"):
            raise refusal(
                "targets.*.output", "pooled, cls, tokens or text", f"{self.output!r}", "choose one"
            )
        if self.layer is not None and self.output in ("pooled", "text"):
            raise refusal(
                "targets.*.layer",
                f"null with output={self.output!r}, which has no layer",
                self.layer,
                "set output to cls or tokens, or layer to null",
            )
        if "{}" not in self.prompt:
            raise refusal(
                "targets.*.prompt",
                "a {} for the text",
                f"{self.prompt!r}",
                "write one where the text belongs",
            )

    @property
    def accepts(self) -> frozenset[Kind]:  # type: ignore[override]
        """Pictures, or whatever has a text."""
        return EVERYTHING if self.output == "text" else frozenset({"image"})

    @property
    def reads(self) -> frozenset[Reads]:  # type: ignore[override]
        """The file, or what was said of it."""
        return frozenset({"text"} if self.output == "text" else {"file"})

    def open(self) -> Any:
        with from_hub(self.model):
            network, self._transform = load_open_clip(self.model, self.pretrained)
        return network

    def forward(self, stimuli: Sequence[Stimulus]) -> Tensor:
        features = self._texts(stimuli) if self.output == "text" else self._images(stimuli)
        return normalize(features.float(), dim=-1) if self.normalise else features

    def _images(self, stimuli: Sequence[Stimulus]) -> Tensor:
        pixels = torch.stack([self._transform(open_image(s)) for s in stimuli])
        if self.half_range:
            pixels = halved(pixels, self._network.visual.preprocess_cfg)
        pixels = pixels.to(self._place, self.dtype)
        if self.output == "pooled":
            return self._network.encode_image(pixels)
        layer = -1 if self.layer is None else self.layer
        final_norm = self.layer is None and self.output == "tokens"
        tokens, prefix = block_tokens(self._network.visual, pixels, layer, final_norm, self.model)
        if self.output == "tokens":
            return tokens
        if prefix is None:
            raise refusal(
                "targets.*.output",
                f"tokens or pooled, as the image tower of {self.model!r} has no class token",
                "cls",
                "set output to tokens or pooled",
            )
        return prefix[:, 0]

    def _texts(self, stimuli: Sequence[Stimulus]) -> Tensor:
        missing = [s.uid for s in stimuli if not s.text]
        if missing:
            raise refusal(
                "open_clip target",
                "a text for each stimulus, which output=text needs",
                f"none of {missing[0]!r}",
                "choose output=pooled or data that carry captions or names",
            )
        tokens = self._tokeniser()([self.prompt.format(s.text) for s in stimuli])
        return self._network.encode_text(tokens.to(self._place))

    def _tokeniser(self) -> Any:
        import open_clip

        with opening(self.model):
            return open_clip.get_tokenizer(open_clip_name(self.model))


def halved(pixels: Tensor, scale: dict[str, Any]) -> Tensor:
    """(x - mean) / std with x in [0, 1] -> the same with (x + 1) / 2 in the place of x."""
    mean, std = (pixels.new_tensor(scale[name]).view(-1, 1, 1) for name in ("mean", "std"))
    return pixels / 2 + (1 - mean) / (2 * std)


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
        raise refusal(
            "targets.*.layer", f"a block of {model!r}", f"{layer} ({e})", "name a block that it has"
        ) from e
    tokens = found["image_intermediates"][0]
    if convolutional:
        tokens = tokens.flatten(2).transpose(1, 2)
    prefix = found.get("image_intermediates_prefix")
    return tokens, prefix[0] if prefix else None
