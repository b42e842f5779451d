"""The data path beside the step, and a factorised head beside a dense one.

The data path is measured at 1/16 of MindEye's sizes. Heads are compared in memory at MindEye2's
real size (counted on the meta device: weights, gradients and two moments in float32) and in retrieval,
where both are trained alike: of the tiny CLIP's tokens from betas of simulated participants, and of
tokens drawn at random that fill all their dimensions, as those of no network do.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from torch import nn

from benchmarks.steps import seconds_per_batch, seconds_per_step
from decode.building import build
from decode.cli import CONFIGS
from decode.core import Layout
from decode.miniatures.clip import load_clip
from decode.objectives.infonce import InfoNCE
from decode.objectives.mse import MSE
from decode.objectives.own import Own
from decode.simulation.fmri import CEILING_REPEATS, MEDIAN_CEILING
from decode.simulation.scenes import draw, training_scenes
from decode.simulation.visual_cortex import Responses, make_cortex
from decode.targets.open_clip import block_tokens
from decode.trainable import Encoder
from decode.training import Trainer, fit, optimiser_of
from decode.trials import Loader, SubjectSignal, Trials
from decode.vectors import FeatureStore
from decode.weights.reading import find_weights

SCALE = 16
TRIALS, VOXELS, TOKENS, WIDTH, BATCH = 8859, 15724 // SCALE, 257, 768 // SCALE, 32
STEPS = 20
# Per kind of world: epochs, as many as serve the dense head best, and numbers per token of factorised
# heads by the share of the dense one's weights that they keep.
EPOCHS = {"tiny CLIP": 40, "random": 12}
RANKS = {"tiny CLIP": {"1/8": 30}, "random": {"1/4": 16, "1/8": 8}}
WORLDS, LEARNT, TESTS, GALLERY = 5, 3000, 3000, 300
HEAD_VOXELS = 800


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
        "prior": Own(weights={"prior": 30.0}),
    }
    bundle = nn.ModuleDict({"encoder": model, "objectives": nn.ModuleDict(objectives)}).train()
    trainer = Trainer(rate=1e-4, batch_size=BATCH)
    reading = seconds_per_batch(batches)
    optimiser = optimiser_of(bundle, trainer)
    whole = seconds_per_step(bundle, batches, optimiser, trainer, 0.5, warm=0, steps=STEPS)
    size = f"MindEye1 / {SCALE}, batch {BATCH}"
    return [
        {"what": "training step", "size": size, "seconds": whole},
        {"what": "... of it reading the batch", "size": size, "seconds": reading,
         "share": f"{100 * reading / whole:.1f} %"},
    ]  # fmt: skip


def heads(folder: Path) -> list[dict[str, Any]]:
    """Memory of either head at real size, and what each retrieves in simulated worlds, the same ones."""
    rows: list[dict[str, Any]] = []
    for kind, make in {"tiny CLIP": participant, "random": random_world}.items():
        rows += compare_heads(folder / kind.replace(" ", "_"), kind, make)
    memory = [
        {"what": f"{head} head of MindEye2, its memory", "memory_gb": real_memory(head)}
        for head in ("dense", "factorised")
    ]
    return [*rows, *memory]


def compare_heads(
    folder: Path, kind: str, make: Callable[[int], tuple[np.ndarray, np.ndarray]]
) -> list[dict[str, Any]]:
    """One row per head: what it retrieves in WORLDS worlds, and how far that is from the dense one."""
    ranks: dict[str, int | None] = {"dense": None, **RANKS[kind]}
    found: dict[str, list[float]] = {head: [] for head in ranks}
    seconds: dict[str, list[float]] = {head: [] for head in ranks}
    for seed in range(WORLDS):
        brain, tokens = make(seed)
        place = folder / str(seed)
        train = loader(brain[:LEARNT], tokens[:LEARNT], place / "train", shuffle=True)
        test = loader(brain[LEARNT:], tokens[LEARNT:], place / "test", shuffle=False)
        for head, rank in ranks.items():
            start = time.perf_counter()
            place = folder / f"{seed}-{rank}"
            found[head].append(learnt(place, rank, train, test, EPOCHS[kind], seed))
            seconds[head].append(time.perf_counter() - start)
    size = " x ".join(map(str, tokens.shape[1:]))
    rows = []
    for head, rank in ranks.items():
        row: dict[str, Any] = {
            "what": "dense head" if rank is None else f"factorised head, rank {rank}, {head}",
            "size": f"{WORLDS} worlds, {size} {kind} tokens, {LEARNT} trials, {TESTS} tests",
            "seconds": float(np.mean(seconds[head])),
            "retrieval": round(float(np.mean(found[head])), 4),
        }
        if rank is not None:
            apart = np.subtract(found[head], found["dense"])
            error = apart.std(ddof=1) / len(apart) ** 0.5
            row["less_dense"] = f"{apart.mean():+.4f} (standard error {error:.4f})"
        rows.append(row)
    return rows


def participant(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Single-trial betas of one simulated participant, z-scored, and the tiny CLIP's tokens (16, 256)
    of what it saw; the noise is that of the simulated fMRI data, white over trials.
    """
    rng = np.random.default_rng([2, seed])
    scenes = training_scenes(LEARNT + TESTS, seed=100 + seed)
    pixels = np.stack([draw(scene) for scene in scenes])
    cortex = make_cortex(HEAD_VOXELS, voxel_mm=4, rng=rng)
    parts = [slice(i, i + 500) for i in range(0, len(scenes), 500)]
    respond = Responses(cortex)
    brain = np.concatenate([respond(scenes[part], pixels[part]) for part in parts])
    level = np.median(cortex.gain[cortex.gain > 0])
    spread = level * (CEILING_REPEATS * (1 / MEDIAN_CEILING - 1)) ** 0.5
    brain += spread * rng.standard_normal(brain.shape, np.float32)
    brain = (brain - brain[:LEARNT].mean(0)) / brain[:LEARNT].std(0)
    clip, _ = load_clip(Path(find_weights("package:tiny/clip")))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        found = [block_tokens(clip.visual, x, -2, False, "tiny CLIP")[0] for x in images.split(500)]
    return brain, torch.cat(found).numpy()


def random_world(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and tokens that share 64 dimensions; the tokens fill all of theirs."""
    rng = np.random.default_rng([1, seed])
    latent = rng.standard_normal((LEARNT + TESTS, 64))
    tokens = latent @ rng.standard_normal((64, 32 * 64)) / 8
    brain = latent @ rng.standard_normal((64, HEAD_VOXELS)) / 8
    brain += 5.0 * rng.standard_normal(brain.shape)
    return brain, tokens.reshape(-1, 32, 64)


def learnt(
    folder: Path,
    rank: int | None,
    train: Loader,
    test: Loader,
    epochs: int,
    seed: int,
) -> float:
    """What an encoder with a factorised head of `rank`, or a dense one, retrieves after training."""
    torch.manual_seed(seed)
    chosen = {"head": "dense"} if rank is None else {"head": "factorised", "rank": rank}
    inner = {"width": 256, "projector": 64, **chosen}
    shape = tuple(next(iter(test)).targets["image"].shape[1:])
    model = encoder("mindeye2", HEAD_VOXELS, shape, depth=1, heads=4, head_width=16, inner=inner)
    trainer = Trainer(epochs=epochs, rate=1e-3, batch_size=BATCH)
    objectives = {"mse": MSE(target="image"), "contrast": InfoNCE(target="retrieval")}
    folder.mkdir()
    model.initialise(train, [])
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
    found = [
        (model.before_sampling(b)["image"].flatten(1), b.targets["image"].flatten(1)) for b in test
    ]
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
