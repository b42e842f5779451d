"""Networks whose features compare pictures, each named after what it really is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from decode.core import InputError, refusal
from decode.scoring.picture_scores import Resize
from decode.weights.hub import opening
from decode.weights.reading import choose_device, find_weights, load_efficientnet_lite, loading

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# The weights that the published scores `clip` were computed with.
REAL_CLIP = ("ViT-L-14-quickgelu", "openai")


class FeatureNetwork(Protocol):
    """Pictures (picture, 3, h, w) in [0, 1] -> features (picture, value) float32 per name.

    One that is `semantic` was trained with words, so that pictures are near which mean the same.
    """

    semantic: ClassVar[bool]

    @property
    def names(self) -> tuple[str, ...]: ...

    def __call__(self, pictures: Tensor) -> dict[str, np.ndarray]: ...


def slug(text: str) -> str:
    """`text` in lower snake case."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def normalised(pictures: Tensor, mean: Any, std: Any, device: torch.device) -> Tensor:
    """Pictures with the given mean subtracted and divided by the given deviation, per channel."""
    pictures = pictures.to(device)
    centre = torch.as_tensor(mean, device=device).view(1, 3, 1, 1)
    return (pictures - centre) / torch.as_tensor(std, device=device).view(1, 3, 1, 1)


def flat(features: Tensor) -> np.ndarray:
    return features.flatten(1).float().cpu().numpy()


class Pixels:
    """The picture itself as features, resized to `size` when that is given."""

    semantic: ClassVar[bool] = False
    names: ClassVar[tuple[str, ...]] = ("pixels",)

    def __init__(self, resize: Resize | None = None) -> None:
        self.resize = resize

    def __call__(self, pictures: Tensor) -> dict[str, np.ndarray]:
        return {"pixels": flat(self.resize(pictures) if self.resize else pictures)}


class Torchvision:
    """Layers of a torchvision classifier: `layers` maps the name of a score to a node of `model`.

    `weights` is the torchvision name of published weights (IMAGENET1K_V1), fetched and cached by
    torchvision, or null for an untrained network, whose scores are named `random_...`. `file` is a
    safetensors file holding the weights that `weights` names, or, with `weights` another word
    ("swav", made by scripts/convert_swav.py), weights torchvision does not know.
    """

    semantic: ClassVar[bool] = False

    def __init__(
        self,
        model: str,
        *,
        layers: Mapping[str, str],
        resize: Resize,
        weights: str | None = "IMAGENET1K_V1",
        file: str | None = None,
        device: str = "auto",
    ) -> None:
        self.model, self.weights, self.file = model, weights, file
        self.resize, self.device = resize, device
        prefix = "" if weights else "random_"
        self.layers = {prefix + name: node for name, node in layers.items()}
        self._network: Any = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.layers)

    def __call__(self, pictures: Tensor) -> dict[str, np.ndarray]:
        if self._network is None:
            self._place = choose_device(self.device)
            self._network = self._load().to(self._place)
        ready = normalised(self.resize(pictures), IMAGENET_MEAN, IMAGENET_STD, self._place)
        with torch.inference_mode():
            found = self._network(ready)
        return {name: flat(found[name]) for name in self.layers}

    def _load(self) -> nn.Module:
        from torchvision.models import get_model, list_models
        from torchvision.models.feature_extraction import create_feature_extractor

        if self.model not in list_models():
            raise refusal(
                "feature network",
                "a model of torchvision",
                f"{self.model!r}",
                "see its list_models()",
            )
        with loading(self.model):
            if self.weights and not self.file:
                network = get_model(self.model, weights=self.weights)
            else:
                with torch.random.fork_rng():
                    torch.manual_seed(0)
                    network = get_model(self.model, weights=None, **untrained_options(self.model))
            if self.file:
                load_file(network, Path(self.file).expanduser())
            nodes = {node: name for name, node in self.layers.items()}
            return create_feature_extractor(network.eval(), return_nodes=nodes).eval()


def untrained_options(model: str) -> dict[str, Any]:
    """What torchvision sets by itself only when it fetches the weights."""
    if model == "inception_v3":
        return {"transform_input": True, "aux_logits": True, "init_weights": False}
    return {}


def load_file(network: nn.Module, file: Path) -> None:
    """Fill `network` from a safetensors file; a missing classifier is fine, nothing else is."""
    from safetensors.torch import load_file as read

    if not file.is_file():
        raise InputError(
            f"feature network: expected weights at {file}, found no file; docs/weights.md says how to "
            "make it, or take the network out of the metric"
        )
    missing, unexpected = network.load_state_dict(read(file), strict=False)
    wrong = [key for key in missing if not key.startswith(("fc.", "classifier.", "AuxLogits."))]
    if wrong or unexpected:
        raise refusal(
            file,
            "weights that fit the feature network",
            f"missing {wrong[:3]}, unexpected {list(unexpected)[:3]}",
            "give weights of this architecture as safetensors",
        )


class OpenClip:
    """Image embedding of an open_clip model or of a local folder in open_clip's format.

    Its score is named `clip` only for OpenAI's ViT-L/14, which the published tables used; any other
    model carries its own name (`tiny_clip`, `vit_b_32_laion2b`).
    """

    semantic: ClassVar[bool] = True

    def __init__(
        self,
        model: str = REAL_CLIP[0],
        *,
        pretrained: str | None = REAL_CLIP[1],
        resize: Resize | None = None,
        device: str = "auto",
    ) -> None:
        self.model, self.pretrained = model, pretrained
        self.resize, self.device = resize, device
        self._network: Any = None

    @property
    def names(self) -> tuple[str, ...]:
        if (self.model, self.pretrained) == REAL_CLIP:
            return ("clip",)
        if self.model.startswith("package:"):
            return (slug(self.model.removeprefix("package:")),)
        return (slug(f"{Path(self.model).name} {self.pretrained or ''}"),)

    def __call__(self, pictures: Tensor) -> dict[str, np.ndarray]:
        if self._network is None:
            self._load()
        tower = self._network.visual
        assert self.resize is not None
        ready = normalised(self.resize(pictures), tower.image_mean, tower.image_std, self._place)
        with torch.inference_mode():
            return {self.names[0]: flat(self._network.encode_image(ready))}

    def _load(self) -> None:
        import open_clip

        found = find_weights(self.model)
        name = f"local-dir:{found}" if isinstance(found, Path) else self.model
        self._place = choose_device(self.device)
        if needs_quickgelu(name, self.pretrained):
            raise refusal(
                "feature network",
                f"the QuickGELU variant, which weights {self.pretrained!r} need",
                f"{self.model!r}",
                f"set model to {self.model}-quickgelu",
            )
        with opening(self.model):
            network = open_clip.create_model_from_pretrained(
                name, self.pretrained, return_transform=False
            )
        self._network = network.to(self._place).eval()
        size = self._network.visual.image_size
        side = size if isinstance(size, int) else size[0]
        self.resize = self.resize or Resize(side, "bilinear_antialias")


def needs_quickgelu(model: str, pretrained: str | None) -> bool:
    """Whether weights trained with QuickGELU are asked for in a network without it.

    open_clip only warns; the features are plausible and wrong.
    """
    import open_clip

    if pretrained not in open_clip.list_pretrained_tags_by_model(model):
        return False
    weights = open_clip.get_pretrained_cfg(model, pretrained) or {}
    network = open_clip.get_model_config(model) or {}
    return bool(weights.get("quick_gelu")) and not network.get("quick_gelu", False)


class EfficientNetLite0:
    """Pooled features (1280,) of EfficientNet-Lite0, ImageNet weights from the package index.

    The offline stand-in for the larger classifiers; needs the extra `imagenet`. Pictures
    are resized whole to 224 (Tan & Le 2019, arXiv:1905.11946).
    """

    semantic: ClassVar[bool] = False
    names: ClassVar[tuple[str, ...]] = ("efficientnet_lite0",)

    def __init__(self, *, resize: Resize | None = None, device: str = "auto") -> None:
        self.resize, self.device = resize or Resize(224), device
        self._network: Any = None

    def __call__(self, pictures: Tensor) -> dict[str, np.ndarray]:
        if self._network is None:
            self._place = choose_device(self.device)
            self._network = load_efficientnet_lite().to(self._place).eval()
        ready = normalised(self.resize(pictures), [127 / 255] * 3, [128 / 255] * 3, self._place)
        with torch.inference_mode():
            maps = self._network.extract_features(ready)
        return {"efficientnet_lite0": flat(maps.mean(dim=(2, 3)))}
