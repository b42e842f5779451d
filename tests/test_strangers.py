"""People whom a fold tests and never trains on: every scaler and every encoder reads them or says no."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from worlds import PixelWorld, config

from decode.building import build
from decode.core import InputError, Layout, Recording, Tensors
from decode.division import Scaler
from decode.encoders.mlp import MLP
from decode.encoders.ridge import Ridge
from decode.encoders.tsconv import TSConv
from decode.folds import Inputs, Protocol
from decode.pipeline import execute
from decode.scalers.whiten import Whiten
from decode.scalers.zscore import ZScore, ZScoreWithTest
from decode.strangers import (
    MeanOfSubjects,
    check_alike,
    check_reads,
    first_strangers,
    fit_scaler,
    has_own_layers,
    people,
)
from decode.trainable import Encoder
from decode.trials import EVERYONE, SubjectSignal, Trials
from decode.vectors import FeatureStore
from decode.workshop import Run

SCALERS = sorted((Path(__file__).resolve().parents[1] / "configs" / "scaler").glob("*.yaml"))
NAMES = ("a", "b", "c")
N, TIMES = 24, 8


def layout(channels: int = 4, times: int = TIMES) -> Layout:
    names = tuple(f"E{i}" for i in range(channels))
    return Layout("eeg", names, np.zeros((channels, 3)), ("",) * channels, 100.0, times)


def study(folder: Path, *, seed: int = 0, loud: float = 1.0, labels: int = 0) -> Inputs:
    """Three people, six stimuli four times each; person c is tested. `loud` scales c, `labels` deals
    c's stimuli anew.
    """
    rng, rows, signals = np.random.default_rng(seed), [], {}
    shapes = rng.normal(size=(6, 4, TIMES))
    for number, name in enumerate(NAMES):
        shown = np.tile(np.arange(6), 4)
        signal = rng.normal(size=(N * TIMES, 4)) * (number + 1) + number
        signal += 2 * np.concatenate([shapes[s].T for s in shown])
        signals[name] = SubjectSignal(
            (signal * (loud if name == "c" else 1)).astype(np.float32), layout(), None
        )
        if name == "c" and labels:
            shown = np.random.default_rng(labels).permutation(shown)
        for i in range(N):
            row = {"subject": name, "session": str(1 + i // 12), "run": "1", "start": i * TIMES}
            rows.append({**row, "stimulus": f"s{shown[i]}", "onset": float(i)})
    table = pd.DataFrame(rows)
    part = np.where(table["subject"] == "c", "test", "train")
    manifest = pd.DataFrame(
        {"row": np.arange(len(table)), "split": "people", "fold": 0, "part": part}
    )
    store = FeatureStore(folder)
    digests = {f"s{i}": f"d{i}" for i in range(6)}
    store.append(list(digests.values()), rng.normal(size=(6, 3)))
    return Inputs(Trials.of(table, signals), digests, {"label": store}, manifest)


def windows(inputs: Inputs, *names: str) -> tuple[np.ndarray, pd.DataFrame]:
    rows = np.flatnonzero(inputs.trials.table["subject"].isin(names))
    parts = [inputs.trials.brain([i])[0] for i in rows]
    return np.stack(parts), inputs.trials.table.iloc[rows].reset_index(drop=True)


@pytest.mark.parametrize("file", SCALERS, ids=lambda f: f.stem)
def test_every_scaler_scales_a_stranger_by_training_people(file: Path, tmp_path: Path) -> None:
    scaler: Scaler = build(yaml.safe_load(file.read_text()), "scaler")
    inputs = study(tmp_path / "one")
    met = people(inputs, "people", 0)
    assert (met.known, met.tested) == (("a", "b"), ("c",))
    states = fit_scaler(scaler, inputs, met, "training")
    x, table = windows(inputs, "c")
    scaled = scaler.apply(x, table, states.get("c", {}))
    assert scaled.shape == x.shape
    assert np.isfinite(scaled).all()
    if isinstance(scaler, ZScoreWithTest):
        return  # looks at the stranger's own trials, and says so
    seen, theirs = windows(inputs, "a", "b")
    pooled = scaler.apply(x, table, scaler.fit(seen, theirs.drop(columns=["session", "run"])))
    np.testing.assert_array_equal(scaled, pooled)
    # Nothing of the stranger is in it.
    louder = fit_scaler(scaler, study(tmp_path / "two", loud=50.0), met, "training")
    for key, value in states.get("c", {}).items():
        np.testing.assert_array_equal(value, louder["c"][key])


@pytest.mark.parametrize("file", SCALERS, ids=lambda f: f.stem)
def test_own_statistics_of_a_stranger_know_no_labels(file: Path, tmp_path: Path) -> None:
    scaler: Scaler = build(yaml.safe_load(file.read_text()), "scaler")
    one, two = study(tmp_path / "one"), study(tmp_path / "two", labels=3)
    met = people(one, "people", 0)
    if scaler.reads_stimuli:
        with pytest.raises(
            InputError, match="looks at what was shown, got own; set it to training"
        ):
            fit_scaler(scaler, one, met, "own")
        return
    states, others = (fit_scaler(scaler, inputs, met, "own") for inputs in (one, two))
    for key, value in states.get("c", {}).items():
        np.testing.assert_array_equal(value, others["c"][key])


def test_own_statistics_are_those_of_the_stranger(tmp_path: Path) -> None:
    inputs = study(tmp_path)
    scaler = ZScore(by="session")
    states = fit_scaler(scaler, inputs, people(inputs, "people", 0), "own")
    x, table = windows(inputs, "c")
    scaled = scaler.apply(x, table, states["c"])
    for session in ("1", "2"):
        mine = scaled[(table["session"] == session).to_numpy()]
        np.testing.assert_allclose(mine.mean((0, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(mine.std((0, 2)), 1, atol=1e-5)
    pooled = fit_scaler(Whiten(), inputs, people(inputs, "people", 0), "training")["c"]
    assert set(pooled) == {"whitener/all"}


def test_one_layer_for_all_is_a_ridge_over_everyone(tmp_path: Path) -> None:
    """Against the ridge of one person who had all the trials."""
    inputs = study(tmp_path)
    train = replace(inputs.part("people", 0, "train"), as_one=True)
    test = replace(inputs.part("people", 0, "test"), as_one=True)
    assert list(train.layouts) == [EVERYONE]
    load = lambda t: t.loader(inputs.features, inputs.digests, batch_size=7)  # noqa: E731
    ridge = Ridge(train.layouts, inputs.shapes, alphas=[3.0])
    ridge.initialise(load(train), ())
    made = torch.cat([ridge(batch)["label"] for batch in load(test)]).numpy()

    x, table = windows(inputs, "a", "b")
    y = inputs.features["label"].rows([inputs.digests[s] for s in table["stimulus"]]).numpy()
    x = x.reshape(len(x), -1).astype(np.float64)
    centred = x - x.mean(0)
    weights = np.linalg.solve(
        centred.T @ centred + 3 * np.eye(x.shape[1]), centred.T @ (y - y.mean(0))
    )
    new = windows(inputs, "c")[0].reshape(N, -1)
    np.testing.assert_allclose(made, (new - x.mean(0)) @ weights + y.mean(0), atol=1e-3)


def test_rows_of_several_people_are_read_in_their_order(tmp_path: Path) -> None:
    trials = study(tmp_path).trials
    rows = [50, 3, 30, 4, 71]
    np.testing.assert_array_equal(trials.brain(rows), np.stack([trials[i] for i in rows]))


class Constant(Encoder):
    """Says the number of the subject."""

    def forward(self, batch) -> Tensors:
        return {"label": batch.subject[:, None].float() * 10}


def test_the_mean_of_people_is_of_training_people_and_for_strangers_only(tmp_path: Path) -> None:
    inputs = study(tmp_path)
    (batch,) = inputs.trials.take([0, 30, 60, 61]).loader(
        inputs.features, inputs.digests, batch_size=4
    )
    mean = MeanOfSubjects(Constant(), [0, 1], [2])
    assert mean(batch)["label"][:, 0].tolist() == [0, 10, 5, 5]
    # For a linear encoder it is the mean layer.
    train = inputs.part("people", 0, "train").loader(inputs.features, inputs.digests, batch_size=9)
    ridge = Ridge(inputs.trials.layouts, inputs.shapes, alphas=[3.0])
    ridge.initialise(train, ())
    weights = [getattr(ridge, "ridge", ridge).get_buffer(f"weights_{i}") for i in (0, 1)]
    offsets = [getattr(ridge, "ridge", ridge).get_buffer(f"intercept_{i}") for i in (0, 1)]
    expected = batch.brain.flatten(1) @ ((weights[0] + weights[1]) / 2)
    expected = expected + (offsets[0] + offsets[1]) / 2
    made = MeanOfSubjects(ridge, [0, 1], [2])(batch)["label"]
    torch.testing.assert_close(made[2:], expected[2:], atol=1e-4, rtol=1e-4)


def test_nobody_reads_a_stranger_by_accident(tmp_path: Path) -> None:
    inputs = study(tmp_path)
    met = first_strangers(inputs, Protocol())
    assert met is not None
    ridge = Ridge(inputs.trials.layouts, inputs.shapes)
    says = (
        r"protocol.unseen: expected who reads c, .* encoder Ridge has layers of each subject; set"
    )
    with pytest.raises(InputError, match=says):
        check_reads(Protocol(), met, "encoder", ridge)
    for way in ("shared", "mean"):
        check_reads(Protocol(unseen=way), met, "encoder", ridge)
    long = {name: layout(times=80) for name in NAMES}
    shared = TSConv(long, inputs.shapes, subjects="shared")
    check_reads(Protocol(), met, "encoder", shared)
    assert not has_own_layers(shared)
    assert has_own_layers(TSConv(long, inputs.shapes, subjects="mix"))
    assert has_own_layers(MLP(inputs.trials.layouts, inputs.shapes))


def test_people_with_other_channels_and_validation_people_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"samples of a and c, got 4 x 8 and 5 x 8 \(E4 only in one\)"
    ):
        check_alike({"a": layout(), "b": layout(), "c": layout(channels=5)})
    inputs = study(tmp_path)
    part = inputs.manifest["part"].where(inputs.trials.table["subject"] != "b", "validation")
    held = replace(inputs, manifest=inputs.manifest.assign(part=part))
    with pytest.raises(
        InputError, match=r"set splits.people.validation=0 or protocol.unseen=shared"
    ):
        first_strangers(held, Protocol(unseen="mean"))
    assert first_strangers(held, Protocol(unseen="shared")) is not None


def test_statistics_of_the_tested_person_are_stamped() -> None:
    assert Protocol(unseen="shared", unseen_scaling="own").test_conditioned
    assert not Protocol(unseen="shared").test_conditioned
    with pytest.raises(InputError, match=r"protocol\.unseen"):
        Protocol(unseen="guess")


class SameBrains(PixelWorld):
    """Three people with the same thirty voxels, who answer pictures alike but for their noise."""

    subjects = ("a", "b", "c")

    def recordings(self, subject: str) -> Iterator[Recording]:
        other = PixelWorld(str(self.root), n=self.n, repeats=self.repeats, noise=0.0)
        rng = np.random.default_rng(self.subjects.index(subject))
        for run in other.recordings("a"):
            noise = self.noise * rng.normal(size=run.signal.shape)
            yield replace(run, subject=subject, signal=(run.signal + noise).astype(np.float32))


@pytest.mark.slow
def test_leaving_people_out_scores_above_chance_or_is_refused_before_training(
    tmp_path: Path,
) -> None:
    def scores(**protocol: str) -> pd.DataFrame:
        ridge = {"_target_": "decode.encoders.ridge.Ridge", "_partial_": True}
        split = {
            "_target_": "decode.splits.leave_one_out.leave_one_out",
            "_partial_": True,
            "by": "subject",
        }
        changes = {
            "data": {"_target_": "test_strangers.SameBrains", "root": str(tmp_path / "world")},
            "scaler": {"_target_": "decode.scalers.zscore.ZScore", "by": "session"},
            "splits": {"people": {**split, "validation": 0.0}},
            "protocol": {"test_repeats": "single", **protocol},
            **{"encoder": ridge, "baselines": {}, "objectives": {}, "generator": None},
            "trainer": {"_target_": "decode.training.Trainer", "epochs": 0},
            "metrics": {
                "retrieval": {"_target_": "decode.metrics.retrieval.Retrieval", "target": "pixels"}
            },
        }
        run = Run(config(tmp_path, **changes))
        execute(run, until="evaluate", force=(), say=lambda _: None)
        folder = run.folder("evaluate")
        assert folder is not None
        return pd.read_parquet(folder / "scores.parquet").query(
            "metric == 'retrieval_top1' and source == 'decoder'"
        )

    with pytest.raises(InputError, match=r"protocol\.unseen: expected who reads a"):
        scores()
    assert not list((tmp_path / "outputs").glob("train/*/people-*"))
    for way in ("shared", "mean"):
        found = scores(unseen=way)
        assert set(found["subject"]) == {"a", "b", "c"}
        assert (found.groupby("subject")["value"].mean() > 0.5).all(), way
        assert found["chance"].max() < 0.05
