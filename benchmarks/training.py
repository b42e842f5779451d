"""The data path beside the step, and a factorised head beside a dense one.

The data path is measured at 1/16 of MindEye's sizes. Heads are compared in memory at MindEye2's
real size (counted on the meta device: weights, gradients and two moments in float32) and in retrieval
on simulated voxels, where both are trained alike.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from decode.building import build
from decode.cli import CONFIGS
from decode.core import Encoder, Layout
from decode.objectives.infonce import InfoNCE
from decode.objectives.mse import MSE
from decode.objectives.prior import Prior
from decode.store import FeatureStore
from decode.training import Trainer, fit, loss_terms
from decode.trials import Loader, SubjectSignal, Trials

SCALE = 16
TRIALS, VOXELS, TOKENS, WIDTH, BATCH = 8859, 15724 // SCALE, 257, 768 // SCALE, 32
STEPS = 20
# Numbers per token of a factorised head, which keeps a quarter and an eighth of the dense one's weights here;
# 128 of MindEye2's real size keep a thirteenth.
HEADS = {"dense": None, "factorised, rank 16": 16, "factorised, rank 8": 8}
WORLDS, TESTS, GALLERY = 5, 3000, 300


def layout(voxels: int) -> Layout:
    names = tuple(f"v{i}" for i in range(voxels))
    return Layout("fmri", names, np.full((voxels, 3), np.nan), ("",) * voxels, 1.0, 1)


def loader(brain: np.ndarray, targets: np.ndarray, folder: Path, *, shuffle: bool) -> Loader:
    """Trials (trial, voxel) and the features (trial, *shape) of a picture each, on disk."""
    digests = [f"{i:06d}" for i in range(len(brain))]
    store = FeatureStore(folder)
    store.append(digests, targets.astype(np.float32))
    table = pd.DataFrame({"subject": "s", "stimulus": digests, "start": np.arange(len(brain))})
    signal = SubjectSignal(brain.astype(np.float32), layout(brain.shape[1]), None)
    names = dict.fromkeys(("image", "retrieval"), store)
    same = {d: d for d in digests}
    return Trials.of(table, {"s": signal}).loader(
        names, same, batch_size=BATCH, shuffle=shuffle, seed=0
    )


def encoder(name: str, voxels: int, shape: tuple[int, ...], **changes: Any) -> Encoder:
    node = yaml.safe_load((CONFIGS / "encoder" / f"{name}.yaml").read_text())
    inner = changes.pop("inner")
    node |= changes
    node["inner"] |= inner
    made: Encoder = build(node)({"s": layout(voxels)}, {"image": shape, "retrieval": shape})
    return made


def data_path(folder: Path) -> list[dict[str, Any]]:
    """Seconds per step of training, and of reading batches alone."""
    rng = np.random.default_rng(0)
    brain = rng.standard_normal((TRIALS, VOXELS), np.float32)
    targets = rng.standard_normal((TRIALS, TOKENS, WIDTH), np.float32)
    batches = loader(brain, targets, folder / "path", shuffle=True)
    model = encoder(
        "mindeye1", VOXELS, (TOKENS, WIDTH), depth=6, heads=3, head_width=16,
        inner={"width": 4096 // SCALE, "projector": 2048 // SCALE},
    )  # fmt: skip
    objectives = {
        "mse": MSE(target="image"),
        "contrast": InfoNCE(target="retrieval"),
        "prior": Prior(),
    }
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    next(iter(batches.epoch(0)))  # the one read from disk
    start = time.perf_counter()
    for _ in batches.epoch(1):
        pass
    reading = (time.perf_counter() - start) / len(batches)
    model.train()
    start = time.perf_counter()
    for step, batch in enumerate(batches.epoch(2)):
        if step == STEPS:
            break
        loss = torch.stack(list(loss_terms(model, objectives, batch, 0.5).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    whole = (time.perf_counter() - start) / STEPS
    size = f"MindEye1 / {SCALE}, batch {BATCH}"
    return [
        {"what": "training step", "size": size, "seconds": whole},
        {"what": "... of it reading the batch", "size": size, "seconds": reading,
         "share": f"{100 * reading / whole:.1f} %"},
    ]  # fmt: skip


def heads(folder: Path) -> list[dict[str, Any]]:
    """Memory of either head at real size, and what each retrieves in simulated worlds, the same ones."""
    found: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for seed in range(WORLDS):
        place = folder / f"world{seed}"
        train, test = world(place, seed)
        for head, rank in HEADS.items():
            start = time.perf_counter()
            score = learnt(place / head, rank, train, test, seed)
            seconds.setdefault(head, []).append(time.perf_counter() - start)
            found.setdefault(head, []).append(score)
    size = f"{WORLDS} worlds of 3000 trials, 32 x 64 tokens, {TESTS} test trials"
    rows: list[dict[str, Any]] = []
    for head in HEADS:
        row = {"what": f"{head} head", "size": size, "seconds": float(np.mean(seconds[head]))}
        apart = np.subtract(found[head], found["dense"])
        error = apart.std(ddof=1) / len(apart) ** 0.5
        row["retrieval"] = round(float(np.mean(found[head])), 4)
        row["less_dense"] = f"{apart.mean():+.4f} (standard error {error:.4f})"
        rows.append(row)
    memory = [
        {"what": f"{head} head of MindEye2, its memory", "memory_gb": real_memory(head)}
        for head in ("dense", "factorised")
    ]
    return [*rows, *memory]


def world(folder: Path, seed: int) -> tuple[Loader, Loader]:
    """Voxels and tokens that share 64 dimensions, to train on and to test."""
    rng = np.random.default_rng([1, seed])
    trials, voxels, shape = 3000, 800, (32, 64)
    latent = rng.standard_normal((trials + TESTS, 64))
    tokens = latent @ rng.standard_normal((64, 32 * 64)) / 8
    brain = latent @ rng.standard_normal((64, voxels)) / 8
    brain += 5.0 * rng.standard_normal(brain.shape)
    tokens = tokens.reshape(-1, *shape)
    train = loader(brain[:trials], tokens[:trials], folder / "train", shuffle=True)
    return train, loader(brain[trials:], tokens[trials:], folder / "test", shuffle=False)


def learnt(folder: Path, rank: int | None, train: Loader, test: Loader, seed: int) -> float:
    """What an encoder with a factorised head of `rank`, or a dense one, retrieves after a short training."""
    torch.manual_seed(seed)
    chosen = {"head": "dense"} if rank is None else {"head": "factorised", "rank": rank}
    inner = {"width": 256, "projector": 64, **chosen}
    model = encoder("mindeye2", 800, (32, 64), depth=1, heads=4, head_width=16, inner=inner)
    trainer = Trainer(epochs=12, rate=1e-3, batch_size=BATCH)
    objectives = {"mse": MSE(target="image"), "contrast": InfoNCE(target="retrieval")}
    folder.mkdir()
    fit(model, objectives, train, None, trainer, folder=folder, seed=seed, label="head")
    return retrieval(model, test)


def real_memory(head: str) -> float:
    """GB of the image head of MindEye2 in float32 training: weights, gradients, two moments."""
    name = "mindeye2" if head == "dense" else "mindeye2_factorised"
    with torch.device("meta"):
        model = encoder(name, 15724, (256, 1664), inner={})
    count = sum(p.numel() for p in model.inner.heads.heads[0].parameters())  # type: ignore[union-attr]
    return round(4 * 4 * count / 1e9, 2)


@torch.no_grad()
def retrieval(model: Encoder, test: Loader) -> float:
    """Share of test trials whose tokens lie nearest to the prediction, each among GALLERY."""
    model.eval()
    found = [(model.condition(b).flatten(1), b.targets["image"].flatten(1)) for b in test]
    made, truth = (torch.cat(part) for part in zip(*found, strict=True))
    unit = torch.nn.functional.normalize
    made, truth = unit(made - made.mean(0)), unit(truth - truth.mean(0))
    galleries = zip(made.split(GALLERY), truth.split(GALLERY), strict=True)
    hits = [(m @ t.T).argmax(1) == torch.arange(len(m)) for m, t in galleries]
    return float(torch.cat(hits).float().mean())


def rows() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as place:
        return [*data_path(Path(place)), *heads(Path(place))]


if __name__ == "__main__":
    for row in rows():
        print(row)
