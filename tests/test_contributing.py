"""The worked example of CONTRIBUTING.md, typed as it stands into a copy of the checkout."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"(?ms)^`([\w/]+\.(?:py|yaml))`:\n\n```(?:python|yaml)\n(.*?)^```$", PAGE))
FENCED = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", PAGE)
TYPED = [line for kind, text in FENCED if not kind for line in text.splitlines()]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("contributing") / "decode"
    place.mkdir()
    for name in ("decode", "configs", "tests"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    for name, text in FILES.items():
        assert not (place / name).exists(), f"{name} is there already: choose another example"
        (place / name).write_text(text)
    return place


def typed(line: str, checkout: Path) -> str:
    """Standard output of a line of the page, run in the copy."""
    assert TYPED.count(line) == 1, line
    words = shlex.split(line.replace("/where/data/lie", str(checkout / "data")))
    modules = {"decode": ["-m", "decode.cli"], "pytest": ["-m", "pytest"]}
    command = [sys.executable, *modules.get(words[0], []), *words[1:]]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=checkout, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_every_file_of_the_example_lies_in_a_room_of_the_house() -> None:
    rooms = {
        "data",
        "preprocess",
        "target",
        "encoder",
        "metric",
        "experiment",
        "objective",
        "trainer",
    }
    assert {name.split("/")[1] for name in FILES if name.startswith("configs/")} == rooms
    for name, text in FILES.items():
        if name.startswith("configs/") and (target := yaml.safe_load(text).get("_target_")):
            module = target.rpartition(".")[0].replace(".", "/") + ".py"
            assert module in FILES or (ROOT / module).is_file(), name


def test_the_example_is_written_as_the_checks_want_it(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for check in (["check"], ["format", "--check"]):
        command = [
            sys.executable,
            "-m",
            "ruff",
            *check,
            "--config",
            ROOT / "pyproject.toml",
            tmp_path,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_example_decodes_what_was_heard(checkout: Path) -> None:
    typed("python make_tones.py /where/data/lie", checkout)
    run = "decode experiment=tones paths.data=/where/data/lie"
    assert "to do" in typed(f"{run} dry=true", checkout)
    folder = Path(typed(run, checkout).strip().splitlines()[-1])
    assert folder.is_relative_to(checkout)
    summary = pd.read_json(folder / "summary.json")
    everyone = summary[(summary["metric"] == "rank") & (summary["subject"] == "all")]
    decoded = everyone[everyone["source"] == "decoder"].iloc[0]
    assert decoded["ci_low"] > decoded["chance"] == 0.5
    assert decoded["value"] > 0.75
    assert "farther from the prediction" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_the_contract_tests_find_the_example(checkout: Path) -> None:
    (line,) = [line for line in TYPED if line.startswith("pytest -rA")]
    said = typed(line, checkout)
    for name in ("tones", "spectrum", "bottleneck", "rank"):
        assert re.search(rf"PASSED.*\b{name}\b", said), name
