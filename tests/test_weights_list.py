"""docs/weights.md against the experiments: every model is listed, with its experiments and its size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from test_configs import EXPERIMENTS, composed

from decode.weights.reading import PACKAGE

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs/weights.md").read_text()
NAMING = ("model", "adapter", "controlnet", "vae", "file")


def models(node: Any, above: str = "") -> Iterator[str]:
    """Every model, file or folder of weights that a config names, with the tag of its weights."""
    if isinstance(node, list):
        for inside in node:
            yield from models(inside, above)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key in NAMING and isinstance(value, str) and not value.startswith(PACKAGE):
            tags = [node.get(k) for k in ("pretrained", "weights")]
            tag = next((t for t in tags if isinstance(t, str) and key == "model"), "")
            yield f"{value} {tag}".strip() if value != "???" else ""
        yield from models(value, key)


@cache
def needed(experiment: str) -> frozenset[str]:
    config = composed(f"experiment={experiment}", "paths.data=/DATA")
    return frozenset(name.replace("/DATA", "<paths.data>") for name in models(config)) - {""}


def entries() -> list[tuple[frozenset[str], list[str]]]:
    """(words in backquotes, patterns of experiments) of each row and of each converted file."""
    found = []
    for line in re.split(r"\n(?=\|)|\n\n", TEXT):
        cells = [c for c in line.strip().strip("|").split(" | ") if c.strip()]
        named = cells[0] if line.startswith("|") else line
        experiments = cells[1] if line.startswith("|") and len(cells) > 1 else line
        words = re.findall(r"`([^`\n]+)`", named)
        patterns = re.findall(r"`([\w*]+/[\w*]+|own_\*)`", experiments)
        found.append((frozenset(words), patterns))
    return found


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_model_of_an_experiment_is_listed(experiment: str) -> None:
    for name in needed(experiment):
        rows = [patterns for words, patterns in entries() if set(name.split()) <= words]
        assert rows, f"{name} is not in docs/weights.md"
        assert any(fnmatch(experiment, p) for patterns in rows for p in patterns), name


def test_nothing_is_listed_that_no_experiment_needs() -> None:
    every = {e: needed(e) for e in EXPERIMENTS}
    for words, patterns in entries():
        listed = {n for names in every.values() for n in names if set(n.split()) <= words}
        for pattern in patterns if listed else ():
            users = [e for e, names in every.items() if names & listed and fnmatch(e, pattern)]
            assert users, f"{pattern} needs none of {sorted(listed)}"


def size_of(name: str) -> str:
    """The last cell of the row that begins with a model."""
    row = next(r for r in TEXT.splitlines() if r.startswith(f"| `{name}`"))
    return row.strip("| ").rpartition("| ")[2]


def gigabytes(network: Any, digits: int) -> str:
    return f"{4 * sum(p.numel() for p in network.parameters()) / 1e9:.{digits}f} GB"


@pytest.mark.slow  # architectures of billions of weights, on the meta device
def test_sizes_are_those_of_the_architectures() -> None:
    import open_clip
    import timm
    from diffusers import UNet2DConditionModel
    from torchvision.models import get_model
    from transformers import Dinov2Config, Dinov2Model

    from decode.weights.sdxl_layout import DENOISER

    with torch.device("meta"):
        for name in ("ViT-L-14-quickgelu", "ViT-B-32-quickgelu", "ViT-H-14", "ViT-bigG-14"):
            made = open_clip.create_model(name, pretrained=None, device="meta")
            assert size_of(name) == gigabytes(made, 1)
            if name.startswith("ViT-L"):  # the same towers by another library
                assert size_of("openai/clip-vit-large-patch14") == gigabytes(made, 1)
        name = "convnext_xlarge.fb_in22k"
        assert size_of(name) == gigabytes(timm.create_model(name), 1)
        for name in ("alexnet", "inception_v3", "efficientnet_b1", "vgg16_bn"):
            quick = {"init_weights": False} if name == "inception_v3" else {}
            assert size_of(name) == gigabytes(get_model(name, weights=None, **quick), 2)
        large = Dinov2Config(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16)
        assert size_of("facebook/dinov2-large") == gigabytes(Dinov2Model(large), 1)
        unclip = gigabytes(UNet2DConditionModel(**DENOISER), 1)
    assert f"({unclip} in float32)" in TEXT


def test_names_of_repositories_are_those_that_the_libraries_ask_for() -> None:
    import open_clip
    import timm

    for row in TEXT.splitlines():
        found = re.match(r"\| `([\w-]+)`, `(\w+)` \|.*\| `([\w./-]+)` \| `open_clip", row)
        if found:
            asked = open_clip.get_pretrained_cfg(found[1], found[2])["hf_hub"]
            assert asked.rstrip("/") == found[3]
    asked = timm.get_pretrained_cfg("convnext_xlarge.fb_in22k").hf_hub_id
    assert f"| `{asked}` |" in TEXT


def test_the_example_of_the_converter_is_where_experiments_look() -> None:
    words = (ROOT / "scripts/convert_sdxl_unclip.py").read_text()
    (example,) = re.findall(r"\.ckpt --out (\S+)", words)
    default = composed("experiment=nsd/mindeye2")["generator"]["model"]
    assert example == default
    assert f"--out {default}\n" in TEXT
    default = composed("experiment=own_betas")["metrics"]["image"]["distance"][1]["file"]
    assert f"--out {default}\n" in (ROOT / "scripts/convert_swav.py").read_text()
    assert f"--out {default}\n" in TEXT
