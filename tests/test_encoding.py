"""From stimuli to the brain: encoders that predict it, against other libraries and known truths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.linear_model import RidgeCV
from sklearn.metrics import explained_variance_score
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler
from test_configs import CONFIGS, choice
from torch import Tensor
from voxels import Voxels, encodes
from worlds import config

from decode.artefacts.folds import fold_folder
from decode.artefacts.responses import CEILINGS, responses, write_response_ceilings, write_sites
from decode.artefacts.trained import weights_file
from decode.building import build
from decode.ceilings import response_ceilings
from decode.core import Batch, InputError, Layout, Results, Stimulus, Truth
from decode.data.simulated_fmri import SimulatedFMRI
from decode.encoders.banded_ridge import BandedRidge
from decode.encoders.encoding_ridge import EncodingRidge
from decode.encoders.mean_response import MeanResponse
from decode.encoders.principal import Principal
from decode.linear.banded import banded_ridge, candidates
from decode.metrics.explained_variance import ExplainedVariance
from decode.metrics.variance_partition import VariancePartition
from decode.metrics.voxel_correlation import VoxelCorrelation
from decode.pipeline import execute
from decode.report.voxels import MOST, over_time, voxel_cards
from decode.scoring.ceiling import FromRepeats, noise_ceiling_from_repeats, variance_ceiling
from decode.scoring.intervals import interval
from decode.sources import baseline
from decode.stages.evaluate import shuffle
from decode.store import Frame, read_json, read_table, read_tensors, write_tensors
from decode.strangers import MeanOfSubjects, has_own_layers
from decode.trainable import Encoder, predicts_brain
from decode.workshop import Run

SHAPES = {"image": (2, 8), "pixels": (5,)}
FILES = [f for f in sorted((CONFIGS / "encoder").glob("*.yaml")) if encodes(f)]
ALPHAS = [0.1, 10.0, 1000.0]


def rows_of(batch: Batch, keep: Tensor) -> Batch:
    return batch._map(lambda x: x[keep])


def features(targets: dict[str, Tensor]) -> np.ndarray:
    return torch.cat([v.flatten(1) for v in targets.values()], 1).double().numpy()


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
class TestContract:
    """Every yaml of a model of the brain."""

    def made(self, file: Path, world: Voxels) -> Encoder:
        torch.manual_seed(0)
        encoder: Encoder = build(choice(file), file.stem)(world.layouts, world.shapes)
        return encoder.eval()

    def test_life_of_a_model_of_the_brain(self, file: Path, times: int, tmp_path: Path) -> None:
        world = Voxels(SHAPES, voxels=(20, 15), times=times, n=40)
        encoder, batch = self.made(file, world), world.batch
        assert encoder(batch)["brain"].shape == batch.brain.shape
        encoder.initialise(world, ())
        made = encoder(batch)["brain"]
        assert set(encoder(batch)) == {"brain"}
        assert torch.equal(encoder.truth(batch)["brain"], batch.brain)
        assert bool(made.isfinite().all())
        assert bool((made[batch.subject == 1, 15:] == 0).all())
        # What the brain did is not looked at, and rows stand for themselves.
        blind = replace(batch, brain=torch.zeros_like(batch.brain))
        assert torch.equal(encoder(blind)["brain"], made)
        few = encoder(rows_of(batch, torch.arange(35, 45)))["brain"]
        torch.testing.assert_close(few, made[35:45], atol=1e-4, rtol=1e-4)
        write_tensors(tmp_path / "w.safetensors", encoder.state_dict())
        again = self.made(file, world)
        again.load_state_dict(read_tensors(tmp_path / "w.safetensors"))
        assert torch.equal(again(batch)["brain"], made)
        assert has_own_layers(encoder)

    def test_only_training_and_validation_rows_are_fitted(self, file: Path, times: int) -> None:
        world = Voxels(SHAPES, voxels=(20, 15), times=times, n=40)
        parts = [rows_of(world.batch, world.batch.stimulus % 4 == k) for k in range(4)]
        encoder = self.made(file, world)
        encoder.initialise(parts[:2], parts[2:3])
        other = self.made(file, world)
        other.initialise([*parts[:2], parts[2]], [])
        test = parts[3]
        torch.testing.assert_close(
            encoder(test)["brain"], other(test)["brain"], atol=1e-4, rtol=1e-4
        )

    def test_another_signal_is_refused_by_name(self, file: Path, times: int) -> None:
        world = Voxels(SHAPES, voxels=(20, 15), times=times, n=10)
        encoder = self.made(file, world)
        encoder.initialise(world, ())
        narrow = replace(world.batch, brain=world.batch.brain[:, :19])
        with pytest.raises(InputError, match="20 voxels for sub-0, data have 19"):
            encoder(narrow)
        wide = Voxels(SHAPES, voxels=(21, 15), times=times, n=10)
        with pytest.raises(InputError, match="saved model has 20 voxels for sub-0, data have 21"):
            self.made(file, wide).load_state_dict(encoder.state_dict())

    def test_a_stranger_is_the_mean_of_all_others(self, file: Path, times: int) -> None:
        world = Voxels(SHAPES, voxels=(20, 20, 20), times=times, n=20)
        encoder = self.made(file, world)
        encoder.initialise(world, ())
        batch = world.batch
        mean = MeanOfSubjects(encoder, [0, 1], [2]).eval()
        made, new = mean(batch)["brain"], batch.subject == 2
        both = [
            encoder(replace(batch, subject=torch.full_like(batch.subject, s)))["brain"]
            for s in (0, 1)
        ]
        torch.testing.assert_close(made[new], ((both[0] + both[1]) / 2)[new])
        assert mean.ablated(batch).keys() == encoder.ablated(batch).keys()


def test_encoding_ridge_is_that_of_scikit_learn() -> None:
    """Features scaled by the training rows, a strength per voxel by leave-one-out."""
    world = Voxels(SHAPES, voxels=(12,), n=60)
    train, test = (rows_of(world.batch, world.batch.stimulus < 45),
                   rows_of(world.batch, world.batch.stimulus >= 45))  # fmt: skip
    encoder = EncodingRidge(world.layouts, SHAPES, alphas=ALPHAS)
    encoder.initialise([train], ())
    scaler = StandardScaler().fit(features(train.targets))
    x, y = scaler.transform(features(train.targets)), train.brain[:, :, 0].double().numpy()
    known = RidgeCV(ALPHAS, alpha_per_target=True).fit(x, y)
    expected = known.predict(scaler.transform(features(test.targets)))
    np.testing.assert_allclose(encoder.model.get_buffer("alpha_0"), known.alpha_, rtol=1e-6)
    np.testing.assert_allclose(encoder(test)["brain"][:, :, 0], expected, atol=2e-3)
    assert len(set(known.alpha_)) > 1


@pytest.mark.parametrize("n", [30, 9])
def test_banded_ridge_is_that_of_himalaya(n: int) -> None:
    """The same shares and strengths to choose from, leave-one-out, in and beyond full rank."""
    from himalaya.ridge import solve_group_ridge_random_search

    g = torch.Generator().manual_seed(1)
    first, second = torch.randn(n, 6, generator=g), torch.randn(n, 4, generator=g)
    y = first[:, :1] * torch.tensor([[2.0, 0, 1, 0, 0]]) + second[:, :1] * torch.tensor(
        [[0, 2.0, 1, 0, 0.1]]
    )
    y = y + 0.7 * torch.randn(y.shape, generator=g)
    shares = torch.tensor([[0.5, 0.5], [0.95, 0.05], [0.05, 0.95], [0.8, 0.2]]).double()
    fit = banded_ridge(
        torch.cat([first, second], 1), [6, 4], y, shares=shares, alphas=ALPHAS, by="loo"
    )
    deltas, weights, scores, intercept = solve_group_ridge_random_search(
        [first.double().numpy(), second.double().numpy()],
        y.double().numpy(),
        n_iter=shares.numpy(),
        alphas=np.array(ALPHAS),
        fit_intercept=True,
        cv=KFold(n),
        return_weights=True,
        progress_bar=False,
        warn=False,
    )
    np.testing.assert_allclose(fit.share / fit.alpha, np.exp(deltas), rtol=1e-5)
    np.testing.assert_allclose(fit.error, -scores.max(0), rtol=1e-4)
    np.testing.assert_allclose(fit.weights, weights, atol=1e-4)
    np.testing.assert_allclose(fit.intercept, intercept, atol=1e-4)
    assert len({tuple(s) for s in fit.share.T.tolist()}) > 1


def test_a_band_that_tells_nothing_is_left_out() -> None:
    """Many useless features drown a few good ones in one ridge, and not in bands."""
    g = torch.Generator().manual_seed(0)
    good, noise = torch.randn(120, 3, generator=g), torch.randn(120, 300, generator=g)
    y = good @ torch.randn(3, 40, generator=g) + torch.randn(120, 40, generator=g)
    x, new = torch.cat([good, noise], 1), slice(80, None)
    shares = candidates(2, draws=8)
    assert torch.equal(shares[:3], torch.tensor([[0.5, 0.5], [1, 0], [0, 1]]).double())
    assert torch.allclose(shares.sum(1), torch.ones(11).double())
    made = []
    for sizes, some in (([303], torch.ones(1, 1).double()), ([3, 300], shares)):
        fit = banded_ridge(x[:80], sizes, y[:80], shares=some)
        left = y[new] - x[new] @ fit.weights - fit.intercept
        made.append(1 - float(left.var() / y[new].var()))
    assert made[1] > made[0] + 0.2, made
    assert float((fit.share[0] > 0.9).double().mean()) > 0.8
    none = fit.share[1] == 0
    assert bool(none.any())
    assert bool((fit.weights[3:, none] == 0).all())


def test_generalised_and_exact_choices_agree_on_ample_data() -> None:
    world = Voxels(SHAPES, voxels=(12,), n=300)
    both = [BandedRidge(world.layouts, SHAPES, by=by, draws=4) for by in ("gcv", "loo")]  # type: ignore[arg-type]
    for encoder in both:
        encoder.initialise(world, ())
    made = [encoder(world.batch)["brain"].flatten() for encoder in both]
    assert float(torch.corrcoef(torch.stack(made))[0, 1]) > 0.999


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"inputs": ["image"]}, "encoder.inputs: expected two bands"),
        ({"inputs": ["image", "sound"]}, "encoder.inputs: expected names out of"),
        ({"by": "aic"}, "encoder.by: expected one of"),
        ({"leave_out": "stimulus"}, "encoder.leave_out: expected trial with by=gcv"),
        ({"alphas": [-1.0]}, "encoder.alphas"),
        ({"draws": -1}, "encoder.draws"),
    ],
)
def test_odd_knobs_are_refused(knobs: dict[str, Any], told: str) -> None:
    world = Voxels(SHAPES, n=4)
    with pytest.raises(InputError, match=told):
        BandedRidge(world.layouts, SHAPES, **knobs)


def test_people_and_features_that_were_not_fitted_are_told() -> None:
    world = Voxels(SHAPES, n=10)
    encoder = EncodingRidge(world.layouts, SHAPES)
    encoder.initialise([rows_of(world.batch, world.batch.subject == 0)], ())
    with pytest.raises(InputError, match="training trials of sub-1 in each fold"):
        encoder(world.batch)
    with pytest.raises(InputError, match="3 training trials or more, got 2"):
        encoder.initialise([rows_of(world.batch, torch.arange(2))], ())
    with pytest.raises(InputError, match=r"add targets\.pixels"):
        encoder(replace(world.batch, targets={"image": world.batch.targets["image"]}))


def test_the_mean_response_is_that_of_each_subject() -> None:
    world = Voxels(SHAPES, n=10)
    encoder = MeanResponse(world.layouts, SHAPES)
    encoder.initialise([world.batch], ())
    made = encoder(world.batch)["brain"]
    for s in (0, 1):
        mine = world.batch.subject == s
        torch.testing.assert_close(made[mine][3], world.batch.brain[mine].mean(0))


def test_principal_components_of_features_are_read() -> None:
    world = Voxels(SHAPES, voxels=(12,), n=60)
    encoder = Principal(world.layouts, SHAPES, size=5, targets=["image"],
                        inner=lambda l, s: EncodingRidge(l, s, alphas=[1.0]))  # fmt: skip
    assert not encoder.encodes  # a function says nothing of itself
    node = {"_target_": "decode.encoders.principal.Principal", "_partial_": True, "size": 5,
            "targets": ["image"], "inner": choice(CONFIGS / "encoder" / "encoding_ridge.yaml")}  # fmt: skip
    make = build(node, "encoder")
    assert predicts_brain(make)
    encoder = make(world.layouts, SHAPES)
    encoder.initialise([world.batch], ())
    made = encoder(world.batch)["brain"]
    reduced = EncodingRidge(world.layouts, {"image": (5,), "pixels": (5,)})
    less = replace(world.batch, targets=encoder.reduced(world.batch.targets))
    reduced.initialise([less], ())
    torch.testing.assert_close(made, reduced(less)["brain"])
    assert torch.equal(encoder.truth(world.batch)["brain"], world.batch.brain)


# scores


def results_of(
    measured: Tensor,
    expected: Tensor,
    tmp_path: Path,
    *,
    n_times: int = 1,
    without: dict[str, Tensor] | None = None,
    subjects: int = 1,
) -> Results:
    """Responses of subjects with as many channels as there are columns / `n_times`."""
    n = len(measured) // subjects
    table = pd.DataFrame(
        {"subject": [f"s{i // n}" for i in range(len(measured))], "split": "p", "fold": 0,
         "stimulus": [f"u{i % n}" for i in range(len(measured))], "repeats": 3}
    )  # fmt: skip
    channels = measured.shape[1] // n_times
    names = tuple(f"c{i}" for i in range(channels))
    layout = Layout("eeg", names, np.zeros((channels, 3)), ("V1",) * channels, 100.0, n_times, 0.1)
    layouts = {f"s{i}": layout for i in range(subjects)}
    write_sites(tmp_path, layouts)
    write_response_ceilings(
        tmp_path,
        "p",
        0,
        {s: np.full(measured.shape[1], 0.8, np.float32) for s in layouts},
    )
    brain = responses(tmp_path, "p", table, measured, expected, without)
    shown = [Stimulus(u, "event") for u in table["stimulus"]]
    return Results(table, {}, {}, shown, None, brain)


def test_scores_of_voxels_are_those_of_numpy_and_scikit_learn(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    measured = torch.randn(60, 6, generator=g) * torch.rand(6) + 3
    expected = 0.5 * measured + torch.randn(60, 6, generator=g)
    expected[:, 4] = 7.0
    measured[:, 5] = 0.0
    results = results_of(measured, expected, tmp_path, subjects=2)
    r, ev = VoxelCorrelation()(results), ExplainedVariance()(results)
    assert len(r) == len(ev) == 10  # the channel that a scaler left out has no rows
    for s in (0, 1):
        rows = slice(30 * s, 30 * s + 30)
        mine, share = (x[x["subject"] == f"s{s}"].set_index("channel") for x in (r, ev))
        for v in range(5):
            y, p = measured[rows, v].numpy(), expected[rows, v].numpy()
            known = np.corrcoef(y, p)[0, 1] if v < 4 else 0.0
            assert mine.loc[f"c{v}", "value"] == pytest.approx(known, abs=1e-5)
            assert share.loc[f"c{v}", "value"] == pytest.approx(
                explained_variance_score(y, p), abs=1e-4
            )
    assert r["ceiling"].to_numpy() == pytest.approx(0.8)
    assert ev["ceiling"].to_numpy() == pytest.approx(0.64)  # of the variance, not of r
    assert set(r["region"]) == {"V1"}
    assert set(r["fold"]) == {0}


def test_sensors_have_a_row_for_each_time(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    measured = torch.randn(20, 4 * 3, generator=g)
    expected = measured.clone()
    expected[:, 5] = torch.randn(20, generator=g)  # channel 1, sample 2
    rows = VoxelCorrelation(unit="sensor")(results_of(measured, expected, tmp_path, n_times=3))
    assert len(rows) == 12
    assert sorted(set(rows["time"])) == pytest.approx([0.1, 0.11, 0.12])
    low = rows[rows["value"] < 0.99]
    assert [(c, round(t, 2)) for c, t in zip(low["channel"], low["time"], strict=True)] == [
        ("c1", 0.12)
    ]
    (measure,) = VoxelCorrelation(unit="sensor").measures().values()
    assert measure.unit == "sensor"


def test_a_page_has_a_curve_of_sensors_and_not_too_many_dots() -> None:
    n = 3 * MOST
    rows = pd.DataFrame(
        {"metric": "sensor_r", "role": "decoder", "unit": "sensor", "split": "p", "subject": "s",
         "channel": [f"c{i % 100}" for i in range(n)], "region": "", "ceiling": 0.9,
         "time": np.arange(n) // 100 / 100.0, "value": np.arange(n) // 100 / n}
    )  # fmt: skip
    (card,) = voxel_cards(rows, VoxelCorrelation(unit="sensor", name="sensor_r").measures())
    (cloud,) = card.clouds
    assert len(cloud.dots["s"][0]) == MOST
    assert cloud.note == f"n = {n}, {MOST} of them drawn"
    (curve,) = card.curves
    times, values = curve.lines["s"]
    assert times == pytest.approx(np.arange(n // 100) / 100.0)
    assert values == pytest.approx(np.arange(n // 100) / n)
    assert over_time("sensor_r", rows).note == "mean over 100 channels"


def test_variance_is_parted_as_it_was_made(tmp_path: Path) -> None:
    """Responses of independent parts of variance .2 (one band alone), .3 (the other), .1 (both) and .4
    (noise), predicted by what each model can know.
    """
    parts = torch.randn(4, 40_000, generator=torch.Generator().manual_seed(0))
    parts -= parts.mean(1, keepdim=True)
    parts = torch.linalg.qr(parts.T).Q.T * 200.0  # exactly independent, of variance 1
    one, two, both, noise = (
        x[:, None] * v**0.5 for x, v in zip(parts, (0.2, 0.3, 0.1, 0.4), strict=True)
    )
    without = {"image": two + both, "pixels": one + both}
    results = results_of(one + two + both + noise, one + two + both, tmp_path, without=without)
    rows = VariancePartition()(results).set_index("metric")["value"]
    assert rows["variance_unique_image"] == pytest.approx(0.2, abs=1e-4)
    assert rows["variance_unique_pixels"] == pytest.approx(0.3, abs=1e-4)
    assert rows["variance_shared"] == pytest.approx(0.1, abs=1e-4)
    whole = ExplainedVariance()(results)["value"].iloc[0]
    assert rows.sum() == pytest.approx(whole, abs=1e-6) == pytest.approx(0.6, abs=1e-4)
    with pytest.raises(InputError, match=r"metric.bands: expected the bands .*pixels.*, got"):
        VariancePartition(bands=["image", "sound"])(results)
    with pytest.raises(InputError, match="two different bands"):
        VariancePartition(bands=["image", "image"])
    brain = results.brain
    assert brain is not None
    assert VariancePartition()(replace(results, brain=replace(brain, without={}))).empty


def test_banded_models_part_variance_among_features_that_share(tmp_path: Path) -> None:
    """Two bands of three features, one of them in both; voxels of one kind each, without noise."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=g)
    targets = {"image": x[:, :3], "pixels": x[:, 2:]}
    y = torch.stack([x[:, 0], x[:, 4], x[:, 2], x[:, 0] + x[:, 2] + x[:, 4]], 1)[:, :, None]
    layouts = {"s0": Layout("fmri", tuple("abcd"), np.zeros((4, 3)), ("V1",) * 4, 1.0, 1)}
    rows = torch.arange(400)
    whole = Batch(y, targets, rows * 0, rows, rows)
    encoder = BandedRidge(layouts, {"image": (3,), "pixels": (3,)}).eval()
    encoder.initialise([rows_of(whole, rows < 300)], ())
    test = rows_of(whole, rows >= 300)
    without = {k: v["brain"].flatten(1) for k, v in encoder.ablated(test).items()}
    made = encoder(test)["brain"].flatten(1)
    results = results_of(test.brain.flatten(1), made, tmp_path, without=without)
    found = VariancePartition()(results).pivot(index="metric", columns="channel", values="value")
    expected = {"variance_unique_image": [1, 0, 0, 1 / 3], "variance_unique_pixels": [0, 1, 0, 1 / 3],
                "variance_shared": [0, 0, 1, 1 / 3]}  # fmt: skip
    for name, values in expected.items():
        np.testing.assert_allclose(found.loc[name], values, atol=0.1, err_msg=name)


def test_intervals_of_correlations_are_not_those_of_hits(tmp_path: Path) -> None:
    """r of 0 throughout is known to be 0; hits of 0 among two people would tell nearly nothing."""
    g = torch.Generator().manual_seed(0)
    measured = torch.randn(40, 6, generator=g)
    rows = VoxelCorrelation()(results_of(measured, torch.ones(40, 6), tmp_path, subjects=2))
    assert interval(rows.assign(stimulus=None)) == (0.0, 0.0, 0.0)
    assert interval(rows.drop(columns="share").assign(stimulus=None))[2] > 0.9


def test_shuffled_stimuli_score_nothing(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    measured = torch.randn(40, 30, generator=g)
    results = results_of(measured, measured.clone(), tmp_path, without={"image": measured.clone()})
    pair = shuffle(results, 1)
    assert pair.brain is not None
    assert torch.equal(pair.brain.expected, pair.brain.without["image"])
    mean = np.mean([VoxelCorrelation()(shuffle(results, s))["value"].mean() for s in range(10)])
    assert abs(mean) < 0.04


def test_the_ceiling_is_what_the_true_response_reaches() -> None:
    """Estimated from repeats alone, per voxel, against the variance that is known and against what the
    noiseless response itself scores on the noisy means.
    """
    rng = np.random.default_rng(0)
    stimuli, repeats, voxels = 400, 3, 60
    clean = rng.normal(size=(stimuli, voxels))
    noise = np.linspace(0.5, 6.0, voxels)
    trials = clean[:, None] + np.sqrt(noise) * rng.normal(size=(stimuli, repeats, voxels))
    uids = np.repeat(np.arange(stimuli), repeats)
    found = noise_ceiling_from_repeats(trials.reshape(-1, voxels), uids.tolist())
    share = found.ceiling(repeats)
    known = variance_ceiling(Truth(tuple("u"), clean, noise), repeats=repeats)
    assert abs((share - known).mean()) < 0.01
    assert np.abs(share - known).max() < 0.12
    mean = trials.mean(1)
    r = [np.corrcoef(mean[:, v], clean[:, v])[0, 1] for v in range(voxels)]
    assert np.abs(np.sqrt(share) - r).mean() < 0.03
    ev = [explained_variance_score(mean[:, v], clean[:, v]) for v in range(voxels)]
    assert np.abs(share - ev).mean() < 0.05
    assert isinstance(found, FromRepeats)


# in a run


BANDS = {
    "pixels": {"_target_": "decode.targets.pixels.Pixels", "size": 4},
    "odd": {"_target_": "decode.targets.labels.Labels", "column": "odd", "classes": [0, 1]},
}
METRICS = {
    "r": choice(CONFIGS / "metric" / "voxel_correlation.yaml"),
    "variance": choice(CONFIGS / "metric" / "explained_variance.yaml"),
    "partition": choice(CONFIGS / "metric" / "variance_partition.yaml")
    | {"bands": ["pixels", "odd"]},
    "regions": {"_target_": "decode.metrics.brain_correlation.BrainCorrelation"},
}


def built(node: dict[str, Any]) -> Any:
    return build(node, "metric")


def encoding(folder: Path, **changes: Any) -> dict[str, Any]:
    node = {name: choice(CONFIGS / "encoder" / f"{name}.yaml") for name in
            ("banded_ridge", "encoding_ridge", "mean_response")}  # fmt: skip
    other: dict[str, Any] = {
        "targets": BANDS, "encoder": node["banded_ridge"], "objectives": {}, "generator": None,
        "baselines": {"ridge": node["encoding_ridge"] | {"alphas": ALPHAS},
                      "mean_response": node["mean_response"]},
        "trainer": {"_target_": "decode.training.Trainer", "epochs": 0}, "metrics": METRICS,
    }  # fmt: skip
    return config(folder, **(other | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = Run(encoding(tmp_path_factory.mktemp("encoding")))
    execute(made, until="report", force=(), say=lambda _: None)
    return made


@pytest.mark.slow
def test_every_voxel_has_a_row_beside_its_ceiling(finished: Run) -> None:
    scores = read_table(finished.of("evaluate")[0].folder / "scores.parquet")
    rows = scores[scores["metric"] == "voxel_r"]
    assert set(rows["source"]) == {"decoder", "ridge", "mean_response", "shuffled"}
    assert set(rows["unit"]) == {"voxel"}
    own = rows[rows["source"] == "decoder"]
    assert own.groupby("subject").size().to_dict() == {"a": 30, "b": 35}
    assert own[["trial", "stimulus"]].isna().all(axis=None)
    assert set(own.loc[own["subject"] == "a", "channel"]) == {f"v{i}" for i in range(30)}
    assert set(own["region"]) == {"V1"}
    # Pixels reach the voxels through a matrix, so that little but the noise is missing.
    assert own["value"].mean() > 0.85
    assert abs(own["value"].mean() - own["ceiling"].mean()) < 0.08
    assert (rows.loc[rows["source"] == "mean_response", "value"] == 0).all()
    assert abs(rows.loc[rows["source"] == "shuffled", "value"].mean()) < 0.1
    parted = scores[scores["metric"].str.startswith("variance_")]
    assert set(parted["source"]) == {"decoder", "shuffled"}
    means = parted[parted["source"] == "decoder"].groupby("metric")["value"].mean()
    whole = scores[(scores["metric"] == "explained_variance") & (scores["source"] == "decoder")]
    assert means.sum() == pytest.approx(whole["value"].mean(), abs=1e-6)
    assert means["variance_unique_pixels"] > 0.6
    assert abs(means["variance_unique_odd"]) < 0.1


@pytest.mark.slow
def test_predictions_and_scores_are_those_of_scikit_learn(finished: Run) -> None:
    """The whole way by hand for one person: windows, scaling, features and ridge per voxel."""
    fold = fold_folder(finished.of("predict")[0].folder, "published", 0)
    frame = Frame.read(fold)
    mine = (frame.table["subject"] == "b").to_numpy()
    manifest, trials = finished.inputs.manifest, finished.inputs.trials
    train = manifest[(manifest["part"] != "test") & (manifest["subject"] == "b")]["row"].to_numpy()
    first = manifest[(manifest["part"] == "train") & (manifest["subject"] == "b")]["row"].to_numpy()
    test = manifest[(manifest["part"] == "test") & (manifest["subject"] == "b")]["row"].to_numpy()
    signal = trials.brain(train)[:, :, 0]
    scaler = StandardScaler().fit(trials.brain(first)[:, :, 0])

    def seen(rows: np.ndarray) -> np.ndarray:
        uids = trials.table["stimulus"].iloc[rows]
        stored = finished.inputs.features.items()
        return np.concatenate(
            [s.rows([finished.digests[u] for u in uids]).flatten(1).numpy() for _, s in stored], 1
        )

    x = StandardScaler().fit(seen(train))
    alpha = read_tensors(
        weights_file(finished.of("train")[0].folder / fold.name, baseline("ridge", ""))
    )
    known = SklearnRidge(alpha=alpha["model.alpha_1"].double().numpy(), solver="cholesky")
    known.fit(x.transform(seen(train)), scaler.transform(signal))
    uids = trials.table["stimulus"].iloc[test].to_numpy()
    order = frame.table.loc[mine, "stimulus"].to_numpy()
    expected = np.stack([known.predict(x.transform(seen(test[uids == u][:1])))[0] for u in order])
    got = frame.arrays["baselines/ridge/brain"][mine][:, :35, 0]
    np.testing.assert_allclose(got, expected, atol=2e-3)
    averaged = np.stack(
        [scaler.transform(trials.brain(test[uids == u])[:, :, 0]).mean(0) for u in order]
    )
    np.testing.assert_allclose(
        frame.arrays["truth/decoder/brain"][mine][:, :35, 0], averaged, atol=1e-4
    )


@pytest.mark.slow
def test_a_page_of_an_encoding_run_says_all_of_it(finished: Run) -> None:
    page = (finished.of("report")[0].folder / "report.html").read_text()
    for words in (
        "voxel_r",
        "variance_shared",
        "mean_response",
        "shuffled",
        "mean over the voxels of",
    ):
        assert words in page, words
    scores = read_table(finished.of("evaluate")[0].folder / "scores.parquet")
    measures = {k: m for m in map(built, METRICS.values()) for k, m in m.measures().items()}
    (card,) = voxel_cards(scores, measures)
    assert (card.unit, [c.title for c in card.clouds]) == (
        "voxel",
        ["voxel_r", "explained_variance"],
    )
    own = scores[(scores["role"] == "decoder") & (scores["metric"] == "voxel_r")]
    drawn = [v for _, values in card.clouds[0].dots.values() for v in values]
    assert sorted(drawn) == pytest.approx(sorted(own["value"]))
    assert page.count("h0") >= 2 * len(own)  # a dot each, of both scores
    row = dict(zip(card.columns, card.rows[0].means, strict=True))
    assert (card.rows[0].region, card.rows[0].n) == ("all", 65)
    assert row["voxel_r"] == pytest.approx(own["value"].mean())
    assert [r.region for r in card.rows] == ["all", "V1"]
    summary = read_json(finished.of("evaluate")[0].folder / "summary.json")
    assert {row["unit"] for row in summary if row["metric"] == "voxel_r"} == {"voxel"}


@pytest.mark.slow
def test_a_plain_ridge_has_no_parts_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ridge = choice(CONFIGS / "encoder" / "encoding_ridge.yaml")
    made = Run(encoding(tmp_path, encoder=ridge, baselines={}))
    execute(made, until="report", force=(), say=lambda _: None)
    scores = read_table(made.of("evaluate")[0].folder / "scores.parquet")
    assert set(scores["metric"]) == {"voxel_r", "explained_variance", "brain_correlation_all"}
    told = "metrics.partition: found nothing of the decoder to score"
    assert told in capsys.readouterr().err
    assert told in (made.of("report")[0].folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"generator": {"_target_": "decode.generators.pixels.PixelGenerator"}}, ["generator: expected"]),
        ({"metrics": {"it": {"_target_": "decode.metrics.retrieval.Retrieval", "target": "pixels"}}},
         ["metrics.it: expected a metric of the brain's responses"]),
        ({"baselines": {"it": {"_target_": "decode.encoders.ridge.Ridge", "_partial_": True}}},
         ["baselines.it: expected another model that predicts the brain"]),
        ({"parts": {"region": choice(CONFIGS / "part" / "regions.yaml") | {"targets": ["pixels"]}}},
         ["parts: expected {}"]),
        ({"protocol": {"rescale": "transductive"}}, ["protocol.rescale: expected none"]),
        ({"targets": BANDS | {"brain": BANDS["pixels"]}}, ["targets.brain: expected another name"]),
        ({"encoder": {"_target_": "decode.encoders.ridge.Ridge", "_partial_": True}, "baselines": {}},
         ["metrics.r: expected a model of the brain", "encoder=banded_ridge"]),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)  # fmt: skip
def test_what_goes_the_other_way_is_refused_by_the_plan(
    changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as told:
        Run(encoding(tmp_path, **changes))
    for word in words:
        assert word in str(told.value)


@pytest.mark.slow
def test_ceilings_of_a_simulated_participant_are_the_known_ones(tmp_path: Path) -> None:
    """From raw BOLD to the ceiling of each voxel, beside the noiseless response and noise of its betas."""
    data = {"_target_": "decode.data.simulated_fmri.SimulatedFMRI", "root": str(tmp_path / "s"),
            "n_subjects": 1, "n_train": 80, "n_test": 60, "n_voxels": 200}  # fmt: skip
    made = Run(
        encoding(
            tmp_path, data=data, preprocess=choice(CONFIGS / "preprocess" / "bold.yaml"),
            targets={"pixels": BANDS["pixels"], "odd": BANDS["pixels"] | {"size": 2}},
        )
    )  # fmt: skip
    execute(made, until="predict", force=(), say=lambda _: None)
    folder = made.of("predict")[0].folder
    fold = fold_folder(folder, "published", 0)
    found = np.load(fold_folder(folder / CEILINGS, "published", 0) / "sub-01.npy")
    dataset = SimulatedFMRI(tmp_path / "s", n_subjects=1, n_train=80, n_test=60, n_voxels=200)
    truth = dataset.truth("sub-01")
    uids = Frame.read(fold).table["stimulus"].tolist()
    known = variance_ceiling(truth, uids, repeats=3)
    assert np.corrcoef(found**2, known)[0, 1] > 0.8
    assert abs((found**2).mean() - known.mean()) < 0.05
    trials = made.inputs.trials
    again = response_ceilings(
        trials.take(np.flatnonzero(trials.table["split"] == "test")), Frame.read(fold).table
    )
    np.testing.assert_allclose(again["sub-01"], found, atol=1e-3)  # a scaler changes no share
