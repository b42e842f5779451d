"""Nothing heavy loads before it is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "mne", "nilearn", "diffusers", "transformers", "open_clip", "hydra", "sklearn")
# What no plan needs that was made before.
LATE = ("torch", "scipy", "sklearn", "mne", "nilearn", "diffusers", "transformers")


def _loaded(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_decode_loads_nothing_heavy() -> None:
    assert _loaded("import decode") == set()


def test_the_command_starts_without_torch() -> None:
    assert _loaded("import decode.cli; decode.cli.list_choices(decode.cli.CONFIGS)") == set()


@pytest.mark.slow
def test_binding_an_experiment_loads_no_generator_library() -> None:
    statement = (
        "from test_configs import composed\n"
        "from decode.checks.arguments import check\n"
        "c = composed('experiment=quickstart')\n"
        "for node in c.values(): check(node, 'c')\n"
    )
    path = "import sys; sys.path.insert(0, 'tests')\n"
    loaded = _loaded(path + statement)
    assert not loaded & {"diffusers", "transformers", "open_clip", "mne", "nilearn"}


def _modules(arguments: str, cache: Path) -> tuple[set[str], str]:
    """What the command loads, and what it prints."""
    code = (
        "import sys\nfrom decode import cli\n"
        f"sys.argv = ['decode', *{arguments.split()!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        f"print(' '.join(m for m in {LATE!r} if m in sys.modules))"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    *lines, last = done.stdout.splitlines()
    return set(last.split()), "\n".join(lines) + done.stderr


@pytest.mark.slow
def test_a_plan_that_was_made_before_loads_no_torch(tmp_path: Path) -> None:
    asked = f"dry=true paths.outputs={tmp_path / 'outputs'}"
    _, first = _modules(asked, tmp_path)
    loaded, again = _modules(f"{asked} seed=3 name=again", tmp_path)
    assert loaded == set()
    # Another seed is another training, on the same features.
    assert [line for line in first.splitlines() if "/train/" not in line][:6] == [
        line for line in again.splitlines() if "/train/" not in line
    ][:6]
    assert not (tmp_path / "outputs").exists()
    loaded, told = _modules(f"{asked} encoder.widht=3", tmp_path)
    assert loaded == set()
    assert "takes, got 'widht'; did you mean 'width'?" in told


@pytest.mark.slow
def test_a_misspelt_key_loads_no_torch(tmp_path: Path) -> None:
    loaded, told = _modules("sede=1", tmp_path)
    assert loaded == set()
    assert "unknown key 'sede'" in told
