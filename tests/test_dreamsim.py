"""DreamSim from files in its release's layout, against the authors' package."""

from __future__ import annotations

import json
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_swav import Harm

from decode.core import InputError, Media, Results, Stimulus
from decode.downloads import command
from decode.metrics.image import ImageSuite
from decode.scoring.dreamsim import Dreamsim, open_ensemble
from decode.weights.dreamsim_layout import add_products, of_timm, read_scale
from decode.weights.reading import read_torch_file

ROOT = Path(__file__).resolve().parents[1]
HUB = """
import os, torch
from dreamsim.feature_extraction.vision_transformer import vit_base
dependencies = ["torch"]
def dino_vitb16(pretrained=True):
    network = vit_base(patch_size=16)
    file = os.path.join(os.path.dirname(__file__), "..", "dino_vitbase16_pretrain.pth")
    network.load_state_dict(torch.load(file, weights_only=True))
    return network
"""


@cache
def shapes() -> dict[str, torch.Size]:
    from dreamsim.feature_extraction.vision_transformer import vit_base

    return {name: value.shape for name, value in vit_base(patch_size=16).state_dict().items()}


def tower(clip: bool) -> dict[str, torch.Tensor]:
    """Random weights of a ViT-B/16 in the release's names."""
    wanted = {**shapes()}
    if clip:
        wanted |= {f"pos_drop.{k}": torch.Size([768]) for k in ("weight", "bias")}
        wanted["proj"] = torch.Size([768, 512])
    state = {}
    for name, shape in wanted.items():
        scale = name.endswith("weight") and ("norm" in name or "pos_drop" in name)
        state[name] = torch.empty(shape).normal_(float(scale), 0.05)
    return state


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked ensemble, and the code that torch.hub would fetch, with random weights."""
    folder = tmp_path_factory.mktemp("dreamsim")
    torch.manual_seed(0)
    torch.save(tower(clip=False), folder / "dino_vitbase16_pretrain.pth")
    for name in ("clip", "open_clip"):
        torch.save({"state_dict": tower(clip=True)}, folder / f"{name}_vitb16_pretrain.pth.tar")
    head = {
        f"module.head.mlp.{i}.{k}": torch.ones(1) for i in (0, 2, 4) for k in ("weight", "bias")
    }
    head["module.head.last_layer.weight"] = torch.ones(1)
    torch.save({"student": head}, folder / "dino_vitb16_pretrain.pth")
    (folder / "facebookresearch_dino_main").mkdir()
    (folder / "facebookresearch_dino_main/hubconf.py").write_text(HUB)
    halves, start = {}, "base_model.model.extractor_list"
    for place in (f"{start}.{i}.model.blocks.{k}.attn.qkv" for i in range(3) for k in range(12)):
        halves[f"{place}.lora_A.weight"] = torch.randn(16, 768) / 28
        halves[f"{place}.lora_B.weight"] = torch.randn(3 * 768, 16) / 20
    told = {"peft_type": "LORA", "r": 16, "lora_alpha": 8, "lora_dropout": 0.3, "bias": "none",
            "target_modules": ["qkv"]}  # fmt: skip
    products(folder / "ensemble_lora", told, halves)
    return folder


def trials_of(pictures: torch.Tensor, made: torch.Tensor, folder: Path) -> Results:
    shown = []
    for i, picture in enumerate(pictures):
        Image.fromarray((picture * 255).byte().permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
        shown.append(Stimulus(f"s{i}", "image", str(folder / f"{i}.png")))
    trials = pd.DataFrame({"subject": "a", "split": "test", "fold": 0}, index=range(len(shown)))
    trials["stimulus"] = [s.uid for s in shown]
    return Results(trials, {}, {}, shown, [Media("image", m) for m in made])


@pytest.mark.slow  # three ViT-B/16, twice
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_is_the_distance_of_the_authors_package(release: Path, tmp_path: Path) -> None:
    from dreamsim import dreamsim

    out = tmp_path / "weights/dreamsim.safetensors"
    main = runpy.run_path(str(ROOT / "scripts/convert_dreamsim.py"))["main"]
    with pytest.raises(SystemExit) as left:
        command(lambda: main([str(release), "--out", str(out)]))
    assert left.value.code == 0
    assert f"{out.stat().st_size / 1e9:.2f} GB" in (ROOT / "docs/weights.md").read_text()

    shown = (torch.rand(2, 3, 224, 224) * 255).round() / 255
    made = (0.5 * shown + 0.5 * torch.rand_like(shown)).mul(255).round() / 255
    made[0] = shown[0]
    theirs, _ = dreamsim(pretrained=True, device="cpu", cache_dir=str(release))
    suite = ImageSuite(pairs=[], distance=[Dreamsim(str(out), device="cpu")], batch=2)
    rows = suite(trials_of(shown, made, tmp_path))
    assert set(rows["metric"]) == {"distance_dreamsim"}
    assert {m.better for m in suite.measures().values()} == {"lower"}
    with torch.no_grad():
        expected = theirs(made, shown).numpy()
    assert expected[1:].min() > 1e-3
    np.testing.assert_allclose(rows["value"], expected, rtol=1e-3, atol=2e-6)
    # What DreamSim trained was not lost in both.
    plain = torch.load(release / "dino_vitbase16_pretrain.pth", weights_only=True)
    name = "blocks.11.attn.qkv.weight"
    assert (load_file(out)[f"dino.{name}"] - plain[name]).abs().max() > 1e-2


def products(folder: Path, told: dict[str, Any], halves: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(told))
    save_file(halves, folder / "adapter_model.safetensors")
    return folder


def small() -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Three networks of one layer, and a product for each in peft's names."""
    torch.manual_seed(0)
    states = {n: {"attn.qkv.weight": torch.randn(6, 4)} for n in ("dino", "clip", "open_clip")}
    start = "base_model.model.extractor_list"
    halves = {}
    for i in range(3):
        halves[f"{start}.{i}.model.attn.qkv.lora_A.weight"] = torch.randn(2, 4)
        halves[f"{start}.{i}.model.attn.qkv.lora_B.weight"] = torch.randn(6, 2)
    return states, halves


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("rooted", [False, True])
def test_products_are_added_as_peft_scales_them(tmp_path: Path, rooted: bool, binary: bool) -> None:
    states, halves = small()
    before = {n: s["attn.qkv.weight"].clone() for n, s in states.items()}
    told = {"r": 2, "lora_alpha": 6, "use_rslora": rooted}
    folder = products(tmp_path / "lora", told, halves)
    if binary:
        torch.save(halves, folder / "adapter_model.bin")
        (folder / "adapter_model.safetensors").unlink()
    add_products(states, folder)
    for i, (name, state) in enumerate(states.items()):
        a, b = (halves[f"base_model.model.extractor_list.{i}.model.attn.qkv.lora_{h}.weight"].numpy()
                for h in "AB")  # fmt: skip
        expected = before[name].numpy() + 6 / (np.sqrt(2) if rooted else 2) * b @ a
        np.testing.assert_allclose(state["attn.qkv.weight"], expected, rtol=1e-5, atol=1e-6)


def test_a_bias_of_patches_goes_into_their_places() -> None:
    state = {"pos_embed": torch.zeros(1, 3, 2), "pos_drop.weight": torch.ones(2),
             "patch_embed.proj.bias": torch.tensor([1.0, 2.0]), "proj": torch.eye(2)}  # fmt: skip
    made = of_timm(state, Path("clip.pth.tar"))
    assert made["pos_embed"].tolist() == [[[0, 0], [1, 2], [1, 2]]]
    assert set(made) == {"pos_embed", "norm_pre.weight", "head.weight", "head.bias"}
    assert state["pos_embed"].abs().max() == 0
    with pytest.raises(InputError, match=r"clip\.pth\.tar: expected .*no 'proj'"):
        of_timm({k: v for k, v in state.items() if k != "proj"}, Path("clip.pth.tar"))


def test_other_products_are_refused(tmp_path: Path) -> None:
    told, folder = {"r": 2, "lora_alpha": 1}, tmp_path / "lora"
    last = "base_model.model.extractor_list.2.model.attn.qkv.lora_B.weight"
    for change, said in [
        ({"head.weight": torch.ones(1)}, r"adapter_model.*got 'head.weight'"),
        ({last.replace("list.2", "list.3"): torch.ones(6, 2)}, "of 3 networks"),
        ({last: torch.ones(5, 2)}, r"a product for 'attn\.qkv\.weight' of open_clip that fits"),
        ({last.replace("qkv", "out"): torch.ones(6, 2)}, "that fits the weights, None"),
    ]:
        states, halves = small()
        with pytest.raises(InputError, match=said):
            add_products(states, products(folder, told, halves | change))
    states, halves = small()
    one = {k: v for k, v in halves.items() if "list.1" not in k}
    with pytest.raises(InputError, match="expected low-rank products for clip, got none"):
        add_products(states, products(folder, told, one))
    for odd in ({"r": 2}, {"r": 0, "lora_alpha": 1}, told | {"use_dora": True},
                told | {"bias": "all"}, [1]):  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(odd))
        with pytest.raises(InputError, match=r"adapter_config\.json: expected"):
            read_scale(folder / "adapter_config.json")


def test_code_in_a_file_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Harm()}, "bad.pth.tar")
    with pytest.raises(InputError, match=r"bad\.pth\.tar: expected weights, got .*fetch it again"):
        read_torch_file(Path("bad.pth.tar"), "weights")
    assert not (tmp_path / "harmed").exists()
    torch.save([torch.ones(1)], "list.pth")
    with pytest.raises(InputError, match=r"list\.pth: expected weights, got list"):
        read_torch_file(Path("list.pth"), "weights")


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"here: expected the weights of vit_base.* for dino"):
        open_ensemble({"dino.cls_token": torch.ones(1, 1, 768)}, "here", torch.device("cpu"))
