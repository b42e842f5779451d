"""Boxes in texts: parsing, overlap by counting pixels, COCO's files, and the metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from decode.core import InputError, Media, Results, Stimulus
from decode.metrics.grounding import Grounding
from decode.recordings.coco_boxes import WHOLE, read_boxes, read_crops
from decode.scoring.boxes import overlap, parse_boxes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There: [0.1, 0.2, 0.5,0.75].", [[0.1, 0.2, 0.5, 0.75]]),
        ("[0,0,1,1] and [.5, .5, .6, .9]", [[0, 0, 1, 1], [0.5, 0.5, 0.6, 0.9]]),
        ("dogs [0.1,0.1,0.2,0.2;0.3,0.3,0.4,0.4]", [[0.1, 0.1, 0.2, 0.2], [0.3, 0.3, 0.4, 0.4]]),
        ("[0.5, 0.2, 0.1, 0.9]", []),  # right is left
        ("[10, 20, 50, 75]", []),  # pixels
        ("[-0.1, 0.2, 0.5, 0.6] [0.1, 0.2, 0.5] [a, b, c, d] 0.1, 0.2, 0.3, 0.4", []),
        ("A dog on a sofa.", []),
    ],
)
def test_boxes_are_read_from_text(text: str, expected: list[list[float]]) -> None:
    found = parse_boxes(text)
    assert found.shape == (len(expected), 4)
    assert found.tolist() == expected


def test_overlap_equals_counting_cells() -> None:
    rng = np.random.default_rng(0)
    n = 40
    corners = np.sort(rng.integers(0, n + 1, (12, 2, 2)), axis=1)
    corners[:, 1] += corners[:, 1] == corners[:, 0]
    boxes = corners.reshape(12, 4).astype(float)
    masks = np.zeros((12, n + 1, n + 1), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
        mask[y0:y1, x0:x1] = True
    expected = [[(a & b).sum() / (a | b).sum() for b in masks[5:]] for a in masks[:5]]
    assert np.allclose(overlap(boxes[:5] / n, boxes[5:] / n), expected)
    assert np.max(expected) > 0.1


def write_coco(folder: Path, images: list[dict[str, Any]], boxes: list[dict[str, Any]]) -> Path:
    file = folder / "instances.json"
    categories = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
    told = {"categories": categories, "images": images, "annotations": boxes}
    file.write_text(json.dumps(told))
    return file


def test_coco_boxes_follow_the_crop(tmp_path: Path) -> None:
    """Painted pixels, cut as the picture is cut, have their outline where the box says."""
    width, height = 640, 480
    crop = (0.0, 0.0, 0.125, 0.125)  # to 480 x 480
    bbox = [200, 120, 100, 240]
    file = write_coco(
        tmp_path,
        [{"id": 7, "width": width, "height": height}, {"id": 8, "width": 10, "height": 10}],
        [
            {"image_id": 7, "category_id": 18, "bbox": bbox, "iscrowd": 0},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 100, 50], "iscrowd": 0},  # 20 % left
            {"image_id": 7, "category_id": 1, "bbox": [200, 0, 100, 50], "iscrowd": 1},
        ],
    )
    picture = np.zeros((height, width))
    picture[120:360, 200:300] = 1
    cut = picture[:, 80:560]
    y, x = np.nonzero(cut)
    expected = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) / 480
    found = read_boxes([file], {7: crop, 8: WHOLE})
    assert found[8] == {}
    assert list(found[7]) == ["dog"]
    assert np.allclose(found[7]["dog"], expected[None])
    assert list(read_boxes([file], {7: crop}, visible=0.1)[7]) == ["dog", "person"]
    with pytest.raises(InputError, match="picture 9"):
        read_boxes([file], {9: WHOLE})
    with pytest.raises(InputError, match="no such file"):
        read_boxes([tmp_path / "none.json"], {7: WHOLE})
    file.write_text('{"annotations": []}')
    with pytest.raises(InputError, match="expected COCO instances"):
        read_boxes([file], {7: WHOLE})


def test_crops_are_read_from_the_table(tmp_path: Path) -> None:
    table = tmp_path / "info.csv"
    pd.DataFrame(
        {"nsdId": [0, 1], "cocoId": [7, 8], "cropBox": ["(0, 0, 0.125, 0.25)", "(0.1, 0, 0, 0)"]}
    ).to_csv(table)
    assert read_crops(table) == {7: (0, 0, 0.125, 0.25), 8: (0.1, 0, 0, 0)}
    table.write_text("cocoId,cropBox\n7,whole\n")
    with pytest.raises(InputError, match="cropBox"):
        read_crops(table)


BOXES = {
    "a": {"dog": [[0.0, 0.0, 0.5, 0.5], [0.6, 0.6, 0.7, 0.7]]},
    "b": {"dog": [[0.5, 0.5, 1.0, 1.0]], "cat": [[0.0, 0.0, 1.0, 1.0]]},
    "c": {"cat": [[0.0, 0.0, 0.2, 0.2]]},
}
TEXTS = ["[0.0, 0.0, 0.5, 0.4]", "here [0.6, 0.6, 0.7, 0.7]", "no idea", "[0, 0, 0.2, 0.2]"]


def results(texts: list[str], labels: str = "boxes") -> Results:
    uids = ["a", "a", "b", "c"]
    trials = pd.DataFrame({"subject": "s", "split": "x", "stimulus": uids})
    shown = [Stimulus(u, "image", labels={labels: BOXES[u]}) for u in uids]
    return Results(trials, {}, {}, shown, [Media("text", t) for t in texts])


def scored(metric: Grounding, found: Results) -> dict[str, pd.DataFrame]:
    return dict(list(metric(found).groupby("metric")))


def test_the_first_box_meets_the_largest_of_its_category() -> None:
    of = scored(Grounding(category="dog"), results(TEXTS))
    iou, right = of["grounding_iou"], of["grounding_accuracy"]
    assert iou["trial"].tolist() == [0, 1, 2]  # picture c has no dog
    assert np.allclose(iou["value"], [0.8, 0.0, 0.0])
    assert right["value"].tolist() == [1, 0, 0]
    # Against a: .8, 0, 0; against b: 0, .04, 0.
    assert np.allclose(iou["chance"], 0.84 / 6)
    assert np.allclose(right["chance"], 1 / 6)
    assert set(iou["better"]) == {"higher"}


def test_any_object_of_a_category_or_of_all_may_count() -> None:
    best = scored(Grounding(category="dog", against="any"), results(TEXTS))["grounding_iou"]
    assert np.allclose(best["value"], [0.8, 1.0, 0.0])
    every = scored(Grounding(category=None), results(TEXTS))["grounding_iou"]
    assert np.allclose(every["value"], [0.8, 0.0, 0.0, 1.0])


def test_boxes_come_from_files_by_coco_number(tmp_path: Path) -> None:
    file = write_coco(
        tmp_path,
        [{"id": 7, "width": 100, "height": 50}],
        [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 50, 25], "iscrowd": 0}],
    )
    trials = pd.DataFrame({"subject": ["s"], "split": ["x"], "stimulus": ["u"]})
    shown = [Stimulus("u", "image", labels={"coco_id": 7})]
    found = Results(trials, {}, {}, shown, [Media("text", "[0, 0, 0.5, 0.5]")])
    rows = Grounding(category="person", files=[str(file)])(found)
    assert rows["value"].tolist() == [1, 1]
    table = tmp_path / "info.csv"
    table.write_text('cocoId,cropBox\n7,"(0, 0, 0, 0.5)"\n')
    rows = Grounding(category="person", files=[str(file)], crops=str(table))(found)
    assert rows.set_index("metric")["value"]["grounding_iou"] == pytest.approx(0.5)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(InputError, match="'horse'"):
        Grounding(category="horse")(results(TEXTS))
    with pytest.raises(InputError, match="label 'boxes'"):
        Grounding()(results(TEXTS, labels="other"))
    with pytest.raises(InputError, match="label 'coco_id'"):
        Grounding(files=["x.json"])(results(TEXTS))
    with pytest.raises(InputError, match="made text"):
        Grounding()(Results(results(TEXTS).trials, {}, {}, results(TEXTS).shown))
    with pytest.raises(InputError, match="largest or any"):
        Grounding(against="all")  # type: ignore[arg-type]
