"""Time and peak memory of each stage on simulated fMRI at 1x, 4x and 16x the size.

Every stage runs in a process of its own, so that its peak is its own. Sizes multiply the trials.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

STAGES = ("preprocess", "split", "features", "train", "predict", "reconstruct", "evaluate")
CHILD = """
import json, sys, time
from benchmarks.memory import peak
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from decode.cli import CONFIGS
from decode.pipeline import execute
from decode.workshop import Run
stage, overrides = sys.argv[1], sys.argv[2:]
with initialize_config_dir(str(CONFIGS), version_base="1.3"):
    composed = compose("config", overrides=overrides)
config = OmegaConf.to_container(composed, resolve=True)
run = Run(config)
before = peak()
start = time.perf_counter()
execute(run, until=stage, force=[], say=lambda s: None)
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "peak_mb": peak(), "above_imports_mb": peak() - before}))
"""
BASE_TRAIN, BASE_TEST = 250, 40


def rows(sizes: tuple[int, ...] = (1, 4, 16)) -> list[dict[str, Any]]:
    """One row per stage and size: what, size, seconds, peak_mb, above_imports_mb."""
    made = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            overrides = [
                "experiment=quickstart",
                f"paths.outputs={folder}",
                f"data.n_train={BASE_TRAIN * size}",
                f"data.n_test={BASE_TEST}",
                "data.n_subjects=1",
            ]
            for stage in STAGES:
                command = [sys.executable, "-c", CHILD, stage, *overrides]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise RuntimeError(done.stderr[-2000:])
                found = json.loads(done.stdout.strip().splitlines()[-1])
                made.append({"what": f"stage {stage}", "size": f"{size}x", **found})
                assert Path(folder).is_dir()
    return made
