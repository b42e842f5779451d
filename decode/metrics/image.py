"""The image suite: made pictures beside shown ones, by pixels and by the features of networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from torch import Tensor

from decode.core import Kind, Measure, Metric, Results, Size, refusal
from decode.scoring.album import Album, batches, check_sizes, class_codes
from decode.scoring.feature_networks import FeatureNetwork, Pixels
from decode.scoring.identification import References, references, share_beaten
from decode.scoring.picture_scores import (
    WINDOW,
    Resize,
    SsimMode,
    mean_squared_error,
    pixel_correlation,
    ssim,
)
from decode.scoring.rows import scores, table

PairScore = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Unrelated pairs, at least, from which the chance level of a pixel score is estimated.
CHANCE_PAIRS = 300
# Made pictures whose features are held at once: every comparison reads all references again.
COMPARED = 256
LEGACY = "ssim_legacy_columns"
PIXELS: dict[str, Measure] = {
    "pixcorr": Measure(
        "Pearson correlation of all pixel values of the made and the shown picture.",
        ceiling="generator",
        chooses=2,
    ),
    "ssim": Measure(
        "Structural similarity of luminance, Gaussian window (sigma 1.5), resolution as in the "
        "configuration; other settings give other numbers.",
        ceiling="generator",
    ),
    LEGACY: Measure(
        "Structural similarity of the columns of luminance, as older tables have it; not comparable with "
        "ssim.",
        ceiling="generator",
    ),
    "mse": Measure(
        "Mean squared difference of pixel values in [0, 1]; lower is better.",
        better="lower",
        ceiling="generator",
    ),
}
PAIRS = ("pixcorr", "ssim", "mse")
SAME_CLASS = "two_way_same_class"


class ImageSuite(Metric):
    """Image metrics of one protocol; rows per made picture.

    * `pairs`: pixcorr (Pearson r of all RGB values), ssim (mode `ssim`: see `picture_scores.ssim`;
      the legacy mode is another number and is called ssim_legacy_columns), mse, on pictures resized
      by `pixels`. Chance is the score against a shown picture drawn at random from the test pictures
      (the own one included, as when pairs are shuffled).
    * `two_way`: networks for identification, `two_way_<name>`: the share of other shown pictures j
      with r(made i, shown j) < r(made i, shown i), r being Pearson's over a layer's features. So a
      made picture is tested against shown ones, never a shown one against made ones. Equal
      similarities count `tie`: 0 as in the published tables, 0.5 for an unbiased share.
    * `distance`: networks for `distance_<name>` = 1 - r(made i, shown i); chance is its mean over
      all shown pictures.
    * `same_class`: a label column; `two_way_same_class` is identification by pixels among shown
      pictures with the same label only.

    The others are the distinct stimuli that agree with the row in the columns `within`: by default
    all test stimuli of one subject and split, pooled over folds. `first` resizes every picture
    before anything else, `quantise` rounds made pictures to 8 bits, as when they are read from PNG.
    Networks see `batch` pictures at a time; memory does not grow with the number of pictures.
    """

    looks_at: ClassVar[Literal["media"]] = "media"
    accepts: ClassVar[frozenset[Kind]] = frozenset({"image"})

    def __init__(
        self,
        *,
        first: Resize | None = None,
        pixels: Resize | None = None,
        pairs: Sequence[str] = ("pixcorr", "ssim", "mse"),
        ssim: SsimMode = "2d",
        two_way: Sequence[FeatureNetwork] = (),
        distance: Sequence[FeatureNetwork] = (),
        same_class: str | None = None,
        tie: float = 0.0,
        quantise: bool = False,
        within: Sequence[str] = ("subject", "split"),
        batch: int = 32,
    ) -> None:
        unknown = sorted(set(pairs) - set(PAIRS))
        if unknown or ssim not in ("2d", "columns_legacy") or not 0 <= tie <= 0.5 or batch < 1:
            raise refusal(
                "metrics.image",
                f"pairs among {list(PAIRS)}, ssim of 2d or columns_legacy, tie in [0, .5] and batch of at "
                "least 1",
                f"{list(pairs)}, {ssim!r}, {tie} and {batch}",
                "bring the one that is not into its range",
            )
        self.first, self.pixels, self.pairs, self.ssim = first, pixels, tuple(pairs), ssim
        self.two_way, self.distance = tuple(two_way), tuple(distance)
        self.same_class, self.tie = same_class, tie
        self.quantise, self.within, self.batch = quantise, tuple(within), batch

    def measures(self) -> Mapping[str, Measure]:
        found = {label: PIXELS[label] for label in map(self._label, self.pairs)}
        for network in self.two_way:
            # Networks that know what is seen choose examples before pixels do.
            chooses = 3 if network.semantic else 0
            found |= {f"two_way_{n}": _two_way(f"by {n} features", chooses) for n in network.names}
        for network in self.distance:
            found |= {f"distance_{n}": _distance(n) for n in network.names}
        if self.same_class is not None:
            found[SAME_CLASS] = _two_way("by pixels, among pictures of the same class only")
        return found

    def _label(self, pair: str) -> str:
        return LEGACY if pair == "ssim" and self.ssim == "columns_legacy" else pair

    def check_sizes(self, shown: Collection[Size], made: Size | None) -> None:
        bare = any(isinstance(n, Pixels) and n.resize is None for n in self.two_way + self.distance)
        if self.pairs:
            least = WINDOW if "ssim" in self.pairs else 1
            check_sizes(self.first, shown, made, then=self.pixels, least=least)
        check_sizes(self.first, shown, made, alike=bare)

    def __call__(self, results: Results) -> pd.DataFrame:
        album = Album(results, self.within, self.first, self.quantise)
        parts = self._pairs(results, album) if self.pairs else []
        for network in self.two_way:
            parts += self._compare(results, album, network, "two_way")
        for network in self.distance:
            parts += self._compare(results, album, network, "distance")
        if self.same_class is not None:
            parts += self._compare(results, album, Pixels(), "same_class")
        return table(parts)

    def _pairs(self, results: Results, album: Album) -> list[pd.DataFrame]:
        measure: dict[str, PairScore] = {
            "pixcorr": pixel_correlation,
            "ssim": partial(ssim, mode=self.ssim),
            "mse": mean_squared_error,
        }
        every, size = np.arange(len(album.own)), album.size()
        shifts = range(1 + min(int(size.max()) - 1, math.ceil(CHANCE_PAIRS / len(every))))
        value = {name: np.empty((len(shifts), len(every))) for name in self.pairs}
        for shift in shifts:
            other = album.partner(shift)
            for rows in batches(len(every), self.batch, "pixel scores" if shift == 0 else "chance"):
                made = self._scaled(album.read_made(rows))
                true = self._scaled(album.read_shown(other[rows]))
                check_alike(made, true)
                for name in self.pairs:
                    value[name][shift, rows] = measure[name](made, true)
        found = []
        for name, (own, *others) in value.items():
            unrelated = np.mean(others, axis=0) if others else own
            chance = album.mean_per_gallery((own + (size - 1) * unrelated) / size)
            found.append(scores(results, self._label(name), every, own, chance=chance))
        return found

    def _scaled(self, pictures: Tensor) -> np.ndarray:
        return (self.pixels(pictures) if self.pixels else pictures).numpy()

    def _compare(
        self, results: Results, album: Album, network: FeatureNetwork, kind: str
    ) -> list[pd.DataFrame]:
        found: list[pd.DataFrame] = []
        same = None
        if kind == "same_class" and self.same_class is not None:
            same = class_codes(album, results, self.same_class)
        with references(len(album.pictures), network.names) as stores:
            fill(stores, album, network, self.batch)
            kept: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {n: [] for n in network.names}
            for rows in batches(len(album.own), COMPARED, f"{network.names[0]} of made pictures"):
                rival = album.rival(rows, same)
                for name, features in self._features(network, album, rows).items():
                    similar = stores[name].correlate(features)[:, album.picture_of]
                    kept[name].append(self._judge(similar, album.stimulus[rows], rival, kind))
        for name, judged in kept.items():
            value, by_chance = (np.concatenate(part) for part in zip(*judged, strict=True))
            every = np.flatnonzero(np.isfinite(value))
            chance = album.mean_per_gallery(by_chance)
            label = SAME_CLASS if kind == "same_class" else f"{kind}_{name}"
            found.append(scores(results, label, every, value[every], chance=chance[every]))
        return found

    def _features(
        self, network: FeatureNetwork, album: Album, rows: np.ndarray
    ) -> dict[str, np.ndarray]:
        firsts = range(0, len(rows), self.batch)
        parts = [network(album.read_made(rows[i : i + self.batch])) for i in firsts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _judge(
        self, similar: np.ndarray, own: np.ndarray, rival: np.ndarray, kind: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Per row the score, and the score expected of a shown picture drawn at random."""
        if kind != "distance":
            return share_beaten(similar, own, rival, tie=self.tie), np.full(len(own), 0.5)
        right = np.take_along_axis(similar, own[:, None], axis=1)[:, 0]
        everything = (similar * rival).sum(axis=1) + right
        return 1 - right, 1 - everything / (1 + rival.sum(axis=1))


def _two_way(how: str, chooses: int = 0) -> Measure:
    return Measure(
        f"Share of other shown pictures to which the made one is less similar than to its own, {how}.",
        rows="among",
        ceiling="generator",
        chooses=chooses,
    )


def _distance(network: str) -> Measure:
    text = f"One minus the correlation of {network} features; lower is better."
    return Measure(text, better="lower", ceiling="generator")


def fill(stores: dict[str, References], album: Album, network: FeatureNetwork, batch: int) -> None:
    """Put the features of all distinct shown pictures into their stores."""
    for pictures in batches(len(album.pictures), batch, f"{network.names[0]} of shown pictures"):
        for name, features in network(album.read_shown(pictures)).items():
            stores[name].append(features)


def check_alike(made: np.ndarray, shown: np.ndarray) -> None:
    if made.shape != shown.shape:
        raise refusal(
            "metric image",
            f"made pictures of the size of shown ones, {shown.shape[-2]}x{shown.shape[-1]}",
            f"{made.shape[-2]}x{made.shape[-1]}",
            "set `first` or `pixels` to a Resize, as the presets do, or let the generator make that size",
        )
