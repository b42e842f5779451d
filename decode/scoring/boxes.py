"""Boxes as language models write them, and how well they lie."""

from __future__ import annotations

import re

import numpy as np

_NUMBER = r"\d*\.?\d+(?:[eE]-?\d+)?"
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_BOX = re.compile(rf"\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*")


def parse_boxes(text: str) -> np.ndarray:
    """(box, 4) left, top, right, bottom as shares of the picture, in the order of the text.

    A box is four numbers in [0, 1] in brackets, right of left and bottom below top; several may
    share the brackets, parted by semicolons. Anything else in brackets is no box.
    """
    found = []
    for inside in _BRACKETS.findall(text):
        for part in inside.split(";"):
            numbers = _BOX.fullmatch(part)
            if numbers is None:
                continue
            left, top, right, bottom = (float(n) for n in numbers.groups())
            if left < right <= 1 and top < bottom <= 1:
                found.append((left, top, right, bottom))
    return np.array(found, np.float64).reshape(-1, 4)


def overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union (box of `one`, box of `other`) of boxes (box, 4) that have an area."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    return both / (area(one)[:, None] + area(other)[None] - both)


def area(boxes: np.ndarray) -> np.ndarray:
    """(box,) share of the picture."""
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
