"""Whether the same things, or parts of things, lie in the same places in a made and the shown picture."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import ClassVar, Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from decode.core import InputError, Kind, Measure, Metric, Results, Size, refusal
from decode.scoring.album import Album, batches, check_sizes
from decode.scoring.feature_networks import slug
from decode.scoring.mask_matching import Agreement, Instances, agreement, pack
from decode.scoring.picture_scores import Resize
from decode.scoring.rows import scores, table
from decode.scoring.segmenter import open_segmenter

Level = Literal["instance", "part"]
# Those whose output is a class and a mask per query; OneFormer also wants to be told a task.
FAMILIES = ("mask2former", "maskformer", "eomt")
# Masks are compared on so many points each way. The networks draw them on 96 to 200 and blow them up,
# and with a bit a point 100 masks in each of 2000 pictures take 1.6 GB.
POINTS = 256


class Masks(Metric):
    """`foreground_iou_<network>`, `<level>_iou_<network>` and `<level>_ap_<network>` per made picture,
    from 0 to 1.

    The idea is the structural half of BASIC (Xia & Oztireli 2025, arXiv:2507.07993): made and shown
    picture are segmented at several levels (salient, semantic, instance, part), masks are put in
    correspondence, and overlap and average precision are scored. How it does so in detail was not
    known here, and its masks come from Grounded-SAM2. What follows is our own definition, so the
    numbers serve to compare runs with each other, not with its table. `Segmentation` is the semantic level.

    A network that was trained to find instances, such as Mask2Former (Cheng et al. 2022,
    arXiv:2112.01527), gives each thing a mask, a class and a confidence; those of `threshold` or more
    count, in both pictures. `level` says what it was trained to find: give `part` for a network of
    parts. A network of salient objects makes of foreground what the word means elsewhere; one of
    panoptic masks counts sky and grass as things. The network is in the name.

    foreground_iou: intersection over union of the unions of all masks, whatever their classes.
    iou: one-to-one partners of the same class, chosen so that their overlaps sum to most; mean over all
    masks of both pictures of the overlap with the partner, 0 for those without one. It is panoptic
    quality (Kirillov et al. 2019, arXiv:1801.00868) over all classes at once and without its threshold.
    ap: COCO's average precision of mask overlap, made instances as detections, shown ones as truth, mean
    over the classes that the shown picture has. False alarms of other classes cost nothing here.

    Trials whose shown picture has no instance are left out; a made picture without any scores 0. `first`
    resizes both pictures, `quantise` rounds made ones to 8 bits. Chance is the score against a shown
    picture drawn at random from those that have an instance and agree in the columns `within`.
    Raises InputError where no shown picture has an instance.
    """

    looks_at: ClassVar[Literal["media"]] = "media"
    accepts: ClassVar[frozenset[Kind]] = frozenset({"image"})

    def __init__(
        self,
        model: str,
        *,
        level: Level = "instance",
        threshold: float = 0.5,
        first: Resize | None = None,
        quantise: bool = False,
        within: Sequence[str] = ("subject", "split"),
        batch: int = 4,
        device: str = "auto",
    ) -> None:
        if level not in get_args(Level) or batch < 1 or not 0 < threshold < 1:
            raise InputError(
                f"metric masks: expected level among {list(get_args(Level))}, threshold between 0 and 1 "
                f"and batch of 1 or more, got {level!r}, {threshold} and {batch}"
                "; correct it"
            )
        self.model, self.level, self.threshold = model, level, threshold
        self.first, self.quantise, self.within = first, quantise, tuple(within)
        self.batch, self.device = batch, device

    @property
    def network(self) -> str:
        """What its scores call the network."""
        return slug(self.model.rstrip("/").split("/")[-1])

    @property
    def names(self) -> dict[str, str]:
        """The name of each field of `Agreement`."""
        network = self.network
        return {
            "foreground_iou": f"foreground_iou_{network}",
            "matched_iou": f"{self.level}_iou_{network}",
            "average_precision": f"{self.level}_ap_{network}",
        }

    def measures(self) -> Mapping[str, Measure]:
        told = {
            "foreground_iou": f"Intersection over union of all that {self.network} finds in the made and in "
            "the shown picture together, whatever it is.",
            "matched_iou": f"Intersection over union of each {self.level} that {self.network} finds with its "
            "partner in the other picture; 0 without a partner.",
            "average_precision": f"COCO's average precision of each {self.level} mask that {self.network} "
            "finds in the made picture, with those of the shown one as truth.",
        }
        return {
            name: Measure(told[field], ceiling="generator") for field, name in self.names.items()
        }

    def check_sizes(self, shown: Collection[Size], made: Size | None) -> None:
        check_sizes(self.first, shown, made)

    def __call__(self, results: Results) -> pd.DataFrame:
        album = Album(results, self.within, self.first, self.quantise)
        self._open()
        sizes: set[tuple[int, ...]] = set()
        made = list(self._found(album.read_made, len(album.own), "made", sizes))
        shown = list(self._found(album.read_shown, len(album.pictures), "shown", sizes))
        some = np.array([len(found) > 0 for found in shown])
        rows = np.flatnonzero(some[album.own])
        if not len(rows):
            raise refusal(
                "metric masks",
                f"an instance with confidence {self.threshold} or more in a shown picture",
                f"none by {self.model!r} in {len(shown)}",
                "lower `threshold` or give another model",
            )

        @cache
        def pair(row: int, picture: int) -> Agreement:
            return agreement(made[row], shown[picture])

        # The mean over pictures that have an instance: a sum with 0 for the others, by their share.
        _, share = album.own_and_chance(lambda other: some[other].astype(float))
        parts = []
        for field, name in self.names.items():

            def compare(other: np.ndarray, field: str = field) -> np.ndarray:
                pairs = enumerate(other.tolist())
                return np.array([getattr(pair(i, j), field) if some[j] else 0.0 for i, j in pairs])

            own, total = album.own_and_chance(compare)
            chance = total[rows] / share[rows]
            parts.append(scores(results, name, rows, own[rows], chance=chance))
        return table(parts)

    def _open(self) -> None:
        self._segmenter = open_segmenter(
            "AutoModelForUniversalSegmentation",
            self.model,
            self.device,
            "give a model that was trained to find instances",
        )
        kind = self._segmenter.network.config.model_type
        if kind not in FAMILIES:
            raise refusal(
                "metric masks",
                f"a model of {' or '.join(FAMILIES)}",
                f"{self.model!r}, which is {kind}",
                "give one of those in `model`",
            )

    def _found(
        self,
        read: Callable[[np.ndarray], Tensor],
        n: int,
        what: str,
        sizes: set[tuple[int, ...]],
    ) -> Iterator[Instances]:
        """The instances of each picture; `sizes` remembers how large the pictures were until now."""
        for rows in batches(n, self.batch, f"{self.level} masks, {what}"):
            pictures = read(rows)
            sizes.add(tuple(pictures.shape[-2:]))
            if len(sizes) > 1:  # masks lie on a grid of their own, which fits one shape only
                raise InputError(
                    f"metric masks: expected made and shown pictures of one size, got {sorted(sizes)}; "
                    "set `first` to a Resize"
                )
            yield from self._segment(pictures)

    @torch.inference_mode()
    def _segment(self, pictures: Tensor) -> list[Instances]:
        found = self._segmenter(pictures)
        pairs = zip(found.class_queries_logits, found.masks_queries_logits, strict=True)
        return [instances(c.float(), m.float(), self.threshold, POINTS) for c, m in pairs]


def instances(classes: Tensor, masks: Tensor, threshold: float, points: int) -> Instances:
    """Things of one picture from logits: classes (query, class and none) and masks (query, row, column).

    The class of a query is its likeliest, its mask is where its logit, at `points` x `points`, is above
    0, its confidence the probability of the class times the mean probability of the mask. Non-empty ones
    that reach `threshold` are kept.
    """
    likely, label = classes.softmax(-1)[:, :-1].max(-1)
    sure = likely >= threshold  # the mask can only lower it: most queries are dropped unseen
    likely, label = likely[sure], label[sure]
    logit = interpolate(masks[sure][:, None], (points, points), mode="bilinear")[:, 0]
    inside = logit > 0
    area = inside.sum(dim=(1, 2))
    confidence = likely * (logit.sigmoid() * inside).sum(dim=(1, 2)) / area.clamp(min=1)
    kept = (area > 0) & (confidence >= threshold)
    arrays = (inside[kept], label[kept], confidence[kept])
    return pack(*(x.cpu().numpy() for x in arrays))
