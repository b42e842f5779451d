"""Generators of text: word for word what the whole model writes, refusals before weights are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from text_twins import WORDS, loud, tiny_git, tiny_llava
from torch import Tensor

from decode.cli import CONFIGS
from decode.core import InputError, Media, Stimulus
from decode.generators.git_captions import GitCaptions
from decode.generators.llava_text import LlavaText
from decode.pictures import open_image
from decode.targets.clip_tokens import ClipTokens
from decode.targets.git import Git
from decode.writer import Writer, no_nan, place_network

PICTURES = 12
Build = Callable[..., Writer]


@pytest.fixture(scope="module")
def stimuli(tmp_path_factory: pytest.TempPathFactory) -> list[Stimulus]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    made = []
    for i in range(PICTURES):
        coarse = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(coarse.repeat(16, 0).repeat(16, 1)).save(folder / f"{i}.png")
        made.append(Stimulus(f"s{i}", "image", str(folder / f"{i}.png")))
    return made


@pytest.fixture(scope="module")
def git_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("git")
    torch.manual_seed(1)
    network, _ = tiny_git(folder)
    loud(network, 12.0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llava")
    torch.manual_seed(1)
    tiny_llava(folder)
    return folder


@pytest.fixture
def git(git_folder: Path) -> Build:
    return lambda **k: GitCaptions(str(git_folder), **{"max_new_tokens": 8, "device": "cpu", **k})


@pytest.fixture
def llava(llava_folder: Path) -> Build:
    knobs = {"max_new_tokens": 8, "prompt": "there is a", "template": "user : <image> {prompt}"}
    return lambda **k: LlavaText(str(llava_folder), **{**knobs, "device": "cpu", **k})


@pytest.fixture(params=["git", "llava"])
def build(request: pytest.FixtureRequest) -> Build:
    return request.getfixturevalue(request.param)


def tokens_of(generator: Writer, stimuli: list[Stimulus]) -> Tensor:
    """What the target of this generator gives for pictures."""
    if isinstance(generator, GitCaptions):
        return Git(generator.model, device="cpu")(stimuli)
    network = open_whole(generator)
    with torch.no_grad():
        tower = network.model.vision_tower
        found = tower(pixels(generator.model, stimuli), output_hidden_states=True)
    return found.hidden_states[-2][:, 1:]


def open_whole(generator: Writer) -> Any:
    return generator.kind().from_pretrained(generator.model).eval()


def pixels(folder: str, stimuli: list[Stimulus]) -> Tensor:
    from transformers import CLIPImageProcessor

    ready = CLIPImageProcessor.from_pretrained(folder)
    return ready([open_image(s) for s in stimuli], return_tensors="pt")["pixel_values"]


def said(made: list[Media]) -> list[str]:
    assert all(m.kind == "text" for m in made)
    return [str(m.data) for m in made]


def run(generator: Writer, tokens: Tensor) -> list[str]:
    return said(generator({"image": tokens}, seeds=range(len(tokens))))


def test_git_writes_what_the_whole_model_writes_of_the_picture(
    git: Build, stimuli: list[Stimulus]
) -> None:
    from transformers import AutoTokenizer

    generator = git(batch_size=5)
    whole = open_whole(generator)
    words = whole.generate(
        pixel_values=pixels(generator.model, stimuli), max_new_tokens=8, do_sample=False
    )
    tokeniser = AutoTokenizer.from_pretrained(generator.model)
    expected = tokeniser.batch_decode(words, skip_special_tokens=True)
    found = run(generator, Git(generator.model, device="cpu")(stimuli))
    assert found == [" ".join(text.split()) for text in expected]
    assert len(set(found)) >= 4


def test_llava_writes_what_the_whole_model_writes_of_the_picture(
    llava: Build, stimuli: list[Stimulus]
) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessor, LlavaProcessor

    generator = llava(batch_size=5)
    tokeniser = AutoTokenizer.from_pretrained(generator.model)
    ready = LlavaProcessor(
        CLIPImageProcessor.from_pretrained(generator.model), tokeniser, patch_size=8,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    given = ready(
        images=[open_image(s) for s in stimuli],
        text=["user : <image> there is a"] * len(stimuli),
        return_tensors="pt",
    )
    words = open_whole(generator).generate(**given, max_new_tokens=8, do_sample=False)
    words = words[:, given["input_ids"].shape[1] :]
    expected = tokeniser.batch_decode(words, skip_special_tokens=True)
    found = run(generator, tokens_of(generator, stimuli))
    assert found == [" ".join(text.split()) for text in expected]
    assert len(set(found)) >= 4
    assert run(llava(prompt="where is two"), tokens_of(generator, stimuli)) != found


def test_llava_is_asked_for_each_category_in_turn(llava: Build, stimuli: list[Stimulus]) -> None:
    """Line by line what it answers when it is asked for that category alone."""
    names = ["red square", "star", "disc"]
    generator = llava(prompt="where is a {category}", categories=names, batch_size=5)
    tokens = tokens_of(generator, stimuli)
    alone = [run(llava(prompt=f"where is a {name}"), tokens) for name in names]
    found = run(generator, tokens)
    assert len({tuple(a) for a in alone}) == 3
    for row, text in enumerate(found):
        assert text.split("\n") == [
            f"{name}: {a[row]}" for name, a in zip(names, alone, strict=True)
        ]
    assert "all of 3 categories, whatever was shown" in generator.disclosure


@pytest.fixture
def questions(tmp_path: Path) -> str:
    """What is asked of the first four pictures: three, one, none and two questions."""
    asked = {"s0": ["disc", "red  square", "star"], "s1": ["small green star there"],
             "s3": ["two: stripes", "disc"]}  # fmt: skip
    rows = [(uid, question) for uid, each in asked.items() for question in each]
    told = pd.DataFrame(rows, columns=["stimulus", "question"])
    # A second person's answer to the same question does not ask it again.
    pd.concat([told, told[:2]]).assign(answer="yes").to_csv(tmp_path / "asked.csv", index=False)
    return str(tmp_path / "asked.csv")


@pytest.mark.parametrize("batch_size", [1, 4])
def test_llava_is_asked_what_belongs_to_each_picture(
    llava: Build, stimuli: list[Stimulus], questions: str, batch_size: int
) -> None:
    """Line by line what it answers when all are asked that question alone."""
    prompt = "where is a {category}"
    generator = llava(prompt=prompt, questions=questions, batch_size=batch_size)
    assert generator.asks
    tokens = tokens_of(generator, stimuli)
    asked = [generator.asked_of(s) for s in stimuli[:4]]
    assert asked[0] == ("disc", "red square", "star")
    assert asked[2] == ()
    found = generator.replies({"image": tokens[:4]}, asked)
    for row, (media, names) in enumerate(zip(found, asked, strict=True)):
        alone = [run(llava(prompt=prompt.replace("{category}", n)), tokens)[row] for n in names]
        lines = [f"{name}: {text}" for name, text in zip(names, alone, strict=True)]
        assert str(media.data) == "\n".join(lines)
    assert len({str(m.data) for m in found}) == 4
    assert "may give its answer away" in generator.disclosure


def test_a_table_of_questions_is_looked_for_before_training(llava: Build, tmp_path: Path) -> None:
    generator = llava(prompt="a {category}", questions=str(tmp_path / "none.csv"))
    with pytest.raises(
        InputError, match=r"none\.csv: expected a table of answers, got no such file"
    ):
        generator.check({"image": (4, 16)})


def test_categories_and_their_place_in_the_prompt_belong_together(llava: Build) -> None:
    for knobs in (
        {"prompt": "a {category}"},
        {"prompt": "a", "categories": ["dog"]},
        {"prompt": "a", "questions": "asked.csv"},
    ):
        with pytest.raises(
            InputError, match="just where there are categories or questions, got the prompt"
        ):
            llava(**knobs)
    both = {"categories": ["dog"], "questions": "asked.csv"}
    with pytest.raises(InputError, match="leave one out"):
        llava(prompt="a {category}", **both)
    for names in (["dog", "dog"], ["dog: big"], [" "], ["a\nb"]):
        with pytest.raises(InputError, match="different names"):
            llava(prompt="a {category}", categories=names)


def test_the_target_of_clip_tokens_is_what_llava_sees(
    llava: Build, stimuli: list[Stimulus], tmp_path: Path
) -> None:
    """The image encoder by itself, read as a CLIP, gives the tokens of the layer before the last."""
    from text_twins import processor
    from transformers import CLIPVisionModelWithProjection

    generator = llava()
    tower = open_whole(generator).model.vision_tower
    clip = CLIPVisionModelWithProjection(tower.config).eval()
    state = {
        f"vision_model.{k.removeprefix('vision_model.')}": v for k, v in tower.state_dict().items()
    }
    unread = clip.load_state_dict(state, strict=False)
    assert unread.missing_keys == ["visual_projection.weight"]
    clip.save_pretrained(tmp_path)
    processor(tmp_path)
    target = ClipTokens(str(tmp_path), scaling="none", layer=-2, class_token=False, device="cpu")
    tokens = target(stimuli)
    assert torch.allclose(tokens, tokens_of(generator, stimuli), atol=1e-4)


def test_a_row_depends_on_its_prediction_only(build: Build, stimuli: list[Stimulus]) -> None:
    tokens = tokens_of(build(), stimuli)
    found = run(build(batch_size=PICTURES), tokens)
    order = [7, 2, 11]
    assert run(build(batch_size=2), tokens[order]) == [found[i] for i in order]
    generator = build()
    again = said(generator({"image": tokens}, seeds=[9] * PICTURES))
    assert again == found
    assert said(generator({"image": tokens[:1].expand(2, -1, -1)}, seeds=[0, 1])) == [found[0]] * 2


def test_the_norm_is_that_of_the_training_tokens(build: Build, stimuli: list[Stimulus]) -> None:
    tokens = tokens_of(build(), stimuli)
    norm = tokens.flatten(1).norm(dim=1).mean()
    shrunk = build(norm="train")
    with pytest.raises(InputError, match="call learn"):
        run(shrunk, tokens)
    shrunk.learn([], {"image": tokens})
    scaled = tokens / tokens.flatten(1).norm(dim=1).view(-1, 1, 1) * norm
    assert run(shrunk, tokens * 0.01) == run(build(), scaled)
    assert run(build(), tokens * 0.01) != run(build(), scaled)


def test_the_image_encoder_is_not_read(build: Build, stimuli: list[Stimulus]) -> None:
    generator = build()
    run(generator, tokens_of(generator, stimuli)[:1])
    whole = open_whole(generator)
    layers = [
        p.numel()
        for n, p in whole.named_parameters()
        if ("image_encoder" in n or "vision_tower" in n) and ".layers." in n
    ]
    count = [sum(p.numel() for p in n.parameters()) for n in (whole, generator._network)]
    assert len(layers) > 10
    assert count[1] <= count[0] - sum(layers)


def test_wrong_shapes_are_found_without_reading_weights(build: Build, tmp_path: Path) -> None:
    generator = build()
    file = Path(generator.model) / "model.safetensors"
    file.rename(file.with_suffix(".hidden"))
    n = 5 if isinstance(generator, GitCaptions) else 4
    try:
        generator.check({"image": (n, 16)})
        for shape in ((n, 17), (n + 1, 16), (16,)):
            with pytest.raises(
                InputError, match=rf"shape \({n}, 16\), which .* got target 'image' of shape"
            ):
                generator.check({"image": shape})
        with pytest.raises(InputError, match="add a target named 'image'"):
            generator.check({"other": (n, 16)})
        with pytest.raises(InputError, match="remove width"):
            build(width=7).check({"image": (n, 16)})
        with pytest.raises(
            InputError, match=f"tokens: expected {n}, which .* reads, got 7; remove tokens"
        ):
            build(tokens=7).check({"image": (n, 16)})
        with pytest.raises(InputError, match="a model that can be loaded"):
            run(generator, torch.zeros(1, n, 16))
    finally:
        file.with_suffix(".hidden").rename(file)


def test_published_models_are_checked_by_what_is_said_of_them() -> None:
    generator = GitCaptions(tokens=257, width=1024)
    generator.check({"image": (257, 1024)})
    with pytest.raises(
        InputError, match=r"\(257, 1024\), which .* target 'image' of shape \(256, 1664\)"
    ):
        generator.check({"image": (256, 1664)})
    llava = LlavaText(tokens=576, width=1024)
    with pytest.raises(
        InputError, match=r"\(576, 1024\).*\(256, 1024\); choose the target made by"
    ):
        llava.check({"image": (256, 1024)})


def test_published_configurations_read_what_the_yamls_say() -> None:
    """The sizes of git-large-coco and llava-1.5-7b; whatever else, a folder tells what it reads."""
    from transformers import CLIPVisionConfig, GitConfig, LlavaConfig, SiglipVisionConfig

    large = {"hidden_size": 1024, "image_size": 224, "patch_size": 14}
    assert GitCaptions().reads(GitConfig(vision_config=large)) == (257, 1024)
    read = LlavaText().reads
    assert read(LlavaConfig()) == (576, 1024)
    large["num_attention_heads"] = 16
    clip = CLIPVisionConfig(**large)
    assert read(LlavaConfig(vision_config=clip)) == (256, 1024)
    both = {"vision_feature_layer": [-2, -1], "vision_feature_select_strategy": "full"}
    assert read(LlavaConfig(vision_config=clip, **both)) == (257, 2048)
    other = SiglipVisionConfig(**large)
    assert read(LlavaConfig(vision_config=other, vision_feature_select_strategy="full")) == (
        256,
        1024,
    )
    for name, target in (("git_captions", "git_tokens"), ("llava", "llava_tokens_336")):
        node = yaml.safe_load((CONFIGS / "generator" / f"{name}.yaml").read_text())
        said = (CONFIGS / "target" / f"{target}.yaml").read_text().splitlines()[0]
        assert f"({node['tokens']}, {node['width']})" in said
        assert f"target {target}." in (CONFIGS / "generator" / f"{name}.yaml").read_text()


def test_folders_of_other_models_are_named(git_folder: Path, llava_folder: Path) -> None:
    with pytest.raises(InputError, match=r"type 'git' .* got 'llava'"):
        GitCaptions(str(llava_folder), device="cpu").check({"image": (4, 16)})
    with pytest.raises(InputError, match=r"type 'llava' .* got 'git'"):
        LlavaText(str(git_folder), device="cpu").check({"image": (5, 16)})


def test_missing_weights_are_refused_not_made_up(git_folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "part"
    shutil.copytree(git_folder, folder)
    state = load_file(folder / "model.safetensors")
    gone = next(k for k in state if "encoder.layer.1" in k)
    kept = {k: v for k, v in state.items() if k != gone}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"got none for 1 \(git\.encoder\.layer\.1"):
        run(GitCaptions(str(folder), device="cpu"), torch.zeros(1, 5, 16))


def test_wrong_knobs_say_what_to_do(build: Build, git: Build, llava: Build) -> None:
    for knobs, says in [
        ({"norm": "none"}, "norm: expected train or keep, got 'none'"),
        ({"offload": "disk"}, "offload: expected none, model or sequential"),
        ({"precision": "half"}, "precision"),
        ({"batch_size": 0}, "at least 1"),
        ({"max_new_tokens": 0}, "at least 1"),
    ]:
        with pytest.raises(InputError, match=says):
            build(**knobs)
    with pytest.raises(InputError, match="set offload to none"):
        build(offload="model").check({"image": (5, 16)})
    with pytest.raises(InputError, match=r"less than the 12 places .* got 12; lower it"):
        git(max_new_tokens=12).check({"image": (5, 16)})
    git(max_new_tokens=11).check({"image": (5, 16)})
    for template in ("{prompt}", "<image>", "<image> <image> {prompt}"):
        with pytest.raises(InputError, match="once each"):
            llava(template=template)
    with pytest.raises(InputError, match="belongs into template"):
        llava(prompt="<image> what?")
    assert "'where is'" in llava(prompt="where is").disclosure


def test_what_cannot_be_read_is_refused(build: Build, stimuli: list[Stimulus]) -> None:
    tokens = tokens_of(build(), stimuli)[:2].clone()
    tokens[1, 0, 0] = torch.inf
    with pytest.raises(InputError, match="expected finite predictions of target"):
        run(build(), tokens)
    with pytest.raises(InputError, match="bfloat16"):
        no_nan(torch.zeros(1, 1), torch.tensor([[0.0, torch.nan]]))
    with pytest.raises(InputError, match="bfloat16"):
        # Beyond the range of half precision once it has been through a layer.
        run(build(precision="float16"), tokens.nan_to_num(0, 0) * 0 + 6e4)


def test_half_precision_writes_nearly_the_same(build: Build, stimuli: list[Stimulus]) -> None:
    tokens = tokens_of(build(), stimuli)
    full, half = (run(build(precision=p), tokens) for p in ("float32", "bfloat16"))
    first = [a.split()[:1] == b.split()[:1] for a, b in zip(full, half, strict=True)]
    assert np.mean(first) >= 0.7


def test_layers_moved_one_by_one_write_the_same(build: Build, stimuli: list[Stimulus]) -> None:
    """The hooks of sequential offload, between the CPU and the CPU."""
    tokens = tokens_of(build(), stimuli)
    generator = build()
    found = run(generator, tokens)
    place_network(generator._network, "sequential", torch.device("cpu"))
    assert all(p.is_meta for p in generator._network.parameters())
    assert run(generator, tokens) == found


def test_the_words_are_the_models(build: Build, stimuli: list[Stimulus]) -> None:
    for text in run(build(), tokens_of(build(), stimuli)):
        assert set(text.split()) <= {*WORDS, "[UNK]"}
