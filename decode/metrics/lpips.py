"""Learned perceptual distance of made from shown pictures."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
import torch

from decode.core import InputError, Kind, Measure, Metric, Results, Size, refusal
from decode.machine import DISTRIBUTION
from decode.scoring.album import Album, batches, check_sizes
from decode.scoring.picture_scores import Resize
from decode.scoring.rows import scores, table
from decode.weights.reading import choose_device, loading

Net = Literal["alex", "vgg", "squeeze"]
SMALLEST = 64


class Lpips(Metric):
    """`lpips_<net>` per made picture: 0 for the shown picture itself, lower is better.

    Zhang et al. 2018 (doi:10.1109/CVPR.2018.00068), version 0.1, by the authors' package, which holds
    the weights of the layers; torchvision fetches and caches the ImageNet network below them.
    `imagenet: false` leaves that one untrained: scores are then called `random_lpips_<net>`.

    `first` resizes both pictures, to 64 pixels or more; the size changes the number. `quantise` rounds
    made pictures to 8 bits. Chance is the distance to a shown picture drawn at random from those that
    agree in the columns `within`, the own one included.
    """

    looks_at: ClassVar[Literal["media"]] = "media"
    accepts: ClassVar[frozenset[Kind]] = frozenset({"image"})

    def __init__(
        self,
        *,
        net: Net = "alex",
        imagenet: bool = True,
        first: Resize | None = None,
        quantise: bool = False,
        within: Sequence[str] = ("subject", "split"),
        batch: int = 16,
        device: str = "auto",
    ) -> None:
        if net not in get_args(Net) or batch < 1:
            raise InputError(
                f"metric lpips: expected net among {list(get_args(Net))} and batch of 1 or more, got "
                f"{net!r} and {batch}"
                "; correct it"
            )
        self.net, self.imagenet, self.first, self.quantise = net, imagenet, first, quantise
        self.within, self.batch, self.device = tuple(within), batch, device
        self._network: Any = None

    @property
    def name(self) -> str:
        return f"lpips_{self.net}" if self.imagenet else f"random_lpips_{self.net}"

    def measures(self) -> Mapping[str, Measure]:
        network = self.net if self.imagenet else f"an untrained {self.net}"
        text = f"Learned perceptual distance over features of {network}; lower is better."
        return {self.name: Measure(text, better="lower", ceiling="generator")}

    def check_sizes(self, shown: Collection[Size], made: Size | None) -> None:
        check_sizes(self.first, shown, made, least=SMALLEST)

    def __call__(self, results: Results) -> pd.DataFrame:
        album = Album(results, self.within, self.first, self.quantise)
        own, chance = album.own_and_chance(lambda other: self._distances(album, other))
        every = np.arange(len(own))
        return table([scores(results, self.name, every, own, chance=chance)])

    def _distances(self, album: Album, other: np.ndarray) -> np.ndarray:
        """(row,) distance of each made picture from the shown one `other` (row,)."""
        value = np.empty(len(other))
        for rows in batches(len(other), self.batch, self.name):
            made, shown = album.read_made(rows), album.read_shown(other[rows])
            if made.shape != shown.shape or min(made.shape[-2:]) < SMALLEST:
                raise refusal(
                    "metric lpips",
                    f"pictures of one size of {SMALLEST} pixels or more",
                    f"made ones of {tuple(made.shape[-2:])} and shown ones of {tuple(shown.shape[-2:])}",
                    "set `first` to a Resize",
                )
            value[rows] = self._compare(made, shown)
        return value

    def _compare(self, made: torch.Tensor, shown: torch.Tensor) -> np.ndarray:
        if self._network is None:
            self._place = choose_device(self.device)
            self._network = self._open().to(self._place)
        with torch.inference_mode():
            found = self._network(made.to(self._place), shown.to(self._place), normalize=True)
        return np.asarray(found.flatten().double().cpu())

    def _open(self) -> Any:
        try:
            import lpips
        except ImportError as e:
            raise refusal(
                "metric lpips",
                "its optional package",
                "none",
                f"install it with pip install '{DISTRIBUTION}[lpips]'",
            ) from e
        with loading(f"lpips {self.net}"), warnings.catch_warnings(), torch.random.fork_rng():
            # The package asks torchvision in the old way; its own .pth is read by torch.load, which since
            # version 2.6 runs no code that a file holds.
            warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
            torch.manual_seed(0)
            return lpips.LPIPS(net=self.net, pnet_rand=not self.imagenet, verbose=False).eval()
