"""Mean intersection over union against scikit-learn's, of a tiny SegFormer's own class maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score
from transformers import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SegformerModel,
)

from decode.core import InputError, Media, Results, Stimulus
from decode.metrics.segmentation import Segmentation, mean_iou
from decode.scoring.picture_scores import Resize

N, CLASSES = 5, 6
SHAPE = {
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "num_attention_heads": [1, 2],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "sr_ratios": [4, 2],
    "mlp_ratios": [2, 2],
    "num_encoder_blocks": 2,
    "decoder_hidden_size": 16,
    "num_labels": CLASSES,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("segformer") / "tiny-segformer"
    torch.manual_seed(0)
    network = SegformerForSemanticSegmentation(SegformerConfig(**SHAPE))
    # an untrained head sees one class everywhere
    torch.nn.init.normal_(network.decode_head.classifier.weight, std=2.0)
    network.save_pretrained(place)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(place)
    return place


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Five pictures of coloured blocks; the first made one is the shown one itself."""
    rng = np.random.default_rng(0)
    shown, made = [], []
    for i in range(N):
        pixels = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        path = tmp_path / f"{i}.png"
        Image.fromarray(pixels).save(path)
        shown.append(Stimulus(f"s{i}", "image", str(path)))
        clean = torch.from_numpy(pixels).permute(2, 0, 1) / 255
        noise = torch.from_numpy(rng.random(clean.shape)).float()
        made.append(Media("image", clean + 0.2 * i * (noise - clean)))
    trials = pd.DataFrame({"subject": "a", "split": "test", "fold": 0}, index=range(N))
    trials["stimulus"] = [s.uid for s in shown]
    return Results(trials, {}, {}, shown, made)


def class_maps(folder: Path, pictures: list[np.ndarray]) -> list[np.ndarray]:
    network = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    processor = SegformerImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        found = network(**processor(pictures, return_tensors="pt"))
    sizes = [p.shape[:2] for p in pictures]
    maps = processor.post_process_semantic_segmentation(found, target_sizes=sizes)
    return [np.asarray(m) for m in maps]


@pytest.mark.parametrize("batch", [1, 4])
def test_it_is_the_overlap_of_what_the_network_sees(
    folder: Path, results: Results, batch: int
) -> None:
    rows = Segmentation(str(folder), batch=batch, device="cpu")(results)
    assert set(rows["metric"]) == {"mean_iou_tiny_segformer"}
    shown = class_maps(folder, [np.asarray(Image.open(str(s.path))) for s in results.shown])
    pixels = [(m.data * 255).round().byte().permute(1, 2, 0).numpy() for m in results.made or ()]  # type: ignore[union-attr]
    made = class_maps(folder, pixels)
    assert len({int(v) for m in shown for v in m.ravel()}) > 2
    every = np.array(
        [
            [
                jaccard_score(b.ravel(), a.ravel(), labels=np.union1d(a, b), average="macro")
                for b in shown
            ]
            for a in made
        ]
    )
    np.testing.assert_allclose(rows["value"], np.diag(every), rtol=1e-6)
    np.testing.assert_allclose(rows["chance"], every.mean(), rtol=1e-6)
    assert rows["value"].iloc[0] == 1
    assert rows["value"].iloc[-1] < 0.9


def test_a_class_of_one_picture_alone_counts_as_missed() -> None:
    a, b = np.array([[[0, 0], [1, 1]]]), np.array([[[0, 0], [1, 5]]])
    assert mean_iou(a, b) == pytest.approx((1 + 1 / 2 + 0) / 3)


def test_what_cannot_be_compared_is_refused(folder: Path, results: Results, tmp_path: Path) -> None:
    small = [Media("image", torch.rand(3, 32, 32)) for _ in range(N)]
    other = Results(results.trials, {}, {}, results.shown, small)
    with pytest.raises(InputError, match=r"made ones of \(32, 32\) and shown ones of \(64, 64\)"):
        Segmentation(str(folder), device="cpu")(other)
    rows = Segmentation(str(folder), device="cpu", first=Resize(64))(other)
    assert rows["value"].between(0, 1).all()
    SegformerModel(SegformerConfig(**SHAPE)).save_pretrained(tmp_path / "trunk")
    SegformerImageProcessor().save_pretrained(tmp_path / "trunk")
    with pytest.raises(InputError, match="trained to segment"):
        Segmentation(str(tmp_path / "trunk"), device="cpu")(results)
