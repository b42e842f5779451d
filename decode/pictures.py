"""Reading and resizing stimulus pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decode.core import InputError, Stimulus, about
from decode.media.image import as_tensor, open_whole
from decode.store import whole_file

if TYPE_CHECKING:
    from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


def open_image(stimulus: Stimulus) -> Image:
    """The picture as an RGB PIL image, turned upright as its EXIF data say, what is transparent laid on
    grey; InputError when the file is missing, huge or not an image.
    """
    return look_at(stimulus)[0]


def look_at(stimulus: Stimulus) -> tuple[Image, list[str]]:
    """The picture as `open_image` gives it, and what is peculiar about its file, in words."""
    where = f"stimulus {stimulus.uid!r}"
    if stimulus.path is None:
        raise InputError(
            f"{where}: expected a picture, got kind {stimulus.kind!r} without a file; "
            "choose a target that reads what it has (text or labels)"
        )
    with about(where):
        return open_whole(stimulus.path)


def read_image(stimulus: Stimulus) -> Tensor:
    """The picture as (3, h, w) float32 in [0, 1]."""
    return as_tensor(open_image(stimulus))


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic, anti-aliased resizing of (image, channel, h, w) to (h, w), clamped to [0, 1]."""
    import torch

    if tuple(images.shape[-2:]) == tuple(size):
        return images
    small = torch.nn.functional.interpolate(
        images.float(), size=size, mode="bicubic", antialias=True
    )
    return small.clamp(0, 1)


def read_images(stimuli: Sequence[Stimulus], size: int) -> Tensor:
    """Pictures as (image, 3, size, size) in [0, 1], squeezed to a square, never cropped."""
    import torch

    return torch.cat([resize(read_image(s)[None], (size, size)) for s in stimuli])


def normalised(images: Tensor, size: Any, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pictures (image, 3, h, w) in [0, 1] at a network's size (one side or two) and scale.

    Not clamped, and differentiable by the pictures.
    """
    import torch

    height, width = (size, size) if isinstance(size, int) else tuple(size)
    if tuple(images.shape[-2:]) != (height, width):
        images = torch.nn.functional.interpolate(
            images, size=(height, width), mode="bicubic", antialias=True
        )
    centre, spread = (images.new_tensor(v).view(-1, 1, 1) for v in (mean, std))
    return (images - centre) / spread


def to_grey(images: Tensor) -> Tensor:
    """(image, 3, h, w) -> (image, 1, h, w) luma, weighted as in ITU-R BT.601."""
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def write_picture(picture: np.ndarray, path: Path) -> None:
    """Save 8-bit (height, width) or (height, width, 3) as PNG unless just that is there; never half."""
    from PIL import Image

    content = BytesIO()
    Image.fromarray(picture).save(content, format="PNG")
    if path.is_file() and path.read_bytes() == content.getvalue():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_bytes(content.getvalue())


def to_bytes(picture: np.ndarray, *, white: float) -> np.ndarray:
    """A stored picture as (height, width, 3) uint8.

    Takes grey (height, width), channels first or channels last; integers run from 0 to 255, floats
    from 0 to `white`. Raises ValueError for any other shape or range.
    """
    if picture.ndim == 3 and picture.shape[0] in (1, 3) and picture.shape[2] not in (1, 3):
        picture = picture.transpose(1, 2, 0)
    if picture.ndim == 2:
        picture = picture[:, :, None]
    if picture.ndim != 3 or picture.shape[2] not in (1, 3):
        raise ValueError(f"shape {picture.shape}")
    picture = np.broadcast_to(picture, (*picture.shape[:2], 3))
    if picture.dtype == np.uint8:
        return np.ascontiguousarray(picture)
    scale = 255 / white if picture.dtype.kind == "f" else 1.0
    values = picture.astype(np.float32) * scale
    low, high = float(values.min()), float(values.max())
    # Written so that NaN fails as well; half precision may pass the ends by a rounding error.
    if not (low >= -0.5 and high <= 255.5):
        raise ValueError(f"values from {low / scale:.3g} to {high / scale:.3g}")
    return values.round().clip(0, 255).astype(np.uint8)


class StimuliOnDemand(Mapping[str, Stimulus]):
    """Stimuli that are made when they are asked for: only the pictures that a run names are unpacked.

    `make` turns one of `uids` into its stimulus; each is made once.
    """

    def __init__(self, uids: Sequence[str], make: Callable[[str], Stimulus]) -> None:
        self._made: dict[str, Stimulus | None] = dict.fromkeys(uids)
        self._make = make

    def __getitem__(self, uid: str) -> Stimulus:
        made = self._made[uid]
        if made is None:
            made = self._made[uid] = self._make(uid)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)

    def __contains__(self, uid: object) -> bool:
        return uid in self._made
