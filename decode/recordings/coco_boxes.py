"""Boxes of objects out of COCO's annotation files, for pictures that were cropped or not."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from decode.core import InputError, refusal
from decode.recordings.json_files import parse_json
from decode.recordings.tables import check_columns, read_words, whole_numbers

Boxes = dict[str, list[tuple[float, float, float, float]]]
Crop = tuple[float, float, float, float]
WHOLE: Crop = (0.0, 0.0, 0.0, 0.0)


def read_boxes(
    files: Sequence[Path], wanted: Mapping[int, Crop], *, visible: float = 0.5
) -> dict[int, Boxes]:
    """Boxes by COCO number and category, each (left, top, right, bottom) as shares of the crop.

    `files` are instances_*.json; `wanted` gives the pictures and what was cut off each of them (top,
    bottom, left, right, as shares of the whole picture). A box of which less than `visible` is left
    in the crop is dropped, and so are annotations of crowds. A picture without an object has no
    boxes; InputError for one that no file knows.
    """
    found: dict[int, Boxes] = {}
    for file in files:
        names, sizes, annotations = _read(file, wanted)
        found |= {number: {} for number in sizes}
        for one in annotations:
            number = int(one["image_id"])
            box = _cropped(one["bbox"], sizes[number], wanted[number], visible)
            if box is not None:
                found[number].setdefault(names[one["category_id"]], []).append(box)
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise InputError(
            f"boxes: expected COCO picture {missing[0]} ({len(missing)} such) in "
            f"{[str(f) for f in files]}, found none; name both instances_train2017.json and "
            "instances_val2017.json"
        )
    return found


def _read(
    file: Path, wanted: Collection[int]
) -> tuple[dict[int, str], dict[int, tuple[int, int]], list[Any]]:
    """Names of categories, (width, height) of the wanted pictures, and their annotations."""
    try:
        told = parse_json(file.read_bytes())
        names = {c["id"]: str(c["name"]) for c in told["categories"]}
        sizes = {i["id"]: (i["width"], i["height"]) for i in told["images"] if i["id"] in wanted}
        mine = [
            a for a in told["annotations"] if a["image_id"] in sizes and not a.get("iscrowd", 0)
        ]
        if mine and not {"bbox", "category_id"} <= set(mine[0]):
            raise ValueError(f"annotations with the keys {sorted(mine[0])}")
    except FileNotFoundError as e:
        raise InputError(
            f"boxes: expected COCO instances at {file}, found no such file; put it there or correct "
            "the path"
        ) from e
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise InputError(
            f"{file}: expected COCO instances (categories, images, annotations with bbox), got {e}; "
            "use instances_train2017.json and instances_val2017.json"
        ) from e
    return names, sizes, mine


def _cropped(
    bbox: Sequence[float], size: tuple[int, int], crop: Crop, visible: float
) -> tuple[float, float, float, float] | None:
    """A box of COCO (left, top, width, height in pixels) inside the crop; None where too little is."""
    top, bottom, left, right = crop
    share = np.array([1 - left - right, 1 - top - bottom])
    begin = np.array(bbox[:2], float) / size
    end = begin + np.array(bbox[2:], float) / size
    low = np.clip((begin - [left, top]) / share, 0, 1)
    high = np.clip((end - [left, top]) / share, 0, 1)
    whole, kept = np.prod(end - begin) / np.prod(share), np.prod(high - low)
    if kept <= 0 or kept < visible * whole:
        return None
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def read_crops(table: Path) -> dict[int, Crop]:
    """What NSD cut off each picture (top, bottom, left, right, shares), by COCO number."""
    named = ["cocoId", "cropBox"]
    rows = read_words(
        table,
        separator=",",
        expected="NSD's table of pictures",
        remedy="put it there or set crops to null for pictures that are whole",
        only=named,
    )
    check_columns(table, rows, named, "fetch nsd_stim_info_merged.csv again")
    rows = rows[rows["cocoId"].notna()]
    try:
        numbered = zip(whole_numbers(table, rows, "cocoId"), rows["cropBox"], strict=True)
        crops = {int(n): _numbers(box) for n, box in numbered}
    except ValueError as e:
        raise refusal(
            table,
            "a table with cocoId and cropBox (four numbers)",
            e,
            "fetch nsd_stim_info_merged.csv again",
        ) from e
    return crops


def _numbers(text: object) -> Crop:
    found = [float(n) for n in re.findall(r"\d*\.?\d+(?:[eE]-?\d+)?", str(text))]
    if len(found) != 4:
        raise ValueError(f"cropBox {text!r}")
    return found[0], found[1], found[2], found[3]
