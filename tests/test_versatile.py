"""Versatile Diffusion and its tokens: the stock pipelines as oracles, on a folder of their own format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusion_twins import save_versatile
from PIL import Image
from torch import Tensor

from decode.core import InputError, Media, Stimulus, Tensors
from decode.diffusion.energies import EmbeddingDistance, VersatileTower
from decode.diffusion.mixed_attention import MixedTransformers
from decode.diffusion.pipelines import row_generators
from decode.generators.versatile import Versatile
from decode.targets.clip_tokens import ClipTokens

WIDTH = 8
SEEDS = [11, 12, 13]
CAPTIONS = ["a red", "a", "red"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_versatile(tmp_path_factory.mktemp("versatile"), width=WIDTH)


@pytest.fixture(scope="module")
def stimuli(tmp_path_factory: pytest.TempPathFactory) -> list[Stimulus]:
    places = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    made = []
    for i, caption in enumerate(CAPTIONS):
        path = str(places / f"{i}.png")
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)
        made.append(Stimulus(f"s{i}", "image", path, (caption, "red a")))
    return made


def image_target(folder: Path, **knobs: Any) -> ClipTokens:
    parts = {"tower": "image_encoder", "prepared": "image_feature_extractor"}
    return ClipTokens(str(folder), **parts, device="cpu", **knobs)


def text_target(folder: Path, **knobs: Any) -> ClipTokens:
    parts = {"tower": "text_encoder", "prepared": "tokenizer"}
    return ClipTokens(str(folder), output="text", **parts, device="cpu", **knobs)


@pytest.fixture(scope="module")
def predicted(folder: Path, stimuli: list[Stimulus]) -> Tensors:
    g = torch.Generator().manual_seed(3)
    return {
        "image": image_target(folder)(stimuli),
        "text": text_target(folder)(stimuli),
        "latents": torch.randn(3, 4, 8, 8, generator=g),
    }


def build(folder: Path, **knobs: Any) -> Versatile:
    # The stock pipeline's picture of nothing is grey 0.5 on a scale of 255.
    plain = {"steps": 4, "guidance": 3.0, "norm": "keep", "device": "cpu", "blank": 0.5 / 255}
    return Versatile(str(folder), **{**plain, **knobs})


def pixels(made: list[Media]) -> Tensor:
    return torch.stack([torch.as_tensor(m.data) for m in made])


def stock(generator: Versatile, **knobs: Any) -> Tensor:
    """The same pipeline through its own call, which reads captions and pictures itself."""
    made = generator.open()(
        **knobs, num_inference_steps=4, guidance_scale=3.0, generator=row_generators(SEEDS),
        output_type="pt",
    )  # fmt: skip
    return made.images


def test_the_share_of_text_leads_from_image_alone_to_text_alone(
    folder: Path, predicted: Tensors
) -> None:
    def made(**knobs: Any) -> Tensor:
        return pixels(build(folder, **knobs)(predicted, seeds=SEEDS))

    image, text = made(), made(image=None, text="text")
    assert (image - text).abs().max() > 1e-2
    assert torch.allclose(made(text="text", text_share=1e-7), image, atol=1e-4)
    assert torch.allclose(made(text="text", text_share=1 - 1e-7), text, atol=1e-4)
    half = made(text="text", text_share=0.5)
    assert min((half - image).abs().max(), (half - text).abs().max()) > 1e-3


def test_a_mixture_equals_the_dual_block_of_the_library() -> None:
    from diffusers.models import DualTransformer2DModel

    torch.manual_seed(0)
    dual = DualTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=8, norm_num_groups=4,
        cross_attention_dim=WIDTH,
    ).eval()  # fmt: skip
    dual.mix_ratio, dual.condition_lengths = 0.3, [3, 5]
    mixture = MixedTransformers(dual.transformers[1], dual.transformers[0], share=0.3)
    mixture.length = 3
    x, context = torch.randn(2, 8, 4, 4), torch.randn(2, 8, WIDTH)
    with torch.no_grad():
        expected = dual(x, encoder_hidden_states=context, return_dict=False)[0]
        assert torch.allclose(mixture(x, context)[0], expected, atol=1e-5)


def test_image_alone_and_text_alone_equal_the_stock_pipelines(
    folder: Path, predicted: Tensors, stimuli: list[Stimulus]
) -> None:
    pictures = [Image.open(str(s.path)) for s in stimuli]
    expected = stock(build(folder), image=pictures)
    assert torch.allclose(pixels(build(folder)(predicted, seeds=SEEDS)), expected, atol=1e-5)
    alone = build(folder, image=None, text="text")
    expected = stock(alone, prompt=CAPTIONS)
    assert alone.needs == ("text",)
    assert torch.allclose(pixels(alone(predicted, seeds=SEEDS)), expected, atol=1e-5)


def test_a_row_depends_on_its_prediction_and_seed_only(folder: Path, predicted: Tensors) -> None:
    knobs = {"text": "text", "low_level": "latents", "strength": 0.5, "norm": "train"}
    generator = build(folder, **knobs, batch_size=2)
    generator.learn([], {name: 2 * values for name, values in predicted.items()})
    made = pixels(generator(predicted, seeds=SEEDS))
    assert made.shape == (3, 3, 16, 16)
    assert generator.size_of({}) == build(folder, size=16).size_of({}) == (16, 16)
    last = {name: values[2:] for name, values in predicted.items()}
    assert torch.allclose(pixels(generator(last, seeds=SEEDS[2:])), made[2:], atol=1e-4)
    moved = {**predicted, "latents": predicted["latents"].flip(0)}
    assert (pixels(generator(moved, seeds=SEEDS))[0] - made[0]).abs().max() > 1e-3


def test_tokens_are_projected_and_divided_by_the_norm_of_the_embedding(
    folder: Path, stimuli: list[Stimulus], predicted: Tensors
) -> None:
    image, text = predicted["image"], predicted["text"]
    assert image.shape == (3, 5, WIDTH)
    assert text.shape == (3, 8, WIDTH)
    assert torch.allclose(image[:, 0].norm(dim=1), torch.ones(3), atol=1e-5)
    # The end-of-text token of each caption is the embedding itself.
    assert ((text.norm(dim=2) - 1).abs().min(1).values < 1e-4).all()
    assert torch.equal(image_target(folder, class_token=False)(stimuli), image[:, 1:])
    mean = text_target(folder, average=True)(stimuli)
    other = text_target(folder)([Stimulus("x", "text", texts=("red a",))])
    assert torch.allclose(mean, (text + other) / 2, atol=1e-5)
    first, second, third = (text_target(folder, caption=i)(stimuli) for i in range(3))
    assert torch.allclose((first + second) / 2, mean, atol=1e-5)
    assert torch.allclose(second, other, atol=1e-5)
    assert torch.equal(third, first)  # there are two
    with pytest.raises(InputError, match=r"caption: expected 0 or more"):
        text_target(folder, caption=-1)


def test_the_judges_tower_sees_what_the_target_sees(
    folder: Path, stimuli: list[Stimulus], tmp_path: Path
) -> None:
    picture = Image.open(str(stimuli[0].path)).resize((16, 16))
    picture.save(tmp_path / "x.png")
    expected = image_target(folder)([Stimulus("x", "image", str(tmp_path / "x.png"))])
    tower = VersatileTower(str(folder), tower="image_encoder", prepared="image_feature_extractor")
    seen = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    assert torch.allclose(tower(seen), expected, atol=1e-5)
    judge = EmbeddingDistance(tower, target="image")
    energy = judge(seen.expand(2, -1, -1, -1), {"image": torch.cat([expected, -expected])})
    assert torch.allclose(energy, torch.tensor([0.0, 2.0]), atol=1e-5)
    with pytest.raises(InputError, match="40 values"):
        judge(seen, {"image": expected[:, 1:]})


def test_hidden_states_are_those_of_the_network(folder: Path, stimuli: list[Stimulus]) -> None:
    from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    before_last = image_target(folder, scaling="none", layer=-2)
    found = before_last(stimuli)
    network = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder")
    seen = before_last._prepare([Image.open(str(s.path)) for s in stimuli], return_tensors="pt")
    with torch.no_grad():
        hidden = network(**seen, output_hidden_states=True).hidden_states
    assert torch.allclose(found, hidden[1], atol=1e-5)
    words = text_target(folder, scaling="none")
    found = words(stimuli)
    tower = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder")
    ids = words._prepare(CAPTIONS, padding="max_length", max_length=8, return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(found, tower(ids.input_ids).last_hidden_state, atol=1e-5)


def test_words_may_be_cut_by_the_tokeniser_of_another_model(
    folder: Path, stimuli: list[Stimulus], tmp_path: Path
) -> None:
    """One that pads with another word: OpenCLIP's text tower is published with such a one."""
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    other = CLIPTokenizer.from_pretrained(folder / "tokenizer", pad_token="<|startoftext|>")
    other.save_pretrained(tmp_path / "tokenizer")
    found = text_target(folder, scaling="none", prepared_by=str(tmp_path))(stimuli)
    tower = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder")
    ids = other(CAPTIONS, padding="max_length", max_length=8, return_tensors="pt").input_ids
    assert (ids[1] == 0).sum() > 2
    with torch.no_grad():
        assert torch.allclose(found, tower(ids).last_hidden_state, atol=1e-5)
    assert (found - text_target(folder, scaling="none")(stimuli)).abs().max() > 1e-2


def test_what_does_not_fit_says_what_to_do(folder: Path) -> None:
    shapes = {"image": (5, WIDTH), "text": (8, WIDTH)}
    generator = build(folder, text="text")
    generator.check(shapes)
    with pytest.raises(InputError, match=r"\(token, 8\).*\(768,\)"):
        generator.check({**shapes, "image": (768,)})
    with pytest.raises(InputError, match="remove width"):
        build(folder, width=768).check(shapes)
    for knobs, says in [
        ({"image": None}, "got null in both"),
        ({"text": "text", "text_share": 1.0}, "set it to null"),
    ]:
        with pytest.raises(InputError, match=says):
            build(folder, **knobs)
    with pytest.raises(InputError, match="expected a caption"):
        text_target(folder)([Stimulus("x", "image", texts=(" ",))])
    with pytest.raises(InputError, match=r"expected -2 to 1, the layers of .* got 5"):
        text_target(folder, scaling="none", layer=5)([Stimulus("x", "text", texts=("a",))])
    with pytest.raises(InputError, match="set layer to -1"):
        text_target(folder, layer=3)
