"""The ridges of Brain-Diffuser at 1/8 of every size: one scikit-learn fit per token against ours.

The published script fits one `Ridge` per CLIP-vision token (257), one per CLIP-text token (77) and
one for the VDVAE latents, each time from the same voxels, and keeps all weights. Ours factors the
voxels once and reads targets in blocks. Same arrays, same threads, each in a fresh process.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import anonymous, watched

SCALE = 8
TRIALS, TEST, VOXELS = 8859 // SCALE, 982 // SCALE, 15724 // SCALE
TARGETS = {
    "image": (257, 768 // SCALE, 60000.0),
    "text": (77, 768 // SCALE, 100000.0),
    "lowlevel": (1, 91168 // SCALE, 50000.0),
}


def write_arrays(folder: Path) -> None:
    """Voxels and targets as .npy files, which both sides map into memory."""
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.standard_normal((TRIALS, VOXELS), dtype=np.float32))
    np.save(folder / "new.npy", rng.standard_normal((TEST, VOXELS), dtype=np.float32))
    for name, (tokens, width, _) in TARGETS.items():
        shape = (TRIALS, tokens, width)
        np.save(folder / f"{name}.npy", rng.standard_normal(shape, dtype=np.float32))


def per_token(folder: Path) -> dict[str, np.ndarray]:
    """What the published script does: a fit per token, weights kept."""
    from sklearn.linear_model import Ridge

    x, new = np.load(folder / "x.npy"), np.load(folder / "new.npy")
    made = {}
    for name, (tokens, width, alpha) in TARGETS.items():
        y = np.load(folder / f"{name}.npy")
        weights = np.zeros((tokens, width, x.shape[1]), np.float32)
        predicted = np.zeros((len(new), tokens, width), np.float32)
        for token in range(tokens):
            fit = Ridge(alpha=alpha, max_iter=10000, fit_intercept=True).fit(x, y[:, token])
            weights[token], predicted[:, token] = fit.coef_, fit.predict(new)
        made[name] = predicted
        np.save(folder / f"weights-{name}.npy", weights)
    return made


def ours(folder: Path) -> dict[str, np.ndarray]:
    import torch

    from decode.linear.dual import FixedDual

    x, new = torch.from_numpy(np.load(folder / "x.npy")), np.load(folder / "new.npy")
    solve = FixedDual(x)
    mean = solve.mean.to(x)
    kernel = (torch.from_numpy(new) - mean) @ (x - mean).T
    made = {}
    for name, (tokens, width, alpha) in TARGETS.items():
        y = np.load(folder / f"{name}.npy", mmap_mode="r").reshape(len(x), -1)
        out = np.empty((len(new), y.shape[1]), np.float32)
        coefficients = np.lib.format.open_memmap(
            folder / f"dual-{name}.npy", "w+", np.float32, y.shape
        )
        for first in range(0, y.shape[1], 1024):
            b = slice(first, first + 1024)
            block = torch.from_numpy(np.ascontiguousarray(y[:, b]))
            part, intercept = solve(block, alpha)
            coefficients[:, b] = part.numpy()
            out[:, b] = (kernel @ part + intercept).numpy()
        made[name] = out.reshape(len(new), tokens, width)
    return made


CONTENDERS = {"scikit-learn, one fit per token": per_token, "decode, one factorisation": ours}


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Seconds, and the most memory held beyond what was there before."""
    for module in ("sklearn.linear_model", "torch", "decode.linear.dual"):
        importlib.import_module(module)
    before = anonymous()
    made, seconds, peak = watched(lambda: CONTENDERS[name](folder), every=0.002)
    for target, array in made.items():
        np.save(folder / f"{name[:4]}-{target}.npy", array)
    return {"seconds": round(seconds, 2), "peak_mb": round(peak - before)}


def rows() -> list[dict[str, Any]]:
    """One row per contender: seconds, extra peak memory, and how far predictions are apart."""
    out = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_arrays(folder)
        for name in CONTENDERS:
            command = [sys.executable, "-m", "benchmarks.brain_diffuser", name, place]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            out.append({"what": name, "size": "1/8", **json.loads(done.stdout.splitlines()[-1])})
        first, second = (name[:4] for name in CONTENDERS)
        apart = 0.0
        for target in TARGETS:
            a, b = (np.load(folder / f"{n}-{target}.npy") for n in (first, second))
            apart = max(apart, float(np.linalg.norm(a - b) / np.linalg.norm(a)))
        out[-1]["apart"] = f"{apart:.1e}"
    return out


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
    else:
        for row in rows():
            print(row)
