"""The pictures of a result: made beside shown, read in batches, and who is compared with whom."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from decode.core import Media, Results, Size, Stimulus, refusal
from decode.pictures import read_image
from decode.progress import progress
from decode.scoring.picture_scores import Resize, eight_bit
from decode.scoring.rows import galleries

CHANCE_PAIRS = 300


class Album:
    """Made and shown pictures of a result, read in batches; who is compared with whom.

    `own` is (row,), the row's true picture among the distinct ones; `rival` gives the pictures of
    the other stimuli of the row's gallery.
    """

    def __init__(
        self, results: Results, within: Sequence[str], first: Resize | None, quantise: bool
    ) -> None:
        if results.made is None:
            raise refusal(
                "metric image",
                "made pictures",
                "none, as nothing was generated",
                "add a generator to the experiment or drop the image metrics",
            )
        self.made: Sequence[Media] = results.made
        self.first, self.quantise = first, quantise
        self.rows: list[np.ndarray] = [g.rows for g in galleries(results.trials, within)]
        self.gallery = np.empty(len(results.trials), int)
        for number, rows in enumerate(self.rows):
            self.gallery[rows] = number
        uids = results.trials["stimulus"].to_numpy()
        self.stimulus, names = pd.factorize(uids)
        known = dict(zip(uids, results.shown, strict=True))
        self.pictures, self.picture_of = distinct_pictures([known[uid] for uid in names])
        self.own = self.picture_of[self.stimulus]
        self.present = np.zeros((len(self.rows), len(names)), bool)
        self.present[self.gallery, self.stimulus] = True

    def rival(self, rows: np.ndarray, same: np.ndarray | None = None) -> np.ndarray:
        """(row, stimulus) bool: other stimuli of the gallery, of one class when `same` is given."""
        rival = self.present[self.gallery[rows]].copy()
        rival[np.arange(len(rows)), self.stimulus[rows]] = False
        if same is not None:
            rival &= same[self.stimulus[rows], None] == same[None, :]
        return rival

    def size(self) -> np.ndarray:
        """(row,) number of distinct stimuli in the row's gallery, its own included."""
        return self.present.sum(axis=1)[self.gallery]

    def partner(self, shift: int) -> np.ndarray:
        """Per row the true picture `shift` stimuli further in its gallery."""
        other = np.empty_like(self.own)
        for number, rows in enumerate(self.rows):
            members = np.flatnonzero(self.present[number])
            place = np.searchsorted(members, self.stimulus[rows])
            other[rows] = self.picture_of[members[(place + shift) % len(members)]]
        return other

    def mean_per_gallery(self, value: np.ndarray) -> np.ndarray:
        """Mean of `value` (row,) over each row's gallery."""
        level = np.empty(len(value))
        for rows in self.rows:
            level[rows] = value[rows].mean()
        return level

    def own_and_chance(
        self, compare: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values (row,) of the rows' own pictures, and those of a picture drawn from their gallery.

        `compare` scores every row against one picture each (row,). Chance is averaged over the gallery;
        as many other pictures are tried as make CHANCE_PAIRS pairs.
        """
        size = self.size()
        n = min(int(size.max()) - 1, math.ceil(CHANCE_PAIRS / len(size)))
        own, *others = (compare(self.partner(shift)) for shift in range(1 + n))
        unrelated = np.mean(others, axis=0) if others else own
        return own, self.mean_per_gallery((own + (size - 1) * unrelated) / size)

    def read_made(self, rows: np.ndarray) -> Tensor:
        found = []
        for row in rows:
            media = self.made[row]
            if media.kind != "image" or not isinstance(media.data, Tensor):
                raise refusal(
                    "metric image",
                    "made images",
                    f"one of kind {media.kind!r} in row {row}",
                    "use a metric for that kind",
                )
            data = media.data.detach().cpu().float()
            found.append(eight_bit(data) / 255 if self.quantise else data)
        return self._prepared(found, "made")

    def read_shown(self, pictures: np.ndarray) -> Tensor:
        return self._prepared([read_image(self.pictures[i]) for i in pictures], "shown")

    def _prepared(self, pictures: list[Tensor], what: str) -> Tensor:
        if self.first is not None:
            return torch.cat([self.first(p[None]) for p in pictures])
        if len({tuple(p.shape) for p in pictures}) > 1:
            raise refusal(
                "metric image",
                f"{what} pictures of one size",
                "several sizes",
                "set `first` to a Resize, as the presets do",
            )
        return torch.stack(pictures)


def check_sizes(
    first: Resize | None,
    shown: Collection[Size],
    made: Size | None,
    *,
    then: Resize | None = None,
    least: int = 1,
    alike: bool = True,
) -> None:
    """InputError where an Album cannot read pictures of these sizes (height, width), resized by `first`,
    or where they are smaller than `least` or, unless `alike` is false, unlike when resized by `then`.
    """
    read = {(first.size, first.size)} if first else set(shown)
    if len(read) > 1:
        raise refusal(
            "first",
            "a Resize where shown pictures differ in size",
            f"none, and sizes {', '.join(f'{h}x{w}' for h, w in sorted(read)[:3])}",
            "set it, as the presets do",
        )
    compared = read if first or made is None else read | {made}
    if then is not None:
        compared = {(then.size, then.size)}
    if alike and len(compared) > 1:
        raise refusal(
            "first",
            "a Resize where made and shown pictures differ in size",
            f"none, and {' and '.join(f'{h}x{w}' for h, w in sorted(compared))}",
            "set it, as the presets do, or let the generator make that size",
        )
    if small := [size for size in compared if min(size) < least]:
        raise refusal(
            "first",
            f"a Resize to {least} pixels or more",
            f"pictures of {small[0][0]}x{small[0][1]}",
            "set a larger one",
        )


def distinct_pictures(stimuli: Sequence[Stimulus]) -> tuple[list[Stimulus], np.ndarray]:
    """Stimuli with distinct pixels, and per given stimulus which of them it shows.

    Equal pictures are read once and tie exactly, whatever batch a network would see them in.
    """
    seen: dict[bytes, int] = {}
    kept: list[Stimulus] = []
    code = np.empty(len(stimuli), int)
    for i, stimulus in enumerate(progress(stimuli, "shown pictures", total=len(stimuli))):
        picture = read_image(stimulus)
        content = repr(tuple(picture.shape)).encode() + picture.numpy().tobytes()
        key = hashlib.sha256(content).digest()
        if key not in seen:
            seen[key] = len(kept)
            kept.append(stimulus)
        code[i] = seen[key]
    return kept, code


def batches(n: int, size: int, label: str) -> Iterator[np.ndarray]:
    starts = range(0, n, size)
    for start in progress(starts, label, total=len(starts)):
        yield np.arange(start, min(start + size, n))


def class_codes(album: Album, results: Results, column: str) -> np.ndarray:
    """Number of each stimulus's class, from a trial column or else from the stimuli's labels."""
    if column in results.trials.columns:
        label = results.trials[column].astype(str).to_numpy()
    else:
        lacking = [s.uid for s in results.shown if column not in s.labels]
        if lacking:
            raise refusal(
                "metrics.*.same_class",
                f"a trial column ({sorted(results.trials.columns)}) or a label of the stimuli",
                f"{column!r}, which stimulus {lacking[0]!r} lacks",
                "name one that all have",
            )
        label = np.array([str(s.labels[column]) for s in results.shown])
    of_stimulus = np.empty(len(album.picture_of), dtype=object)
    of_stimulus[album.stimulus] = label
    return np.asarray(pd.factorize(of_stimulus)[0])
