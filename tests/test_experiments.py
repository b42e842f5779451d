"""Whole experiments, from the files as they lie there to the report, by the command itself."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from decode.store import read_json
from decode.use.opened import open_run
from scripts.check_results import PAGE, differences

ROOT = Path(__file__).resolve().parents[1]


def run(folder: Path, *arguments: str) -> pd.DataFrame:
    """summary.json of a run; the last line of standard output is its folder. No run may need more
    memory than a laptop has.
    """
    command = [sys.executable, "-m", "decode.cli", f"paths.outputs={folder}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 4 * 2**20  # KiB
    report = Path(done.stdout.strip().splitlines()[-1])
    assert (report / "report.html").stat().st_size > 10_000
    assert (report / "scores.parquet").is_file()
    # Not by pandas: what is null in every row must stay None.
    return pd.DataFrame(read_json(report / "summary.json"))


def value(
    summary: pd.DataFrame,
    metric: str,
    subject: str,
    split: str | None = None,
    source: str = "decoder",
) -> float:
    rows = summary[(summary["metric"] == metric) & (summary["subject"] == subject)]
    rows = rows[rows["source"] == source]
    rows = rows if split is None else rows[rows["split"] == split]
    assert len(rows) == 1
    return float(rows["value"].iloc[0])


def at_chance(summary: pd.DataFrame) -> None:
    """Shuffled pairs: every score within sampling error of its chance level."""
    rows = summary[summary["source"] == "shuffled"]
    assert len(rows)
    for row in rows.itertuples():
        spread = max(row.ci_high - row.ci_low, 0.02)
        assert abs(row.value - row.chance) < 2 * spread, (row.metric, row.value, row.chance)


def agrees_with_the_page(
    summary: pd.DataFrame, run: str, metrics: tuple[str, ...] = (), columns: tuple[str, ...] = ()
) -> None:
    """docs/results.md says what the run scores; only `metrics` and `columns`, where a test changes others."""
    # As the file has them: pandas makes numbers that are none of what is null.
    rows = summary.astype(object).where(summary.notna(), None).to_dict("records")
    assert differences(PAGE.read_text(), run, rows, metrics, columns) == []


def the_report_of(folder: Path) -> str:
    """The page of the only run below `folder`."""
    (report,) = (folder / "report").glob("*-*/report.html")
    return report.read_text()


@pytest.mark.data
@pytest.mark.slow
def test_haxby2001(data_root: Path, tmp_path: Path) -> None:
    summary = run(tmp_path, "experiment=haxby2001", f"paths.data={data_root}")
    assert value(summary, "accuracy", "sub001") >= 0.68
    assert value(summary, "retrieval_text_top1", "sub001") >= 0.5
    assert (summary["n_fits"] == 12).all()
    at_chance(summary)
    agrees_with_the_page(summary, "haxby2001")
    html = the_report_of(tmp_path)
    matrix = html[html.index('<table class="matrix">') :]
    assert [m in matrix for m in ("scrambledpix", "scissors", "house")] == [True] * 3
    for words in ("Noise ceilings", "picture", "Shuffled pairs miss chance"):
        assert words not in html.replace("scrambledpix", ""), words


@pytest.mark.data
@pytest.mark.slow
def test_p300_speller(data_root: Path, tmp_path: Path) -> None:
    accuracy = "+metric@metrics.accuracy=accuracy"
    summary = run(tmp_path, "experiment=p300_speller", f"paths.data={data_root}", accuracy)
    for subject, least in (("S1", 0.95), ("S2", 0.94), ("S3", 0.87)):
        assert value(summary, "auc", subject) >= least
    at_chance(summary[summary["metric"] != "accuracy"])
    agrees_with_the_page(summary, "p300_speller")
    assert (
        value(summary, "accuracy", "all", source="shuffled") < 0.86
    )  # always "nontarget" is right in .875
    html = the_report_of(tmp_path)
    assert "nontarget" in html
    for words in ("Noise ceilings", "picture", "Shuffled pairs miss chance"):
        assert words not in html, words


@pytest.mark.data
@pytest.mark.slow
def test_p300_of_people_never_trained_on(data_root: Path, tmp_path: Path) -> None:
    split = ("~split@splits.contiguous", "+split@splits.people=leave_one_subject_out")
    for name, protocol in {"shared": (), "own": ("protocol.unseen_scaling=own",)}.items():
        made = f"p300_people_{name}"
        summary = run(
            tmp_path, "experiment=p300_speller", f"paths.data={data_root}", f"name={made}",
            *split, "protocol.unseen=shared", *protocol,
        )  # fmt: skip
        agrees_with_the_page(summary, made)


@pytest.mark.data
@pytest.mark.slow
def test_feis_finds_nothing(data_root: Path, tmp_path: Path) -> None:
    """160 trials a subject: three standard errors around chance are .005 to .12."""
    summary = run(tmp_path, "experiment=feis", f"paths.data={data_root}")
    for subject in ("01", "02"):
        assert 0.005 <= value(summary, "accuracy", subject) <= 0.12
    at_chance(summary)
    agrees_with_the_page(summary, "feis")


@pytest.mark.data
@pytest.mark.slow
def test_digits69(data_root: Path, tmp_path: Path) -> None:
    summary = run(tmp_path, "experiment=digits69", f"paths.data={data_root}")
    for split, bounds in DIGITS.items():
        for metric, least in bounds.items():
            assert value(summary, metric, "sub-01", split) >= least, (split, metric)
            if metric != "two_way_same_class":
                better = value(summary, metric, "sub-01", split)
                assert better > value(summary, metric, "sub-01", split, "ridge")
    at_chance(summary)
    agrees_with_the_page(summary, "digits69")


DIGITS = {
    "published": {"pixcorr": 0.82, "ssim": 0.65},
    "kfold": {"pixcorr": 0.77, "ssim": 0.56, "two_way_same_class": 0.88},
}


# Steering and choosing cost more than all the rest; tests/test_guidance.py tries them. With half the steps
# the pictures correlate alike with what was seen.
PLAIN = (
    "generator.energy=null", "generator.judge=null", "generator.candidates=1", "generator.steps=5",
)  # fmt: skip


@pytest.fixture(scope="module")
def quickstarts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs of all quickstarts: whichever comes first makes the features of the scenes of training."""
    return tmp_path_factory.mktemp("quickstarts")


@pytest.mark.slow
def test_quickstart_to_its_notebook(quickstarts: Path) -> None:
    """One test, so that the quickstart runs once, its pictures neither steered nor chosen."""
    summary = run(quickstarts, "experiment=quickstart", *PLAIN)
    scores_are_above_their_controls(summary)
    agrees_with_the_page(summary, "quickstart", ("retrieval_top1",))
    a_second_run_finds_everything_done(quickstarts)
    (report,) = (quickstarts / "report").glob("quickstart-*/")
    the_report_needs_no_network(report)
    the_notebook_reads_a_finished_run(report)


def scores_are_above_their_controls(summary: pd.DataFrame) -> None:
    assert value(summary, "retrieval_top1", "all") > 0.6
    decoded = value(summary, "pixcorr", "all")
    assert decoded > value(summary, "pixcorr", "all", source="nearest_image")
    assert decoded > value(summary, "pixcorr", "all", source="mean_image") + 0.2
    for metric in ("retrieval_top1", "retrieval_top5", "pixcorr"):
        mine = (summary["source"] == "decoder") & (summary["subject"] == "all")
        row = summary[mine & (summary["metric"] == metric)].iloc[0]
        assert row["chance"] < row["ci_low"] <= row["value"] <= row["ceiling"] + 1e-6
    at_chance(summary)


@pytest.mark.slow
def test_quickstarts_of_sensors(quickstarts: Path) -> None:
    """Both look at the same scenes, whose features are made once. One draws pictures, of the decoder and its
    controls; the other trains the baseline, which nothing is asked of, for an epoch. A few windows do.
    """
    few = ("parts.window.width=0.2", "parts.window.step=0.2")
    runs = {
        "meg": ("generator.steps=5", "~encoder@baselines.ridge_mlp"),
        "eeg": ("~generator", "~metric@metrics.image", "trainer.epochs=1"),
    }  # fmt: skip
    made = []
    for modality, changes in runs.items():
        summary = run(quickstarts, f"experiment=quickstart_{modality}", *few, *changes)
        made.append({p: p.stat().st_mtime_ns for p in (quickstarts / "features").rglob("*.npy")})
        for subject in ("sub-01", "sub-02"):
            mine = (summary["source"] == "decoder") & (summary["subject"] == subject)
            row = summary[mine & (summary["metric"] == "retrieval_top5")]
            assert row["ci_low"].iloc[0] > 2 * row["chance"].iloc[0]
            assert row["value"].iloc[0] <= row["ceiling"].iloc[0] + 1e-6
        at_chance(summary)
        columns = ("decoder", "prestimulus", "chance")
        agrees_with_the_page(summary, f"quickstart_{modality}", columns=columns)
    assert made[0] == made[1]


@pytest.mark.slow
def test_quickstart_of_every_voxel(quickstarts: Path) -> None:
    """Nearly all that three repeats agree in is predicted, by the bands each and by what they share."""
    summary = run(quickstarts, "experiment=quickstart_encoding")
    r, ceiling = (summary[summary["metric"] == "voxel_r"].set_index(["source", "subject"])[c]
                  for c in ("value", "ceiling"))  # fmt: skip
    for subject in ("sub-01", "sub-02"):
        assert (
            0.9 * ceiling["decoder", subject] < r["decoder", subject] < ceiling["decoder", subject]
        )
        assert r["decoder", subject] > r["ridge", subject] > 0.4
        assert abs(r["shuffled", subject]) < 0.02
    parts = [
        value(summary, f"variance_{n}", "all") for n in ("unique_image", "unique_pixels", "shared")
    ]
    assert min(parts) > 0.02
    assert sum(parts) == pytest.approx(value(summary, "explained_variance", "all"), abs=1e-6)
    agrees_with_the_page(summary, "quickstart_encoding")
    (page,) = (quickstarts / "report").glob("quickstart_encoding-*/report.html")
    assert "Shuffled pairs miss chance" not in page.read_text()


def a_second_run_finds_everything_done(folder: Path) -> None:
    command = [sys.executable, "-m", "decode.cli", f"paths.outputs={folder}", *PLAIN]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr.strip() == ""


def the_report_needs_no_network(report: Path) -> None:
    text = (report / "report.html").read_text()
    for word in ("<script src", "<link", "url(http", 'src="http', "@import"):
        assert word not in text
    for word in ("simulated data", "shuffled", "nearest_image", "prior", "oracle", "ridge"):
        assert word in text
    assert report.name in (report.parents[1] / "index.html").read_text()


def the_notebook(name: str, folder: Path, **given: Path) -> str:
    """What stands in a notebook of the project after it has been executed in a folder."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    os.environ.update({key: str(path) for key, path in given.items()})
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return str(notebook.cells)


def the_notebook_reads_a_finished_run(report: Path) -> None:
    text = the_notebook("read_a_run", report.parents[1], DECODE_RUN=report)
    assert "the true stimulus is number" in text
    assert "image/png" in text
    assert open_run(report).config["name"] == "quickstart"


@pytest.mark.slurm
@pytest.mark.slow
def test_a_sweep_runs_as_slurm_jobs(tmp_path: Path) -> None:
    # Without a controller, sinfo asks for nine seconds and scontrol knows at once.
    asked = (["scontrol", "ping"], ["sinfo", "-h"])
    if any(shutil.which(c[0]) is None or subprocess.run(c, check=False).returncode for c in asked):
        pytest.skip("no Slurm cluster answers sinfo")
    from test_cli import SMALL

    command = [
        sys.executable, "-m", "decode.cli", "-m", "launcher=slurm", "seed=0,1",
        f"paths.outputs={tmp_path}/o", *SMALL, "hydra.launcher.timeout_min=10",
        "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=4",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "o" / "report").glob("*/report.html"))) == 2
