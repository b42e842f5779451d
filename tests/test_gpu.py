"""What only a CUDA device can show: the same pictures in half precision and offloaded, the same fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from worlds import config

from decode.core import Layout
from decode.generators.unclip import Unclip
from decode.networks.prior_dalle2 import hear
from decode.pipeline import execute
from decode.store import read_json
from decode.trials import SubjectSignal, Trials
from decode.vectors import FeatureStore
from decode.workshop import Run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MODEL = "package:tiny/unclip"


@pytest.fixture(scope="module")
def embeddings() -> torch.Tensor:
    from decode.core import Stimulus
    from decode.targets.open_clip import OpenClip

    words = ["a large red circle on a green meadow", "a small blue fish at night"]
    clip = OpenClip("package:tiny/clip", output="text", device="cpu")
    return clip([Stimulus(w, "text", texts=(w,)) for w in words])


def pictures(embeddings: torch.Tensor, **knobs: object) -> torch.Tensor:
    generator = Unclip(MODEL, steps=10, guidance=2.0, norm="keep", **knobs)  # type: ignore[arg-type]
    made = generator({"image": embeddings}, seeds=[1, 2])
    return torch.stack([torch.as_tensor(m.data) for m in made])


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
def test_pictures_are_those_of_the_cpu(
    embeddings: torch.Tensor, precision: str, offload: str
) -> None:
    expected = pictures(embeddings, device="cpu")
    made = pictures(embeddings, device="cuda", precision=precision, offload=offload)
    for a, b in zip(made, expected, strict=True):
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.98


def test_offloading_needs_less_memory(embeddings: torch.Tensor) -> None:
    peak = {}
    for offload in ("none", "sequential"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        pictures(embeddings, device="cuda", precision="float16", offload=offload)
        peak[offload] = torch.cuda.max_memory_allocated()
    assert peak["sequential"] < peak["none"]


@pytest.mark.parametrize("budget", [0, 2**30], ids=["streaming", "resident"])
def test_batches_on_the_device_are_those_of_the_cpu(tmp_path: Path, budget: int) -> None:
    n = 50
    rng = np.random.default_rng(0)
    layout = Layout("fmri", ("v",) * 30, np.zeros((30, 3)), ("",) * 30, 1.0, 1)
    signal = SubjectSignal(rng.standard_normal((n, 30)).astype(np.float32), layout, None)
    names = [f"{i % 20}" for i in range(n)]
    store = FeatureStore(tmp_path)
    store.append(sorted(set(names)), rng.standard_normal((20, 4, 6)).astype(np.float16))
    table = pd.DataFrame({"subject": "a", "start": np.arange(n), "stimulus": names})

    def batches(device: str) -> list[torch.Tensor]:
        loader = Trials.of(table, {"a": signal}).loader(
            {"image": store}, {u: u for u in names}, batch_size=8, shuffle=True,
            device=device, resident_bytes=budget,
        )  # fmt: skip
        assert loader.resident == (budget > 0)
        made = [b for epoch in range(3) for b in loader.epoch(epoch)]
        assert all(b.brain.device.type == device for b in made)
        return [t.cpu() for b in made for t in (b.brain, b.targets["image"], b.stimulus, b.trial)]

    for a, b in zip(batches("cuda"), batches("cpu"), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_attention_of_the_prior_and_its_gradients_are_those_of_the_cpu(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize
    wide = [unit(torch.randn(2, 4, 65, 52), dim=-1), unit(torch.randn(2, 66, 52), dim=-1),
            torch.randn(2, 66, 52), torch.randn(4, 65, 66)]  # fmt: skip
    found = {}
    for device, kind in (("cpu", torch.float64), ("cuda", dtype)):
        given = [x.to(device, kind).requires_grad_() for x in wide]
        heard = hear(*given)
        found[device] = [heard, *torch.autograd.grad(heard.square().sum(), given)]
    near = 1e-4 if dtype == torch.float32 else 2e-2
    for a, b in zip(found["cuda"], found["cpu"], strict=True):
        assert (a.cpu().double() - b).norm() / b.norm() < near


def test_training_on_the_device_scores_as_on_the_cpu(tmp_path: Path) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        run = Run(config(tmp_path / device, compute={"device": device}))
        folder = execute(run, until="evaluate", force=[], say=lambda s: None)
        rows = read_json(folder / "summary.json")
        rows = [r for r in rows if r["subject"] == "all"]
        found[device] = {(r["source"], r["metric"]): r["value"] for r in rows}
    for source, metric in (
        ("ridge", "retrieval_top1"), ("ridge", "pixcorr"), ("decoder", "retrieval_top5"),
        ("decoder", "pixcorr"),
    ):  # fmt: skip
        assert found["cuda"][source, metric] == pytest.approx(
            found["cpu"][source, metric], abs=0.05
        )
