"""Captions through a whole run: brain signal to GIT tokens, to words, to scores, to the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scored import overall
from test_captions import SAYINGS
from text_twins import loud, save, tiny_git
from torch.nn.functional import interpolate
from worlds import config

from decode.building import build
from decode.cli import CONFIGS
from decode.pipeline import execute
from decode.stages.reconstruct import nearest_rows
from decode.stages.report import choosers
from decode.store import read_json
from decode.workshop import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def git_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GIT that has learned to tell the brightest corner of a picture."""
    folder = tmp_path_factory.mktemp("git")
    torch.manual_seed(0)
    network, tokeniser = tiny_git(folder)
    said = tokeniser(list(SAYINGS), padding=True, return_tensors="pt").input_ids
    mean, spread = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758))
    )
    steps = 500
    optimiser = torch.optim.AdamW(network.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    loud(network).train()
    for _ in range(steps):
        coarse = torch.rand(64, 3, 2, 2)
        words = said[coarse.mean(1).flatten(1).argmax(1)]
        pictures = interpolate(coarse, (16, 16))
        loss = network(
            input_ids=words,
            pixel_values=(pictures - mean) / spread,
            labels=words.masked_fill(words == 0, -100),
        ).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    save(folder, network.eval(), tokeniser)
    return folder


def parts(folder: Path, git: Path) -> dict[str, Any]:
    metric = yaml.safe_load((CONFIGS / "metric" / "captions_tiny.yaml").read_text())
    metric["clip"]["device"] = "cpu"
    generator = yaml.safe_load((CONFIGS / "generator" / "git_captions.yaml").read_text())
    small = {"tokens": 5, "width": 16, "max_new_tokens": 8, "precision": "float32"}
    return {
        "data": {"_target_": "test_captions.CaptionWorld", "root": str(folder / "world"), "n": 150},
        "targets": {
            "image": {"_target_": "decode.targets.git.Git", "model": str(git), "device": "cpu"}
        },
        "generator": {**generator, **small, "model": str(git), "device": "cpu"},
        "encoder": {"_target_": "decode.encoders.ridge.Ridge", "_partial_": True},
        "baselines": {"ridge": {"_target_": "decode.encoders.ridge.Ridge", "_partial_": True}},
        "objectives": {},
        "trainer": {"_target_": "decode.training.Trainer", "epochs": 0},
        "metrics": {"captions": metric},
    }


def test_captions_go_from_the_signal_to_the_page(tmp_path: Path, git_folder: Path) -> None:
    run = Run(config(tmp_path, **parts(tmp_path, git_folder)))
    execute(run, until="report", force=(), say=lambda _: None)
    folder = run.of("reconstruct")[0].folder / "published-00"
    assert sorted(str(p.relative_to(folder)) for p in {f.parent for f in folder.rglob("*.txt")}) == [
        "baselines/ridge", "controls/nearest_text", "controls/oracle", "controls/prior", "decoder",
        "once/oracle", "once/prior",
    ]  # fmt: skip
    files = sorted((folder / "controls" / "prior").iterdir())
    assert len(files) == 24
    assert len({f.read_text() for f in files}) == 1, "without the brain, one text for all"
    summary = read_json(run.of("evaluate")[0].folder / "summary.json")
    found = overall(summary)
    rouge = {source: rows["rouge_l"]["value"] for source, rows in found.items()}
    chance, cider = found["decoder"]["rouge_l"]["chance"], found["decoder"]["cider"]
    assert rouge["oracle"] > 0.85
    assert rouge["decoder"] > chance + 0.2
    assert cider["value"] > cider["chance"] + 1
    assert rouge["ridge"] == pytest.approx(rouge["decoder"])
    assert rouge["prior"] < rouge["decoder"]
    assert abs(rouge["shuffled"] - chance) < 0.15
    page = (run.of("report")[0].folder / "report.html").read_text()
    assert "Shown and told, split published" in page
    assert "chosen by <code>cider</code>" in page
    assert page.count("<article>") == 18
    for label in ("written", "decoder", "ridge", "oracle"):
        assert page.count(f"<dt>{label}</dt>") >= 18
    assert 'class="film"' not in page
    index = (run.of("report")[0].folder.parents[1] / "index.html").read_text()
    assert "<blockquote>" in index


def test_a_wrong_target_is_found_before_anything_is_fitted(
    tmp_path: Path, git_folder: Path
) -> None:
    from decode.core import InputError

    changes = parts(tmp_path, git_folder)
    changes["targets"]["image"] = {"_target_": "decode.targets.pixels.Pixels", "size": 8}
    run = Run(config(tmp_path, **changes))
    with pytest.raises(InputError, match=r"shape \(5, 16\).*'image' of shape \(3, 8, 8\)"):
        execute(run, until="report", force=(), say=lambda _: None)
    assert not list((tmp_path / "outputs").glob("train/*/manifest.json"))


def test_the_nearest_row_does_not_depend_on_blocks() -> None:
    g = torch.Generator().manual_seed(0)
    truth, wanted = torch.randn(700, 3, 4, generator=g), torch.randn(20, 3, 4, generator=g)
    a, b = wanted.flatten(1).numpy(), truth.flatten(1).numpy()
    cosine = (a @ b.T) / np.linalg.norm(b, axis=1)
    assert nearest_rows(wanted, truth) == cosine.argmax(axis=1).tolist()
    truth[600] = truth[3]
    assert nearest_rows(truth[600:601], truth) == [3]


def test_the_gallery_of_captions_is_chosen_by_a_score_of_single_ones() -> None:
    clip = yaml.safe_load((CONFIGS / "metric" / "captions_tiny.yaml").read_text())
    plain, pictures = {**clip, "clip": None}, (CONFIGS / "metric" / "image_native.yaml").read_text()
    by_clip, by_words, by_pixels = (
        build(node, "metric").measures() for node in (clip, plain, yaml.safe_load(pictures))
    )
    assert choosers(by_clip)[:3] == ["cider", "clipscore_tiny_clip", "rouge_l"]
    assert choosers(by_words)[:2] == ["cider", "rouge_l"]
    assert (
        choosers({k: m for k, m in by_clip.items() if k in ("bleu1", "ref_clipscore_tiny_clip")})
        == []
    )
    assert choosers(by_pixels) == ["pixcorr"]
    of_a_corpus = replace(by_words["cider"], rows="together")
    assert choosers({"cider": of_a_corpus, "rouge_l": by_words["rouge_l"]}) == ["rouge_l"]
