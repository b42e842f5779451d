"""Sampling that starts from another generator's pictures: the later report of Takagi & Nishimoto on NSD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusion_twins import tiny_text, tiny_unet, tiny_vae
from nsd_twin import shrink_sampling, write_captions, write_nsd
from safetensors.torch import save_file
from test_configs import composed
from torch import Tensor

from decode.core import InputError, Media, Tensors
from decode.features.vgg import MEAN, STD, load_vgg, maps
from decode.generators.controlnet import ControlNet
from decode.generators.feature_inversion import FeatureInversion
from decode.pictures import normalised, resize
from decode.pipeline import execute
from decode.store import Frame
from decode.workshop import Run

SEEDS = [11, 12, 13]
SIZE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion for pictures of 16 x 16 and, in `control`, its ControlNet."""
    from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionPipeline

    place = tmp_path_factory.mktemp("sd")
    torch.manual_seed(0)
    tokeniser, text = tiny_text()
    unet = tiny_unet()
    StableDiffusionPipeline(
        vae=tiny_vae(), text_encoder=text, tokenizer=tokeniser, unet=unet,
        scheduler=DDIMScheduler(clip_sample=False), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(place)  # fmt: skip
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
    for weights in control.parameters():
        # A fresh one adds nothing: its last layers are zero.
        torch.nn.init.normal_(weights, std=0.1)
    control.save_pretrained(place / "control")
    return place


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VGG16 as torchvision names it, drawn at random."""
    from torchvision.models.vgg import cfgs, make_layers

    place = tmp_path_factory.mktemp("vgg")
    torch.manual_seed(0)
    state = make_layers(cfgs["D"], batch_norm=True).state_dict()
    save_file({f"features.{k}": v for k, v in state.items()}, place / "model.safetensors")
    return place


@pytest.fixture(scope="module")
def predicted(vgg: Path) -> Tensors:
    g = torch.Generator().manual_seed(3)
    coarse = torch.rand(3, 3, 4, 4, generator=g)
    shown = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)
    with torch.no_grad():
        found = maps(load_vgg(str(vgg)).eval(), normalised(shown, SIZE, MEAN, STD), last=2)
    return {
        "text": torch.randn(3, 8, 8, generator=g),
        "depth": torch.rand(3, 1, 5, 5, generator=g),
        "vgg1": found[0],
        "vgg2": found[1],
    }


def inversion(vgg: Path) -> FeatureInversion:
    features = {"vgg1": 1, "vgg2": 2}
    return FeatureInversion(str(vgg), features=features, size=SIZE, steps=20, device="cpu")


def sampler(folder: Path, **knobs: Any) -> ControlNet:
    plain = {"steps": 4, "strength": 0.5, "norm": "train", "guidance": 3.0, "device": "cpu"}
    return ControlNet(str(folder), controlnet=str(folder / "control"), **{**plain, **knobs})


def pixels(made: list[Media]) -> Tensor:
    return torch.stack([torch.as_tensor(m.data) for m in made])


def learned(generator: Any, truth: Tensors) -> Any:
    generator.check({k: tuple(v.shape[1:]) for k, v in truth.items()})
    generator.learn([], truth)
    return generator


def test_sampling_starts_from_the_inverted_picture(
    folder: Path, vgg: Path, predicted: Tensors
) -> None:
    """As from the latents of that picture, which diffusers' own autoencoder gives, as a target."""
    from diffusers import AutoencoderKL

    started = learned(sampler(folder, low_level=inversion(vgg), batch_size=2), predicted)
    assert started.needs == ("text", "vgg1", "vgg2", "depth")
    made = pixels(started(predicted, seeds=SEEDS))

    pictures = resize(pixels(learned(inversion(vgg), predicted)(predicted, seeds=SEEDS)), (16, 16))
    assert float(pictures.std()) > 0.1
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
    with torch.no_grad():
        latents = vae.encode(pictures * 2 - 1).latent_dist.mode() * vae.config.scaling_factor
    given = {**predicted, "latents": latents}
    expected = pixels(learned(sampler(folder, low_level="latents"), given)(given, seeds=SEEDS))
    assert torch.allclose(made, expected, atol=1e-4)
    # A sampler that forgets its start, or starts each row from another row's, is told apart.
    other = {**given, "latents": latents.flip(0)}
    wrong = pixels(learned(sampler(folder, low_level="latents"), other)(other, seeds=SEEDS))
    noise = pixels(learned(sampler(folder, strength=1.0), predicted)(predicted, seeds=SEEDS))
    for unlike in (wrong, noise):
        assert (unlike - made).abs().amax((1, 2, 3))[[0, 2]].min() > 1e-3
    assert "FeatureInversion" in started.disclosure


@pytest.mark.slow
def test_a_row_depends_on_its_prediction_and_seed_only(
    folder: Path, vgg: Path, predicted: Tensors
) -> None:
    started = learned(sampler(folder, low_level=inversion(vgg)), predicted)
    made = pixels(started(predicted, seeds=SEEDS))
    some = {name: values[[2, 0]] for name, values in predicted.items()}
    again = pixels(started(some, seeds=[13, 11]))
    assert torch.allclose(again, made[[2, 0]], atol=1e-3)
    for name in started.needs:
        moved = {**predicted, name: predicted[name].flip(0)}
        assert (pixels(started(moved, seeds=SEEDS))[0] - made[0]).abs().max() > 1e-4


def test_what_does_not_fit_is_found_before_weights_are_read(folder: Path, vgg: Path) -> None:
    shapes = {"text": (8, 8), "depth": (1, 5, 5), "vgg1": (64, 32, 32), "vgg2": (128, 16, 16)}
    started = sampler(folder, low_level=inversion(vgg))
    started.check(shapes)
    with pytest.raises(
        InputError, match=r"\(128, 16, 16\), that of scale 2 .* 'vgg2' of shape \(128, 8, 8\)"
    ):
        started.check({**shapes, "vgg2": (128, 8, 8)})
    with pytest.raises(InputError, match="add a target named 'vgg1'"):
        started.check({k: v for k, v in shapes.items() if k != "vgg1"})
    for wrong in (3, {"model": "torchvision"}):
        with pytest.raises(
            InputError, match="low_level: expected a target, a generator of pictures"
        ):
            sampler(folder, low_level=wrong)


def small(place: Path, folder: Path, vgg: Path) -> dict[str, Any]:
    """The experiment as it ships, with the twin's networks; grey pixels stand for a depth model."""
    config = composed("experiment=nsd/takagi_optimised", f"paths.outputs={place}/outputs")
    twin = write_nsd(place / "nsd", n_images=80, n_shared=12, size=16, noise=0.3)
    config["data"] |= {"root": str(twin.root), "captions": write_captions(twin)}
    config["subjects"], config["published"] = ["subj01"], None
    tower = {"tower": "text_encoder", "prepared": "tokenizer"}
    config["targets"]["text"] |= {"model": str(folder), "device": "cpu", **tower}
    grey = {"_target_": "decode.targets.pixels.Pixels", "size": 8, "colour": "grey"}
    config["targets"]["depth"] = grey
    for scale in (3, 4, 5):
        config["targets"][f"vgg{scale}"] |= {"model": str(vgg), "size": SIZE, "device": "cpu"}
    config["encoder"]["encoders"]["components"]["size"] = 20
    first = config["generator"]["low_level"] | {"model": str(vgg), "size": SIZE, "steps": 3}
    shrink_sampling(config, folder)
    config["generator"] |= {"controlnet": str(folder / "control"), "steps": 3, "strength": 0.7}
    config["generator"]["low_level"] = {**first, "device": "cpu"}
    config["metrics"]["retrieval"]["k"] = [1]
    return config


@pytest.mark.slow
def test_the_experiment_runs_on_the_twin_through_the_pictures(
    folder: Path, vgg: Path, tmp_path: Path
) -> None:
    from PIL import Image

    from decode.artefacts.media import place

    config = small(tmp_path, folder, vgg)
    run = Run(config)
    execute(run, until="report", force=(), say=lambda s: None)
    places = {n: run.folder(n) or tmp_path for n in ("predict", "reconstruct", "evaluate")}
    frame = Frame.read(places["predict"] / "shared982-00")
    assert frame.arrays["decoder/vgg5"].shape[1:] == (512, 2, 2)
    made = places["reconstruct"] / "shared982-00"
    files = [
        np.asarray(Image.open(place(made / "decoder", i, "image"))) for i in range(len(frame.table))
    ]
    assert len({f.tobytes() for f in files}) > 1
    scores = pd.read_parquet(places["evaluate"] / "scores.parquet")
    assert {"decoder", "oracle", "prior"} <= set(scores[scores["metric"] == "pixcorr"]["source"])
    page = (run.of("report")[0].folder / "report.html").read_text()
    assert "Sampling started from the pictures of generator FeatureInversion." in page
