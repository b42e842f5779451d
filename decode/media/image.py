"""Pictures: (3, h, w) in [0, 1], kept as PNG of 8 bits."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decode.content import MOST_PIXELS, open_picture
from decode.machine import in_words
from decode.media.seen import Seen
from decode.refusals import InputError, refusal

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

ENDING = ".png"
SUFFIXES = ("png", "jpg", "jpeg", "bmp", "gif", "tif", "tiff", "webp")
# What shows through transparent parts: neither black nor white shapes vanish on it.
GROUND = 128
ORIENTATION = 0x0112
TRANSPARENT = f"transparent parts, which are laid on grey ({GROUND} of 255)"
FRAMES = "several frames or pages, of which the first is taken"
TURNED = "an orientation in their EXIF data, by which they are turned upright"
# Larger pictures are shrunk and stored as JPEG, so that a page of a hundred stays a few MB.
LARGEST = 256


def check(data: Any, rate: float | None) -> None:
    """A finite (3, h, w) in [0, 1] without a rate."""
    import torch

    if not isinstance(data, torch.Tensor) or data.ndim != 3 or data.shape[0] != 3 or rate:
        raise ValueError(f"an image is (3, h, w) without a rate, got {described(data)}, {rate}")
    check_range("an image", data, 0, 1)


def described(data: Any) -> str:
    """The shape of an array, the type of anything else."""
    return str(tuple(data.shape)) if hasattr(data, "shape") else type(data).__name__


def check_range(what: str, data: Tensor, low: float, high: float) -> None:
    """ValueError unless all values are finite and from `low` to `high`."""
    import torch

    if not bool(torch.isfinite(data).all()):
        raise ValueError(f"{what} holds NaN or infinite values")
    if data.numel() and (data.min() < low or data.max() > high):
        raise ValueError(
            f"{what} lies in [{low}, {high}], got [{data.min():.3g}, {data.max():.3g}]"
        )


def open_whole(path: str) -> tuple[Image, list[str]]:
    """The picture as RGB, read to its end, turned upright as its EXIF data say, what is transparent laid
    on grey; and what is peculiar about its file, in words. Refuses what is missing, huge or no picture.
    """
    with _readable(path), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with open_picture(path) as image:
            if image.mode.startswith("I") or image.mode == "F":
                raise refusal(
                    path,
                    "8 bits per channel",
                    f"mode {image.mode}",
                    "convert the file to 8-bit grey or RGB",
                )
            found = _peculiarities(image)
            picture = on_ground(upright(image))
            if image.format == "PNG":
                check_sums(path)
            found += [FRAMES] * _goes_on(image)
    told = {f"a warning of the picture library ({' '.join(str(w.message).split())})" for w in said}
    return picture, found + sorted(told)


def read(path: str, start: float = 0.0, duration: float | None = None) -> tuple[Tensor, None]:
    """(3, h, w) float32 in [0, 1]."""
    return as_tensor(open_whole(path)[0]), None


def as_tensor(picture: Image) -> Tensor:
    import torch

    return torch.from_numpy(np.array(picture, dtype=np.float32)).permute(2, 0, 1) / 255


def glance(path: str) -> None:
    try:
        with open_picture(path):
            return
    except Exception as e:
        said = " ".join(str(e).split())
        raise refusal(path, "a picture", said, "replace the file") from e


def look(path: str, start: float = 0.0, duration: float | None = None) -> Seen:
    picture, peculiar = open_whole(path)
    return Seen(picture.height, picture.width, peculiar=tuple(peculiar))


def write(path: Path, data: Tensor, rate: float | None = None) -> None:
    from PIL import Image

    Image.fromarray(to_eight_bits(data)).save(path, format="PNG")


def to_eight_bits(data: Tensor) -> np.ndarray:
    """(h, w, 3) uint8 of (3, h, w) in [0, 1]; more axes may stand in front."""
    numbers = (data.detach().clamp(0, 1) * 255).round().byte().movedim(-3, -1)
    return numbers.cpu().numpy()


def mean(many: Iterable[tuple[Tensor, float | None]]) -> tuple[Tensor, None]:
    """Mean of every pixel, at the size of the first picture."""
    import torch
    from torch.nn.functional import interpolate

    total, n = torch.zeros(()), 0
    for picture, _ in many:
        if n == 0:
            total = torch.zeros(picture.shape, dtype=torch.float64)
        if picture.shape != total.shape:
            size = tuple(total.shape[1:])
            picture = interpolate(picture[None], size, mode="bilinear", antialias=True)[0]
        total, n = total + picture, n + 1
    return (total / n).float(), None


def view(data: Tensor, rate: float | None = None, label: str = "") -> str:
    """An <img>, with the class "pixels" where it is so small that it is shown enlarged."""
    return tag(to_eight_bits(data), label)


def tag(picture: np.ndarray, label: str = "") -> str:
    """An <img> of (h, w, 3) or (h, w) uint8."""
    address, said = data_address(picture), escape(label)
    small = ' class="pixels"' if "png" in address[:16] else ""
    return f'<img{small} src="{address}" alt="{said}" title="{said}">'


def data_address(picture: np.ndarray) -> str:
    """A picture (h, w, 3) or (h, w) uint8 as a `data:` address: PNG up to 256 pixels, JPEG of that size
    beyond.
    """
    from PIL import Image

    image = Image.fromarray(picture).convert("RGB")
    large = max(image.size) > LARGEST
    if large:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    if large:
        image.save(buffer, "JPEG", quality=88)
    else:
        image.save(buffer, "PNG", optimize=True)
    return inline(f"image/{'jpeg' if large else 'png'}", buffer.getvalue())


def inline(kind: str, content: bytes) -> str:
    """Content as a `data:` address of a MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@contextmanager
def _readable(path: str) -> Iterator[None]:
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except PermissionError as e:
        raise InputError(str(in_words(e, path))) from e
    except Image.DecompressionBombError as e:
        raise refusal(
            path,
            f"a picture of at most {MOST_PIXELS / 1e6:.0f} million pixels",
            " ".join(str(e).split()),
            "make it smaller",
        ) from e
    except FileNotFoundError as e:
        raise refusal(
            path, "a picture", "no such file", "put it there or correct the events that name it"
        ) from e
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, RuntimeError) as e:
        raise refusal(path, "a readable image", e, "replace the file") from e


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
