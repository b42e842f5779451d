"""The package as others get it: a wheel, installed where no checkout is in sight."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from test_cli import SMALL

from decode.machine import DISTRIBUTION

ROOT = Path(__file__).resolve().parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def told(*command: str | Path, cwd: Path, env: Mapping[str, str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wheel")


@pytest.fixture(scope="module")
def alone() -> dict[str, str]:
    """The surroundings of a process that is told of no checkout."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}


@pytest.fixture(scope="module")
def wheel(place: Path, alone: dict[str, str]) -> Path:
    """Built with the installed hatchling, so that nothing is fetched."""
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    told(*pip, "--no-cache-dir", "--wheel-dir", place, ROOT, cwd=place, env=alone)
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(place: Path, wheel: Path, alone: dict[str, str]) -> Path:
    """Of an environment with the wheel alone; what it depends on is read from where it lies installed.

    Files that a checkout put there for itself (`*.pth`) are not followed from another environment.
    """
    venv.create(place / "env", with_pip=False)
    python = place / "env" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    told(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=place, env=alone)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(told(python, "-c", ask, cwd=place, env=alone))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.mark.slow
def test_the_wheel_holds_what_the_command_reads(wheel: Path) -> None:
    assert wheel.name == f"{DISTRIBUTION.replace('-', '_')}-{VERSION}-py3-none-any.whl"
    inside = set(zipfile.ZipFile(wheel).namelist())
    made_from = {p.relative_to(ROOT).as_posix() for p in (ROOT / "configs").rglob("*.yaml")}
    assert {f"decode/{name}" for name in made_from if "/local/" not in name} <= inside
    code = {p.relative_to(ROOT).as_posix() for p in (ROOT / "decode").rglob("*.py")}
    assert code <= inside
    assert {"decode/py.typed", "decode/tiny/clip/open_clip_config.json"} <= inside
    assert any(name.endswith("licenses/LICENSE") for name in inside)
    tops = {name.split("/")[0] for name in inside}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"decode"}


@pytest.mark.slow
def test_the_installed_command_goes_from_raw_files_to_a_report(
    place: Path, python: Path, alone: dict[str, str]
) -> None:
    ask = "import decode, decode.cli; print(decode.__file__, decode.cli.CONFIGS)"
    for found in told(python, "-c", ask, cwd=place, env=alone).split():
        assert Path(found).is_relative_to(place)
    command = python.with_name("decode")
    assert "quickstart_eeg" in told(command, "--help", cwd=place, env=alone)
    run = Path(told(command, "paths.outputs=o", *SMALL, cwd=place, env=alone).splitlines()[-1])
    assert run.is_relative_to(place)
    assert (run / "report.html").stat().st_size > 10_000
    about = (
        f"import importlib.metadata as m; print(m.metadata('{DISTRIBUTION}')['License-Expression'])"
    )
    assert told(python, "-c", about, cwd=place, env=alone) == "BSD-3-Clause"
