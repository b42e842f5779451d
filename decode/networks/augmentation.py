"""Pictures changed at random, each always in the same way."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from decode.core import Stimulus

if TYPE_CHECKING:
    from PIL.Image import Image


def changed(picture: Image, stimulus: Stimulus, *, seed: int, size: int) -> Image:
    """The picture with other colours, perhaps grey, solarised or blurred, and cut to (size, size).

    The changes of MindEye's low-level contrast (Scotti et al. 2023): brightness and contrast .4,
    saturation .2, hue .1 (probability .8), grey .2, solarised .2, blurred by 7 pixels .1, half to all
    of the picture kept. `seed` and the content of the stimulus decide; torch's own random numbers are
    left as they were.
    """
    from torchvision.transforms import v2

    change = v2.Compose(
        [
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomSolarize(128, p=0.2),
            v2.RandomApply([v2.GaussianBlur(7, (0.1, 2.0))], p=0.1),
            v2.RandomResizedCrop(size, scale=(0.5, 1.0), antialias=True),
        ]
    )
    told = hashlib.sha256(f"{seed}/{stimulus.digest()}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(told[:7], "big"))
        made: Image = change(picture)
    return made
