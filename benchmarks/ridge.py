"""Ridge beside scikit-learn and himalaya: time, peak memory and agreement on the same arrays.

Every contender chooses one strength per target by leave-one-out or five-fold cross-validation on
the same grid and predicts the same test rows. Each size and contender runs in a fresh process, one
after the other, so that peak memory is its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.memory import peak

SIZES = ((1500, 1500, 512), (750, 6000, 512), (6000, 1000, 512))
ALPHAS = tuple(10.0**e for e in range(0, 7))


def arrays(n: int, p: int, t: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test features and targets, float32: a linear code in noise."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((p, t), dtype=np.float32) / np.float32(p**0.5)
    x = rng.standard_normal((n + 200, p), dtype=np.float32)
    y = x @ weights + np.float32(0.5) * rng.standard_normal((n + 200, t), dtype=np.float32)
    return x[:n], y[:n], x[n:], y[n:]


def ours(x: np.ndarray, y: np.ndarray, new: np.ndarray, by: str) -> np.ndarray:
    import torch

    from decode.linear.ridge import ridge

    fit = ridge(x, y, alphas=ALPHAS, by="gcv" if by == "gcv" else "loo")
    return fit(torch.from_numpy(new)).numpy()


def sklearn(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import RidgeCV

    return RidgeCV(alphas=ALPHAS, alpha_per_target=True).fit(x, y).predict(new)


def himalaya(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    from himalaya.kernel_ridge import KernelRidgeCV
    from himalaya.ridge import RidgeCV

    if x.shape[0] < x.shape[1]:
        centre, mean = x.mean(0), y.mean(0)
        model = KernelRidgeCV(alphas=ALPHAS, cv=5).fit(x - centre, y - mean)
        return model.predict(new - centre) + mean
    return RidgeCV(alphas=ALPHAS, cv=5, fit_intercept=True).fit(x, y).predict(new)


CONTENDERS: dict[str, Callable[..., np.ndarray]] = {
    "decode, leave-one-out": lambda x, y, new: ours(x, y, new, "loo"),
    "decode, generalised": lambda x, y, new: ours(x, y, new, "gcv"),
    "scikit-learn RidgeCV, leave-one-out": sklearn,
    "himalaya, 5 folds": himalaya,
}


def measure(name: str, n: int, p: int, t: int) -> dict[str, Any]:
    """One contender on one size, in this process."""
    x, y, new, truth = arrays(n, p, t)
    CONTENDERS[name](x[:50, :20], y[:50, :3], new[:, :20])  # imports and first-call work
    before = peak()
    start = time.perf_counter()
    made = CONTENDERS[name](x, y, new)
    seconds = time.perf_counter() - start
    more = peak() - before
    error = float(np.square(made - truth).mean() / truth.var())
    return {
        "benchmark": "ridge",
        "what": name,
        "size": f"{n} trials x {p} features x {t} targets",
        "seconds": round(seconds, 3),
        "peak_mb": round(more, 1),
        "test_error": round(error, 4),
    }


def rows(sizes: tuple[tuple[int, int, int], ...] = SIZES) -> list[dict[str, Any]]:
    """One row per size and contender: seconds, extra peak memory in MB, error on unseen rows."""
    out = []
    for size in sizes:
        for name in CONTENDERS:
            command = [sys.executable, "-m", "benchmarks.ridge", name, *map(str, size)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            out.append(json.loads(done.stdout.splitlines()[-1]))
    return out


def main() -> None:
    if len(sys.argv) > 1:
        name, *size = sys.argv[1:]
        print(json.dumps(measure(name, *map(int, size))))
        return
    for row in rows():
        print(
            f"{row['size']:45s} {row['what']:38s} {row['seconds']:8.2f} s "
            f"{row['peak_mb']:8.0f} MB   error {row['test_error']}"
        )


if __name__ == "__main__":
    main()
