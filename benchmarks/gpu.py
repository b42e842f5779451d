"""Training and sampling at published sizes on a CUDA device, with random numbers for data and weights.

Only time and memory are looked at: nothing is learnt. Batches are read from fp16 shards as those of a
run are, by then from the system's cache of files.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from benchmarks.steps import seconds_per_batch, seconds_per_step
from benchmarks.training import layout
from decode.building import build
from decode.cli import CONFIGS
from decode.core import Shape
from decode.training import Trainer, optimiser_of
from decode.trials import SubjectSignal, Trials
from decode.vectors import FeatureStore

VOXELS = {"subj01": 15724, "subj02": 14278, "subj05": 13039, "subj07": 12682}
BIGG, VITL = (256, 1664), (257, 768)
LOW = {"lowlevel": (4, 28, 28), "lowlevel_tokens": (49, 2048), "lowlevel_changed": (49, 2048)}
LOW_512 = {"lowlevel": (4, 64, 64), "lowlevel_tokens": (256, 2048), "lowlevel_changed": (256, 2048)}
MINDEYE2 = {"image": BIGG, "retrieval": BIGG, **LOW}
MINDEYE1 = {"image": VITL, "retrieval": VITL, **LOW_512}
WARM, STEPS = 3, 12
# Shares of a training: BiMixCo runs the encoder a second time in the first third of it.
EARLY, LATE = 0.1, 0.6


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("config", [*overrides]), resolve=True)
    return config


def trials(subjects: Mapping[str, int], n: int) -> Trials:
    """`n` trials, shared among subjects of as many voxels as given, each of a picture of its own."""
    rng = np.random.default_rng(0)
    signals = {
        name: SubjectSignal(rng.standard_normal((n, voxels), np.float32), layout(voxels), None)
        for name, voxels in subjects.items()
    }
    table = pd.DataFrame({"subject": np.resize(list(subjects), n), "start": np.arange(n)})
    table["stimulus"] = [f"{i:06d}" for i in range(n)]
    return Trials.of(table, signals)


def stores(folder: Path, shapes: Mapping[str, Shape], n: int) -> dict[str, FeatureStore]:
    """fp16 features of n pictures; `retrieval` is what `image` is, as in the experiments."""
    rng = np.random.default_rng(1)
    digests = [f"{i:06d}" for i in range(n)]
    made: dict[str, FeatureStore] = {}
    for name, shape in shapes.items():
        if name == "retrieval":
            continue
        made[name] = FeatureStore(folder / name)
        values = rng.standard_normal((n, *shape), np.float32).astype(np.float16)
        made[name].append(digests, values)
    return {**made, "retrieval": made["image"]}


def training(
    what: str,
    overrides: Sequence[str],
    shapes: Mapping[str, Shape],
    folder: Path,
    *,
    subjects: Mapping[str, int] | None = None,
    batch_size: int | None = None,
    precision: str = "bfloat16",
    resident: bool = False,
    device: str = "cuda",
) -> list[dict[str, Any]]:
    """Steps of one experiment's training, early and late in it, and the time to read their batches."""
    config = composed(*overrides)
    trainer: Trainer = replace(build(config["trainer"]), precision=precision)
    together = len(subjects or ("subj01",)) if trainer.per_subject else 1
    size = batch_size or trainer.batch_size * together
    recorded = trials(subjects or {"subj01": VOXELS["subj01"]}, size * (WARM + STEPS))
    features = stores(folder, shapes, len(recorded))
    loader = recorded.loader(
        features,
        {uid: uid for uid in recorded.table["stimulus"]},
        batch_size=size,
        shuffle=True,
        device=device,
        resident_bytes=2**50 if resident else 0,
    )
    torch.manual_seed(0)
    with torch.device(device):
        encoder = build(config["encoder"])(recorded.layouts, shapes)
    bundle = nn.ModuleDict({"encoder": encoder, "objectives": nn.ModuleDict(
        {name: build(node) for name, node in config["objectives"].items()})})  # fmt: skip
    bundle.to(device).train()
    optimiser = optimiser_of(bundle, trainer)
    reading = seconds_per_batch(loader)
    weights = sum(p.numel() for p in bundle.parameters()) / 1e6
    trained = sum(p.numel() for group in optimiser.param_groups for p in group["params"]) / 1e6
    rows = []
    for phase, at in (("early", EARLY), ("late", LATE)):
        with peak_of(device) as most:
            seconds = seconds_per_step(
                bundle, loader, optimiser, trainer, at, warm=WARM, steps=STEPS
            )
        rows.append({
            "what": f"{what}, {phase}", "size": f"batch {size}, {precision}",
            "weights_m": round(weights), "trained_m": round(trained),
            "steps_per_s": 1 / seconds, "seconds": seconds, "peak_gb": most[0],
            "reading_seconds": reading,
        })  # fmt: skip
    return rows


@contextmanager
def peak_of(device: str) -> Iterator[list[float]]:
    """The most device memory, GB, that tensors took meanwhile; 0 on a CPU, where it is not measured."""
    found = [0.0]
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    yield found
    if cuda:
        found[0] = torch.cuda.max_memory_allocated() / 1e9


def save_sdxl_unclip(folder: Path, device: str) -> None:
    """An SDXL that reads image tokens, at its real size, of random weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from decode.weights.sdxl_layout import DENOISER, write_folder

    torch.manual_seed(0)
    with torch.device(device):
        network: Any = UNet2DConditionModel(**DENOISER)
        autoencoder: Any = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            scaling_factor=0.13025,
        )
    write_folder(folder, network.half().cpu(), autoencoder.cpu())


def sampling(folder: Path, device: str = "cuda") -> Iterator[dict[str, Any]]:
    """Seconds and memory per picture of the SDXL unCLIP: batched, one at a time, offloaded."""
    save_sdxl_unclip(folder / "unclip", device)
    tokens = torch.randn(8, *BIGG, generator=torch.Generator().manual_seed(0))
    for offload, batch, n in (
        ("none", 8, 8),
        ("none", 1, 3),
        ("model", 1, 2),
        ("sequential", 1, 1),
    ):
        node = composed(
            "experiment=nsd/mindeye2", f"generator.model={folder / 'unclip'}",
            f"generator.offload={offload}", f"generator.batch_size={batch}",
            "generator.precision=bfloat16",  # random weights leave float16's range
        )["generator"]  # fmt: skip
        generator = build(node)
        generator({"image": tokens[:1]}, seeds=[0])  # opens the folder
        with peak_of(device) as most:
            start = time.perf_counter()
            generator({"image": tokens[:n]}, seeds=list(range(n)))
            seconds = (time.perf_counter() - start) / n
        yield {
            "what": f"SDXL unCLIP, 38 steps, 768 pixels, offload {offload}",
            "size": f"{batch} at once, bfloat16", "seconds": seconds, "peak_gb": most[0],
        }  # fmt: skip
        del generator
        torch.cuda.empty_cache()


def rows() -> list[dict[str, Any]]:
    """One row per measurement; none without a CUDA device."""
    if not torch.cuda.is_available():
        print("benchmark gpu: no CUDA device here, so nothing is measured")
        return []
    card = torch.cuda.get_device_name()
    made: list[dict[str, Any]] = []
    two, one = "experiment=nsd/mindeye2", "experiment=nsd/mindeye1"
    adapt = ("experiment=nsd/mindeye2_adapt", "encoder.weights=scratch")
    factorised = (two, "encoder=mindeye2_factorised", "encoder.inner.rank=200")
    runs: list[tuple[str, Sequence[str], Mapping[str, Shape], dict[str, Any]]] = [
        ("MindEye2", [two], MINDEYE2, {}),
        ("MindEye2, data on the device", [two], MINDEYE2, {"resident": True}),
        ("MindEye2", [two], MINDEYE2, {"precision": "float32"}),
        ("MindEye2, factorised head, an eighth", factorised, MINDEYE2, {}),
        ("MindEye2, four subjects", [two], MINDEYE2, {"subjects": VOXELS, "batch_size": 42}),
        ("MindEye2, new input layer only", [*adapt, "encoder.what=input"], MINDEYE2, {}),
        ("MindEye2, and low-rank adapters", [*adapt, "encoder.what=lora"], MINDEYE2, {}),
        ("MindEye1, both networks", [one], MINDEYE1, {}),
    ]
    with tempfile.TemporaryDirectory() as place:
        for number, (what, overrides, shapes, knobs) in enumerate(runs):
            made += training(what, overrides, shapes, Path(place) / str(number), **knobs)
            torch.cuda.empty_cache()
        made += sampling(Path(place))
    return [{**row, "device": card} for row in made]
