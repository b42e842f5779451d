"""Models of the hub where it cannot be reached: one line, soon; what is cached is still read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from decode.core import InputError
from decode.weights.hub import from_hub, reachable

NOBODY = "http://127.0.0.1:9"
OPEN = {
    "open_clip": "from decode.targets.open_clip import OpenClip as T\n"
    "T('ViT-B-32-quickgelu', pretrained='openai').open()",
    "timm": "from decode.targets.timm import Timm as T\nT('convnext_tiny.fb_in22k', output='pooled').open()",
    "dinov2": "from decode.targets.dinov2 import Dinov2 as T\nT().open()",
    "metric": "import torch\nfrom decode.scoring.feature_networks import OpenClip as T\n"
    "T(device='cpu')(torch.zeros(1, 3, 8, 8))",
}
LINE = """
import sys
from decode.core import InputError
try:
{body}
except InputError as e:
    print(f"error: {{e}}", file=sys.stderr)
"""


def elsewhere(home: Path) -> dict[str, str]:
    """An environment whose hub nobody answers for, with an empty cache."""
    return {**os.environ, "HF_ENDPOINT": NOBODY, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}


@pytest.mark.slow  # its own process: addresses and caches are read when libraries are imported
def test_a_model_that_cannot_be_fetched_is_one_line(tmp_path: Path) -> None:
    tries = [code.replace("\n", "\n    ") for code in OPEN.values()]
    script = "".join(LINE.format(body="    " + code) for code in tries)
    command = [sys.executable, "-W", "ignore", "-c", script]
    # The libraries by themselves ask for about a minute each.
    done = subprocess.run(
        command, capture_output=True, text=True, env=elsewhere(tmp_path), check=False, timeout=80
    )
    assert done.returncode == 0
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == len(OPEN), done.stderr
    for line in lines:
        assert line.startswith("error: model ")
        assert f"it on this machine, or {NOBODY} within reach, got neither: no network" in line
        assert line.endswith("or give a local folder")
        assert "spelling" not in line


CACHED = """
import logging
from huggingface_hub import constants, hf_hub_download
from decode.weights.hub import from_hub
with from_hub("lab/net"):
    print(open(hf_hub_download("lab/net", "config.json")).read())
assert constants.HF_HUB_OFFLINE is False
assert logging.root.manager.disable == 0
"""


@pytest.mark.slow  # as above
def test_what_is_cached_needs_no_network(tmp_path: Path) -> None:
    repository = tmp_path / "hub/models--lab--net"
    snapshot = repository / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("c" * 40)
    (snapshot / "config.json").write_text("{}")
    command = [sys.executable, "-c", CACHED]
    done = subprocess.run(
        command, capture_output=True, text=True, env=elsewhere(tmp_path), check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout.strip(), done.stderr) == ("{}", "")


def test_folders_and_other_mistakes_are_left_alone(tmp_path: Path) -> None:
    """Tests run with HF_HUB_OFFLINE set, so that nobody is asked here."""
    assert not reachable()
    (tmp_path / "config.json").write_text("{}")
    for model in (str(tmp_path), f"local-dir:{tmp_path}", "package:tiny/clip", "resnet18"):
        with pytest.raises(ValueError, match="as it was"), from_hub(model):
            raise ValueError("as it was")
    with (
        pytest.raises(InputError, match="org/absent': expected it on this machine"),
        from_hub("org/absent"),
    ):
        raise ValueError("whatever a library says")
