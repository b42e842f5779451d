"""DreamSim's published files as weights of timm's vision transformers.

Fu et al. 2023, arXiv:2306.09344. The ensemble is three ViT-B/16 (DINO, OpenAI's CLIP, OpenCLIP), each
with low-rank products that were trained on people's judgements and are added to its weights here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decode.core import InputError, refusal
from decode.store import read_tensors
from decode.weights.reading import read_torch_file

# Files of the release, in the order in which the products count the networks; DINO's own is not in it.
FILES = {
    "dino": "dino_vitbase16_pretrain.pth",
    "clip": "clip_vitb16_pretrain.pth.tar",
    "open_clip": "open_clip_vitb16_pretrain.pth.tar",
}
PRODUCTS = "ensemble_lora"
PRODUCT = re.compile(r"extractor_list\.(\d+)\.model\.(.+)\.lora_([AB])\.(?:default\.)?weight$")


def read_release(folder: Path) -> dict[str, Tensor]:
    """The weights `<network>.<name of timm>` of the ensemble in the unpacked release `folder`.

    Raises InputError when a file is missing, damaged or of another kind.
    """
    states = {}
    for name, file in FILES.items():
        found = read_torch_file(folder / file, "weights of DreamSim's release, tensors only")
        states[name] = dict(found.get("state_dict", found))
        if name != "dino":
            states[name] = of_timm(states[name], folder / file)
    add_products(states, folder / PRODUCTS)
    # The class token is taken before the last normalisation of DINO.
    states["dino"] = {k: v for k, v in states["dino"].items() if not k.startswith("norm.")}
    return {f"{name}.{k}": v for name, s in states.items() for k, v in s.items()}


def of_timm(state: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """A CLIP tower in DINO's names -> in timm's.

    The release keeps CLIP's first normalisation under `pos_drop` and gives patches a bias, which goes
    into their positions here.
    """
    needed = ("proj", "pos_embed", "patch_embed.proj.bias")
    missing = [name for name in needed if name not in state]
    if missing:
        raise refusal(
            file,
            f"the tensors {list(needed)} of a CLIP tower",
            f"no {missing[0]!r}",
            "unpack DreamSim's release again",
        )
    made = {re.sub(r"^pos_drop\.", "norm_pre.", name): v for name, v in state.items()}
    projection = made.pop("proj")
    made["head.weight"] = projection.T
    made["head.bias"] = torch.zeros(projection.shape[1])
    place = made["pos_embed"].clone()
    place[:, 1:] += made.pop("patch_embed.proj.bias")
    made["pos_embed"] = place
    return made


def add_products(states: Mapping[str, dict[str, Tensor]], folder: Path) -> None:
    """Add the low-rank products of `folder`, in peft's format, to the weights that they belong to."""
    scale = read_scale(folder / "adapter_config.json")
    file = folder / "adapter_model.safetensors"
    if file.is_file():
        halves = read_tensors(file, remedy="unpack DreamSim's release again")
    else:
        file = folder / "adapter_model.bin"
        halves = read_torch_file(file, "low-rank products in peft's format")
    names, pairs = list(states), dict[tuple[str, str], dict[str, Tensor]]()
    for key, value in halves.items():
        found = PRODUCT.search(key)
        if found is None or int(found[1]) >= len(names):
            raise InputError(
                f"{file}: expected low-rank products of {len(names)} networks, got {key!r}; take the "
                "ensemble's release"
            )
        pairs.setdefault((names[int(found[1])], f"{found[2]}.weight"), {})[found[3]] = value
    for (network, name), pair in pairs.items():
        weight = states[network].get(name)
        fits = weight is not None and set(pair) == {"A", "B"}
        product = pair["B"].float() @ pair["A"].float() if fits else None
        if weight is None or product is None or product.shape != weight.shape:
            raise refusal(
                file,
                f"a product for {name!r} of {network} that fits the weights, "
                f"{None if weight is None else tuple(weight.shape)}",
                sorted(pair),
                "take all files from one release",
            )
        states[network][name] = weight.float() + scale * product
    bare = [network for network in names if network not in {n for n, _ in pairs}]
    if bare:
        raise refusal(
            file, f"low-rank products for {bare[0]}", "none", "take the ensemble's release"
        )


def read_scale(file: Path) -> float:
    """What the products are multiplied with, as peft's configuration says."""
    try:
        told: dict[str, Any] = json.loads(file.read_text())
        rank, alpha = int(told["r"]), float(told["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise refusal(
            file, "peft's configuration with r and lora_alpha", e, "unpack DreamSim's release again"
        ) from e
    odd = [
        k for k in ("rank_pattern", "alpha_pattern", "use_dora", "fan_in_fan_out") if told.get(k)
    ]
    if odd or rank < 1 or told.get("bias", "none") != "none":
        raise InputError(
            f"{file}: expected plain low-rank products, got {odd or told.get('bias')} of rank {rank}; "
            "take the ensemble's release"
        )
    return alpha / (math.sqrt(rank) if told.get("use_rslora") else rank)
