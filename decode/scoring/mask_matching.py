"""Masks of a made picture beside those of a shown one: overlap, partners, average precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of intersection over union, as COCO has them
RECALLS = np.linspace(0, 1, 101)  # likewise


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """What a network found in one picture: the mask, class and confidence of each thing.

    `packed` is (instance, byte) uint8, a bit per point of the picture (see `pack`), an eighth of what
    booleans take; `label` and `confidence` are (instance,).
    """

    packed: np.ndarray
    label: np.ndarray
    confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    @property
    def masks(self) -> np.ndarray:
        """(instance, point) bool; points that fill the last byte are in no mask."""
        return np.unpackbits(self.packed, axis=1).astype(bool)

    @property
    def foreground(self) -> np.ndarray:
        """(point,) bool: whether anything is there."""
        return np.unpackbits(np.bitwise_or.reduce(self.packed, axis=0)).astype(bool)


def pack(masks: np.ndarray, label: np.ndarray, confidence: np.ndarray) -> Instances:
    """Instances from masks (instance, row, column) bool, classes and confidences (instance,)."""
    flat = masks.reshape(len(masks), int(np.prod(masks.shape[1:])))
    return Instances(np.packbits(flat, axis=1), label, confidence)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well one made picture agrees with one shown picture, each from 0 to 1."""

    foreground_iou: float
    matched_iou: float
    average_precision: float


def agreement(made: Instances, shown: Instances) -> Agreement:
    """All scores of two pictures; `shown` holds at least one instance, and 0 is for an empty `made`."""
    if not len(made):
        return Agreement(0.0, 0.0, 0.0)
    overlap = pairwise_iou(made.masks, shown.masks)
    # things of different classes are no partners, however well they lie
    overlap = np.where(made.label[:, None] == shown.label[None, :], overlap, 0.0)
    ap = [
        average_precision(overlap[np.ix_(made.label == c, shown.label == c)],
                          made.confidence[made.label == c])
        for c in np.unique(shown.label)
    ]  # fmt: skip
    foreground = pairwise_iou(made.foreground[None], shown.foreground[None])
    return Agreement(float(foreground[0, 0]), matched_iou(overlap), float(np.mean(ap)))


def pairwise_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union (mask of `one`, mask of `other`) of masks (mask, point) bool.

    Two empty masks have none: 0.
    """
    # single precision counts exactly up to 2 ** 24 points, a picture of 4096 x 4096
    both = one.astype(np.float32) @ other.astype(np.float32).T
    either = one.sum(axis=1)[:, None] + other.sum(axis=1)[None] - both.astype(np.float64)
    return np.divide(both, either, out=np.zeros(either.shape), where=either > 0)


def matched_iou(overlap: np.ndarray) -> float:
    """Mean over the masks of both pictures of the overlap with its partner, 0 for those without one.

    `overlap` is (made, shown), 0 between masks that may not be partners. Partners are one to one, so
    that the sum is largest (Kuhn 1955, doi:10.1002/nav.3800020109).
    """
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    return float(2 * overlap[rows, columns].sum() / sum(overlap.shape))


def average_precision(overlap: np.ndarray, confidence: np.ndarray) -> float:
    """COCO's average precision of the made masks of one class in one picture.

    `overlap` is (made, shown) with at least one shown mask, `confidence` is (made,). Mean over the
    thresholds of overlap, .50:.05:.95, and over 101 points of recall (Lin et al. 2014,
    arXiv:1405.0312, and the rules of the challenge).
    """
    ordered = overlap[np.argsort(-confidence, kind="stable")]
    n = overlap.shape[1]
    return float(np.mean([_precision(_hits(ordered, t), n) for t in THRESHOLDS]))


def _hits(overlap: np.ndarray, threshold: float) -> np.ndarray:
    """(made,) bool: the masks that, in this order, take a shown one, the free one that they overlap
    most, of equal ones the last.
    """
    free = np.ones(overlap.shape[1], bool)
    hit = np.zeros(len(overlap), bool)
    for i, row in enumerate(overlap):
        value = np.where(free, row, -1.0)
        best = np.flatnonzero(value == value.max())[-1]
        hit[i] = value[best] >= threshold
        free[best] &= not hit[i]
    return hit


def _precision(hit: np.ndarray, n: int) -> float:
    """Mean over RECALLS of the best precision at that recall of `n` masks or above; 0 beyond reach."""
    right = np.cumsum(hit)
    precision = right / np.arange(1, len(hit) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.append(best, 0.0)[np.searchsorted(right / n, RECALLS)].mean())
