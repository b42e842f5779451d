"""Targets of tokens and maps: the libraries' own answers, packing by hand, what is kept on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from decode.core import InputError, Stimulus
from decode.pictures import open_image, read_images
from decode.stages import features
from decode.stages.features import open_store
from decode.stages.preprocess import describe_stimuli
from decode.targets.depth import Depth
from decode.targets.external import External
from decode.targets.git import Git
from decode.targets.open_clip import OpenClip
from decode.targets.pixels import Pixels
from decode.targets.projected import BLOCK, Projected
from decode.targets.vgg import MEAN, STD, Vgg, packed


@pytest.fixture(scope="module")
def stimuli(tmp_path_factory: pytest.TempPathFactory) -> list[Stimulus]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    made = []
    for i in range(3):
        path = str(folder / f"{i}.png")
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
        made.append(Stimulus(f"s{i}", "image", path))
    return made


def test_git_tokens_are_those_of_its_image_encoder(tmp_path: Path, stimuli: list[Stimulus]) -> None:
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM

    torch.manual_seed(0)
    vision = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
    }  # fmt: skip
    config = GitConfig(
        vision_config=vision, vocab_size=20, hidden_size=8, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=8, max_position_embeddings=8,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    network = GitForCausalLM(config).eval()
    network.save_pretrained(tmp_path)
    processor = CLIPImageProcessor(size=16, crop_size=16)
    processor.save_pretrained(tmp_path)
    pixels = processor([open_image(s) for s in stimuli], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = network.git.image_encoder(pixels).last_hidden_state
    found = Git(str(tmp_path), batch_size=2, device="cpu")(stimuli)
    assert found.shape == (3, 5, 8)
    assert torch.allclose(found, expected, atol=1e-5)


def test_depth_maps_run_from_the_farthest_to_the_nearest(
    tmp_path: Path, stimuli: list[Stimulus]
) -> None:
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=8,
        image_size=32, patch_size=16, backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, is_hybrid=False,
    )  # fmt: skip
    network = DPTForDepthEstimation(config).eval()
    for weights in network.head.parameters():
        # A fresh head gives depths that differ by less than rounding.
        torch.nn.init.uniform_(weights, 0.0, 0.5)
    network.save_pretrained(tmp_path)
    processor = DPTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    pixels = processor([open_image(s) for s in stimuli], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        raw = network(pixels).predicted_depth
    found = Depth(str(tmp_path), size=raw.shape[-1], batch_size=2, device="cpu")(stimuli)
    assert found.shape == (3, 1, raw.shape[1], raw.shape[2])
    low, high = (f((1, 2), keepdim=True) for f in (raw.amin, raw.amax))
    assert torch.allclose(found[:, 0], (raw - low) / (high - low), atol=1e-4)
    other = Depth(str(tmp_path), size=raw.shape[-1], inverted=True, device="cpu")(stimuli)
    assert torch.allclose(other, 1 - found, atol=1e-4)
    assert Depth(str(tmp_path), size=8, device="cpu")(stimuli).shape == (3, 1, 8, 8)


@pytest.fixture(scope="module")
def vgg_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import save_file
    from torchvision.models.vgg import cfgs, make_layers

    folder = tmp_path_factory.mktemp("vgg")
    torch.manual_seed(0)
    state = make_layers(cfgs["D"], batch_norm=True).state_dict()
    save_file({f"features.{k}": v for k, v in state.items()}, folder / "model.safetensors")
    return folder


def test_vgg_maps_are_those_before_each_pool(vgg_folder: Path, stimuli: list[Stimulus]) -> None:
    from safetensors.torch import load_file
    from torchvision.models.vgg import cfgs, make_layers

    network = make_layers(cfgs["D"], batch_norm=True).eval()
    state = load_file(vgg_folder / "model.safetensors")
    network.load_state_dict({k.removeprefix("features."): v for k, v in state.items()})
    spread, centre = (torch.tensor(v).view(3, 1, 1) for v in (STD, MEAN))
    pixels = (read_images(stimuli, 32) - centre) / spread
    with torch.no_grad():
        second = network[:13](pixels)  # up to the ReLU before the second pool
        last = network[:43](pixels)
    found = Vgg(str(vgg_folder), scale=2, size=32, device="cpu")(stimuli)
    assert found.shape == (3, 128, 16, 16)
    assert torch.allclose(found, second, atol=1e-4)
    assert torch.allclose(
        Vgg(str(vgg_folder), scale=5, size=32, device="cpu")(stimuli), last, atol=1e-4
    )
    tokens = Vgg(str(vgg_folder), size=32, device="cpu")(stimuli)
    assert tokens.shape == (3, 16**2 + 15**2 + 8**2 + 4**2 + 2**2, 512)
    assert torch.equal(tokens[:, -4:], last.flatten(2).transpose(1, 2))


def test_five_maps_of_112_pixels_make_7190_tokens() -> None:
    shapes = [(64, 112), (128, 56), (256, 28), (512, 14), (512, 7)]
    g = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, c, side, side, generator=g) for c, side in shapes]
    tokens = packed(maps)
    assert tokens.shape == (1, 7190, 512)
    # The second token of scale 1 is the patch to the right of the first, twice over.
    patch = maps[0][0, :, 0:2, 2:4].reshape(-1)
    assert torch.equal(tokens[0, 1], patch.repeat(2))
    # Patches of scale 2 overlap by one.
    assert torch.equal(tokens[0, 56**2 + 1], maps[1][0, :, 0:2, 1:3].reshape(-1))
    assert torch.equal(tokens[0, 56**2 + 55**2], maps[2][0, :, 0, 0].repeat(2))


def test_an_external_network_is_flattened_in_its_order(stimuli: list[Stimulus]) -> None:
    def latents(pictures: Tensor) -> list[Tensor]:
        means = pictures.mean((2, 3))
        return [means[:, :, None, None], pictures[:, :, :2, :2], pictures]

    found = External(latents, size=8, first=2, values=15, batch_size=2, device="cpu")(stimuli)
    pictures = read_images(stimuli, 8)
    assert torch.allclose(found[:, :3], pictures.mean((2, 3)), atol=1e-6)
    assert torch.equal(found[:, 3:], pictures[:, :, :2, :2].flatten(1))
    plain = External(torch.nn.Flatten(), size=4, device="cpu")(stimuli)
    assert torch.equal(plain, read_images(stimuli, 4).flatten(1))
    for network, says in [
        (lambda x: x.mean((2, 3)), "15 values per picture, got 3 from the network"),
        (lambda x: x[:1], "3 rows"),
    ]:
        with pytest.raises(InputError, match=says):
            External(network, size=8, values=15, device="cpu")(stimuli)
    with pytest.raises(InputError, match="function of pictures"):
        External("vdvae.pth", size=8)  # type: ignore[arg-type]


class Long:
    """A target of given values, longer than one block of the projection."""

    accepts = frozenset({"image"})
    reads = frozenset({"file"})

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __call__(self, stimuli: list[Stimulus]) -> Tensor:
        return self.values[[int(s.uid[1:]) for s in stimuli]]


def test_a_projection_keeps_norms_and_angles_and_knows_its_seed(stimuli: list[Stimulus]) -> None:
    g = torch.Generator().manual_seed(1)
    values = torch.randn(3, 2, BLOCK, generator=g)
    values[1] += 0.7 * values[0]
    target = Long(values)
    found = Projected(target, size=2000)(stimuli)
    assert found.shape == (3, 2000)
    flat = values.flatten(1)
    assert torch.allclose(found.norm(dim=1) / flat.norm(dim=1), torch.ones(3), atol=0.08)
    near = torch.nn.functional.cosine_similarity
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(near(found[a], found[b], dim=0) - near(flat[a], flat[b], dim=0)) < 0.08
    assert torch.allclose(Projected(target, size=2000)(stimuli[2:]), found[2:], atol=1e-3)
    assert not torch.allclose(Projected(target, size=2000, seed=1)(stimuli), found, atol=1.0)
    # Both blocks count, each with numbers of its own.
    one, other = (Projected(Long(part), size=50)(stimuli) for part in (values[:, 0], values[:, 1]))
    both = Projected(target, size=50)(stimuli)
    assert (both - one).abs().max() > 1
    assert not torch.allclose(both, one + other, atol=1e-2)
    with pytest.raises(InputError, match="at least 1"):
        Projected(target, size=0)


def test_half_range_is_the_network_on_pictures_from_a_half_to_one(
    tmp_path: Path, stimuli: list[Stimulus]
) -> None:
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    config = {
        "embed_dim": 12,
        "vision_cfg": {
            "image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 8, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1,
        },
    }  # fmt: skip
    network = open_clip.CLIP(**config).eval()
    save_file(network.state_dict(), tmp_path / "open_clip_model.safetensors")
    scale = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": scale})
    )
    centre, spread = (torch.tensor(scale[k]).view(3, 1, 1) for k in ("mean", "std"))
    pixels = ((read_images(stimuli, 32) + 1) / 2 - centre) / spread
    with torch.no_grad():
        expected = network.encode_image(pixels)
    found = OpenClip(str(tmp_path), half_range=True, device="cpu")(stimuli)
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(OpenClip(str(tmp_path), device="cpu")(stimuli), expected, atol=1e-2)


def test_features_are_kept_in_the_precision_asked_for(
    tmp_path: Path, stimuli: list[Stimulus]
) -> None:
    named = {s.uid: s for s in stimuli}
    table = describe_stimuli(pd.Series(list(named)), named)
    target = Projected(Pixels(8), size=16, store="float16")
    full = target(stimuli)
    made = features.run(tmp_path / "half", target=target, stimuli=named, table=table, name="image")
    assert made == 3
    assert np.load(tmp_path / "half" / "values-0000.npy").dtype == np.float16
    rows = open_store(tmp_path / "half", table).rows([s.digest() for s in stimuli])
    assert rows.dtype == torch.float32
    assert torch.allclose(rows, full, rtol=1e-3, atol=1e-3)
    assert not torch.equal(rows, full)
    loud = External(lambda x: 1e6 * x.flatten(1) + 1e5, size=4, device="cpu", store="float16")
    with pytest.raises(InputError, match="float32 or float16"):
        Projected(target, size=4, store="bfloat16")
    with pytest.raises(InputError, match="store: float32"):
        features.run(tmp_path / "loud", target=loud, stimuli=named, table=table, name="image")
