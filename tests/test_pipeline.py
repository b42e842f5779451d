"""Keys, caching, killing and resuming of whole runs."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scored import means
from worlds import config, sign_again

from decode.core import InputError
from decode.notices import tell
from decode.pipeline import FILL, execute
from decode.plan import Task
from decode.stages.table import NAMES
from decode.store import read_json
from decode.workshop import Run

# Without a model of the voxels nothing responds.
PLANNED = [name for name in NAMES if name != "respond"]


def _run(
    folder: Path, until: str = "report", force: tuple[str, ...] = (), **changes: Any
) -> list[str]:
    """Names of the stages that were done."""
    done: list[str] = []
    execute(
        Run(config(folder, **changes)),
        until=until,
        force=force,
        say=lambda s: done.append(s.split()[0]),
    )
    return done


def _scores(folder: Path, **changes: Any) -> pd.DataFrame:
    run = Run(config(folder, **changes))
    return pd.read_parquet(run.folder("evaluate") / "scores.parquet")  # type: ignore[operator]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    assert set(_run(folder)) == set(PLANNED)
    return folder


def test_a_finished_run_does_nothing(finished: Path) -> None:
    assert _run(finished) == []


def test_scores_are_above_chance_and_shuffled_ones_are_not(finished: Path) -> None:
    scores = _scores(finished)
    value, chance = means(scores), means(scores, "chance")
    assert value["ridge"]["retrieval_top1"] > 0.8
    assert value["decoder"]["retrieval_top1"] > 3 * chance["decoder"]["retrieval_top1"]
    assert abs(value["shuffled"]["retrieval_top1"] - 1 / 12) < 0.08
    assert value["ridge"]["pixcorr"] > value["shuffled"]["pixcorr"] + 0.4
    assert value["oracle"]["pixcorr"] > 0.99
    assert all("pixcorr" in value[control] for control in ("mean_image", "nearest_image", "prior"))


@pytest.mark.slow
def test_what_the_user_was_told_stands_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = FILL["split"]

    def telling(run: Run, task: Task, out: Path) -> dict[str, Any]:
        tell("the trials", "were counted by hand")
        return split(run, task, out)

    monkeypatch.setitem(FILL, "split", telling)
    _run(tmp_path)
    page = next(tmp_path.rglob("report.html")).read_text(encoding="utf-8")
    assert page.count("the trials: were counted by hand") == 1


def test_every_score_names_its_split_and_interval(finished: Path) -> None:
    run = Run(config(finished))
    summary = read_json(run.folder("evaluate") / "summary.json")  # type: ignore[operator]
    for row in summary:
        assert row["split"] == "published"
        assert len(row["split_hash"]) == 12
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
        assert row["n"] == (24 if row["subject"] == "all" else 12)


# What is changed -> the stages that run again; what is not named is found done.
CHANGES: list[tuple[dict[str, Any], set[str]]] = [
    ({"name": "renamed"}, {"report"}),
    ({"compute": {"device": "auto"}}, set()),
    ({"until": "evaluate"}, set()),
    ({"seed": 1}, {"train", "predict", "reconstruct", "evaluate", "report"}),
    (
        {
            "metrics": {
                "r": {
                    "_target_": "decode.metrics.retrieval.Retrieval",
                    "target": "pixels",
                    "k": [2],
                }
            }
        },
        {"evaluate", "report"},
    ),
    (
        {"protocol": {"train_repeats": "single", "test_repeats": "after", "rescale": "none"}},
        {"train", "predict", "reconstruct", "evaluate", "report"},
    ),
    (
        {
            "targets": {
                "pixels": {"_target_": "decode.targets.pixels.Pixels", "size": 8, "colour": "grey"}
            }
        },
        {"features", "train", "predict", "reconstruct", "evaluate", "report"},
    ),
    ({"subjects": ["a"]}, {"split", "train", "predict", "reconstruct", "evaluate", "report"}),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES, ids=lambda c: "-".join(sorted(c)))
def test_touch_this_and_these_stages_rerun(
    finished: Path, tmp_path: Path, change: dict[str, Any], expected: set[str]
) -> None:
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    assert set(_run(tmp_path, **change)) == expected


def test_moved_outputs_are_found_and_paths_are_not_in_keys(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    assert _run(tmp_path) == []


def test_force_redoes_and_keeps_the_old(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    assert "train" in _run(tmp_path, force=("train",))
    assert list((tmp_path / "outputs" / "train").glob("*.old-1"))
    with pytest.raises(InputError, match="did you mean 'train'"):
        _run(tmp_path, force=("trian",))


def test_the_plan_touches_nothing(tmp_path: Path) -> None:
    run = Run(config(tmp_path))
    assert not any(run.is_done(t) for t in run.tasks)
    assert not (tmp_path / "outputs").exists()


def test_unknown_subject_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got 'c'"):
        Run(config(tmp_path, subjects=["c"]))


def test_shapes_that_do_not_fit_are_found_before_training(tmp_path: Path) -> None:
    generator = {"_target_": "decode.generators.pixels.PixelGenerator", "target": "image"}
    with pytest.raises(InputError, match="expected targets"):
        _run(tmp_path, generator=generator)
    assert not list((tmp_path / "outputs" / "train").glob("*/published-00"))


def test_weights_of_another_voxel_count_are_refused(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    run = Run(config(tmp_path))
    layout = run.of("preprocess")[0].folder / "layout.json"
    text = layout.read_text().replace('"v29"', '"v29",\n  "extra"')
    layout.write_text(text)
    signal = run.of("preprocess")[0].folder / "signal.npy"
    values = np.load(signal)
    np.save(signal, np.c_[values, values[:, :1]])
    sign_again(signal.parent)
    shutil.rmtree(run.of("predict")[0].folder)
    with pytest.raises(InputError, match="expected saved weights that fit"):
        _run(tmp_path)


def test_the_test_part_does_not_reach_training(tmp_path: Path) -> None:
    """Other responses to test pictures leave every weight as it is."""
    weights = []
    for name, scale in (("one", 1.0), ("two", 5.0)):
        folder = tmp_path / name
        _run(folder, until="split")
        run = Run(config(folder))
        for task in run.of("preprocess"):
            table = pd.read_parquet(task.folder / "trials.parquet")
            signal = np.load(task.folder / "signal.npy")
            signal[table["start"][table["split"] == "test"]] *= scale
            np.save(task.folder / "signal.npy", signal)
            sign_again(task.folder)
        _run(folder, until="train")
        trained = run.of("train")[0].folder / "published-00"
        weights.append(
            {
                str(p.relative_to(trained)): p.read_bytes()
                for p in sorted(trained.rglob("*.safetensors"))
            }
        )
    assert len(weights[0]) == 3
    assert weights[0] == weights[1]


def test_two_contents_under_one_uid_are_refused(tmp_path: Path) -> None:
    _run(tmp_path, until="preprocess")
    run = Run(config(tmp_path))
    path = run.of("preprocess")[1].folder / "stimuli.parquet"
    table = pd.read_parquet(path)
    table.loc[0, "digest"] = "another"
    table.to_parquet(path)
    sign_again(path.parent)
    with pytest.raises(InputError, match="one content per uid, got 2 of"):
        _run(tmp_path)


def test_transductive_scores_are_stamped(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    protocol = {"train_repeats": "single", "test_repeats": "before", "rescale": "transductive"}
    _run(tmp_path, protocol=protocol)
    run = Run(config(tmp_path, protocol=protocol))
    summary = read_json(run.folder("evaluate") / "summary.json")  # type: ignore[operator]
    assert all(row["test_conditioned"] for row in summary)
    page = (run.folder("report") / "report.html").read_text()  # type: ignore[operator]
    assert "TEST-CONDITIONED" in page


def _in_child(work: Callable[[], None]) -> int:
    """Exit code of `work` in a forked process; negative when killed."""

    def body() -> None:
        torch.set_num_threads(1)
        work()

    child = multiprocessing.get_context("fork").Process(target=body)
    child.start()
    child.join(120)
    assert child.exitcode is not None
    return child.exitcode


def _killed_at(folder: Path, n: int) -> int:
    """Run and kill -9 at the n-th file or folder that takes its final name."""

    def work() -> None:
        real, count = os.replace, [0]

        def replace(*a: Any, **k: Any) -> None:
            count[0] += 1
            if count[0] == n:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*a, **k)

        os.replace = replace  # type: ignore[assignment]
        _run(folder)

    return _in_child(work)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run in a child process, as the killed ones are."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert _in_child(lambda: _run(folder) and None) == 0
    return folder


def _without(finished: Path, folder: Path, stage: str) -> None:
    """A copy of finished outputs in which `stage` and all after it are still to do."""
    shutil.copytree(finished / "outputs", folder / "outputs")
    for name in NAMES[NAMES.index(stage) :]:
        shutil.rmtree(folder / "outputs" / name, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("stage", PLANNED)
def test_killed_in_any_stage_ends_with_the_same_scores(
    undisturbed: Path, tmp_path: Path, stage: str
) -> None:
    _without(undisturbed, tmp_path, stage)
    for n in (1, 2, 3):  # each kill comes deeper into what the last one left
        assert _killed_at(tmp_path, n) == -signal.SIGKILL
        left = [p for p in (tmp_path / "outputs" / stage).glob("*") if p.is_dir()]
        assert left, "the kill came before the stage"
    assert _in_child(lambda: _run(tmp_path) and None) == 0
    pd.testing.assert_frame_equal(_scores(tmp_path), _scores(undisturbed))
    assert not list((tmp_path / "outputs").glob("*/*.partial"))


def test_a_baseline_with_weights_is_trained_as_the_encoder_is(tmp_path: Path) -> None:
    node = {"_target_": "worlds.Linear", "_partial_": True}
    run = Run(config(tmp_path, baselines={"twin": node}))
    execute(run, until="predict", force=[], say=lambda s: None)
    (fold,) = (run.folder("predict") or tmp_path).glob("published-*")
    own, twin = (np.load(fold / place / "pixels.npy") for place in ("decoder", "baselines/twin"))
    np.testing.assert_array_equal(own, twin)
    (trained,) = (run.folder("train") or tmp_path).glob("published-*")
    names = {str(p.relative_to(trained)) for p in trained.rglob("*") if p.is_file()}
    assert names == {
        "scaler.safetensors", "decoder/encoder.safetensors", "decoder/history.jsonl",
        "baselines/twin/encoder.safetensors", "baselines/twin/history.jsonl",
    }  # fmt: skip
