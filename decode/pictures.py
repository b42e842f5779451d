"""Reading and resizing stimulus pictures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from decode.content import MOST_PIXELS, open_picture
from decode.core import InputError, Stimulus, refusal
from decode.machine import in_words
from decode.store import whole_file

if TYPE_CHECKING:
    from PIL.Image import Image


# What shows through transparent parts: neither black nor white shapes vanish on it.
GROUND = 128
ORIENTATION = 0x0112
TRANSPARENT = f"transparent parts, which are laid on grey ({GROUND} of 255)"
FRAMES = "several frames or pages, of which the first is taken"
TURNED = "an orientation in their EXIF data, by which they are turned upright"


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
    with _readable(where, stimulus.path), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with open_picture(stimulus.path) as image:
            if image.mode.startswith("I") or image.mode == "F":
                raise InputError(
                    f"{where}: expected 8 bits per channel, got mode {image.mode} in "
                    f"{stimulus.path}; convert the file to 8-bit grey or RGB"
                )
            found = _peculiarities(image)
            picture = on_ground(upright(image))
            if image.format == "PNG":
                check_sums(stimulus.path)
            found += [FRAMES] * _goes_on(image)
    told = {f"a warning of the picture library ({' '.join(str(w.message).split())})" for w in said}
    return picture, found + sorted(told)


@contextmanager
def _readable(where: str, path: str) -> Iterator[None]:
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except PermissionError as e:
        raise InputError(f"{where}: {in_words(e, path)}") from e
    except Image.DecompressionBombError as e:
        raise refusal(
            f"{where}, {path}",
            f"a picture of at most {MOST_PIXELS / 1e6:.0f} million pixels",
            " ".join(str(e).split()),
            "make it smaller",
        ) from e
    except FileNotFoundError as e:
        raise InputError(
            f"{where}: expected a picture at {path}, found no file; put it there or "
            "correct the events that name it"
        ) from e
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, RuntimeError) as e:
        raise InputError(f"{where}: {path} is not a readable image ({e}); replace the file") from e


def upright(image: Image) -> Image:
    """The picture turned and mirrored as the orientation in its EXIF data says."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image) if _orientation(image) > 1 else image


def on_ground(image: Image) -> Image:
    """The picture as RGB, its transparent parts laid on grey."""
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, (GROUND, GROUND, GROUND, 255))
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


def _peculiarities(image: Image) -> list[str]:
    turned = _orientation(image) > 1
    alpha = image.has_transparency_data and _alpha(image).min() < 255
    return [TRANSPARENT] * bool(alpha) + [TURNED] * turned


def _goes_on(image: Image) -> bool:
    """Whether another frame or page follows the one that is read."""
    try:
        image.seek(image.tell() + 1)
    except EOFError:
        return False
    return True


def check_sums(path: str) -> None:
    """Raise SyntaxError unless every part of a PNG file has its checksum: decoding compares none."""
    with open_picture(path) as image:
        image.verify()


def _alpha(image: Image) -> np.ndarray:
    return np.asarray(image.convert("RGBA").getchannel("A"))


def _orientation(image: Image) -> int:
    """1 (upright) to 8, as EXIF counts; 1 where nothing readable is said."""
    try:
        said = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a picture with broken EXIF data is a picture
        return 1
    return said if isinstance(said, int) and 1 <= said <= 8 else 1


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


def normalised(images: Tensor, size: Any, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pictures (image, 3, h, w) in [0, 1] at a network's size (one side or two) and scale.

    Not clamped, and differentiable by the pictures.
    """
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    if tuple(images.shape[-2:]) != (height, width):
        images = interpolate(images, size=(height, width), mode="bicubic", antialias=True)
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
