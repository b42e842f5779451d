"""Two-way identification and the image suite on 1000 pictures, beside numpy.corrcoef on everything.

Each variant runs in a process of its own, so that its peak memory is its own (what the imports take
is left out); all read the same pictures from the same files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import peak

N, BATCH = 1000, 32


def rows(sizes: tuple[int, ...] = (64, 128, 256)) -> list[dict[str, Any]]:
    """One row per variant and picture size: what, size, seconds, peak_mb, score."""
    return [row for size in sizes for row in rows_of(size)]


def rows_of(size: int) -> list[dict[str, Any]]:
    made = []
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), N, size)
        for variant in VARIANTS:
            command = [sys.executable, "-m", "benchmarks.image_metrics", variant, folder, str(size)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            found = json.loads(done.stdout.strip().splitlines()[-1])
            made.append({"what": variant, "size": f"{N} x {size}x{size}", **found})
    return made


def write_pictures(folder: Path, n: int, size: int) -> None:
    """Shown pictures and noisy copies as float32 files, and the shown ones as PNG."""
    from PIL import Image

    rng = np.random.default_rng(0)
    with open(folder / "shown.f32", "wb") as shown, open(folder / "made.f32", "wb") as made:
        for i in range(n):
            coarse = rng.random((3, 8, 8), dtype=np.float32)
            picture = coarse.repeat(size // 8, axis=1).repeat(size // 8, axis=2)
            raw = (picture * 255).astype(np.uint8)
            Image.fromarray(raw.transpose(1, 2, 0)).save(folder / f"{i}.png")
            true = raw / np.float32(255)
            noise = rng.standard_normal(true.shape, dtype=np.float32)
            shown.write(true.tobytes())
            made.write(np.clip(0.05 * true + 0.5 + noise, 0, 1).tobytes())


def read(folder: Path, name: str, size: int, start: int = 0, stop: int = N) -> np.ndarray:
    """Pictures `start` to `stop` (picture, 3, size, size); read, not mapped, so that it counts."""
    values = 3 * size * size
    found = np.fromfile(
        folder / f"{name}.f32", np.float32, count=(stop - start) * values, offset=start * values * 4
    )
    return found.reshape(-1, 3, size, size)


def two_way_corrcoef(folder: Path, size: int) -> float:
    """Everything in one correlation matrix."""
    made, shown = (read(folder, name, size).reshape(N, -1) for name in ("made", "shown"))
    similar = np.corrcoef(made, shown)[:N, N:]
    return float((similar < np.diag(similar)[:, None]).sum() / (N * (N - 1)))


def two_way_streamed(folder: Path, size: int) -> float:
    """References outside memory, made pictures in batches."""
    from decode.metrics.image import COMPARED
    from decode.scoring.identification import references, share_beaten

    share = []
    with references(N, ["pixels"]) as stores:
        for start in range(0, N, BATCH):
            stores["pixels"].append(read(folder, "shown", size, start, min(start + BATCH, N)))
        for start in range(0, N, COMPARED):
            made = read(folder, "made", size, start, min(start + COMPARED, N))
            own = np.arange(start, start + len(made))
            rival = np.arange(N)[None, :] != own[:, None]
            share.append(share_beaten(stores["pixels"].correlate(made), own, rival))
    return float(np.concatenate(share).mean())


def image_suite(folder: Path, size: int) -> float:
    """The native suite from PNG files: pixcorr, ssim, mse with their chance, two-way by pixels."""
    from decode.scoring.feature_networks import Pixels

    return suite(folder, size, Pixels())


def image_suite_offline(folder: Path, size: int) -> float:
    """The same with EfficientNet-Lite0, which stands in for the networks of the published suites."""
    from decode.scoring.feature_networks import EfficientNetLite0, Pixels

    return suite(folder, size, Pixels(), EfficientNetLite0())


def suite(folder: Path, size: int, *networks: Any) -> float:
    import pandas as pd
    import torch

    from decode.core import Media, Results, Stimulus
    from decode.metrics.image import ImageSuite

    class Made:
        """Made pictures read one at a time."""

        def __len__(self) -> int:
            return N

        def __getitem__(self, i: int) -> Media:
            return Media("image", torch.from_numpy(read(folder, "made", size, i, i + 1)[0]))

    shown = [Stimulus(str(i), "image", str(folder / f"{i}.png")) for i in range(N)]
    trials = pd.DataFrame(
        {"subject": "a", "split": "test", "fold": 0, "stimulus": [s.uid for s in shown]}
    )
    results = Results(trials, {}, {}, shown, Made())  # type: ignore[arg-type]
    rows = ImageSuite(two_way=list(networks), batch=BATCH)(results)
    return float(rows.loc[rows["metric"] == "two_way_pixels", "value"].mean())


VARIANTS = {
    "two-way numpy.corrcoef": two_way_corrcoef,
    "two-way decode, streamed": two_way_streamed,
    "image suite decode": image_suite,
    "image suite decode, EfficientNet-Lite0": image_suite_offline,
}


def measure(variant: str, folder: Path, size: int) -> dict[str, float]:
    """Seconds, peak memory above what the imports took, and the score, of one variant."""
    import skimage.metrics  # noqa: F401

    import decode.metrics.image  # noqa: F401

    before = peak()
    start = time.perf_counter()
    score = VARIANTS[variant](folder, size)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mb": peak() - before, "score": score}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
