"""Brain images on disk (NIfTI, MGH), read to their ends.

Libraries stop reading a compressed image at its last voxel, before the checksum behind it, and so take
a damaged file for a whole one. Here it is read on to the end in the same pass.
"""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from decode.core import InputError, reading, refusal
from decode.hdf5 import MOST_PACKED

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

OPENERS: dict[str, Any] = {".gz": gzip.open, ".mgz": gzip.open, ".bz2": bz2.open}
AGAIN = "the file is cut off or damaged, copy it again"


def open_image(path: Path) -> SpatialImage:
    """An image whose header is checked and whose voxels are not read yet.

    Raises InputError where the file is missing or damaged, for voxels that are no single real number
    (colours, complex values), and for a header that names more voxels than the file can hold.
    """
    import nibabel

    if not path.exists():
        raise refusal(path, _whole(path), "no such file", "put it there")
    with reading(path, _whole(path), AGAIN):
        image: Any = nibabel.load(path)
        shape, kind = tuple(int(n) for n in image.shape), np.dtype(image.get_data_dtype())
    if kind.kind not in "fiu":
        got = "colours" if kind.names else "complex numbers" if kind.kind == "c" else str(kind)
        raise refusal(path, "one real number per voxel", got, "save it as float32 or int16")
    if not shape or min(shape) < 1:
        raise refusal(path, _whole(path), f"a header of shape {shape}", AGAIN)
    held = Path(image.file_map["image"].filename or path).stat().st_size
    room = held * (MOST_PACKED if path.suffix in OPENERS else 1)
    # Python's integers do not overflow.
    if (size := int(np.prod(shape, dtype=object)) * kind.itemsize) > room:
        got = f"a header of {size} bytes {shape} in a file of {held}"
        raise refusal(path, _whole(path), got, AGAIN)
    return image


@contextmanager
def whole_image(path: Path) -> Iterator[Any]:
    """An image to read inside the block, at once or part after part.

    A compressed file is unpacked once and checked when the block ends: InputError where its checksum or
    length is wrong or something else follows it.
    """
    from nibabel.filebasedimages import SerializableImage

    image: Any = open_image(path)
    with reading(path, _whole(path), AGAIN):
        if path.suffix not in OPENERS:
            yield image
            return
        with OPENERS[path.suffix](path) as file:
            # Header and voxels in two files: the voxels have to be read a second time.
            yield type(image).from_stream(file) if isinstance(image, SerializableImage) else image
            read_rest(file)


def _whole(path: Path) -> str:
    return "a whole MGH file" if path.suffix in (".mgh", ".mgz") else "a whole NIfTI image"


def read_rest(file: IO[bytes]) -> None:
    """Read a compressed file on to its end, where its checksum and length are compared."""
    while file.read(2**20):
        pass


def stored_values(image: Any) -> np.ndarray:
    """Numbers as they are stored, before slope and intercept: no float64 copy of a whole run."""
    data = image.dataobj
    return np.asarray(data.get_unscaled() if hasattr(data, "get_unscaled") else data)


def read_volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A small image (a mask, an atlas) as (x, y, z), and its affine in mm."""
    with whole_image(path) as image:
        volume = np.asarray(image.dataobj)
    if volume.ndim == 4 and volume.shape[3] == 1:
        volume = volume[..., 0]
    if volume.ndim != 3:
        raise InputError(
            f"{path}: expected one volume (x, y, z), got shape {volume.shape}; give a single volume"
        )
    return volume, np.asarray(image.affine)
