"""Features of any timm model: pooled output, class token, patch tokens or maps of any block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from decode.core import Stimulus, refusal
from decode.features.augmentation import CHANGES, changed
from decode.features.network import NetworkTarget
from decode.pictures import open_image
from decode.weights.hub import from_hub
from decode.weights.reading import find_weights, loading


@dataclass(eq=False, kw_only=True)
class Timm(NetworkTarget):
    """A timm model by name (`vit_large_patch14_dinov2.lvd142m`), `hf-hub:ORG/NAME` or folder.

    `output` is "pooled" (width,), the input of the classifier head; "cls" (width,); or "patches"
    (token, width), where a convolutional network's map is flattened. With `layer` None the last two
    include the final norm; a number takes the raw output of that block, negative from the end.

    `size` is the side of the pictures that a convolutional network is given, squeezed to a square and
    not cropped (null: as the model was trained). `changed` is the seed of one random change of each
    picture, of the kind `change` (see `decode.features.augmentation`), for objectives that compare a
    picture with itself.
    """

    output: Literal["pooled", "cls", "patches"] = "cls"
    layer: int | None = None
    size: int | None = None
    changed: int | None = None
    change: Literal["mindeye1", "mindeye2"] = "mindeye1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and self.size < 32:
            raise refusal("targets.*.size", "at least 32 pixels", self.size, "raise it")
        if self.output not in ("pooled", "cls", "patches"):
            raise refusal(
                "targets.*.output", "pooled, cls or patches", f"{self.output!r}", "choose one"
            )
        if self.output == "pooled" and self.layer is not None:
            raise refusal(
                "targets.*.layer",
                "null with output=pooled, which has no layer",
                self.layer,
                "set layer to null or output to cls or patches",
            )

    def open(self) -> Any:
        import timm

        name = timm_name(self.model)
        with loading(self.model), from_hub(name):
            # Zero classes makes the classifier the identity: the output is what it would read.
            network = timm.create_model(name, pretrained=True, num_classes=0)
            settings = timm.data.resolve_model_data_config(network)
        if self.size is not None:
            if hasattr(network, "num_prefix_tokens"):
                raise refusal(
                    "targets.*.size",
                    f"{settings['input_size'][1]}, the pixels that {self.model!r} has places for",
                    self.size,
                    "set it to null or choose a convolutional network",
                )
            side = (3, self.size, self.size)
            settings |= {"input_size": side, "crop_pct": 1.0, "crop_mode": "squash"}
        self._side = settings["input_size"][1]
        self._transform = timm.data.create_transform(**settings, is_training=False)
        return network

    def forward(self, stimuli: Sequence[Stimulus]) -> Tensor:
        pixels = torch.stack([self._transform(self._picture(s)) for s in stimuli])
        pixels = pixels.to(self._place, self.dtype)
        if self.output == "pooled":
            return self._network(pixels)
        tokens, prefix = self._block(pixels)
        if self.output == "patches":
            return tokens
        if prefix is None or prefix.shape[1] == 0:
            raise refusal(
                "targets.*.output",
                f"pooled or patches, as {self.model!r} has no class token",
                "cls",
                "set output to pooled or patches",
            )
        return prefix[:, 0]

    def _picture(self, stimulus: Stimulus) -> Any:
        picture = open_image(stimulus)
        if self.changed is None:
            return picture
        kind = CHANGES[self.change]
        return changed(picture, stimulus, seed=self.changed, size=self._side, change=kind)

    def _block(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Patch tokens (image, token, width) and prefix tokens of the block asked for."""
        tokenised = hasattr(self._network, "num_prefix_tokens")
        knobs: dict[str, Any] = {"return_prefix_tokens": True} if tokenised else {}
        try:
            found = self._network.forward_intermediates(
                pixels,
                indices=[-1 if self.layer is None else self.layer],
                norm=self.layer is None and tokenised,
                stop_early=True,
                intermediates_only=True,
                output_fmt="NLC" if tokenised else "NCHW",
                **knobs,
            )[0]
        except (AssertionError, AttributeError) as e:
            raise refusal(
                "targets.*.layer",
                f"a block that {self.model!r} can give",
                f"{self.layer} ({e})",
                "choose a layer it has, or output=pooled",
            ) from e
        if tokenised:
            return found
        return found.flatten(2).transpose(1, 2), None


def timm_name(model: str) -> str:
    """The name by which timm knows `model`: folders get its `local-dir:` prefix."""
    import timm

    if model.startswith(("hf-hub:", "local-dir:")):
        return model
    found = find_weights(model)
    if isinstance(found, Path):
        return f"local-dir:{found}"
    known = timm.list_pretrained()
    if model not in known and not timm.is_model(model.split(".")[0]):
        near = get_close_matches(model, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise refusal(
            "targets.*.model",
            "a folder or a model of timm",
            f"{model!r}",
            f"{hint}give a name of timm.list_pretrained(), hf-hub:ORG/NAME or a folder",
        )
    return model
