"""A lab's folder of betas, by the commands that the documentation gives."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_cli import quick
from test_configs import composed

from decode.core import InputError
from decode.data.betas_folder import BetasFolder
from decode.preprocessing.betas import beta_maps
from decode.simulation.scenes import draw, test_scenes, training_scenes
from decode.stages import preprocess

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "bring_your_own_fmri.md").read_text()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One person, three sessions; voxels are linear in coarse pixels."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "pictures").mkdir()
    (folder / "s1").mkdir()
    rng = np.random.default_rng(0)
    scenes = [*training_scenes(240, seed=3), *test_scenes(30, seed=3)]
    weights = rng.normal(size=(8 * 8 * 3, 250)) / 14
    rows, betas = [], []
    for i, scene in enumerate(scenes):
        picture = Image.fromarray(draw(scene))
        picture.save(folder / "pictures" / f"{i:03d}.png")
        coarse = np.asarray(picture.resize((8, 8)), float).ravel() / 255
        for repeat in range(1 if i < 240 else 3):
            session = f"{i // 80 + 1}" if i < 240 else f"{repeat + 1}"
            split = "train" if i < 240 else "test"
            rows.append({"stimulus": f"{i:03d}.png", "session": session, "split": split})
            betas.append(coarse @ weights + 0.2 * rng.normal(size=250))
    order = np.argsort([r["session"] for r in rows], kind="stable")
    np.save(folder / "s1" / "betas.npy", np.array(betas)[order].astype(np.float32))
    pd.DataFrame(rows).iloc[order].to_csv(folder / "s1" / "trials.tsv", sep="\t", index=False)
    return folder


TEXT, PART, GREY, GONE = "a text", "half of a picture", "16 bits", "gone"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            TEXT,
            r"stimulus '007\.png': .*pictures/007\.png: expected a readable image.*replace the file",
        ),
        (PART, r"stimulus '007\.png': .*pictures/007\.png: expected a readable image.*truncated"),
        (GREY, r"stimulus '007\.png': .*expected 8 bits per channel, got mode I;16"),
        (GONE, r"trials\.tsv, row \d+: expected pictures that lie in .*, got '007\.png'"),
    ],
)
def test_every_picture_is_read_before_anything_else(
    lab: Path, tmp_path: Path, fault: str, message: str
) -> None:
    """What the guide promises of its first command."""
    shutil.copytree(lab, tmp_path / "lab", ignore=shutil.ignore_patterns("outputs"))
    picture = tmp_path / "lab/pictures/007.png"
    content = picture.read_bytes()
    if fault == TEXT:
        picture.write_text("no picture")
    elif fault == PART:
        picture.write_bytes(content[: len(content) // 2])
    elif fault == GREY:
        Image.fromarray(np.zeros((8, 8), np.uint16)).save(picture)
    else:
        picture.unlink()
    data = BetasFolder(str(tmp_path / "lab"))
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=message) as e:
        preprocess.run(tmp_path / "out", dataset=data, preprocess=beta_maps, subject="s1")
    assert "\n" not in str(e.value)
    picture.write_bytes(content)
    preprocess.run(tmp_path / "out", dataset=data, preprocess=beta_maps, subject="s1")


def test_commands_of_the_lists_of_data_compose() -> None:
    """Data sets of single-trial betas are given with an experiment that takes betas."""
    text = (ROOT / "docs/data_fmri.md").read_text()
    commands = re.findall(r"`(decode [^`]+)`", text)
    assert commands
    for line in commands:
        words = shlex.split(line)[1:]
        assert any(w.startswith("experiment=") for w in words), line
        found = composed(*words)
        assert found["preprocess"]["trials"]["_target_"] == "decode.preprocessing.betas.beta_maps"
        roots = [w.removeprefix("data.root=") for w in words if w.startswith("data.root=")]
        assert roots == [found["data"]["root"]]


def command(start: str) -> list[str]:
    """The arguments of the guide's command that holds `start`."""
    for block in re.findall(r"```\n(decode .*?)```", GUIDE, re.DOTALL):
        for text in block.replace("\\\n", " ").splitlines():
            if start in text:
                return shlex.split(text)[1:]
    raise AssertionError(f"the guide has no command with {start!r}")


def placed(lab: Path, arguments: list[str]) -> list[str]:
    given = [f"paths.data={lab}" if a.startswith("paths.data=") else a for a in arguments]
    return [f"paths.outputs={lab}/outputs", *given]


def run(lab: Path, arguments: list[str]) -> pd.DataFrame:
    words = [sys.executable, "-m", "decode.cli", *placed(lab, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    return pd.read_json(left(done) / "summary.json")


def left(done: subprocess.CompletedProcess[str]) -> Path:
    """The folder that a command left, by its last line."""
    assert done.returncode == 0, done.stderr[-3000:]
    return Path(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
def test_the_guide_leads_from_betas_to_a_report(lab: Path) -> None:
    # A fork is enough for the first command, which trains nothing.
    folder = left(quick(*placed(lab, command("until=split"))))
    assert folder.parent.name == "split"
    # A quarter of the steps, whose pictures are worth as much here.
    summary = run(lab, [*command("generator=tiny_unclip"), "generator.steps=5"])
    found = summary.set_index(["source", "metric"])
    top1 = found.loc[("decoder", "retrieval_top1")]
    assert top1["value"] > 5 * top1["chance"]
    pixcorr = found["value"].xs("pixcorr", level="metric")
    assert pixcorr["decoder"] > pixcorr["shuffled"] + 0.1


@pytest.mark.slow
def test_the_guide_draws_the_curve_over_sessions(lab: Path) -> None:
    tiny = ["trainer=quick", "target@targets.image=tiny_clip", "target@targets.retrieval=tiny_clip"]
    summary = run(lab, [*command("sessions_1"), *tiny])
    assert set(summary["split"]) == {"sessions_1", "sessions_2"}
    (page,) = [
        p for p in (lab / "outputs" / "report").glob("*/report.html")
        if "Over training sessions" in p.read_text()
    ]  # fmt: skip
    assert "decoder" in page.read_text()
