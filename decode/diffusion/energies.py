"""How far a picture is from what was predicted from the brain: to steer samplers and to choose pictures.

An energy takes pictures (row, 3, h, w) in or around [0, 1] and the predictions of the same rows, and
gives one number per row, low where they agree. `needs` names the targets that it reads. It can be
differentiated by the pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from decode.core import Shape, Tensors, refusal
from decode.features.clip_tokens import versatile_image
from decode.pictures import normalised, to_grey
from decode.weights.hub import opening
from decode.weights.reading import find_weights, load_open_clip, quiet, read_config


class Energy(Protocol):
    def __call__(self, pictures: Tensor, predicted: Tensors) -> Tensor: ...


class PictureDistance:
    """Mean squared difference from a predicted picture (1 or 3, h, w), at the size of that picture.

    Coarse predictions - 8 x 8 colours - leave details to the generator and fix the layout.
    """

    def __init__(self, target: str = "pixels") -> None:
        self.target = target
        self.needs = (target,)

    def __repr__(self) -> str:
        return f"the distance from the predicted picture {self.target!r}"

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Raise InputError when the target is no picture."""
        shape = tuple(shapes[self.target])
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise refusal(
                "energy.target",
                "a target of pictures (1 or 3, h, w)",
                f"{self.target!r} of shape {shape}",
                "name a pixels target",
            )

    def __call__(self, pictures: Tensor, predicted: Tensors) -> Tensor:
        """(row,)"""
        wanted = predicted[self.target].to(pictures)
        size = (wanted.shape[-2], wanted.shape[-1])
        seen = interpolate(pictures, size=size, mode="bilinear", antialias=True)
        seen = to_grey(seen) if wanted.shape[1] == 1 else seen
        return (seen - wanted).pow(2).flatten(1).mean(1)


class EmbeddingDistance:
    """One minus the cosine between a picture's embedding by `tower` and a predicted embedding.

    `tower` takes pictures (row, 3, h, w) and gives (row, *shape) of the target's shape; tokens are
    compared as one long vector.
    """

    def __init__(self, tower: Any, *, target: str = "retrieval") -> None:
        self.tower, self.target = tower, target
        self.needs = (target,)

    def __repr__(self) -> str:
        return f"the cosine between its {self.tower} and the predicted {self.target!r}"

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Raise InputError when the tower says another width than the target has."""
        width = getattr(self.tower, "width", lambda: None)()
        shape = tuple(shapes[self.target])
        if width is not None and shape[-1] != width:
            raise refusal(
                "energy.target",
                f"a target as wide as the {self.tower}, {width}",
                f"{self.target!r} of shape {shape}",
                "name the target made with the same tower",
            )

    def __call__(self, pictures: Tensor, predicted: Tensors) -> Tensor:
        """(row,)"""
        found = self.tower(pictures).float().flatten(1)
        wanted = predicted[self.target].to(found).flatten(1)
        if found.shape != wanted.shape:
            raise refusal(
                "energy.target",
                f"{found.shape[1]} values, as the {self.tower} gives",
                f"{wanted.shape[1]} of {self.target!r}",
                "name the target made with the same tower",
            )
        return 1 - cosine_similarity(found, wanted, dim=1)


class OpenClipTower:
    """The image tower of an open_clip model on pictures that are tensors already.

    Pictures are squeezed to the tower's size, which for square pictures is what its own transform
    does up to the rounding of 8-bit files. `output` is "pooled" (width,) or "tokens" (token, width).
    """

    def __init__(
        self,
        model: str,
        *,
        pretrained: str | None = None,
        output: Literal["pooled", "tokens"] = "pooled",
    ) -> None:
        if output not in ("pooled", "tokens"):
            raise refusal("energy.output", "pooled or tokens", f"{output!r}", "choose one")
        self.model, self.pretrained, self.output = model, pretrained, output
        self._network: Any = None

    def __repr__(self) -> str:
        return f"open_clip embedding ({self.model})"

    def width(self) -> int | None:
        """Width of the pooled embedding as its configuration tells it; no weights are read."""
        import open_clip

        if self.output != "pooled":
            return None
        folder = read_config(self.model, name="open_clip_config.json")
        told = folder["model_cfg"] if folder else open_clip.get_model_config(self.model)
        return int(told["embed_dim"]) if told else None

    def __call__(self, pictures: Tensor) -> Tensor:
        """(row, *shape)"""
        if self._network is None:
            network, _ = load_open_clip(self.model, self.pretrained)
            self._network = network.visual.eval().requires_grad_(False)
        tower = self._network.to(pictures.device)
        scale = tower.preprocess_cfg
        seen = normalised(pictures, scale["size"], scale["mean"], scale["std"])
        if self.output == "pooled":
            return tower(seen)
        found = tower.forward_intermediates(
            seen, indices=[-1], normalize_intermediates=True, intermediates_only=True,
            output_fmt="NLC",
        )  # fmt: skip
        return torch.as_tensor(found["image_intermediates"][0])


class VersatileTower:
    """Image tokens at the scale of Versatile Diffusion, of pictures that are tensors already.

    `model` is a CLIP of transformers; `tower` and `prepared` are subfolders of the network and of its
    image processor, from which size and scale are read.
    """

    def __init__(
        self, model: str = "openai/clip-vit-large-patch14", *, tower: str = "", prepared: str = ""
    ) -> None:
        self.model, self.tower, self.prepared = model, tower, prepared
        self._network: Any = None

    def __repr__(self) -> str:
        return f"CLIP tokens ({self.model})"

    def __call__(self, pictures: Tensor) -> Tensor:
        """(row, token, width)"""
        if self._network is None:
            self._load()
        network, scale = self._network.to(pictures.device), self._scale
        size = network.config.image_size
        return versatile_image(
            network, normalised(pictures, size, scale.image_mean, scale.image_std)
        )

    def _load(self) -> None:
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        source: Any = find_weights(self.model)
        with quiet(), opening(self.model):
            self._scale: Any = CLIPImageProcessor.from_pretrained(source, subfolder=self.prepared)
            network: Any = CLIPVisionModelWithProjection.from_pretrained(
                source, subfolder=self.tower, use_safetensors=True
            )
        self._network = network.eval().requires_grad_(False)
