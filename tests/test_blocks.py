"""Designs in blocks: recognised, said, and fitted with one response per block."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from scored import means
from test_bold import TR, recording
from test_configs import composed

from decode.core import InputError
from decode.notices import collected
from decode.pipeline import execute
from decode.preprocessing import glm
from decode.preprocessing.blocks import joined, typical_block
from decode.preprocessing.bold import single_trial_betas
from decode.workshop import Run


def events(rows: list[tuple[float, float, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["onset", "duration", "stimulus"])


def test_what_follows_of_one_stimulus_is_one_block() -> None:
    rows = [(10.0 + 2 * i, 0.5, "face") for i in range(11)]
    rows += [(40.0 + 2 * i, 0.5, "house") for i in range(11)]
    rows += [(62.0, 0.5, "face"), (69.0, 3.0, "face"), (70.0, 0.5, "face")]
    mixed = events(rows).sample(frac=1, random_state=0)
    found = joined(mixed, 6.0)
    assert found["onset"].tolist() == [10.0, 40.0, 62.0, 69.0]
    # The event that ends last need not be the one that begins last.
    assert found["duration"].tolist() == [20.5, 20.5, 0.5, 3.0]
    assert found["stimulus"].tolist() == ["face", "house", "face", "face"]
    assert joined(mixed, 6.6)["duration"].tolist() == [20.5, 20.5, 10.0]
    halves = events(rows[:11]).assign(split=["train"] * 5 + ["test"] * 6)
    assert joined(halves)["split"].tolist() == ["train", "test"]


def test_single_trials_are_no_blocks() -> None:
    rng = np.random.default_rng(0)
    names = rng.choice(["a", "b"], 60)
    quick = events([(3.0 * i, 1.0, name) for i, name in enumerate(names)])
    assert typical_block(quick) is None
    assert typical_block(quick.assign(duration=0.0, onset=9.0 * np.arange(60))) is None
    assert typical_block(quick.assign(onset=20.0 * np.arange(60), duration=12.0)) == 12.0
    assert typical_block(quick.assign(stimulus=np.repeat(list("abcdef"), 10))) == 28.0


def test_blocks_are_said_once_and_fitted_when_asked_for() -> None:
    onsets = np.concatenate([start + 2.0 * np.arange(8) for start in (12.0, 60.0, 108.0)])
    names = np.repeat(["face", "house", "shoe"], 8)
    times = np.arange(75) * TR
    x = glm.trial_regressors(np.array([12.0, 60.0, 108.0]), np.full(3, 14.5), times, hrf="glover")
    amplitudes = np.array([[1.0, -2.0], [3.0, 0.5], [0.2, 1.5]])
    run = recording(x @ amplitudes + 5.0, onsets, np.full(24, 0.5))
    run.events["stimulus"] = names
    with collected() as lines:
        separate = single_trial_betas(run)
    assert len(separate.table) == 24
    assert len(lines) == 1
    assert "blocks of about 14 s" in lines[0]
    assert "preprocess=bold_blocks" in lines[0]
    with collected() as lines:
        made = single_trial_betas(run, method="lsa", high_pass=0.002, join=6.0)
    assert lines == []
    np.testing.assert_allclose(made.signal, amplitudes, atol=1e-5)
    assert made.table["stimulus"].tolist() == ["face", "house", "shoe"]
    assert made.table["duration"].tolist() == [14.5] * 3
    with pytest.raises(InputError, match=r"preprocess\.trials\.join: expected a gap"):
        single_trial_betas(run, join=-1.0)


@pytest.mark.parametrize("duration", [1e9, -1.0, np.inf])
def test_events_last_no_longer_than_their_run(duration: float) -> None:
    run = recording(
        np.random.default_rng(0).normal(size=(60, 2)), np.array([9.0, 40.0]), np.ones(2)
    )
    run.events["duration"] = [1.0, duration]
    with pytest.raises(InputError, match=r"event 1: expected a duration from 0 s to .*120 s, got"):
        single_trial_betas(run)


def test_long_events_peak_where_they_settle() -> None:
    t = np.arange(0, 700, 0.05)
    for hrf in ("glover", "spm"):
        raw = glm.HRFS[hrf].accumulated(t) - glm.HRFS[hrf].accumulated(t - 600)
        found = glm.event_response(t, 600.0, hrf=hrf)
        np.testing.assert_allclose(found, raw / raw.max(), atol=1e-4)


@pytest.mark.slow
def test_classes_in_blocks_are_decoded_from_a_folder_of_runs(tmp_path: Path) -> None:
    """Blocks of single events under slow drifts: the recipe for blocks reads what the other does not."""
    classes = ["cat", "chair", "face", "house"]
    rng = np.random.default_rng(0)
    patterns = {c: rng.normal(size=60) for c in classes}
    folder = tmp_path / "study/sub-01/func"
    folder.mkdir(parents=True)
    n, tr = 110, 2.0
    for run in range(1, 7):
        order = rng.permutation(classes)
        starts = 14.0 + 50.0 * np.arange(4)
        x = glm.trial_regressors(starts, np.full(4, 22.5), np.arange(n) * tr, hrf="glover")
        drift = np.cumsum(rng.normal(size=(n, 60)), axis=0) * 0.25
        percent = x @ np.stack([patterns[c] for c in order]) + drift + 2 * rng.normal(size=(n, 60))
        values = (1000 * (1 + percent / 100)).T.reshape(5, 4, 3, n).astype(np.float32)
        image = nibabel.Nifti1Image(values, np.diag([3.0, 3.0, 3.0, 1.0]))
        image.header.set_zooms((3, 3, 3, tr))
        stem = folder / f"sub-01_task-view_run-{run}"
        nibabel.save(image, f"{stem}_bold.nii.gz")
        rows = [(s + 2 * k, 0.5, c) for s, c in zip(starts, order, strict=True) for k in range(12)]
        events(rows).rename(columns={"stimulus": "trial_type"}).to_csv(
            f"{stem}_events.tsv", sep="\t", index=False
        )
    scores = {}
    for recipe in ("bold", "bold_blocks"):
        config = composed(
            "experiment=own_bold_classes",
            f"preprocess={recipe}",
            f"paths.data={tmp_path / 'study'}",
            f"paths.outputs={tmp_path / 'outputs'}",
            f"targets.label.classes=[{','.join(classes)}]",
        )
        run = Run(config)
        execute(run, until="evaluate", force=(), say=lambda line: None)
        table = pd.read_parquet(run.folder("evaluate") / "scores.parquet")
        scores[recipe] = means(table)["decoder"]["accuracy"]
        trials = pd.read_parquet(next((tmp_path / "outputs/preprocess").glob("*/trials.parquet")))
    assert scores["bold_blocks"] > scores["bold"] + 0.1
    assert scores["bold_blocks"] > 0.8
    assert set(trials["stimulus"]) == set(classes)
