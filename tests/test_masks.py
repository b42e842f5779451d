"""Scores of masks against definitions written out here, of what tiny segmentation models find."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import (
    DetrConfig,
    DetrForSegmentation,
    DetrImageProcessor,
    EomtConfig,
    EomtForUniversalSegmentation,
    EomtImageProcessor,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    Mask2FormerModel,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    ResNetConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SwinConfig,
)

from decode.core import InputError, Media, Results, Stimulus
from decode.metrics import masks
from decode.metrics.masks import Masks, instances
from decode.scoring.mask_matching import Agreement, agreement, matched_iou, pack, pairwise_iou
from decode.scoring.picture_scores import Resize

SIDE = 64
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SMALL = {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
         "num_queries": 8, "d_model": 32}  # fmt: skip
SQUARE = {"height": SIDE, "width": SIDE}
QUIET = 269  # the seed of a picture in which the network is not very sure of anything
NAMES = ("foreground_iou", "instance_iou", "instance_ap")
Found = tuple[np.ndarray, np.ndarray, np.ndarray]


# What the networks find


def mask2former() -> Mask2FormerConfig:
    swin = SwinConfig(image_size=SIDE, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=2,
                      out_features=STAGES)  # fmt: skip
    return Mask2FormerConfig(
        backbone_config=swin, hidden_dim=32, mask_feature_size=32, feature_size=32, num_queries=8,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16,
        encoder_feedforward_dim=16, num_labels=3,
    )  # fmt: skip


def resnet() -> ResNetConfig:
    return ResNetConfig(embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, out_features=STAGES)


def loud(network: Any) -> Any:
    """An untrained network that is sure of something, and of other things in other pictures."""
    for name, weight in network.named_parameters():
        if weight.ndim > 1 and "class_predictor" in name:
            torch.nn.init.normal_(weight, std=0.3)
        elif weight.ndim > 1 and any(k in name for k in ("mask_embedder", "mask_head", "patch")):
            torch.nn.init.normal_(weight, std=0.5)
    return network.eval()


def family(name: str) -> tuple[Any, Any]:
    """Network and picture processor of a kind of model."""
    torch.manual_seed(0)
    if name == "mask2former":
        network = Mask2FormerForUniversalSegmentation(mask2former())
        return loud(network), Mask2FormerImageProcessor(size=SQUARE)
    if name == "maskformer":
        config = MaskFormerConfig(fpn_feature_size=32, mask_feature_size=32, num_labels=3,
                                  backbone_config=resnet(), decoder_config=DetrConfig(**SMALL))  # fmt: skip
        network = MaskFormerForInstanceSegmentation(config)
        return loud(network), MaskFormerImageProcessor(size=SQUARE)
    config = EomtConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=8,
        num_blocks=1, num_queries=8, num_labels=3, num_upscale_blocks=1,
    )  # fmt: skip
    processor = EomtImageProcessor(size={"shortest_edge": SIDE, "longest_edge": SIDE})
    return loud(EomtForUniversalSegmentation(config)), processor


def save(place: Path, network: Any, processor: Any) -> Path:
    network.save_pretrained(place)
    processor.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("masks") / "tiny-masks", *family("mask2former"))


def blocks(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Two galleries of three and four rows, in the second one picture twice; the first made picture is
    the shown one itself.
    """
    rng = np.random.default_rng(0)
    shown, made = [], []
    for i, which in enumerate([0, 1, QUIET, 0, 3, 4, 4]):
        pixels = blocks(which)
        path = tmp_path / f"{which}.png"
        Image.fromarray(pixels).save(path)
        shown.append(Stimulus(f"s{which}", "image", str(path)))
        clean = torch.from_numpy(pixels).permute(2, 0, 1) / 255
        noise = torch.from_numpy(rng.random(clean.shape)).float()
        made.append(Media("image", clean + 0.15 * i * (noise - clean)))
    trials = pd.DataFrame({"subject": "a", "split": ["x"] * 3 + ["y"] * 4, "fold": 0})
    trials["stimulus"] = [s.uid for s in shown]
    return Results(trials, {}, {}, shown, made)


def of_library(folder: Path, pictures: Sequence[np.ndarray], threshold: float) -> list[Found]:
    """Masks, classes and confidences of each picture as transformers makes them, on 384 x 384 points.

    One picture at a time: a product of matrices of another size rounds otherwise on some processors,
    and a point whose logit is 0 but for rounding falls on the other side.
    """
    network = Mask2FormerForUniversalSegmentation.from_pretrained(folder).eval()
    processor = Mask2FormerImageProcessor.from_pretrained(folder)
    found = []
    for picture in pictures:
        pixels = processor([picture], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            output = network(pixels)
        found += of_output(processor, output, threshold, return_binary_maps=True)
    return found


def of_output(processor: Any, output: Any, threshold: float, **how: Any) -> list[Found]:
    told = processor.post_process_instance_segmentation(output, threshold=threshold, **how)
    found = []
    for picture in told:
        info = picture["segments_info"]
        maps = np.asarray(picture["segmentation"]) > 0 if info else np.zeros((0, 384, 384), bool)
        found.append((maps, np.array([s["label_id"] for s in info], int),
                      np.array([s["score"] for s in info])))  # fmt: skip
    return found


@pytest.mark.parametrize("threshold", [0.5, 0.75])
@pytest.mark.parametrize("name", ["mask2former", "maskformer"])
def test_instances_are_those_of_the_library(name: str, threshold: float) -> None:
    network, processor = family(name)
    pictures = [blocks(i) for i in range(4)]
    with torch.no_grad():
        output = network(processor(pictures, return_tensors="pt")["pixel_values"])
    points = 384 if name == "mask2former" else output.masks_queries_logits.shape[-1]
    expected = of_output(processor, output, threshold, return_binary_maps=True)
    assert sum(len(label) for _, label, _ in expected) > 2
    for i, (maps, label, confidence) in enumerate(expected):
        got = instances(
            output.class_queries_logits[i], output.masks_queries_logits[i], threshold, points
        )
        assert len(got) == len(label)
        # the library sorts by nothing
        a, b = np.argsort(got.confidence), np.argsort(confidence)
        np.testing.assert_array_equal(got.label[a], label[b])
        np.testing.assert_allclose(got.confidence[a], confidence[b], atol=2e-6)
        np.testing.assert_array_equal(got.masks[a], maps.reshape(len(maps), points**2)[b])


def test_eomt_is_read_the_same_way() -> None:
    network, processor = family("eomt")
    pictures = [blocks(i) for i in range(4)]
    with torch.no_grad():
        output = network(processor(pictures, return_tensors="pt")["pixel_values"])
    told = processor.post_process_instance_segmentation(output, [(SIDE, SIDE)] * 4, threshold=0.5)
    assert sum(len(t["segments_info"]) for t in told) > 2
    for i, picture in enumerate(told):
        got = instances(output.class_queries_logits[i], output.masks_queries_logits[i], 0.5, SIDE)
        info = picture["segments_info"]
        assert list(got.label) == [s["label_id"] for s in info]
        np.testing.assert_allclose(got.confidence, [s["score"] for s in info], atol=2e-6)
        drawn = picture["segmentation"].numpy().ravel() >= 0  # later masks cover earlier ones
        assert not len(got) or (got.foreground == drawn).all()


# Definitions, written out


def slow_iou(a: np.ndarray, b: np.ndarray) -> float:
    either = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / either) if either else 0.0


def slow_matched(iou: np.ndarray) -> float:
    """The best of all ways to pair the masks."""
    small, large = sorted((iou, iou.T), key=len)[0], max(iou.shape)
    ways = permutations(range(large), len(small))
    best = max(sum(small[i, j] for i, j in enumerate(way)) for way in ways)
    return 2 * best / sum(iou.shape)


def slow_ap(iou: np.ndarray, confidence: np.ndarray) -> float:
    """Mean over 10 thresholds and 101 recalls of the best precision at that recall or above."""
    n, value = iou.shape[1], []
    for step in range(10):
        taken: set[int] = set()
        points = []
        for rank, i in enumerate(sorted(range(len(iou)), key=lambda i: -confidence[i]), start=1):
            fit = [j for j in range(n) if j not in taken and iou[i, j] >= 0.5 + 0.05 * step]
            if fit:
                taken.add(max(fit, key=lambda j: iou[i, j]))
            points.append((len(taken) / n, len(taken) / rank))
        for percent in range(101):
            value.append(max((p for r, p in points if r >= percent / 100), default=0.0))
    return float(np.mean(value))


def slow(made: Found, shown: Found) -> tuple[float, float, float]:
    """The three scores of two pictures, `shown` with something in it."""
    iou = np.array([[slow_iou(a, b) for b in shown[0]] for a in made[0]])
    iou = iou.reshape(len(made[0]), len(shown[0]))
    same = made[1][:, None] == shown[1][None]
    ap = [
        slow_ap(iou[made[1] == c][:, shown[1] == c], made[2][made[1] == c]) for c in set(shown[1])
    ]
    foreground = slow_iou(made[0].any(axis=0), shown[0].any(axis=0)) if len(made[0]) else 0.0
    return foreground, slow_matched(iou * same), float(np.mean(ap))


@pytest.mark.parametrize(("threshold", "empty"), [(0.5, []), (0.67, [2])])
def test_rows_are_the_definitions_on_what_the_library_finds(
    folder: Path,
    results: Results,
    threshold: float,
    empty: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(masks, "POINTS", 384)
    rows = Masks(str(folder), threshold=threshold, batch=1, device="cpu")(results)
    at_once = Masks(str(folder), threshold=threshold, batch=3, device="cpu")(results)
    # Points at the edge of a mask: 1e-3 of a mask of a thousand points is one of them.
    np.testing.assert_allclose(at_once["value"], rows["value"], atol=1e-3)
    shown = of_library(
        folder, [np.array(Image.open(str(s.path))) for s in results.shown], threshold
    )
    pixels = [(m.data * 255).round().byte().permute(1, 2, 0).numpy() for m in results.made or ()]  # type: ignore[union-attr]
    made = of_library(folder, pixels, threshold)
    some = np.array([len(s[1]) > 0 for s in shown])
    assert list(np.flatnonzero(~some)) == empty
    uids = results.trials["stimulus"].to_numpy()
    for k, name in enumerate(NAMES):
        found = rows[rows["metric"] == f"{name}_tiny_masks"]
        assert list(found["trial"]) == list(np.flatnonzero(some))
        every = np.array([[slow(a, b)[k] if len(b[1]) else np.nan for b in shown] for a in made])
        np.testing.assert_allclose(found["value"], np.diag(every)[some], rtol=1e-6)
        assert found["value"].iloc[0] == pytest.approx(1)
        for members in (np.arange(3), np.arange(3, 7)):
            first = members[np.unique(uids[members], return_index=True)[1]]
            level = np.nanmean(every[np.ix_(members, first)])
            here = found["trial"].isin(members)
            np.testing.assert_allclose(found["chance"][here], level, rtol=1e-6)
        assert 0 < found["chance"].mean() < found["value"].mean() < 1


def test_names_and_their_meaning(folder: Path, results: Results) -> None:
    metric = Masks(str(folder), level="part", quantise=True, device="cpu")
    rows, measures = metric(results), metric.measures()
    names = list(pd.unique(rows["metric"]))
    assert names == [f"{n}_tiny_masks" for n in ("foreground_iou", "part_iou", "part_ap")]
    for name in names:
        assert "tiny_masks" in measures[name].meaning
    assert len({m.meaning for m in measures.values()}) == len(measures) == 3
    assert rows["value"].between(0, 1).all()


# Planted faults, on pictures of 20 x 20 points


def rectangles(*corners: tuple[int, int, int, int]) -> np.ndarray:
    """Masks (mask, 20, 20) of top, left, height, width."""
    made = np.zeros((len(corners), 20, 20), bool)
    for mask, (y, x, h, w) in zip(made, corners, strict=True):
        mask[y : y + h, x : x + w] = True
    return made


def compared(made: tuple[Any, Any, Any], shown: tuple[Any, Any]) -> tuple[float, float, float]:
    """The scores of (masks, classes, confidences) beside (masks, classes)."""
    truth = pack(shown[0], np.array(shown[1]), np.ones(len(shown[1])))
    got = agreement(pack(made[0], np.array(made[1], int), np.array(made[2])), truth)
    assert isinstance(got, Agreement)
    return got.foreground_iou, got.matched_iou, got.average_precision


TWO = rectangles((0, 0, 6, 10), (10, 8, 8, 10))


def test_identical_masks_score_one() -> None:
    assert compared((TWO, [0, 0], [0.6, 0.9]), (TWO, [0, 0])) == (1, 1, 1)


def test_a_shift_costs_what_it_should() -> None:
    moved = np.roll(TWO, 1, axis=2)  # 9 of 10 columns in common, of 11: nothing wraps around
    foreground, iou, ap = compared((moved, [0, 1], [0.9, 0.8]), (TWO, [0, 1]))
    assert (foreground, iou) == pytest.approx((9 / 11, 9 / 11))
    assert ap == pytest.approx(0.7)  # 9 / 11 reaches .50 to .80


def test_a_swapped_class_loses_all_but_the_foreground() -> None:
    assert compared((TWO, [1, 0], [0.9, 0.8]), (TWO, [0, 1])) == (1, 0, 0)
    foreground, iou, ap = compared((TWO, [0, 2], [0.9, 0.8]), (TWO, [0, 1]))
    assert (foreground, iou, ap) == (1, 0.5, 0.5)


def test_a_duplicate_lowers_both() -> None:
    three = TWO[[0, 0, 1]]
    foreground, iou, ap = compared((three, [0] * 3, [0.9, 0.8, 0.7]), (TWO, [0, 0]))
    assert (foreground, iou) == pytest.approx((1, 4 / 5))
    # precision 1 up to a recall of one half, 2 / 3 beyond
    assert ap == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert compared((three, [0] * 3, [0.9, 0.6, 0.7]), (TWO, [0, 0]))[2] == 1  # ranked behind all


def test_what_is_missing_or_too_much_counts_as_zero() -> None:
    none = (np.zeros((0, 20, 20), bool), [], [])
    assert compared(none, (TWO, [0, 1])) == (0, 0, 0)
    assert compared((TWO[:1], [0], [0.9]), (TWO, [0, 0])) == pytest.approx(
        (60 / 140, 2 / 3, 51 / 101)
    )
    assert compared((TWO, [0, 0], [0.9, 0.8]), (TWO[:1], [0])) == pytest.approx(
        (60 / 140, 2 / 3, 1)
    )


def test_partners_are_chosen_together_and_not_one_after_the_other() -> None:
    greedy = np.array([[0.9, 0.8], [0.8, 0.1]])
    assert matched_iou(greedy) == pytest.approx(0.8)
    rng = np.random.default_rng(0)
    for _ in range(50):
        overlap = rng.random(rng.integers(1, 6, 2)) * (rng.random() < 0.9)
        assert matched_iou(overlap) == pytest.approx(slow_matched(overlap))


def test_masks_overlap_as_counted_by_hand() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.random((3, 49)) < 0.4, rng.random((5, 49)) < 0.6
    one[0] = other[0] = False
    got = pairwise_iou(one, other)
    np.testing.assert_allclose(got, [[slow_iou(a, b) for b in other] for a in one])
    packed = pack(one.reshape(3, 7, 7), np.zeros(3), np.ones(3))
    assert packed.packed.nbytes == 3 * 7  # a bit per point
    np.testing.assert_array_equal(packed.masks[:, :49], one)
    np.testing.assert_array_equal(packed.foreground[:49], one.any(axis=0))
    assert not packed.masks[:, 49:].any()


def test_average_precision_is_the_definition() -> None:
    rng = np.random.default_rng(2)
    between = 0
    for _ in range(60):
        shown = rectangles(
            *zip(*rng.integers(0, 8, (2, 5)), *rng.integers(4, 12, (2, 5)), strict=True)
        )
        made = np.concatenate([np.roll(shown, i, axis=i) for i in (1, 2)])[rng.permutation(10)[:7]]
        kind, other = rng.integers(0, 2, 5), rng.integers(0, 2, 7)
        sure = rng.permutation(7) / 7
        got = compared((made, other, sure), (shown, kind))
        assert got == pytest.approx(slow((made, other, sure), (shown, kind, np.ones(5))))
        between += 0 < got[2] < 1
    assert between > 30


# made and shown rectangles, confidences, what pycocotools 2.0.11 says of them
COCO = [
    (
        [(0, 0, 6, 10), (1, 0, 6, 10), (10, 8, 8, 9), (9, 8, 8, 10)],
        [(0, 0, 6, 10), (10, 8, 8, 10)],
        [0.9, 0.95, 0.5, 0.6],
        0.6594059405940593,
    ),
    (
        [(0, 1, 5, 9), (0, 0, 5, 9), (12, 0, 8, 8), (3, 3, 9, 9)],
        [(0, 0, 5, 10), (12, 1, 8, 8), (4, 12, 10, 6)],
        [0.7, 0.8, 0.9, 0.6],
        0.4485148514851485,
    ),
    # the first overlaps both alike, and which one it takes decides about the others
    (
        [(2, 2, 10, 10), (2, 4, 10, 10), (4, 2, 10, 10)],
        [(2, 3, 10, 10), (3, 2, 10, 10)],
        [0.5, 0.5, 0.5],
        0.7,
    ),
    (
        [(0, 0, 4, 4), (0, 5, 4, 4), (0, 10, 4, 4), (0, 15, 4, 4), (10, 0, 9, 9)],
        [(0, 0, 4, 5), (0, 5, 4, 4), (0, 10, 5, 4), (0, 16, 4, 4)],
        [0.9, 0.6, 0.5, 0.8, 0.7],
        0.5113861386138614,
    ),
]


@pytest.mark.parametrize(("made", "shown", "confidence", "ap"), COCO)
def test_average_precision_is_that_of_pycocotools(
    made: Any, shown: Any, confidence: list[float], ap: float
) -> None:
    found = (rectangles(*made), [0] * len(made), confidence)
    assert compared(found, (rectangles(*shown), [0] * len(shown)))[2] == pytest.approx(ap, abs=1e-9)


# What cannot be scored


def test_pictures_of_two_sizes_are_refused(folder: Path, results: Results) -> None:
    small = [Media("image", torch.rand(3, 32, 32)) for _ in results.shown]
    other = Results(results.trials, {}, {}, results.shown, small)
    assert "[(32, 32), (64, 64)]; set `first`" in refusal(folder, other)
    rows = Masks(str(folder), first=Resize(SIDE), device="cpu")(other)
    assert rows["value"].between(0, 1).all()


@pytest.mark.parametrize("wrong", [{"level": "stuff"}, {"threshold": 1.0}, {"batch": 0}])
def test_knobs_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"expected level among .*, got"):
        Masks("some/model", **wrong)


def refusal(model: Path, results: Results, **knobs: Any) -> str:
    with pytest.raises(InputError) as told:
        Masks(str(model), device="cpu", **knobs)(results)
    said = str(told.value)
    assert "\n" not in said
    return said


def test_other_networks_are_refused(folder: Path, results: Results, tmp_path: Path) -> None:
    said = refusal(folder, results, threshold=0.999)
    assert "an instance with confidence 0.999" in said
    assert "in 5; lower" in said
    trunk = save(tmp_path / "trunk", Mask2FormerModel(mask2former()), Mask2FormerImageProcessor())
    assert "trained to find instances" in refusal(trunk, results)
    detr = DetrConfig(
        **SMALL | {"encoder_attention_heads": 8}, use_timm_backbone=False, backbone_config=resnet()
    )
    panoptic = save(tmp_path / "detr", DetrForSegmentation(detr), DetrImageProcessor())
    said = refusal(panoptic, results)
    assert "mask2former or maskformer or eomt" in said
    assert "is detr" in said
    semantic = SegformerForSemanticSegmentation(
        SegformerConfig(hidden_sizes=[8] * 4, depths=[1] * 4)
    )
    assert "expected a model that can be loaded" in refusal(
        save(tmp_path / "segformer", semantic, Mask2FormerImageProcessor()), results
    )
