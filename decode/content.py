"""What a stimulus' path names: a file, or one row of a dataset inside an HDF5 file.

`pictures.hdf5#imgBrick/41` is row 41 (from 0) of the dataset `imgBrick`; it is read alone, so that a
stimulus set of tens of gigabytes stays where it is; `pictures.hdf5?outside#imgBrick/41` where that file
may take values from others that it names. Failures are OSErrors whose text says what was found; who asks
turns them into advice.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from decode.hdf5 import dataset

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 89_478_485  # as PIL's own first bound
_OUTSIDE = "?outside"
_ADDRESS = re.compile(
    r"(?P<file>.+\.(?:h5|hdf5))(?P<outside>\?outside)?#(?P<key>.+)/(?P<row>\d+)", re.DOTALL
)


def address(file: str | Path, key: str, row: int, *, outside: bool = False) -> str:
    """The path that names one row of a dataset; with `outside` its values may lie in other files."""
    return f"{file}{_OUTSIDE if outside else ''}#{key}/{row}"


def file_of(path: str | Path) -> Path:
    """The file that a stimulus' path names, be it a row inside it."""
    found = _ADDRESS.fullmatch(str(path))
    return Path(path if found is None else found["file"])


def read_row(path: str | Path) -> np.ndarray | None:
    """The row that an address names, as stored; None when `path` is that of a plain file."""
    found = _ADDRESS.fullmatch(str(path))
    if found is None:
        return None
    rows = dataset(found["file"], found["key"], outside=bool(found["outside"]))
    row = int(found["row"])
    if row >= len(rows):
        raise OSError(f"no row {row}: {found['key']} has the rows 0 to {len(rows) - 1}")
    return np.asarray(rows[row])


def identity(path: str | Path) -> str:
    """Hash of the content: a file's bytes, or a row's shape, type and bytes.

    A file that many clips name is read once: its hash is kept by its path, size and time.
    """
    row = read_row(path)
    if row is None:
        stat = os.stat(path)
        return _hash_of(str(path), stat.st_size, stat.st_mtime_ns)
    return hashlib.sha256(f"{row.shape} {row.dtype.str} ".encode() + row.tobytes()).hexdigest()


@lru_cache(maxsize=2**17)
def _hash_of(file: str, size: int, changed: int) -> str:
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def open_picture(path: str | Path) -> Image:
    """A picture as PIL opens it; a row is (height, width, 3) or (height, width) of 8 bits.

    Raises PIL's DecompressionBombError above MOST_PIXELS, before anything is unpacked.
    """
    from PIL import Image

    row = read_row(path)
    if row is None:
        return _open_bounded(path)
    if row.dtype != np.uint8 or row.ndim not in (2, 3) or row.shape[2:] not in ((), (3,)):
        raise OSError(f"a row {row.shape} of {row.dtype}, which is no picture of 8 bits")
    return Image.fromarray(row)


def _open_bounded(path: str | Path) -> Image:
    from PIL import Image

    # PIL warns above its bound and refuses above twice that; here what it would warn of is refused.
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(path)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as e:
            number = re.search(r"\((\d+) pixels\)", str(e))
            raise Image.DecompressionBombError(f"{number[1]} pixels" if number else str(e)) from e


def is_there(path: str | Path) -> bool:
    """Whether the file, or the row and its file, can be read."""
    try:
        return read_row(path) is not None or Path(path).is_file()
    except OSError:
        return False


def lies_below(path: str | Path, folders: Iterable[str | Path]) -> bool:
    """Whether a path, as it is written, leads into one of the folders; links that were made there may
    lead on to anywhere.
    """
    place = Path(os.path.abspath(path))
    return any(place.is_relative_to(os.path.abspath(folder)) for folder in folders)
