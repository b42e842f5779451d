"""Noise ceilings against brute force in the space of features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from worlds import PixelWorld, config

from decode.core import InputError, Layout, Recording, Truth
from decode.pipeline import execute
from decode.report.ceilings import read_ceilings
from decode.scoring.ceiling import (
    FromRepeats,
    by_region,
    estimate_retrieval,
    noise_ceiling_from_groups,
    noise_ceiling_from_repeats,
    repeats,
    retrieval_ceiling,
    two_way_ceiling,
    variance_ceiling,
)
from decode.stages.predict import ceilings
from decode.trials import SubjectSignal, Trials
from decode.workshop import Run


def world(seed: int = 0, n: int = 12, features: int = 30, size: float = 0.4) -> Truth:
    rng = np.random.default_rng(seed)
    response = size * rng.standard_normal((n, features)).astype(np.float32)
    noise = rng.uniform(0.5, 2.0, features)
    return Truth(tuple(f"s{i}" for i in range(n)), response, noise)


def observer_by_hand(truth: Truth, repeats: int, k: int, draws: int) -> float:
    """Draw averages of trials in feature space and name the likeliest stimulus."""
    rng = np.random.default_rng(1)
    sd = np.sqrt(truth.noise / repeats)
    hits = []
    for _ in range(draws):
        seen = truth.response + sd * rng.standard_normal(truth.response.shape)
        misfit = np.sum(((seen[:, None] - truth.response) / sd) ** 2, axis=2)
        rank = np.sum(misfit < np.diag(misfit)[:, None], axis=1)
        hits.append(np.mean(rank < k))
    return float(np.mean(hits))


@pytest.mark.parametrize(("repeats", "k"), [(1, 1), (3, 1), (1, 5)])
def test_retrieval_equals_an_ideal_observer_in_feature_space(repeats: int, k: int) -> None:
    truth = world()
    found = estimate_retrieval(truth, repeats=repeats, k=k, draws=1500)
    by_hand = observer_by_hand(truth, repeats, k, 1500)
    assert 0.2 < by_hand < 0.999
    assert 0 < found.error < 0.01
    assert found.value == pytest.approx(by_hand, abs=0.02)


@pytest.mark.parametrize(("repeats", "k"), [(1, 1), (3, 1), (1, 5)])
def test_finding_the_trial_equals_an_ideal_observer_in_feature_space(repeats: int, k: int) -> None:
    from scipy.special import logsumexp
    from scipy.stats import norm

    truth = world()
    rng = np.random.default_rng(1)
    sd = np.sqrt(truth.noise / repeats)
    seen = truth.response + sd * rng.standard_normal((400, *truth.response.shape))
    # (draw, trial, stimulus): density of the trial of one stimulus if it were another.
    density = norm.logpdf(seen[:, :, None], truth.response, sd).sum(3)
    others = np.array([np.delete(np.arange(12), j) for j in range(12)])
    odds = density - logsumexp(density[:, :, others], axis=3)
    own = np.diagonal(odds, axis1=1, axis2=2)
    hits = ((odds > own[:, None, :]).sum(1) < k).mean()
    assert 0.2 < hits < 0.999
    found = estimate_retrieval(truth, repeats=repeats, k=k, find="brain", draws=800)
    assert found.value == pytest.approx(hits, abs=0.025)


def test_two_way_equals_drawn_comparisons() -> None:
    truth = world(n=6, features=8, size=0.6)
    rng = np.random.default_rng(2)
    sd = np.sqrt(truth.noise / 2)
    hits = []
    for i in range(6):
        for j in range(6):
            if i == j:
                continue
            seen = truth.response[i] + sd * rng.standard_normal((4000, 8))
            own, other = (np.sum(((seen - truth.response[x]) / sd) ** 2, axis=1) for x in (i, j))
            hits.append(np.mean(own < other))
    assert two_way_ceiling(truth, repeats=2) == pytest.approx(np.mean(hits), abs=0.005)


def test_a_rotation_of_white_noise_changes_nothing() -> None:
    truth = world()
    white = Truth(truth.stimuli, truth.response, np.ones(30))
    q, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((30, 30)))
    turned = Truth(truth.stimuli, truth.response @ q, np.ones(30))
    assert two_way_ceiling(white, repeats=1) == pytest.approx(two_way_ceiling(turned, repeats=1))
    assert retrieval_ceiling(white, repeats=1) == pytest.approx(
        retrieval_ceiling(turned, repeats=1), abs=0.03
    )


def test_without_signal_the_ceiling_is_chance() -> None:
    truth = Truth(("a", "b", "c", "d"), np.ones((4, 5)), np.ones(5))
    assert retrieval_ceiling(truth, repeats=3) == pytest.approx(0.25)
    assert retrieval_ceiling(truth, repeats=3, k=2) == pytest.approx(0.5)
    assert two_way_ceiling(truth, repeats=3) == pytest.approx(0.5)
    assert np.all(variance_ceiling(truth, repeats=3) == 0)


def test_only_the_named_stimuli_compete() -> None:
    truth = world()
    few = retrieval_ceiling(truth, ["s1", "s4"], repeats=1)
    assert few > retrieval_ceiling(truth, repeats=1)
    assert few == pytest.approx(two_way_ceiling(truth, ["s4", "s1"], repeats=1), abs=0.05)


def test_variance_ceiling_and_repeats_agree() -> None:
    rng = np.random.default_rng(4)
    truth = world(n=400, features=20, size=0.8)
    stimulus = np.repeat(np.arange(400), 3)
    betas = truth.response[stimulus] + np.sqrt(truth.noise) * rng.standard_normal((1200, 20))
    found = noise_ceiling_from_repeats(betas, stimulus)
    np.testing.assert_allclose(found.noise, truth.noise, rtol=0.15)
    np.testing.assert_allclose(found.ceiling(3), variance_ceiling(truth, repeats=3), atol=0.1)
    means = betas.reshape(400, 3, 20).mean(axis=1)
    explained = [np.corrcoef(means[:, v], truth.response[:, v])[0, 1] ** 2 for v in range(20)]
    np.testing.assert_allclose(explained, variance_ceiling(truth, repeats=3), atol=0.1)


def test_unequal_repeats_and_single_trials_do_not_bias_the_ceiling() -> None:
    rng = np.random.default_rng(5)
    counts = rng.integers(1, 6, 600)
    stimulus = rng.permutation(np.repeat(np.arange(600), counts))
    signal = rng.standard_normal((600, 40))
    betas = signal[stimulus] + 2 * rng.standard_normal((len(stimulus), 40))
    found = noise_ceiling_from_repeats(betas, stimulus)
    assert found.noise.mean() == pytest.approx(4.0, rel=0.03)
    assert found.signal.mean() == pytest.approx(1.0, rel=0.06)
    assert found.ncsnr.mean() == pytest.approx(0.5, rel=0.05)
    # What a perfect prediction of these unequal averages reaches, and of single trials.
    means = np.stack([betas[stimulus == s].mean(axis=0) for s in range(600)])
    reached = [np.corrcoef(means[:, v], signal[:, v])[0, 1] for v in range(40)]
    assert np.sqrt(found.ceiling(counts)).mean() == pytest.approx(np.mean(reached), abs=0.015)
    alone = [np.corrcoef(betas[:, v], signal[stimulus, v])[0, 1] for v in range(40)]
    assert np.sqrt(found.ceiling(1)).mean() == pytest.approx(np.mean(alone), abs=0.015)
    assert found.ceiling([2, 2]) == pytest.approx(found.ceiling(2))
    with pytest.raises(InputError, match="at least one repeat"):
        found.ceiling([3, 0])
    shuffled = noise_ceiling_from_repeats(betas, rng.permutation(stimulus))
    assert shuffled.ceiling(3).mean() < 0.05


def test_messages() -> None:
    truth = world()
    with pytest.raises(InputError, match="knows the response, got 'nobody'"):
        retrieval_ceiling(truth, ["s1", "nobody"], repeats=1)
    with pytest.raises(InputError, match="k=13"):
        retrieval_ceiling(truth, repeats=1, k=13)
    with pytest.raises(InputError, match="at least one repeat"):
        variance_ceiling(truth, repeats=0)
    with pytest.raises(InputError, match="shown more than once"):
        noise_ceiling_from_repeats(np.zeros((4, 2)), ["a", "b", "c", "c"])
    silent = Truth(truth.stimuli, truth.response, np.zeros(30))
    with pytest.raises(InputError, match="expected noise in every feature"):
        retrieval_ceiling(silent, repeats=1)


def test_stimuli_come_one_at_a_time_and_agree_with_a_variance_table() -> None:
    """Against a one-way random-effects analysis of variance, float64, a feature at a time."""
    rng = np.random.default_rng(6)
    counts = rng.integers(1, 5, 60)
    stimulus = rng.permutation(np.repeat(np.arange(60), counts))
    betas = 1e5 + rng.standard_normal((60, 4))[stimulus] + rng.standard_normal((len(stimulus), 4))
    groups = repeats(stimulus)
    assert sorted(len(g) for g in groups) == sorted(counts[counts > 1])
    assert all(len(set(stimulus[g])) == 1 for g in groups)
    found = noise_ceiling_from_groups(betas[g] for g in groups)
    for v in range(4):
        parts = [betas[g, v] for g in groups]
        noise = sum(((p - p.mean()) ** 2).sum() for p in parts) / sum(len(p) - 1 for p in parts)
        means = np.array([p.mean() for p in parts])
        signal = means.var(ddof=1) - noise * np.mean([1 / len(p) for p in parts])
        assert found.noise[v] == pytest.approx(noise)
        assert found.signal[v] == pytest.approx(max(signal, 0))
    whole = noise_ceiling_from_repeats(betas, list(stimulus))
    np.testing.assert_allclose(whole.signal, found.signal)


def test_a_region_has_the_median_of_what_varies_in_it() -> None:
    found = FromRepeats(np.array([1.0, 3.0, 0.0, 0.0, 8.0]), np.array([1.0, 1.0, 1.0, 0.0, 2.0]))
    rows = by_region(found, ["V1", "V1", "V1", "V2", ""], [2, 2, 1])
    assert [(r["region"], r["n_features"]) for r in rows] == [("all", 4), ("V1", 3)]
    assert rows[1]["single"] == pytest.approx(0.5)
    assert rows[1]["averaged"] == pytest.approx(1 / (1 + (0.5 + 0.5 + 1) / 3))
    assert rows[0]["single"] == pytest.approx((0.5 + 0.75) / 2)


# in a run


class KnownCeilings(PixelWorld):
    """Half the voxels, region "loud", carry signal and noise of variance 1; the others noise alone."""

    def recordings(self, subject: str) -> Iterator[Recording]:
        rng = np.random.default_rng(len(subject) + ord(subject))
        signal = np.zeros((len(self._uids()), 40))
        signal[:, :20] = rng.standard_normal((len(signal), 20))
        for recording in super().recordings(subject):
            rows = [self._uids().index(u) for u in recording.events["stimulus"]]
            betas = signal[rows] + rng.standard_normal((len(rows), 40))
            channels = pd.DataFrame(
                {"name": [f"v{i}" for i in range(40)], "kind": "voxel", "x": 0.0, "y": 0.0,
                 "z": 0.0, "roi": ["loud"] * 20 + ["quiet"] * 20}
            )  # fmt: skip
            yield replace(recording, signal=betas.astype(np.float32), channels=channels)


@pytest.mark.parametrize("protocol", ["before", "single"])
def test_a_report_shows_the_ceilings_of_its_test_data(tmp_path: Path, protocol: str) -> None:
    class_path = "test_ceiling.KnownCeilings"
    node = config(
        tmp_path,
        data={"_target_": class_path, "root": str(tmp_path / "w"), "n": 30, "repeats": 3},
        protocol={"train_repeats": "single", "test_repeats": protocol, "rescale": "none"},
        baselines={},
        metrics={"image": {"_target_": "decode.metrics.image.ImageSuite", "pairs": ["mse"]}},
    )
    run = Run(node)
    execute(run, until="report", force=(), say=lambda _: None)
    found = {
        (c.subject, c.region): c for c in read_ceilings(run.of("predict")[0].folder, ["published"])
    }
    assert set(found) == {(s, r) for s in "ab" for r in ("all", "loud", "quiet")}
    for s in "ab":
        # 12 test stimuli are few, 20 voxels make the median of the estimates sure enough.
        assert found[s, "loud"].single == pytest.approx(0.5, abs=0.12)
        assert found[s, "loud"].averaged == pytest.approx(0.75, abs=0.1)
        assert found[s, "quiet"].averaged < 0.15
        assert (found[s, "loud"].n_features, found[s, "all"].n_features) == (20, 40)
        assert (found[s, "all"].n_stimuli, found[s, "all"].shown) == (12, "12 × 3")
    page = (run.of("report")[0].folder / "report.html").read_text()
    section = page[page.index("Noise ceilings of the test data") :]
    assert f"{found['b', 'loud'].averaged:.3f}" in section
    assert "12 × 3" in section


def test_without_repeats_there_are_no_ceilings(tmp_path: Path) -> None:
    node = config(
        tmp_path,
        data={"_target_": "worlds.PixelWorld", "root": str(tmp_path / "w"), "repeats": 1},
        metrics={"image": {"_target_": "decode.metrics.image.ImageSuite", "pairs": ["mse"]}},
    )
    run = Run(node)
    execute(run, until="report", force=(), say=lambda _: None)
    assert read_ceilings(run.of("predict")[0].folder, ["published"]) == []
    assert "Noise ceilings" not in (run.of("report")[0].folder / "report.html").read_text()


def test_folds_are_added_up(tmp_path: Path) -> None:
    for fold, (single, shown) in enumerate([(0.2, "1:1 3:4"), (0.4, "2:2 3:1")]):
        folder = tmp_path / f"cv-{fold:02d}"
        folder.mkdir()
        row = {"subject": "a", "region": "all", "n_features": 9, "single": single, "averaged": 0.5,
               "shown": shown, "split": "cv", "fold": fold}  # fmt: skip
        pd.DataFrame([row]).to_parquet(folder / "ceilings.parquet")
    (line,) = read_ceilings(tmp_path, ["cv", "other"])
    assert line.single == pytest.approx(0.3)
    assert (line.n_stimuli, line.shown) == (8, "5 × 3, 2 × 2, 1 × 1")


def test_windows_count_every_sample_that_the_decoder_sees() -> None:
    """Two subjects, four channels of five samples, the first two before the decoder's begin."""
    rng = np.random.default_rng(7)
    signals, tables = {}, []
    for subject, n in (("a", 9), ("b", 6)):
        counts = rng.integers(1, 4, n)
        shown = rng.permutation(np.repeat(np.arange(n), counts))
        signal = rng.standard_normal((5 * len(shown), 4)).astype(np.float32)
        names = ("c1", "c2", "c3", "c4")
        layout = Layout("eeg", names, np.zeros((4, 3)), ("x", "", "x", "y"), 10.0, 5, start=-0.2)
        signals[subject] = SubjectSignal(signal, layout, None)
        table = pd.DataFrame({"subject": subject, "start": 5 * np.arange(len(shown))})
        tables.append(table.assign(stimulus=[f"s{i}" for i in shown]))
    trials = Trials.of(pd.concat(tables, ignore_index=True), signals)
    rows = ceilings(trials.since(0.0)).set_index(["subject", "region"])
    assert set(rows.index) == {(s, r) for s in "ab" for r in ("all", "x", "y")}
    for subject, table in trials.table.groupby("subject"):
        windows = signals[subject].windows(table["start"].to_numpy())[:, :, 2:]
        known = noise_ceiling_from_repeats(
            windows.reshape(len(windows), -1), table["stimulus"].tolist()
        )
        counts = table["stimulus"].value_counts()
        for region, channels in {"all": [0, 1, 2, 3], "x": [0, 2], "y": [3]}.items():
            row = rows.loc[(subject, region)]
            for name, repeat in (("single", 1), ("averaged", counts.tolist())):
                share = known.ceiling(repeat).reshape(4, 3)[channels]
                assert row[name] == pytest.approx(np.median(share))
            assert row["n_features"] == 3 * len(channels)
        times = dict(word.split(":") for word in rows.loc[(subject, "all"), "shown"].split())
        assert {int(k): int(v) for k, v in times.items()} == counts.value_counts().to_dict()
