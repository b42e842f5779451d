"""SwAV's checkpoint, in the key layout of the published file, becomes weights that metrics read."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_configs import composed
from torch import nn
from torchvision.models import resnet
from worlds import config

from decode.core import InputError
from decode.downloads import command
from decode.scoring.feature_networks import Torchvision
from decode.scoring.picture_scores import Resize
from decode.weights.swav_layout import read_checkpoint, trunk
from decode.workshop import Run

ROOT = Path(__file__).resolve().parents[1]


def small() -> nn.Module:
    """A ResNet of torchvision's own names, of few weights."""
    torch.manual_seed(0)
    return resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], width_per_group=2)


def published(network: nn.Module) -> dict[str, torch.Tensor]:
    """The layout of swav_800ep_pretrain.pth.tar: wrapped names, a head, prototypes, no classifier."""
    state = {f"module.{k}": v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    head = {"0.weight": (8, 16), "0.bias": (8,), "1.running_mean": (8,), "3.weight": (4, 8)}
    state |= {f"module.projection_head.{k}": torch.ones(s) for k, s in head.items()}
    return state | {"module.prototypes.weight": torch.ones(5, 4)}


@pytest.mark.parametrize("zipped", [False, True], ids=["as in 2020", "of today"])
def test_a_checkpoint_becomes_the_trunk(tmp_path: Path, zipped: bool) -> None:
    path, network = tmp_path / "swav.pth.tar", small()
    torch.save(published(network), path, _use_new_zipfile_serialization=zipped)
    weights = trunk(read_checkpoint(path), small())
    expected = {k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[k], v) for k, v in expected.items())


class Harm:
    """Unpickling it would make a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harmed",)


def test_code_in_a_checkpoint_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"module.conv1.weight": torch.ones(1), "epoch": Harm()}, "bad.pth.tar")
    with pytest.raises(InputError, match=r"bad\.pth\.tar: expected SwAV's checkpoint"):
        read_checkpoint(Path("bad.pth.tar"))
    assert not (tmp_path / "harmed").exists()


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth.tar"
    with pytest.raises(InputError, match=r"x\.pth\.tar: expected .*fetch it again"):
        read_checkpoint(path)
    torch.save({"state_dict": published(small()), "epoch": 3}, path)
    with pytest.raises(InputError, match="not a state of its training"):
        read_checkpoint(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="fetch it again"):
        read_checkpoint(path)
    for change in ("missing", "added", "shape"):
        state = published(small())
        if change == "missing":
            state.pop("module.layer1.0.conv1.weight")
        elif change == "added":
            state["module.layer9.weight"] = torch.ones(1)
        else:
            state["module.layer1.0.conv1.weight"] = torch.ones(3, 64, 1, 1)
        with pytest.raises(InputError, match=r"layer[19].* of ordinary width"):
            trunk(state, small())


def test_the_script_makes_what_the_metric_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(1)
    network = resnet.resnet50(weights=None).eval()
    torch.save(published(network), tmp_path / "swav.pth.tar")
    out = tmp_path / "weights/swav_resnet50.safetensors"
    main = runpy.run_path(str(ROOT / "scripts/convert_swav.py"))["main"]
    with pytest.raises(SystemExit) as left:
        command(lambda: main([str(tmp_path / "swav.pth.tar"), "--out", str(out)]))
    assert left.value.code == 0
    assert not [k for k in load_file(out) if "head" in k or "prototypes" in k or k.startswith("fc")]
    said = (ROOT / "docs/weights.md").read_text()
    assert f"{out.stat().st_size / 1e6:.0f} MB" in said
    read = Torchvision(
        "resnet50", weights="swav", file=str(out), layers={"swav": "avgpool"},
        resize=Resize(64, "bilinear"), device="cpu",
    )  # fmt: skip
    pictures = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    network.fc = nn.Identity()
    with torch.no_grad():
        expected = network((pictures - mean.view(3, 1, 1)) / std.view(3, 1, 1)).numpy()
    np.testing.assert_allclose(read(pictures)["swav"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["image_mindeye_256", "image_braindiffuser_224"])
def test_a_metric_without_its_file_is_refused_when_the_plan_is_made(
    tmp_path: Path, name: str
) -> None:
    whole = composed(
        "experiment=own_betas", f"metric@metrics.image={name}", f"paths.data={tmp_path}"
    )
    metrics = {"image": whole["metrics"]["image"]}
    with pytest.raises(
        InputError, match=r"metrics\.image.* at .*weights/swav_resnet50\.safetensors"
    ):
        Run(config(tmp_path, metrics=metrics))
    # Nobody needs it to see whether the recordings fit.
    Run(config(tmp_path, metrics=metrics, until="split"))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/swav_resnet50.safetensors").touch()
    Run(config(tmp_path, metrics=metrics))
