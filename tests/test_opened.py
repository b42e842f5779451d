"""A finished run from Python, and the notebooks that use nothing else."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbclient import NotebookClient
from test_apply import finished, world
from worlds import config

import decode
from decode import open_run
from decode.core import InputError
from decode.pictures import read_image
from decode.scoring.compare import compare
from decode.trust import VARIABLE
from decode.use.opened import OpenedRun
from decode.use.share import share

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[OpenedRun, OpenedRun]:
    """Two runs on one split, the second one solved and with a baseline."""
    settings = config(tmp_path_factory.mktemp("runs"), baselines={})
    settings["data"]["n"] = 24
    settings["trainer"]["epochs"] = 2
    settings["metrics"].pop("image")
    solved = {"_target_": "decode.encoders.ridge.Ridge", "_partial_": True}
    settings["metrics"]["retrieval"]["k"] = [1, 5]
    first = finished(settings)
    second = finished(
        {
            **settings,
            "name": "solved",
            "encoder": solved,
            "baselines": {"linear": settings["encoder"]},
        }
    )
    return first, second


@pytest.mark.slow
def test_all_rows_are_those_of_the_trials(runs: tuple[OpenedRun, OpenedRun]) -> None:
    run = open_run(runs[1].folder, packages=["worlds"])
    trials, stimuli = run.trials(), world(run).stimuli()
    assert run.targets == ["pixels"]
    assert run.splits == ["published"]
    truth, predicted = run.truth(), run.predicted()
    assert len(trials) == len(truth) == len(predicted) == 24
    for trial, uid in enumerate(trials["stimulus"]):
        picture = read_image(stimuli[uid])
        assert np.allclose(truth[trial], picture.numpy(), atol=1e-6)
        assert torch.equal(torch.as_tensor(run.shown(trial).data), picture)
        # The generator shows what is predicted, so this pins the order of its files.
        made = np.asarray(run.reconstructed(trial).data)
        assert np.abs(made - predicted[trial].clip(0, 1)).max() < 0.5 / 255 + 1e-6
    linear = run.predicted("pixels", source="linear")
    assert not np.allclose(linear, predicted)
    made = np.asarray(run.reconstructed(5, source="linear").data)
    assert np.abs(made - linear[5].clip(0, 1)).max() < 0.5 / 255 + 1e-6


@pytest.mark.slow
def test_scores_are_asked_for_by_their_columns(runs: tuple[OpenedRun, OpenedRun]) -> None:
    run = runs[1]
    mine = run.scores(metric="retrieval_top1", source="decoder", subject="a")
    assert len(mine) == 12
    row = run.summary(metric="retrieval_top1", source="decoder", subject="a").iloc[0]
    assert row["value"] == pytest.approx(mine["value"].mean())
    with pytest.raises(InputError, match="column: expected one of"):
        run.scores(metrics="retrieval_top1")
    for wrong in ({"target": "image"}, {"source": "nobody"}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))}: expected one of"):
            run.predicted(**wrong)
    with pytest.raises(InputError, match="source"):
        run.reconstructed(0, source="nobody")
    with pytest.raises(InputError, match="split and fold"):
        run.trials("another")


@pytest.mark.slow
def test_runs_are_compared_where_both_were_tested(runs: tuple[OpenedRun, OpenedRun]) -> None:
    first, second = runs
    found = first.compare(second).set_index("metric")
    tables = [pd.read_parquet(r.folder / "scores.parquet") for r in runs]
    wanted = compare(*(t[t["source"] == "decoder"] for t in tables))
    assert list(found["value"]) == [d.value for d in wanted]
    means = [r.scores(metric="retrieval_top1", source="decoder")["value"].mean() for r in runs]
    assert found.loc["retrieval_top1", "value"] == pytest.approx(means[0] - means[1])
    assert (second.compare(first)["value"].to_numpy() == -found["value"].to_numpy()).all()


@pytest.mark.slow
def test_a_folder_of_outputs_is_its_newest_run(
    runs: tuple[OpenedRun, OpenedRun], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outputs = runs[1].folder.parents[1]
    assert open_run(outputs, packages=["worlds"]).name == "solved"
    monkeypatch.chdir(outputs.parent)
    monkeypatch.setenv(VARIABLE, "worlds")
    assert open_run().name == "solved"
    with pytest.raises(InputError, match=r"config\.json"):
        open_run(tmp_path)


def test_names_of_the_package_are_few() -> None:
    with pytest.raises(AttributeError, match="no attribute 'open_everything'"):
        decode.open_everything  # noqa: B018


def executed(name: str, folder: Path) -> str:
    """What stands in a notebook after it has been executed in a folder."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return str(notebook.cells)


@pytest.mark.slow
def test_the_notebooks_run(
    runs: tuple[OpenedRun, OpenedRun], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = runs
    monkeypatch.setenv(VARIABLE, "worlds")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))
    monkeypatch.setenv("DECODE_RUN", str(first.folder))
    text = executed("read_a_run", tmp_path)
    assert re.search(r"the true stimulus is number \d+ of 12", text)
    assert "image/png" in text
    text = executed("apply_a_decoder", tmp_path)
    assert "a: channels: the same 30 by name" in text
    assert "image/png" in text
    monkeypatch.setenv("DECODE_OTHER", str(second.folder))
    assert "of 24 are better in the first run" in executed("compare_runs", tmp_path)
    shared = share(first, tmp_path / "given")
    monkeypatch.setenv("DECODE_RUN", str(shared))
    monkeypatch.setenv("DECODE_DATA", json.dumps(first.config["data"]))
    # Every picture of both subjects, repeats averaged.
    assert f"({2 * (24 + 12)}, 3, 8, 8)" in executed("apply_a_decoder", tmp_path)


def test_notebooks_use_only_what_is_promised() -> None:
    names = sorted(p.stem for p in (ROOT / "notebooks").glob("*.ipynb"))
    assert names == ["apply_a_decoder", "compare_runs", "read_a_run"]
    for name in names:
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("decode"):
                assert node.module == "decode"
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("decode") for alias in node.names)
