"""How large made pictures are is known before anything is trained, so that metrics can be checked."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from test_configs import CONFIGS, choice
from test_fuzz_configs import filled

from decode.building import build
from decode.checks.trials import check_picture_sizes
from decode.core import Generator, InputError, Shape

# Generators that cannot tell, and why.
SAYS_NOT = {"Nearest": "each of its pictures has the size of a training picture"}
SHAPES: defaultdict[str, Shape] = defaultdict(lambda: (3, 20, 30))
YAMLS = sorted((CONFIGS / "generator").glob("*.yaml"))


# What yamls leave to those who choose them.
GIVEN = {
    "feature_inversion": {"features": {"vgg3": 3}},
    "versatile_brain_diffuser_vdvae": {"low_level": "vdvae"},
}


def node_of(file: Path) -> dict[str, Any]:
    """The yaml's node, with the name of a model that is not here where it needs a folder."""
    node = {**filled(choice(file)), **GIVEN.get(file.stem, {})}
    return {k: "x" if isinstance(v, str) and "${" in v else v for k, v in node.items()}


@pytest.mark.parametrize("file", YAMLS, ids=lambda f: f.stem)
def test_every_generator_of_pictures_tells_their_size(file: Path) -> None:
    node = node_of(file)
    made: Generator = build(node, "generator")
    found = made.size_of(SHAPES)
    assert (found is None) == (made.makes != "image" or type(made).__name__ in SAYS_NOT)
    if found is not None and node.get("size"):
        assert found == (node["size"], node["size"])


def test_a_folder_says_how_large_its_pictures_are() -> None:
    node = choice(CONFIGS / "generator/tiny_unclip.yaml")
    made: Generator = build({**node, "norm": "keep"}, "generator")
    seen = torch.randn(1, 128, generator=torch.Generator().manual_seed(0))
    (picture,) = made({"image": seen}, seeds=[1])
    assert made.size_of({}) == tuple(torch.as_tensor(picture.data).shape[1:]) == (64, 64)


@pytest.mark.parametrize("generator", ["tiny_unclip", "versatile", "stable_cascade"])
def test_a_metric_that_cannot_compare_sizes_is_refused_before_training(generator: str) -> None:
    suite: dict[str, Any] = {"_target_": "decode.metrics.image.ImageSuite", "pairs": ["pixcorr"]}
    node = node_of(CONFIGS / f"generator/{generator}.yaml")
    config = {"generator": node, "metrics": {"image": suite}}
    shown = pd.DataFrame({"height": [425], "width": [425], "kind": ["image"]})
    with pytest.raises(
        InputError, match=r"metrics\.image.* a Resize where .* and 425x425|425x425 and"
    ):
        check_picture_sizes(config, shown, SHAPES)
    first = {"_target_": "decode.scoring.picture_scores.Resize", "size": 64}
    suite["first"] = first
    check_picture_sizes(config, shown, SHAPES)
