"""The shipped tiny models: loaded by the plain library classes, offline, and good enough to use."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import decode
from decode.miniatures import clip as clips
from decode.miniatures import unclip as unclips
from decode.miniatures.clip import Pictures
from decode.simulation.scenes import test_scenes, training_scenes

TINY = Path(decode.__file__).parent / "tiny"
STEPS = ("clip", "vae", "decoder", "unet", "refine", "image-encoder")
SCRIPT = Path(__file__).parents[1] / "scripts" / "make_tiny_models.py"


@pytest.fixture(scope="module", autouse=True)
def offline() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def clip() -> tuple[Any, Any]:
    return clips.load_clip(TINY / "clip")


@pytest.fixture(scope="module")
def pipe() -> Any:
    from diffusers import StableUnCLIPImg2ImgPipeline

    pipe: Any = StableUnCLIPImg2ImgPipeline.from_pretrained(TINY / "unclip")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def shown() -> Pictures:
    return Pictures.of(test_scenes(40, seed=11))


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    pairs = zip(a.flatten(1).numpy(), b.flatten(1).numpy(), strict=True)
    return float(np.mean([np.corrcoef(x, y)[0, 1] for x, y in pairs]))


def test_they_are_small_and_safe() -> None:
    files = [p for p in TINY.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 24e6
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".txt", ".md"}
    made = json.loads((TINY / "provenance.json").read_text())
    assert "training combinations" in made["trained_on"]


def test_open_clip_loads_the_clip_with_its_preprocessing() -> None:
    import open_clip
    from PIL import Image

    from decode.simulation.scenes import draw

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{TINY / 'clip'}")
    picture = draw(training_scenes(1, seed=0)[0])
    pixels: Any = preprocess(Image.fromarray(picture))
    expected = torch.from_numpy(picture).permute(2, 0, 1).float() / 127.5 - 1
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        assert model.eval().encode_image(pixels[None]).shape == (1, clips.EMBED_DIM)


def test_the_clip_names_what_unseen_combinations_show(clip) -> None:
    model, tokenizer = clip
    scores = clips.measure_clip(model, tokenizer, Pictures.of(test_scenes(150, seed=11)))
    floors = {"kind": 0.95, "colour": 0.95, "texture": 0.95, "background": 0.95, "place": 0.7}
    for name, floor in floors.items():
        assert scores[f"zero_shot_{name}"] > floor, (name, scores)
    assert scores["caption_top1"] > 0.3, "chance is below 0.01"


def test_any_text_can_be_tokenised(clip) -> None:
    model, tokenizer = clip
    tokens = tokenizer(["scissors", "chair", "a photo of a Ø & 7", "word " * 100])
    assert tokens.shape == (4, clips.CONTEXT_LENGTH)
    with torch.no_grad():
        vectors = torch.nn.functional.normalize(model.encode_text(tokens), dim=1)
    assert (vectors @ vectors.T - torch.eye(4)).max() < 0.999


def test_embeddings_have_features_of_unit_size(clip, shown) -> None:
    lengths = clips.embed(clip[0], shown).square().mean(1).sqrt()
    assert 0.8 < lengths.mean() < 1.25


def test_errors_near_the_object_count_more() -> None:
    scenes = test_scenes(3, seed=4)
    weights = unclips.near_object(scenes, 8)
    for scene, found in zip(scenes, weights[:, 0], strict=True):
        places = [(i + 0.5) / 8 for i in range(8)]
        brute = torch.tensor([
            [3.0 if max(abs(x - scene.x), abs(y - scene.y)) < scene.size + 1 / 16 else 1.0
             for x in places] for y in places
        ])  # fmt: skip
        torch.testing.assert_close(found, brute / brute.mean())


def test_the_autoencoder_gives_pictures_back(pipe, shown) -> None:
    latents = unclips.encode(pipe.vae, shown, slice(None), scale=pipe.vae.config.scaling_factor)
    assert latents.shape[1:] == (unclips.LATENT_CHANNELS, 8, 8)
    assert 0.8 < latents.std() < 1.2
    with torch.no_grad():
        again = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    assert correlation(again, shown.images()) > 0.9


def test_a_sample_looks_like_the_picture_behind_its_embedding(clip, pipe, shown) -> None:
    few = Pictures(shown.scenes[:16], shown.pixels[:16])
    made = pipe(
        prompt=[""] * 16,
        image_embeds=clips.embed(clip[0], few),
        num_inference_steps=8,
        guidance_scale=1.0,
        generator=[torch.Generator().manual_seed(i) for i in range(16)],
        output_type="pt",
    ).images
    own = correlation(made, few.images())
    other = correlation(made.roll(1, 0), few.images())
    assert own > 0.7
    assert own > other + 0.3
    drawn = Pictures(few.scenes, (made * 255).round().byte())
    seen = clips.measure_clip(*clip, drawn)
    assert seen["zero_shot_kind"] > 0.7, "chance is 1 in 8"
    assert seen["zero_shot_colour"] > 0.7, "chance is 1 in 7"


def test_the_pipeline_takes_a_picture_too(clip, pipe, shown) -> None:
    truth = clips.embed(clip[0], shown)
    with torch.no_grad():
        imitated = pipe.image_encoder(pixel_values=shown.images()).image_embeds
    own = torch.cosine_similarity(imitated, truth)
    other = torch.cosine_similarity(imitated.roll(1, 0), truth)
    assert own.mean() > other.mean() + 0.2


@pytest.mark.slow
def test_the_script_makes_the_same_folders_twice(tmp_path, monkeypatch) -> None:
    spec = importlib.util.spec_from_file_location("make_tiny_models", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    few = [f"--{name}-steps=2" for name in STEPS]
    few += ["--unet-scenes=130"]
    for name in ("one", "two"):
        script.main([f"--out={tmp_path / name}", "--scenes=100", "--threads=1", *few])
        # Nothing below reads what is measured: once shows that it runs.
        monkeypatch.setattr(script, "measure", lambda *_: {})
    made = [sorted(p for p in (tmp_path / n).rglob("*") if p.is_file()) for n in ("one", "two")]
    shipped = {p.relative_to(TINY) for p in TINY.rglob("*") if p.is_file()}
    assert {p.relative_to(tmp_path / "one") for p in made[0]} == shipped
    for a, b in zip(*made, strict=True):
        if a.suffix == ".safetensors":
            assert a.read_bytes() == b.read_bytes(), a.name
