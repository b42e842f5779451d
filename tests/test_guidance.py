"""Steering by an energy and choosing among candidates, on the tiny unCLIP that ships with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor
from worlds import config

from decode.cli import CONFIGS
from decode.core import InputError, Stimulus, Tensors
from decode.diffusion.energies import EmbeddingDistance, OpenClipTower, PictureDistance
from decode.diffusion.pipelines import clean_estimate
from decode.diffusion.sampler import another_seed
from decode.generators.unclip import Unclip
from decode.miniatures.clip import Pictures, embed, load_clip
from decode.pictures import normalised
from decode.pipeline import execute
from decode.simulation.scenes import training_scenes
from decode.store import read_json
from decode.targets.open_clip import OpenClip
from decode.workshop import Run

WORDS = ["a large red circle on a green meadow", "a small blue fish at night"]
SEEDS = [1, 2]
TOWER = "package:tiny/clip"


@pytest.fixture(scope="module")
def predicted() -> Tensors:
    clip = OpenClip(TOWER, output="text", device="cpu")
    embedding = clip([Stimulus(w, "text", texts=(w,)) for w in WORDS])
    corners = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    coarse = torch.nn.functional.interpolate(corners, size=(8, 8), mode="bilinear")
    return {"image": embedding, "retrieval": embedding, "pixels": coarse}


def pictures(predicted: Tensors, seeds: list[int] = SEEDS, **knobs: object) -> Tensor:
    fixed = {"steps": 6, "guidance": 2.0, "norm": "keep", "device": "cpu"}
    generator = Unclip(model="package:tiny/unclip", **{**fixed, **knobs})  # type: ignore[arg-type]
    made = generator(predicted, seeds=seeds)
    return torch.stack([torch.as_tensor(m.data) for m in made])


@pytest.mark.slow
def test_an_energy_falls_where_it_steers() -> None:
    """Embeddings of four scenes are steered towards the coarse colours of four others."""
    scenes = Pictures.of(training_scenes(8, seed=5))
    clip, _ = load_clip(CONFIGS.parent / "decode" / "tiny" / "clip")
    with torch.no_grad():
        embedding = embed(clip, scenes)[:4]
    coarse = torch.nn.functional.adaptive_avg_pool2d((scenes.images()[4:] + 1) / 2, 8)
    wanted = {"image": embedding, "pixels": coarse}
    energy, seeds = PictureDistance("pixels"), [1, 2, 3, 4]
    free = pictures(wanted, seeds, steps=10)
    before = energy(free, wanted)
    little, more = (
        energy(pictures(wanted, seeds, steps=10, energy=energy, energy_scale=scale), wanted)
        for scale in (0.5, 2.0)
    )
    assert (more < before).all()
    assert more.mean() < little.mean() < before.mean()
    assert more.mean() < 0.5 * before.mean()
    # A plain function of the picture will do as well.
    light = pictures(
        wanted, seeds, steps=10, energy=lambda seen, rows: -seen.mean((1, 2, 3)), energy_scale=1.0
    )
    assert light.mean() > 0.05 + free.mean()


def test_scale_zero_is_no_energy_bit_for_bit(predicted: Tensors) -> None:
    energy = PictureDistance("pixels")
    assert torch.equal(pictures(predicted, energy=energy, energy_scale=0.0), pictures(predicted))
    # The steered loop itself, going down a slope of nothing, takes the same steps.
    flat = pictures(predicted, energy=lambda seen, rows: 0 * seen.sum((1, 2, 3)))
    assert torch.allclose(flat, pictures(predicted), atol=1e-5)


def test_a_steered_row_depends_on_its_own_prediction_only(predicted: Tensors) -> None:
    knobs = {"energy": PictureDistance("pixels"), "energy_every": 2}
    together = pictures(predicted, **knobs)
    alone = pictures({k: v[1:] for k, v in predicted.items()}, [2], **knobs)
    assert torch.allclose(together[1:], alone, atol=1e-4)
    every = pictures(predicted, energy=PictureDistance("pixels"))
    assert (together - every).abs().max() > 1e-2


def test_schedulers_without_a_clean_estimate_are_refused() -> None:
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler()
    scheduler.set_timesteps(4)
    found = scheduler.step(torch.zeros(1, 4), scheduler.timesteps[0], torch.ones(1, 4))
    with pytest.raises(InputError, match=r"UniPC.*DDIM"):
        clean_estimate(found, scheduler)


def test_the_best_candidate_is_the_one_nearest_to_the_prediction(predicted: Tensors) -> None:
    judge = EmbeddingDistance(OpenClipTower(TOWER), target="retrieval")
    rows = {k: v.repeat(3, *(1,) * (v.ndim - 1)) for k, v in predicted.items()}
    first = [1, 2, 3, 4, 5, 6]
    best = pictures(rows, first, candidates=3, judge=judge)
    seeds = [first, *([another_seed(s, k) for s in first] for k in (1, 2))]
    all_of_them = [pictures(rows, s) for s in seeds]
    energies = torch.stack([judge(made, rows) for made in all_of_them])
    assert energies.argmin(0).max() > 0  # else the first of them would pass for the best
    for row, k in enumerate(energies.argmin(0).tolist()):
        assert torch.allclose(best[row], all_of_them[k][row], atol=1e-5)


def test_what_was_chosen_or_steered_is_disclosed() -> None:
    judge = EmbeddingDistance(OpenClipTower(TOWER), target="retrieval")
    generator = Unclip("package:tiny/unclip", candidates=16, judge=judge)
    assert generator.needs == ("image", "retrieval")
    assert "best of 16" in generator.disclosure
    assert "predicted 'retrieval'" in generator.disclosure
    assert Unclip("package:tiny/unclip").disclosure == ""
    steered = Unclip("package:tiny/unclip", energy=PictureDistance("pixels"))
    assert "steered" in steered.disclosure


def test_a_judge_and_candidates_go_together() -> None:
    judge = EmbeddingDistance(OpenClipTower(TOWER), target="retrieval")
    for knobs in ({"candidates": 2}, {"judge": judge}):
        with pytest.raises(InputError, match="expected a judge just where"):
            Unclip("package:tiny/unclip", **knobs)


def test_what_does_not_fit_is_found_before_any_picture() -> None:
    judge = EmbeddingDistance(OpenClipTower(TOWER), target="retrieval")
    knobs = {"device": "cpu", "energy": PictureDistance("pixels")}
    generator = Unclip("package:tiny/unclip", **knobs, candidates=2, judge=judge)
    shapes = {"image": (128,), "retrieval": (128,), "pixels": (3, 8, 8)}
    generator.check(shapes)
    with pytest.raises(InputError, match=r"128, got .*\(64,\)"):
        generator.check({**shapes, "retrieval": (64,)})
    with pytest.raises(InputError, match="name a pixels target"):
        generator.check({**shapes, "pixels": (12,)})
    with pytest.raises(InputError, match="add a target named 'retrieval'"):
        generator.check({"image": (128,), "pixels": (3, 8, 8)})


def test_the_tower_sees_what_the_target_sees(tmp_path: Path) -> None:
    """On a picture of the tower's own size the tensors are the same as the file's."""
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "x.png"
    Image.fromarray(picture).save(path)
    seen = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    expected = OpenClip(TOWER, device="cpu")([Stimulus("x", "image", path=str(path))])
    assert torch.allclose(OpenClipTower(TOWER)(seen), expected, atol=1e-4)
    grey = normalised(torch.full((1, 3, 8, 8), 0.75), 4, [0.5] * 3, [0.5] * 3)
    assert torch.allclose(grey, torch.full((1, 3, 4, 4), 0.5), atol=1e-5)


@pytest.mark.slow
def test_a_report_says_that_pictures_were_chosen_and_steered(tmp_path: Path) -> None:
    """A whole run with the shipped choice, made short."""
    node = yaml.safe_load((CONFIGS / "generator" / "tiny_unclip_guided.yaml").read_text())
    clip = {"_target_": "decode.targets.open_clip.OpenClip", "model": TOWER, "device": "cpu"}
    coarse = {"_target_": "decode.targets.pixels.Pixels", "size": 8}
    run = Run(
        config(
            tmp_path,
            generator={**node, "steps": 1, "candidates": 2, "device": "cpu"},
            targets={"pixels": coarse, "image": clip},
            objectives={
                name: {"_target_": "decode.objectives.mse.MSE", "target": name}
                for name in ("pixels", "image")
            },
            metrics={
                "retrieval": {"_target_": "decode.metrics.retrieval.Retrieval", "target": "pixels"}
            },
        )
    )
    folder = execute(run, until="report", force=[], say=lambda s: None)
    page = (folder / "report.html").read_text()
    assert "best of 2" in page
    assert "steered by the distance from the predicted picture" in page
    made = run.folder("reconstruct")
    assert made is not None
    assert "best of 2" in read_json(made / "manifest.json")["facts"]["disclosure"]
