"""Pictures changed at random, each always in the same way."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from decode.core import Stimulus

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Change:
    """Probabilities of a change of colours, of grey, of solarising and of blur, and which shares of the
    picture's area and which ratios of its sides are kept.
    """

    grey: float
    solarise: float
    blur: float
    area: tuple[float, float]
    ratio: tuple[float, float]
    colour: float = 0.8


# Of the low-level contrast of MindEye (Scotti et al. 2023) and of MindEye2 (2024).
CHANGES = {
    "mindeye1": Change(0.2, 0.2, 0.1, (0.5, 1.0), (3 / 4, 4 / 3)),
    "mindeye2": Change(0.1, 0.1, 0.0, (0.9, 0.9), (1.0, 1.0)),
}


def changed(picture: Image, stimulus: Stimulus, *, seed: int, size: int, change: Change) -> Image:
    """The picture with other colours, perhaps grey, solarised or blurred, and cut to (size, size).

    Colours change by .4 in brightness and contrast, .2 in saturation and .1 in hue; blur is by 7
    pixels. `seed` and the file of the stimulus decide; torch's own random numbers are
    left as they were.
    """
    from torchvision.transforms import v2

    steps = v2.Compose(
        [
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=change.colour),
            v2.RandomGrayscale(change.grey),
            v2.RandomSolarize(128, p=change.solarise),
            v2.RandomApply([v2.GaussianBlur(7, (0.1, 2.0))], p=change.blur),
            v2.RandomResizedCrop(size, scale=change.area, ratio=change.ratio, antialias=True),
        ]
    )
    told = hashlib.sha256(f"{seed}/{stimulus.digest({'file'})}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(told[:7], "big"))
        made: Image = steps(picture)
    return made
