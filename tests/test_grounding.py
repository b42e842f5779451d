"""Boxes in texts: parsing, overlap by counting pixels, COCO's files, and the metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from nsd_twin import Twin, write_captions, write_nsd
from test_configs import composed

from decode.artefacts.media import read_media
from decode.core import InputError, Media, Results, Stimulus
from decode.metrics.grounding import Grounding
from decode.pipeline import execute
from decode.recordings.coco_boxes import WHOLE, read_boxes, read_crops
from decode.scoring.boxes import overlap, parse_boxes
from decode.store import Frame
from decode.workshop import Run


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


def test_any_object_of_a_category_or_of_all_may_count() -> None:
    best = scored(Grounding(category="dog", against="any"), results(TEXTS))["grounding_iou"]
    assert np.allclose(best["value"], [0.8, 1.0, 0.0])
    every = scored(Grounding(category=None), results(TEXTS))["grounding_iou"]
    assert np.allclose(every["value"], [0.8, 0.0, 0.0, 1.0])


SEVERAL = [
    "dog: [0.0, 0.0, 0.5, 0.4]\ncat: [0, 0, 1, 1]",
    "dog: none\ncat: [0.0, 0.0, 0.5, 0.5]",
    "dog: here [0.5, 0.5, 1.0, 1.0] [0, 0, 1, 1]\ncat: [0, 0, 0.5, 1]",
    "cat: [0, 0, 0.2, 0.2]\ndog: [0, 0, 1, 1]",
]


def test_each_picture_is_scored_on_the_categories_that_it_has() -> None:
    """By hand: a has a dog, b a dog and a cat, c a cat; other lines are not looked at."""
    of = scored(Grounding(category=["cat", "dog"]), results(SEVERAL))
    iou, right = of["grounding_iou"], of["grounding_accuracy"]
    assert iou["trial"].tolist() == [0, 1, 2, 3]
    assert np.allclose(iou["value"], [0.8, 0.0, (1.0 + 0.5) / 2, 1.0])
    assert right["value"].tolist() == [1, 0, 1, 1]
    # Dogs of a and b: .8 and 0; none; 0 and 1. Cats of b and c: .5 and .04 / .5; .04 and 1.
    chance = [(0.8 + 0) / 2, 0, ((0 + 1) / 2 + (0.5 + 0.08) / 2) / 2, (0.04 + 1) / 2]
    assert np.allclose(iou["chance"], np.mean(chance))
    assert np.allclose(right["chance"], np.mean([0.5, 0, 0.5, 0.5]))
    # What is written about a category that a picture lacks changes nothing.
    other = [SEVERAL[0].replace("[0, 0, 1, 1]", "no"), *SEVERAL[1:]]
    pd.testing.assert_frame_equal(
        Grounding(category=["cat", "dog"])(results(other)),
        Grounding(category=["cat", "dog"])(results(SEVERAL)),
    )
    swapped = [t.replace("dog", "x").replace("cat", "dog").replace("x", "cat") for t in SEVERAL]
    wrong = scored(Grounding(category=["cat", "dog"]), results(swapped))["grounding_iou"]
    assert np.allclose(wrong["value"], [0.25, 1.0, (0.25 + 0.0) / 2, 0.04])


def test_a_list_of_one_is_its_category() -> None:
    lines = [f"dog: {text}" for text in TEXTS]
    one, several = Grounding(category="dog"), Grounding(category=["dog"])
    pd.testing.assert_frame_equal(one(results(TEXTS)), several(results(lines)))


def test_groups_are_scored_as_lists_of_their_own() -> None:
    groups = {"Salient creatures": ["dog"], "all": ["dog", "cat"]}
    found = Grounding(category=["cat", "dog"], groups=groups)(results(SEVERAL))
    for ending, category in (("salient_creatures", ["dog"]), ("all", ["cat", "dog"])):
        alone = Grounding(category=category)(results(SEVERAL))
        mine = found[found["metric"].str.endswith(f"_{ending}")].reset_index(drop=True)
        mine["metric"] = mine["metric"].str.removesuffix(f"_{ending}")
        pd.testing.assert_frame_equal(mine, alone)
    for wrong in ({"far": ["dog", "horse"]}, {"none": []}):
        with pytest.raises(InputError, match="groups of categories that `category` lists"):
            Grounding(category=["cat", "dog"], groups=wrong)


def test_texts_without_lines_have_no_box_and_a_category_not_asked_for_is_named() -> None:
    written = ["cat: it sleeps", *["A dog [0, 0, 0.5, 0.5]."] * 3]
    captions = scored(Grounding(category=["cat", "dog"]), results(written))
    assert captions["grounding_iou"]["value"].tolist() == [0, 0, 0, 0]
    with pytest.raises(InputError, match=r"line for 'horse' .* \['cat', 'dog'\]"):
        Grounding(category=["cat", "horse", "dog"])(results(SEVERAL))
    with pytest.raises(InputError, match=r"has a box of, got \['horse'\], of which none"):
        Grounding(category=["horse"])(results(["horse: [0, 0, 1, 1]"] * 4))
    for wrong in ([], ["dog", "dog"]):
        with pytest.raises(InputError, match="list of different names"):
            Grounding(category=wrong)


def test_the_experiment_asks_for_the_categories_that_it_scores() -> None:
    config = composed("experiment=nsd/umbrae_grounding")
    asked = config["generator"]["categories"]
    assert config["metrics"]["grounding"]["category"] == asked
    assert len(asked) == len(set(asked)) == 80
    groups = config["metrics"]["grounding"]["groups"]
    creatures, objects = groups["salient creatures"], groups["salient objects"]
    assert (len(creatures), len(objects), len(groups["inconspicuous"])) == (11, 17, 52)
    assert set(groups["salient"]) == {*creatures, *objects}
    assert {*groups["salient"], *groups["inconspicuous"]} == set(asked)
    assert "{category}" in config["generator"]["prompt"]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA and, in `clip`, its image encoder by itself."""
    from text_twins import processor, tiny_llava
    from transformers import CLIPVisionModelWithProjection

    folder = tmp_path_factory.mktemp("llava")
    torch.manual_seed(1)
    network, _ = tiny_llava(folder)
    tower = network.model.vision_tower
    clip = CLIPVisionModelWithProjection(tower.config).eval()
    state = tower.state_dict()
    clip.load_state_dict(
        {f"vision_model.{k.removeprefix('vision_model.')}": v for k, v in state.items()},
        strict=False,
    )
    clip.save_pretrained(folder / "clip")
    processor(folder / "clip")
    return folder


def write_instances(twin: Twin, file: Path) -> str:
    """A person in the left half of every picture of an even COCO number, a dog in all of them."""
    images = [{"id": int(n), "width": 100, "height": 100} for n in twin.coco]
    one = {"category_id": 18, "bbox": [10, 10, 50, 50], "iscrowd": 0}
    boxes = [{**one, "image_id": i["id"]} for i in images]
    boxes += [
        {**one, "image_id": i["id"], "category_id": 1, "bbox": [0, 0, 50, 100]}
        for i in images
        if i["id"] % 2 == 0
    ]
    return str(write_coco(file, images, boxes))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Twin]:
    folder = tmp_path_factory.mktemp("asked")
    return folder, write_nsd(folder / "nsd", n_images=80, n_shared=12, size=16)


def on_the_twin(name: str, llava: Path, folder: Path, twin: Twin, *more: str) -> dict[str, Any]:
    """The experiment by a tiny LLaVA, one epoch of training."""
    config = composed(
        f"experiment=nsd/{name}", f"paths.outputs={folder}/outputs", f"paths.data={folder}", *more
    )
    config["data"] |= {"root": str(twin.root), "captions": write_captions(twin)}
    config["subjects"], config["published"] = ["subj01"], None
    config["targets"]["image"] |= {"model": str(llava / "clip"), "device": "cpu"}
    config["encoder"] |= {"tokens": 4, "width": 16, "depth": 1, "heads": 2, "head_width": 8}
    config["trainer"] |= {"epochs": 1, "precision": "float32"}
    config["generator"] |= {
        "model": str(llava), "tokens": 4, "width": 16, "precision": "float32", "device": "cpu",
        "max_new_tokens": 3, "template": "user : <image> {prompt}",
    }  # fmt: skip
    config["metrics"]["retrieval"] |= {"n_way": [2], "k": [1]}
    config["compute"] = {"device": "cpu"}
    return config


def scores_of(run: Run) -> tuple[Path, int, pd.Series]:
    """Folder of the media, number of trials, rows of every score."""
    execute(run, until="evaluate", force=(), say=lambda s: None)
    predicted, made, scored = (
        Path(run.folder(n) or "") for n in ("predict", "reconstruct", "evaluate")
    )
    n = len(Frame.read(predicted / "shared982-00").table)
    counts = pd.read_parquet(scored / "scores.parquet").groupby(["source", "metric"]).size()
    return made / "shared982-00", n, counts


@pytest.mark.slow
def test_the_experiment_asks_on_the_twin_from_betas_to_scores(
    llava: Path, place: tuple[Path, Twin]
) -> None:
    folder, twin = place
    told = pd.DataFrame({"coco_id": [*twin.coco, *twin.coco]})
    told["question"] = np.repeat(["dog", "person"], len(twin.coco))
    told.assign(answer="yes").to_csv(folder / "answers.csv", index=False)
    config = on_the_twin("umbrae_grounding", llava, folder, twin, "+metric@metrics.answers=answers")
    config["generator"]["categories"] = ["dog", "person"]
    info = twin.root / "nsddata/experiments/nsd/nsd_stim_info_merged.csv"
    files = [write_instances(twin, folder)]
    config["metrics"]["grounding"] |= {
        "category": ["person", "dog"], "crops": str(info), "files": files,
        "groups": {"salient creatures": ["person"]},
    }  # fmt: skip
    made, n, counts = scores_of(Run(config))
    for source in ("decoder", "controls/oracle", "controls/prior"):
        for media in read_media(made / source, n):
            lines = str(media.data).split("\n")
            assert [line.partition(":")[0] for line in lines] == ["dog", "person"]
    for name in ("decoder", "oracle", "prior", "nearest_text", "shuffled"):
        assert counts[name, "grounding_iou"] == counts[name, "grounding_accuracy"] == n
        assert 0 < counts[name, "grounding_iou_salient_creatures"] < n
        for kind in ("", "_dog", "_person"):
            assert counts[name, f"answers_accuracy{kind}"] == n


@pytest.mark.slow
def test_the_experiment_asks_what_belongs_to_each_picture(
    llava: Path, place: tuple[Path, Twin]
) -> None:
    folder, twin = place
    rows = [(n, f"Is {n} a star?", "yes", "kind") for n in twin.coco]
    rows += [(n, f"Where is {n}: red?", "there", "place") for n in twin.coco if n % 2]
    told = pd.DataFrame(rows, columns=["coco_id", "question", "answer", "category"])
    told.to_csv(folder / "answers.csv", index=False)
    config = on_the_twin("umbrae_questions", llava, folder, twin)
    run = Run(config)
    made, n, counts = scores_of(run)
    table = Frame.read(Path(run.folder("predict") or "") / "shared982-00").table
    stimuli = run.dataset.stimuli()
    numbers = [int(stimuli[uid].labels["coco_id"]) for uid in table["stimulus"]]
    for source in ("decoder", *(f"controls/{c}" for c in ("oracle", "prior", "shuffled"))):
        for number, media in zip(numbers, read_media(made / source, n), strict=True):
            asked = [line.rpartition(":")[0] for line in str(media.data).split("\n")]
            assert asked == [q for i, q, *_ in rows if i == number]
    assert not (made / "controls" / "nearest_text").exists()  # a caption answers nothing
    odd = sum(number % 2 for number in numbers)
    assert 0 < odd < n
    for name in ("decoder", "oracle", "prior", "shuffled"):
        for kind, expected in (("", n), ("_kind", n), ("_place", odd)):
            assert counts[name, f"answers_accuracy{kind}"] == expected


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
