"""Brain correlation: the metric against brute force, the model of the voxels in a whole run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from nsd_twin import write_nsd
from scored import overall
from test_configs import composed
from worlds import config, sign_again

from decode.artefacts.responses import expected_of, read_responses
from decode.core import InputError, Responses, Results, Stimulus
from decode.metrics.brain_correlation import BrainCorrelation, contributions
from decode.pipeline import execute
from decode.sources import DECODER
from decode.stages.evaluate import shuffle
from decode.store import Frame, read_json
from decode.workshop import Run

ROIS = {"a": ("V1v", "V1d", "", "V2", "V2", "lateral"), "b": ("V1v", "", "", "", "")}


def made_up(n: int = 40, seed: int = 0) -> Results:
    """Two subjects of six and five voxels who saw the same stimuli; the sixth never varies."""
    rng = np.random.default_rng(seed)
    measured = rng.normal(size=(2 * n, 6)).astype(np.float32)
    expected = (0.5 * measured + rng.normal(size=(2 * n, 6))).astype(np.float32)
    expected[:, 5] = 0.1
    measured[n:, 5] = expected[n:, 5] = 0
    trials = pd.DataFrame({"subject": np.repeat(["a", "b"], n), "split": "test", "fold": 0})
    trials["stimulus"] = [f"s{i}" for i in range(n)] * 2
    shown = [Stimulus(s, "event") for s in trials["stimulus"]]
    ceiling = {("a", 0): np.linspace(0.5, 1, 6), ("b", 0): np.full(5, np.nan)}
    brain = Responses(torch.from_numpy(measured), torch.from_numpy(expected), ROIS, ceiling)
    return Results(trials, {}, {}, shown, None, brain)


def by_hand(results: Results, subject: int, voxels: list[int]) -> float:
    brain, part = results.brain, slice(40 * subject, 40 * subject + 40)
    assert brain is not None
    pairs = [(brain.measured[part, v].numpy(), brain.expected[part, v].numpy()) for v in voxels]
    return float(np.mean([np.corrcoef(x, y)[0, 1] if y.std() > 0 else 0.0 for x, y in pairs]))


def test_scores_are_mean_correlations_of_the_voxels_of_a_region() -> None:
    results = made_up()
    metric = BrainCorrelation(
        regions={"V1": ["V1v", "V1d"], "V2": ["V2"], "V3": ["V3"]}, rest="rest"
    )
    rows = metric(results)
    mean = rows.groupby(["subject", "metric"])["value"].mean()
    for region, voxels in {
        "V1": [0, 1],
        "V2": [3, 4],
        "rest": [2, 5],
        "all": list(range(6)),
    }.items():
        expected = by_hand(results, 0, voxels)
        assert mean["a", f"brain_correlation_{region}"] == pytest.approx(expected, abs=1e-6)
    assert mean["b", "brain_correlation_all"] == pytest.approx(by_hand(results, 1, [0, 1, 2, 3, 4]))
    assert ("b", "brain_correlation_V2") not in mean
    assert not rows["metric"].str.contains("V3").any()
    ceiling = rows.groupby(["subject", "metric"])["ceiling"].first()
    assert ceiling["a", "brain_correlation_V1"] == pytest.approx(0.55)
    assert np.isnan(ceiling["b", "brain_correlation_all"])
    assert (rows["chance"] == 0).all()


def test_contributions_have_the_spread_of_the_correlation() -> None:
    rng = np.random.default_rng(1)
    r, error = [], []
    for _ in range(400):
        x = rng.normal(size=(100, 1))
        y = 0.8 * x + 0.6 * rng.normal(size=(100, 1))
        made = contributions(x, y)
        r.append(made.mean())
        error.append(made.std() / 10)
    assert np.mean(r) == pytest.approx(0.8, abs=0.01)
    assert np.mean(error) == pytest.approx(np.std(r), rel=0.12)


def test_contributions_are_what_r_loses_without_a_row() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(9, 2))
    y = x + rng.normal(size=(9, 2))
    kept = [np.delete(np.arange(9), i) for i in range(9)]
    without = np.array([[np.corrcoef(x[k, v], y[k, v])[0, 1] for v in (0, 1)] for k in kept])
    whole = [np.corrcoef(x[:, v], y[:, v])[0, 1] for v in (0, 1)]
    assert contributions(x, y) == pytest.approx(whole + 8 * (without.mean(axis=0) - without))
    flat = contributions(x, np.ones((9, 2)))
    assert (flat == 0).all()


def test_shuffled_pairs_sit_at_zero_and_perfect_ones_at_one() -> None:
    results = made_up()
    brain = results.brain
    assert brain is not None
    draws = [BrainCorrelation()(shuffle(results, seed))["value"].mean() for seed in range(25)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / np.sqrt(25)
    same = Responses(brain.measured, 3 * brain.measured + 7, ROIS, brain.ceiling)
    rows = BrainCorrelation()(Results(results.trials, {}, {}, results.shown, None, same))
    assert rows["value"].mean() == pytest.approx(1)


def test_what_cannot_be_scored_is_refused() -> None:
    results = made_up()
    with pytest.raises(InputError, match="voxel_model"):
        BrainCorrelation()(Results(results.trials, {}, {}, results.shown))
    with pytest.raises(InputError, match=r"regions of the data .*V1d"):
        BrainCorrelation(regions={"V4": ["hV4"]})(results)
    with pytest.raises(InputError, match="rename"):
        BrainCorrelation(regions={"all": ["V1v"]})
    few = Results(results.trials.iloc[:2], {}, {}, results.shown, None, results.brain)
    with pytest.raises(InputError, match="at least 3"):
        BrainCorrelation()(few)


# in a run


VOXELS = {"_target_": "decode.targets.pixels.Pixels", "size": 4}
METRICS = {
    "image": {"_target_": "decode.metrics.image.ImageSuite", "pairs": ["mse"]},
    "brain": {
        "_target_": "decode.metrics.brain_correlation.BrainCorrelation",
        "regions": {"early": ["V1"]},
    },
}


def run(folder: Path, **changes: Any) -> tuple[Run, list[str]]:
    done: list[str] = []
    until = changes.pop("until", "report")
    made = Run(config(folder, **changes))
    execute(made, until=until, force=(), say=lambda s: done.append(s.split()[0]))
    return made, done


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a model of the voxels, up to its pictures."""
    folder = tmp_path_factory.mktemp("plain")
    run(folder, until="reconstruct")
    return folder


def test_a_model_of_the_voxels_adds_one_stage_and_redoes_none(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain / "outputs", tmp_path / "outputs")
    made, done = run(tmp_path, voxel_model=VOXELS, metrics=METRICS)
    assert done == ["respond", "evaluate", "report"]
    summary = read_json(made.of("evaluate")[0].folder / "summary.json")
    found = {
        source: rows.get("brain_correlation_early") for source, rows in overall(summary).items()
    }
    own, shown = found["decoder"], found["shown"]
    assert own
    assert shown
    assert own["value"] > 0.5
    assert own["value"] - 0.02 < shown["value"] < shown["ceiling"] + 0.05
    assert shown["ceiling"] - shown["value"] < 0.1
    assert found["oracle"]["value"] == pytest.approx(shown["value"], abs=0.05)
    assert abs(found["shuffled"]["value"]) < 0.1
    assert found["prior"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["ridge"]
    assert own["ci_low"] < own["value"] < own["ci_high"] < 1
    assert set(overall(summary)["shown"]) == {
        n for n in overall(summary)["decoder"] if "brain" in n
    }
    page = (made.of("report")[0].folder / "report.html").read_text()
    assert "the shown pictures themselves" in page


def test_test_responses_do_not_reach_the_model(plain: Path, tmp_path: Path) -> None:
    expected, measured = [], []
    for name, scale in (("one", 1.0), ("two", 3.0)):
        folder = tmp_path / name
        shutil.copytree(plain / "outputs", folder / "outputs")
        shutil.copytree(plain / "world", folder / "world")
        made = Run(config(folder, voxel_model=VOXELS, metrics=METRICS))
        for task in made.of("preprocess"):
            table = pd.read_parquet(task.folder / "trials.parquet")
            signal = np.load(task.folder / "signal.npy")
            signal[table["start"][table["split"] == "test"]] *= scale
            np.save(task.folder / "signal.npy", signal)
            sign_again(task.folder)
        run(folder, voxel_model=VOXELS, metrics=METRICS, until="respond")
        frame = Frame.read(made.of("respond")[0].folder / "published-00")
        expected.append(frame.arrays[expected_of(DECODER)])
        measured.append(frame.arrays["measured"])
    assert np.array_equal(*expected)
    assert not np.allclose(*measured)


@pytest.mark.parametrize("repeats", ["single", "after"])
def test_rows_are_those_of_the_predictions(plain: Path, tmp_path: Path, repeats: str) -> None:
    shutil.copytree(plain / "outputs", tmp_path / "outputs")
    protocol = {"train_repeats": "single", "test_repeats": repeats, "rescale": "none"}
    made, _ = run(tmp_path, voxel_model=VOXELS, metrics=METRICS, protocol=protocol, until="respond")
    table = Frame.read(made.of("predict")[0].folder / "published-00").table
    brain = read_responses(made.of("respond")[0].folder, "published", table, DECODER)
    assert brain is not None
    assert len(table) == len(brain.measured) == (48 if repeats == "single" else 24)
    assert [len(brain.rois[s]) for s in ("a", "b")] == [30, 35]
    assert (brain.measured[table["subject"] == "a", 30:] == 0).all()
    other = table.iloc[::-1].reset_index(drop=True)
    with pytest.raises(InputError, match="rows of the predictions"):
        read_responses(made.of("respond")[0].folder, "published", other, DECODER)


def test_mistakes_are_found_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.brain: expected a model of the brain"):
        Run(config(tmp_path, metrics=METRICS))
    with pytest.raises(
        InputError, match="a generator, whose pictures it reads, got generator=null"
    ):
        Run(config(tmp_path, voxel_model=VOXELS, generator=None))


# The twin's noise, and the pictures that are tested.
NOISE, SHARED = 0.5, 24


def expected_ceiling(response: np.ndarray) -> np.ndarray:
    """(x, y, z) what the root of an estimated ceiling is on average, for three repeats of each known
    response (picture, x, y, z): silent voxels are taken for better than they are, as no estimate is
    below 0.
    """
    rng, made = np.random.default_rng(3), []
    for _ in range(60):
        trials = response[:, None] + NOISE * rng.standard_normal(
            (len(response), 3, *response.shape[1:])
        )
        noise = trials.var(axis=1, ddof=1).mean(axis=0)
        total = trials.mean(axis=1).var(axis=0, ddof=1)
        made.append(np.sqrt(np.maximum(total - noise / 3, 0) / np.maximum(total, noise / 3)))
    return np.mean(made, axis=0)


@pytest.mark.slow
def test_the_experiment_on_nsd_scores_the_published_regions(tmp_path: Path) -> None:
    """As it ships, with pixels in the place of networks: the twin's voxels read coarse pixels."""
    config = composed("experiment=nsd/mindeye2_brain_correlation", f"paths.outputs={tmp_path}/out")
    twin = write_nsd(
        tmp_path / "nsd", n_images=240, n_shared=SHARED, grid=(9, 8, 6), size=8, noise=NOISE
    )
    config["data"] |= {"root": str(twin.root)}
    pixels = {"_target_": "decode.targets.pixels.Pixels", "size": 8}
    assert config["voxel_model"]["target"]["model"] == "facebook/dinov2-large"
    config["voxel_model"] |= {"target": pixels, "size": 192}
    config |= {
        "subjects": ["subj01"], "published": None, "compute": {"device": "cpu"}, "objectives": {},
        "targets": {"pixels": pixels},
        "generator": {"_target_": "decode.generators.pixels.PixelGenerator"},
        "encoder": {"_target_": "decode.encoders.ridge.Ridge", "_partial_": True},
        "trainer": {"_target_": "decode.training.Trainer", "epochs": 0},
        "metrics": {"brain": config["metrics"]["brain"]},
    }  # fmt: skip
    made = Run(config)
    execute(made, until="report", force=(), say=lambda _: None)
    summary = read_json(made.of("evaluate")[0].folder / "summary.json")
    found = {
        source: {m.replace("brain_correlation_", ""): row for m, row in rows.items()}
        for source, rows in overall([{**r, "subject": "all"} for r in summary]).items()
    }
    named = {"V1": (1, 2), "V2": (3, 4), "V3": (5, 6), "V4": (7,), "higher_vis": (0,)}
    mask, atlas = twin.masks["subj01"], twin.rois["subj01"]["prf-visualrois"]
    regions = {k: mask & np.isin(atlas, v) for k, v in named.items()} | {"nsd_general": mask}
    assert set(found["decoder"]) == set(regions)
    variance = twin.response["subj01"][twin.shared("subj01")].var(axis=0)
    best = np.sqrt(variance / (variance + NOISE**2 / 3))
    estimated = expected_ceiling(twin.response["subj01"][twin.shared("subj01")])
    for name, voxels in regions.items():
        assert found["decoder"][name]["ceiling"] == pytest.approx(
            estimated[voxels].mean(), abs=0.06
        )
        assert found["shown"][name]["value"] == pytest.approx(best[voxels].mean(), abs=0.08)
        assert (
            0.7 * best[voxels].mean() < found["decoder"][name]["value"] < best[voxels].mean() + 0.05
        )
        assert abs(found["shuffled"][name]["value"]) < 0.1
    page = (made.of("report")[0].folder / "report.html").read_text()
    assert "in place of the published GNet" in page
    assert f'<td class="n">{int(mask.sum())}</td>' in page[page.index("Noise ceilings of") :]


def test_voxels_that_a_scaler_left_out_count_nowhere() -> None:
    results = made_up()
    brain = results.brain
    assert brain is not None
    fewer = brain.measured.clone()
    fewer[:40, [1, 2]] = 0
    some = Responses(fewer, brain.expected, ROIS, brain.ceiling)
    rows = BrainCorrelation(regions={"V1": ["V1v", "V1d"]}, rest="rest", whole="every")(
        Results(results.trials, {}, {}, results.shown, None, some)
    )
    mean = rows.groupby(["subject", "metric"])["value"].mean()
    for region, voxels in {"V1": [0], "rest": [3, 4, 5], "every": [0, 3, 4, 5]}.items():
        assert mean["a", f"brain_correlation_{region}"] == pytest.approx(
            by_hand(results, 0, voxels), abs=1e-6
        )
    with pytest.raises(InputError, match="got zeros throughout"):
        BrainCorrelation()(
            Results(results.trials, {}, {}, results.shown, None,
                    Responses(0 * fewer, brain.expected, ROIS, brain.ceiling))
        )  # fmt: skip
