"""What only a CUDA device can show: the same pictures in half precision and offloaded, the same fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from worlds import config

from decode.generators.unclip import Unclip
from decode.pipeline import execute
from decode.plan import Run
from decode.store import read_json

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
    return clip([Stimulus(w, "text", text=w) for w in words])


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


def test_training_on_the_device_scores_as_on_the_cpu(tmp_path: Path) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        run = Run(config(tmp_path / device, compute={"device": device}))
        folder = execute(run, until="evaluate", force=[], say=lambda s: None)
        rows = read_json(folder / "summary.json")
        found[device] = {r["metric"]: r["value"] for r in rows if r["subject"] == "all"}
    for metric in ("ridge/retrieval_top1", "ridge/pixcorr", "retrieval_top5", "pixcorr"):
        assert found["cuda"][metric] == pytest.approx(found["cpu"][metric], abs=0.05)
