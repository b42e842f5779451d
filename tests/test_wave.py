"""A network from elsewhere in the place of WAVE's: named in the config, or refused before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from nsd_twin import write_atlas, write_nsd, write_timeseries
from test_configs import composed
from torch import Tensor, nn

from decode.core import Batch, InputError, Layout
from decode.encoders.wave import Wave
from decode.pipeline import execute
from decode.store import read_tensors, write_tensors
from decode.workshop import Run

SHAPES = {"retrieval": (5,), "image": (2, 3)}


class Patches(nn.Module):
    """A class token, then one per volume: the kind that a masked autoencoder gives."""

    def __init__(self, channels: int, *, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.embed = nn.Linear(channels, width)
        self.cls = nn.Parameter(torch.zeros(1, width))
        self.mix = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)

    def forward(self, volumes: Tensor) -> Tensor:
        cls = self.cls.expand(len(volumes), 1, -1)
        return self.mix(torch.cat([cls, self.embed(volumes)], 1))


class Broken(Patches):
    """What it returns is no (batch, token, width)."""

    def __init__(self, channels: int, *, fault: str) -> None:
        super().__init__(channels)
        self.fault = fault

    def forward(self, volumes: Tensor) -> Any:
        tokens = super().forward(volumes.mT if self.fault == "turned" else volumes)
        made = {
            "pooled": lambda: tokens.mean(1),
            "none": lambda: tokens[:, :0],
            "wide": lambda: torch.cat([tokens, tokens], 2),
            "flat": lambda: tokens.flatten(0, 1)[None],
            "pair": lambda: (tokens, None),
            "turned": lambda: tokens,
        }
        return made[self.fault]()


def layouts(channels: int = 6, times: int = 4) -> dict[str, Layout]:
    names = tuple(map(str, range(channels)))
    return {"a": Layout("fmri", names, np.zeros((channels, 3)), ("",) * channels, 0.75, times)}


class Untouched:
    """Batches that nobody may ask for."""

    def __iter__(self) -> Any:
        raise AssertionError("training data were read before the network was tried")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("pooled", r"got \(2, 8\) from Broken"),
        ("none", r"got \(2, 0, 8\) from Broken"),
        ("wide", r"\(2, 1 or more, 8\), got \(2, 5, 16\) from Broken"),
        ("flat", r"got \(1, 10, 8\) from Broken"),
        ("pair", r"got tuple from Broken"),
        ("turned", r"to take volumes \(batch, time, channel\) \(2, 4, 6\), got .*shapes"),
    ],
)
def test_wrong_tokens_are_refused_before_training(fault: str, said: str) -> None:
    encoder = Wave(layouts(), SHAPES, network=lambda n: Broken(n, fault=fault))
    with pytest.raises(
        InputError, match=rf"^encoder\.network: expected .*{said}.*; wrap the network$"
    ):
        encoder.initialise(Untouched(), ())
    assert encoder.network.training


@pytest.mark.parametrize("width", [0, True, 8.0, "8"])
def test_a_width_is_a_number_of_features(width: Any) -> None:
    def network(channels: int) -> nn.Module:
        made = Patches(channels)
        made.width = width
        return made

    with pytest.raises(InputError, match="a network that says its width"):
        Wave(layouts(), SHAPES, network=network)


def test_windows_that_are_too_long_say_so_before_training() -> None:
    from decode.networks.causal import CausalVolumes

    def short(channels: int) -> nn.Module:
        return CausalVolumes(channels, width=8, depth=1, heads=2, longest=3)

    with pytest.raises(InputError, match=r"windows of at most 3 volumes, got 4"):
        Wave(layouts(), SHAPES, network=short).initialise(Untouched(), ())


def test_the_class_token_of_a_network_reaches_the_heads() -> None:
    torch.manual_seed(0)
    encoder = Wave(layouts(), {"retrieval": (5,)}, network=Patches, pool="first").eval()
    brain = torch.randn(3, 6, 4)
    where = torch.zeros(3, dtype=torch.int64)
    encoder._try()
    made = encoder(Batch(brain, {}, where, where, where))["retrieval"]
    head = next(p for n, p in encoder.heads.named_parameters() if n.endswith("linear.weight"))
    bias = next(p for n, p in encoder.heads.named_parameters() if n.endswith("linear.bias"))
    want = encoder.network(brain.mT)[:, 0] @ head.T + bias
    torch.testing.assert_close(made, want)


@pytest.mark.slow
def test_a_network_that_the_config_names_is_trained_and_scored(tmp_path: Path) -> None:
    """nsd/wave as the command takes it, with this file's network and weights for it."""
    twin = write_nsd(tmp_path / "nsd", n_images=160, n_shared=24, size=8)
    write_timeseries(twin, "subj01", sessions=4)
    torch.manual_seed(1)
    weights = tmp_path / "elsewhere.safetensors"
    saved = Patches(8, width=16)
    write_tensors(weights, {f"model.{k}": v for k, v in saved.state_dict().items()})
    shape = twin.masks["subj01"].shape
    volume = (np.arange(np.prod(shape)).reshape(shape) % 8 + 1).astype(np.int16)
    config = composed(
        "experiment=nsd/wave",
        f"paths.outputs={tmp_path}/outputs",
        f"preprocess.steps.parcels.atlas={write_atlas(tmp_path / 'atlas.nii.gz', volume)}",
        "~encoder.inner.network",
        "+encoder.inner.network={_target_: test_wave.Patches, _partial_: true, width: 16}",
        f"encoder.inner.weights={weights}",
        "+encoder.inner.names={model.: ''}",
        "encoder.inner.pool=first",
        "encoder.inner.freeze=true",
    )
    config["data"] |= {"root": str(tmp_path / "nsd"), "volumes": None, "captions": None}
    config["data"]["mask"] = "nsdgeneral"
    config["preprocess"]["steps"]["parcels"] |= {"expected": 8}
    config["preprocess"]["trials"] |= {"n_trs": 4}
    config["published"], config["generator"] = None, None
    pixels = {"_target_": "decode.targets.pixels.Pixels", "size": 8}
    config["targets"] = dict.fromkeys(config["targets"], pixels)
    config["encoder"] |= {"heads": 2, "head_width": 4, "depth": 1, "sample_steps": 3}
    config["metrics"] = {"retrieval": {**config["metrics"]["retrieval"], "n_way": [2]}}
    config["trainer"] |= {"epochs": 2, "precision": "float32"}
    run = Run(config)
    execute(run, until="evaluate", force=(), say=lambda s: None)
    kept = read_tensors(
        (run.folder("train") or tmp_path) / "shared1000-00/decoder/encoder.safetensors"
    )
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(kept[f"inner.network.{name}"], value)
    scores = pd.read_parquet((run.folder("evaluate") or tmp_path) / "scores.parquet")
    ranked = scores[scores["metric"] == "retrieval_top1"]
    assert {"decoder", "shuffled"} <= set(ranked["source"])
