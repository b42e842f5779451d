"""Nothing heavy loads before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "mne", "nilearn", "diffusers", "transformers", "open_clip", "hydra", "sklearn")


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
        "from decode.building import check\n"
        "c = composed('experiment=quickstart')\n"
        "for node in c.values(): check(node, 'c')\n"
    )
    path = "import sys; sys.path.insert(0, 'tests')\n"
    loaded = _loaded(path + statement)
    assert not loaded & {"diffusers", "transformers", "open_clip", "mne", "nilearn"}
