"""The ridges of Brain-Diffuser at their real size: 8,859 trials, 15,724 voxels, 347,680 targets.

Not part of `make bench`: it takes ten minutes, 4 GB of memory and 32 GB of disk. Targets come from the
feature store a block of columns at a time; weights are saved, and read again in a fresh process to
predict the 982 test trials. A few columns are compared with scikit-learn's `Ridge` in float64.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from benchmarks.memory import watched
from benchmarks.training import layout
from decode.building import build
from decode.cli import CONFIGS
from decode.store import read_tensors, write_tensors
from decode.trainable import Encoder
from decode.trials import Loader, SubjectSignal, Trials
from decode.vectors import FeatureStore

TRIALS, TEST, VOXELS = 8859, 982, 15724
TARGETS = {"image": (257, 768), "text": (77, 768), "lowlevel": (91168,)}
ALPHAS = {"image": 60000.0, "text": 100000.0, "lowlevel": 50000.0}
COMPARED = 4  # columns of each target


def write_arrays(folder: Path, scale: int) -> None:
    """Random voxels, and targets that depend on 50 of them, as fp16 shards of 500 pictures."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((TRIALS // scale + TEST // scale, VOXELS // scale), np.float32)
    np.save(folder / "voxels.npy", x)
    n = TRIALS // scale
    for name, shape in TARGETS.items():
        width = int(np.prod(shape)) // scale
        mix = rng.standard_normal((50, width), np.float32)
        store = FeatureStore(folder / name)
        for first in range(0, n, 500):
            known = x[first : min(first + 500, n), :50] @ mix
            known += rng.standard_normal(known.shape, np.float32)
            digests = [f"{i:06d}" for i in range(first, first + len(known))]
            store.append(digests, known.astype(np.float16))


def make_encoder(folder: Path) -> Encoder:
    node = yaml.safe_load((CONFIGS / "encoder" / "ridge_brain_diffuser.yaml").read_text())
    voxels = np.load(folder / "voxels.npy", mmap_mode="r").shape[1]
    shapes = {name: FeatureStore(folder / name).shape for name in TARGETS}
    made: Encoder = build(node)({"s": layout(voxels)}, shapes)
    return made


def loader(folder: Path, rows: slice, names: tuple[str, ...]) -> Loader:
    x = np.load(folder / "voxels.npy", mmap_mode="r")[rows]
    digests = [f"{i:06d}" for i in range(len(x))]
    table = pd.DataFrame({"subject": "s", "stimulus": digests, "start": np.arange(len(x))})
    trials = Trials.of(
        table, {"s": SubjectSignal(np.ascontiguousarray(x), layout(x.shape[1]), None)}
    )
    stores = {name: FeatureStore(folder / name) for name in names}
    return trials.loader(stores, {d: d for d in digests}, batch_size=512, shuffle=False, seed=0)


def n_test(folder: Path) -> int:
    trials = np.load(folder / "voxels.npy", mmap_mode="r").shape[0]
    return round(trials * TEST / (TRIALS + TEST))


def fit(folder: Path) -> None:
    encoder = make_encoder(folder)
    encoder.initialise(loader(folder, slice(0, -n_test(folder)), tuple(TARGETS)), [])
    write_tensors(folder / "ridge.safetensors", encoder.state_dict())


@torch.no_grad()
def predict(folder: Path) -> None:
    encoder = make_encoder(folder)
    encoder.load_state_dict(read_tensors(folder / "ridge.safetensors"))
    n = n_test(folder)
    made = {
        name: np.lib.format.open_memmap(folder / f"made-{name}.npy", "w+", np.float32, (n, *shape))
        for name, shape in ((k, FeatureStore(folder / k).shape) for k in TARGETS)
    }
    for batch in loader(folder, slice(-n, None), ()):
        for name, values in encoder(batch).items():
            made[name][batch.trial.numpy()] = values.numpy()


STEPS = {"fit": fit, "predict": predict}


def measure(step: str, folder: Path) -> dict[str, Any]:
    """Seconds and the most memory that no file backs, of a whole process."""
    _, seconds, peak = watched(lambda: STEPS[step](folder), every=0.05)
    return {"seconds": round(seconds), "peak_mb": round(peak)}


def apart(folder: Path) -> float:
    """Largest relative difference of a few columns from scikit-learn's ridge in float64.

    Predictions of ours carry the leave-one-out rescaling, which is undone by a fit of one factor.
    """
    from sklearn.linear_model import Ridge

    x, n = np.load(folder / "voxels.npy").astype(np.float64), n_test(folder)
    worst = 0.0
    for name, alpha in ALPHAS.items():
        store, made = FeatureStore(folder / name), np.load(folder / f"made-{name}.npy")
        chosen = np.linspace(0, np.prod(store.shape) - 1, COMPARED).astype(int)
        digests = [f"{i:06d}" for i in range(len(x) - n)]
        y = np.concatenate([store.columns(digests, slice(c, c + 1)).numpy() for c in chosen], 1)
        want = Ridge(alpha=alpha).fit(x[:-n], y.astype(np.float64)).predict(x[-n:])
        got = made.reshape(n, -1)[:, chosen].astype(np.float64)
        want, got = want - want.mean(0), got - got.mean(0)
        got *= np.linalg.norm(want, axis=0) / np.linalg.norm(got, axis=0)
        worst = max(
            worst, float((np.linalg.norm(want - got, axis=0) / np.linalg.norm(want, axis=0)).max())
        )
    return worst


def rows(scale: int = 1) -> list[dict[str, Any]]:
    """A row for fitting and one for predicting, each in a fresh process."""
    out = []
    with tempfile.TemporaryDirectory() as place:
        write_arrays(Path(place), scale)
        for step in STEPS:
            command = [sys.executable, "-m", "benchmarks.full_ridge", step, place]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            measured = json.loads(done.stdout.splitlines()[-1])
            out.append({"what": step, "size": f"1/{scale}", **measured})
        out[-1]["apart"] = f"{apart(Path(place)):.1e}"
    return out


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
    else:
        for row in rows(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
            print(row)
