"""Reading and resizing stimulus pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from decode.core import InputError, Stimulus

if TYPE_CHECKING:
    from PIL.Image import Image


def open_image(stimulus: Stimulus) -> Image:
    """The picture as an RGB PIL image; InputError when the file is missing or not an image."""
    from PIL import Image, UnidentifiedImageError

    where = f"stimulus {stimulus.uid!r}"
    if stimulus.path is None:
        raise InputError(
            f"{where}: expected a picture, got kind {stimulus.kind!r} without a file; "
            "choose a target that reads what it has (text or labels)"
        )
    try:
        with Image.open(stimulus.path) as image:
            if image.mode.startswith("I") or image.mode == "F":
                raise InputError(
                    f"{where}: expected 8 bits per channel, got mode {image.mode} in "
                    f"{stimulus.path}; convert the file to 8-bit grey or RGB"
                )
            return image.convert("RGB")
    except FileNotFoundError as e:
        raise InputError(
            f"{where}: expected a picture at {stimulus.path}, found no file; put it there or "
            "correct the events that name it"
        ) from e
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as e:
        raise InputError(
            f"{where}: {stimulus.path} is not a readable image ({e}); replace the file"
        ) from e


def read_image(stimulus: Stimulus) -> Tensor:
    """The picture as (3, h, w) float32 in [0, 1]."""
    array = np.array(open_image(stimulus), dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1) / 255


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic, anti-aliased resizing of (image, channel, h, w) to (h, w), clamped to [0, 1]."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    small = interpolate(images.float(), size=size, mode="bicubic", antialias=True)
    return small.clamp(0, 1)


def read_images(stimuli: Sequence[Stimulus], size: int) -> Tensor:
    """Pictures as (image, 3, size, size) in [0, 1], squeezed to a square, never cropped."""
    return torch.cat([resize(read_image(s)[None], (size, size)) for s in stimuli])


def to_grey(images: Tensor) -> Tensor:
    """(image, 3, h, w) -> (image, 1, h, w) luma, weighted as in ITU-R BT.601."""
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)
