"""DreamSim: a distance between pictures that was tuned to people's judgements."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from decode.core import refusal
from decode.scoring.feature_networks import IMAGENET_MEAN, IMAGENET_STD, flat, normalised
from decode.scoring.picture_scores import Resize
from decode.store import read_tensors
from decode.weights.reading import choose_device

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Name in the file -> timm's architecture, values given, mean and deviation of its pictures.
ENSEMBLE = {
    "dino": ("vit_base_patch16_224", 0, IMAGENET_MEAN, IMAGENET_STD),
    "clip": ("vit_base_patch16_clip_quickgelu_224", 512, CLIP_MEAN, CLIP_STD),
    "open_clip": ("vit_base_patch16_clip_224", 512, CLIP_MEAN, CLIP_STD),
}


class Dreamsim:
    """The ensemble of DreamSim (Fu et al. 2023, arXiv:2306.09344), as a network of the image suite.

    Its 1,792 features are DINO's class token of the last block and the image embeddings of OpenAI's and
    of OpenCLIP's ViT-B/16, side by side. The published distance is 1 - Pearson's r between them, which is
    what `distance` of the image suite makes of a network: `distance_dreamsim`, lower is better.

    `file` is what scripts/convert_dreamsim.py makes of the release. Raises InputError when it is
    missing or not of these networks.
    """

    names: ClassVar[tuple[str, ...]] = ("dreamsim",)
    semantic: ClassVar[bool] = False

    def __init__(self, file: str, *, resize: Resize | None = None, device: str = "auto") -> None:
        self.file, self.device = file, device
        self.resize = resize or Resize(224, "pil_bicubic")
        self._networks: dict[str, nn.Module] = {}

    def __call__(self, pictures: Tensor) -> dict[str, np.ndarray]:
        if not self._networks:
            self._place = choose_device(self.device)
            file = Path(self.file).expanduser()
            state = read_tensors(file, remedy="make it with scripts/convert_dreamsim.py")
            self._networks = open_ensemble(state, str(file), self._place)
        ready, found = self.resize(pictures), []
        with torch.inference_mode():
            for name, (_, _, mean, std) in ENSEMBLE.items():
                found.append(self._networks[name](normalised(ready, mean, std, self._place)))
        return {"dreamsim": flat(torch.cat(found, dim=1))}


def open_ensemble(
    state: Mapping[str, Tensor], where: str, device: torch.device
) -> dict[str, nn.Module]:
    """The three networks with the weights `<network>.<name>` of `state`, on `device`.

    Raises InputError, naming `where` they came from, when some are missing or do not fit.
    """
    import timm

    networks: dict[str, Any] = {}
    for name, (architecture, values, _, _) in ENSEMBLE.items():
        with torch.device("meta"):
            network = timm.create_model(architecture, num_classes=values)
        if name == "dino":
            network.norm = nn.Identity()
        own = {k.partition(".")[2]: v for k, v in state.items() if k.partition(".")[0] == name}
        try:
            network.load_state_dict(own, assign=True)
        except RuntimeError as e:
            raise refusal(
                where,
                f"the weights of {architecture} for {name}",
                f"{' '.join(str(e).split())[:200]}",
                "convert DreamSim's release again",
            ) from e
        networks[name] = network.to(device).eval()
    return networks
