"""Two-way identification and the image suite on 1000 pictures, beside numpy.corrcoef on everything.

Each variant runs in a process of its own, so that its peak memory is its own; both read the same
arrays from the same files, in blocks, as features arrive in practice.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

N, SIZE, BATCH = 1000, 128, 32


def rows(n: int = N, size: int = SIZE) -> list[dict[str, Any]]:
    """One row per variant: what, size, seconds, peak_mb, score."""
    made = []
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), n, size)
        for variant in VARIANTS:
            command = [sys.executable, "-m", "benchmarks.image_metrics", variant, folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            found = json.loads(done.stdout.strip().splitlines()[-1])
            made.append({"what": variant, "size": f"{n} pictures of {size}x{size}", **found})
    return made


def write_pictures(folder: Path, n: int, size: int) -> None:
    """Shown pictures and noisy copies as float32 files, and the shown ones as PNG."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("shown", "made"):
        np.lib.format.open_memmap(
            folder / f"{name}.npy", "w+", np.float32, (n, 3, size, size)
        ).flush()
    shown = np.load(folder / "shown.npy", mmap_mode="r+")
    made = np.load(folder / "made.npy", mmap_mode="r+")
    for i in range(n):
        coarse = rng.random((3, 8, 8), dtype=np.float32)
        picture = coarse.repeat(size // 8, axis=1).repeat(size // 8, axis=2)
        raw = (picture * 255).astype(np.uint8)
        Image.fromarray(raw.transpose(1, 2, 0)).save(folder / f"{i}.png")
        shown[i] = raw / np.float32(255)
        noise = 0.9 * rng.standard_normal(shown[i].shape, dtype=np.float32)
        made[i] = np.clip(shown[i] + noise, 0, 1)
    shown.flush()
    made.flush()


def opened(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("made", "shown"))  # type: ignore[return-value]


def two_way_corrcoef(folder: Path) -> float:
    """Everything in one correlation matrix."""
    made, shown = (np.asarray(x).reshape(len(x), -1) for x in opened(folder))
    n = len(made)
    similar = np.corrcoef(made, shown)[:n, n:]
    return float((similar < np.diag(similar)[:, None]).sum() / (n * (n - 1)))


def two_way_streamed(folder: Path) -> float:
    """References on disk, made pictures in batches."""
    from decode.identification import references, share_beaten

    made, shown = opened(folder)
    n = len(made)
    share = []
    with references(n, ["pixels"]) as stores:
        for start in range(0, n, BATCH):
            stores["pixels"].append(np.asarray(shown[start : start + BATCH]))
        for start in range(0, n, BATCH):
            similar = stores["pixels"].correlate(np.asarray(made[start : start + BATCH]))
            own = np.arange(start, start + len(similar))
            rival = np.arange(n)[None, :] != own[:, None]
            share.append(share_beaten(similar, own, rival))
    return float(np.concatenate(share).mean())


def image_suite(folder: Path) -> float:
    """The whole native suite from PNG files: pixcorr, ssim, mse, their chance, two-way by pixels."""
    import pandas as pd
    import torch

    from decode.core import Media, Results, Stimulus
    from decode.feature_networks import Pixels
    from decode.metrics.image import ImageSuite

    pictures, _ = opened(folder)

    class Made:
        """Made pictures read one at a time."""

        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, i: int) -> Media:
            return Media("image", torch.from_numpy(np.array(pictures[i])))

    shown = [Stimulus(str(i), "image", str(folder / f"{i}.png")) for i in range(len(pictures))]
    trials = pd.DataFrame(
        {"subject": "a", "split": "test", "fold": 0, "stimulus": [s.uid for s in shown]}
    )
    results = Results(trials, {}, {}, shown, Made())  # type: ignore[arg-type]
    rows = ImageSuite(two_way=[Pixels()], batch=BATCH)(results)
    return float(rows.loc[rows["metric"] == "two_way_pixels", "value"].mean())


VARIANTS = {
    "two-way numpy.corrcoef": two_way_corrcoef,
    "two-way decode, streamed": two_way_streamed,
    "image suite decode": image_suite,
}


def measure(variant: str, folder: Path) -> dict[str, float]:
    start = time.perf_counter()
    score = VARIANTS[variant](folder)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mb": peak, "score": score}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
