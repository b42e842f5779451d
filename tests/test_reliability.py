"""Voxel selection by reliability where it is known which voxels respond."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scored import overall
from test_configs import composed
from worlds import PixelWorld, config, sign_again

from decode.building import build
from decode.core import InputError, Recording
from decode.pipeline import execute
from decode.scalers.reliable_voxels import ReliableVoxels
from decode.scalers.unscaled import Unscaled
from decode.scalers.zscore import ZScore, ZScoreWithTest
from decode.store import Frame, read_json, read_tensors
from decode.workshop import Run


def made_up(
    n: int = 300, repeats: int = 3, times: int = 1, seed: int = 0
) -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    """Windows, their table and (channel,) the known share of single-trial variance: 0 for ten of 30.

    Sessions differ in level, which is neither signal nor noise.
    """
    rng = np.random.default_rng(seed)
    share = np.r_[np.zeros(10), np.linspace(0.2, 0.8, 20)]
    stimulus = rng.permutation(np.repeat(np.arange(n), repeats))
    session = np.arange(len(stimulus)) * 3 // len(stimulus)
    signal = np.sqrt(share)[:, None] * rng.standard_normal((n, 30, times))
    noise = np.sqrt(1 - share)[:, None] * rng.standard_normal((len(stimulus), 30, times))
    brain = 50 + 20 * session[:, None, None] + 4 * (signal[stimulus] + noise)
    table = pd.DataFrame({"stimulus": [f"s{i}" for i in stimulus], "session": session.astype(str)})
    return brain.astype(np.float32), table, share


@pytest.mark.parametrize("times", [1, 4])
def test_the_share_of_explained_variance_is_found(times: int) -> None:
    brain, table, share = made_up(times=times)
    scaler = ReliableVoxels(ZScore(by="session"), at_least=0.05)
    state = scaler.scaler.fit(brain, table)
    np.testing.assert_allclose(scaler.reliability(brain, table, state), share, atol=0.09)
    # Without the sessions' levels taken out, these would count.
    raw = scaler.reliability(brain, table, ZScore().fit(brain, table))
    assert np.abs(raw - share).max() > 0.3


@pytest.mark.parametrize("knobs", [{"at_least": 0.12}, {"keep": 20}], ids=["at_least", "keep"])
def test_the_responsive_voxels_are_kept_and_the_others_are_zero(knobs: dict[str, Any]) -> None:
    brain, table, share = made_up(n=600)
    scaler = ReliableVoxels(ZScore(by="session"), **knobs)
    state = scaler.fit(brain, table)
    assert state["kept"].tolist() == (share > 0).tolist()
    out = scaler.apply(brain, table, state)
    plain = ZScore(by="session")
    same = plain.apply(brain, table, plain.fit(brain, table))
    np.testing.assert_array_equal(out[:, share > 0], same[:, share > 0])
    assert (out[:, share == 0] == 0).all()


def test_few_are_the_best() -> None:
    brain, table, share = made_up(n=600)
    kept = ReliableVoxels(ZScore(by="session"), keep=3).fit(brain, table)["kept"]
    assert kept.sum() == 3
    assert share[kept].min() > 0.65


def test_a_silent_voxel_passes_as_rarely_as_is_written() -> None:
    """The standard error of a silent voxel's reliability, against 20 draws of 10 voxels."""
    found = []
    for seed in range(20):
        brain, table, share = made_up(n=60, seed=seed)
        scaler = ReliableVoxels(ZScore(by="session"), at_least=0.1)
        state = scaler.scaler.fit(brain, table)
        found.append(scaler.reliability(brain, table, state)[share == 0])
    # Below 0 they are cut, so the spread is that of the upper half.
    upper = np.sqrt(2 * np.mean(np.square(found)))
    assert upper == pytest.approx(np.sqrt(2 / (60 * 3 * 2)), rel=0.2)


def test_what_cannot_be_chosen_is_refused() -> None:
    brain, table, _ = made_up(n=20)
    once = table.assign(stimulus=[f"s{i}" for i in range(len(table))])
    with pytest.raises(InputError, match=r"shown more than once, .* got 0"):
        ReliableVoxels(ZScore(), at_least=0.1).fit(brain, once)
    with pytest.raises(InputError, match="looks at test trials"):
        ReliableVoxels(ZScoreWithTest(), at_least=0.1)
    for knobs in ({}, {"at_least": 0.1, "keep": 3}):
        with pytest.raises(InputError, match="one of at_least and keep"):
            ReliableVoxels(Unscaled(), **knobs)
    with pytest.raises(InputError, match="between 0 and 1"):
        ReliableVoxels(Unscaled(), at_least=5)
    with pytest.raises(InputError, match="1 channel or more"):
        ReliableVoxels(Unscaled(), keep=0)


# in a run


class SilentVoxels(PixelWorld):
    """As many voxels again that answer to nothing, before those of PixelWorld."""

    def recordings(self, subject: str) -> Iterator[Recording]:
        for recording in super().recordings(subject):
            rng = np.random.default_rng([ord(subject), int(recording.run)])
            noise = rng.standard_normal(recording.signal.shape)
            signal = np.hstack([noise, recording.signal]).astype(np.float32)
            table = pd.concat([recording.channels.assign(roi="silent"), recording.channels])
            table["name"] = [f"v{i}" for i in range(len(table))]
            yield replace(recording, signal=signal, channels=table.reset_index(drop=True))


def node(folder: Path, **scaler: Any) -> dict[str, Any]:
    shipped = composed("experiment=own_betas", "scaler=reliable")["scaler"]
    assert shipped["at_least"] is not None
    return config(
        folder,
        data={"_target_": "test_reliability.SilentVoxels", "root": str(folder / "world"), "n": 60},
        scaler={**shipped, **scaler},
        voxel_model={"_target_": "decode.targets.pixels.Pixels", "size": 4},
        metrics={
            "image": {"_target_": "decode.metrics.image.ImageSuite", "pairs": ["pixcorr"]},
            "brain": {
                "_target_": "decode.metrics.brain_correlation.BrainCorrelation", "rest": "rest",
            },
        },
        baselines={},
        encoder={"_target_": "decode.encoders.ridge.Ridge", "_partial_": True},
        objectives={},
        trainer={"_target_": "decode.training.Trainer", "epochs": 0},
    )  # fmt: skip


def test_a_fold_chooses_from_its_training_trials(tmp_path: Path) -> None:
    run = Run(node(tmp_path, at_least=0.3))
    execute(run, until="report", force=(), say=lambda _: None)
    fold = run.of("train")[0].folder / "published-00"
    kept = {s: read_tensors(fold / "scaler.safetensors")[f"{s}/kept"].numpy() for s in "ab"}
    for s, n in (("a", 30), ("b", 35)):
        assert kept[s].dtype == bool
        assert kept[s][n:].mean() > 0.9
        assert kept[s][:n].mean() < 0.1
    frame = Frame.read(run.of("respond")[0].folder / "published-00")
    measured = frame.arrays["measured"][(frame.table["subject"] == "a").to_numpy()]
    assert ((measured != 0).any(0)[:60] == kept["a"]).all()
    summary = read_json(run.of("evaluate")[0].folder / "summary.json")
    found = overall(summary)["decoder"]
    # Voxels left out count nowhere, so the mean is that of the responsive ones.
    assert found["brain_correlation_all"]["value"] > 0.5
    page = (run.of("report")[0].folder / "report.html").read_text()
    assert f'<td class="n">{int(kept["a"].sum())}</td>' in page


def test_test_responses_do_not_reach_the_choice(tmp_path: Path) -> None:
    kept = []
    for name, scale in (("one", 1.0), ("two", -5.0)):
        run = Run(node(tmp_path / name, at_least=0.3))
        execute(run, until="features", force=(), say=lambda _: None)
        for task in run.of("preprocess"):
            table = pd.read_parquet(task.folder / "trials.parquet")
            signal = np.load(task.folder / "signal.npy")
            signal[table["start"][table["split"] == "test"]] *= scale
            np.save(task.folder / "signal.npy", signal)
            sign_again(task.folder)
        execute(run, until="train", force=(), say=lambda _: None)
        kept.append(read_tensors(run.of("train")[0].folder / "published-00" / "scaler.safetensors"))
    for key in ("a/kept", "b/kept"):
        assert np.array_equal(kept[0][key], kept[1][key])


def test_the_yaml_builds() -> None:
    assert isinstance(
        build(composed("experiment=own_betas", "scaler=reliable")["scaler"]), ReliableVoxels
    )
