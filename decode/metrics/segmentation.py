"""Whether the things in a made picture lie where they lie in the shown one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from decode.core import InputError, Kind, Measure, Metric, Results, Size, refusal
from decode.scoring.album import Album, batches, check_sizes
from decode.scoring.feature_networks import slug
from decode.scoring.picture_scores import Resize
from decode.scoring.rows import scores, table
from decode.scoring.segmenter import open_segmenter


class Segmentation(Metric):
    """`mean_iou_<network>` per made picture, from 0 to 1.

    A semantic segmentation model of transformers, such as SegFormer (Xie et al. 2021,
    arXiv:2105.15203), names every pixel of the made and of the shown picture. The score is
    intersection over union (Everingham et al. 2010, doi:10.1007/s11263-009-0275-4), averaged over the
    classes that either of the two has. Another network gives another number, so it is in the name.

    `first` resizes both pictures, `quantise` rounds made ones to 8 bits. Chance is the score against a
    shown picture drawn at random from those that agree in the columns `within`, the own one included.
    """

    looks_at: ClassVar[Literal["media"]] = "media"
    accepts: ClassVar[frozenset[Kind]] = frozenset({"image"})

    def __init__(
        self,
        model: str,
        *,
        first: Resize | None = None,
        quantise: bool = False,
        within: Sequence[str] = ("subject", "split"),
        batch: int = 8,
        device: str = "auto",
    ) -> None:
        if batch < 1:
            raise InputError(
                f"metric segmentation: expected batch of 1 or more, got {batch}; correct it"
            )
        self.model, self.first, self.quantise = model, first, quantise
        self.within, self.batch, self.device = tuple(within), batch, device

    @property
    def name(self) -> str:
        return f"mean_iou_{self.network}"

    @property
    def network(self) -> str:
        """What its score calls the network."""
        return slug(self.model.rstrip("/").split("/")[-1])

    def measures(self) -> Mapping[str, Measure]:
        text = (
            f"Intersection over union of what {self.network} sees in the made and in the shown picture, "
            "averaged over the classes that either has."
        )
        return {self.name: Measure(text, ceiling="generator")}

    def check_sizes(self, shown: Collection[Size], made: Size | None) -> None:
        check_sizes(self.first, shown, made)

    def __call__(self, results: Results) -> pd.DataFrame:
        album = Album(results, self.within, self.first, self.quantise)
        self._segment = open_segmenter(
            "AutoModelForSemanticSegmentation",
            self.model,
            self.device,
            "give a model that was trained to segment",
        )
        made = self._maps(album.read_made, len(album.own), "made")
        shown = self._maps(album.read_shown, len(album.pictures), "shown")
        if made.shape[1:] != shown.shape[1:]:
            raise refusal(
                "metric segmentation",
                "pictures of one size",
                f"made ones of {made.shape[1:]} and shown ones of {shown.shape[1:]}",
                "set `first` to a Resize",
            )
        own, chance = album.own_and_chance(lambda other: mean_iou(made, shown[other]))
        every = np.arange(len(own))
        return table([scores(results, self.name, every, own, chance=chance)])

    def _maps(self, read: Callable[[np.ndarray], Tensor], n: int, what: str) -> np.ndarray:
        """Class of each pixel (picture, row, column)."""
        parts = batches(n, self.batch, f"{self.name}, {what}")
        return np.concatenate([self._classes(read(rows)) for rows in parts])

    @torch.inference_mode()
    def _classes(self, pictures: Tensor) -> np.ndarray:
        found = self._segment(pictures).logits
        size = pictures.shape[-2:]
        return interpolate(found, size, mode="bilinear").argmax(1).to(torch.int16).cpu().numpy()


def mean_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (picture,) of class maps (picture, row, column), averaged over the classes
    that either map has.
    """
    n = 1 + max(int(a.max()), int(b.max()))
    value = np.empty(len(a))
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        both = np.bincount(x[x == y].ravel(), minlength=n)
        either = np.bincount(x.ravel(), minlength=n) + np.bincount(y.ravel(), minlength=n) - both
        value[i] = np.mean(both[either > 0] / either[either > 0])
    return value
