"""What a stimulus' path names: a file, or one row of a dataset inside an HDF5 file.

`pictures.hdf5#imgBrick/41` is row 41 (from 0) of the dataset `imgBrick`; it is read alone, so that a
stimulus set of tens of gigabytes stays where it is. Failures are OSErrors whose text says what was
found; who asks turns them into advice.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

HERE = "such are not followed: copy the values into this file, or put that file in its place"
# Deflate makes nothing smaller than this many times.
MOST_PACKED = 1032
MOST_PIXELS = 89_478_485  # as PIL's own first bound
_ADDRESS = re.compile(r"(?P<file>.+\.(?:h5|hdf5))#(?P<key>.+)/(?P<row>\d+)", re.DOTALL)


def address(file: str | Path, key: str, row: int) -> str:
    """The path that names one row of a dataset."""
    return f"{file}#{key}/{row}"


def file_of(path: str | Path) -> Path:
    """The file that a stimulus' path names, be it a row inside it."""
    found = _ADDRESS.fullmatch(str(path))
    return Path(path if found is None else found["file"])


def read_row(path: str | Path) -> np.ndarray | None:
    """The row that an address names, as stored; None when `path` is that of a plain file."""
    found = _ADDRESS.fullmatch(str(path))
    if found is None:
        return None
    rows = dataset(found["file"], found["key"])
    row = int(found["row"])
    if row >= len(rows):
        raise OSError(f"no row {row}: {found['key']} has the rows 0 to {len(rows) - 1}")
    return np.asarray(rows[row])


def read_bytes(path: str | Path) -> bytes:
    """What identifies the content: a file's bytes, or a row's shape, type and bytes."""
    row = read_row(path)
    if row is None:
        return Path(path).read_bytes()
    return f"{row.shape} {row.dtype.str} ".encode() + row.tobytes()


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


def dataset(file: str | Path, key: str) -> Any:
    """An HDF5 dataset, not yet read; its file stays open for the next row."""
    stat = os.stat(file)
    # A handle must not cross a fork, nor outlive the file that it was opened for.
    found, names = _found(str(file), key, os.getpid(), stat.st_mtime_ns, stat.st_size)
    if found is None:
        raise OSError(f"no dataset {key!r}, only {names}")
    return found


@lru_cache(maxsize=32)
def _found(file: str, key: str, process: int, changed: int, size: int) -> tuple[Any, list[str]]:
    """The checked dataset, None where it is none, and the names beside it."""
    handle = _handle(file, process, changed, size)
    found = inside(handle, key)
    return (found, []) if getattr(found, "shape", ()) else (None, sorted(handle))


def inside(handle: Any, key: str) -> Any:
    """What an open HDF5 file holds under a key, None where there is nothing.

    Raises OSError unless all values of it lie in the file itself. A file may name others that it takes
    values from; reading it would read those. Parts that were never written, as when writing was
    interrupted, read as zeros.
    """
    import h5py

    if _leads_away(handle, key):
        raise OSError(f"{key!r} as a link into another file; {HERE}")
    found = handle.get(key)
    if isinstance(found, h5py.Dataset):
        _check_values(found)
    return found


def _check_values(found: Any) -> None:
    if found.is_virtual or found.external:
        raise OSError(f"{found.name!r} with its values in other files; {HERE}")
    held, named = found.id.get_storage_size(), found.size * found.dtype.itemsize
    packed = found.id.get_create_plist().get_nfilters()
    if named > held * (MOST_PACKED if packed else 1):
        raise OSError(
            f"{found.name!r} of shape {found.shape}, {named} bytes, of which {held} were written"
        )


def _leads_away(handle: Any, key: str) -> bool:
    """Whether a part of the key is a link into another HDF5 file."""
    import h5py

    place = handle
    for name in filter(None, key.split("/")):
        link = place.get(name, getlink=True) if isinstance(place, h5py.Group) else None
        if isinstance(link, h5py.ExternalLink):
            return True
        if isinstance(link, h5py.SoftLink) and _leads_away(handle, link.path):
            return True
        place = place.get(name)
    return False


@lru_cache(maxsize=8)
def _handle(file: str, process: int, changed: int, size: int) -> Any:
    import h5py

    try:
        # Read-only network drives often refuse locks, and nobody writes here.
        return h5py.File(file, "r", locking=False)
    except OSError as e:
        raise OSError(f"a damaged HDF5 file ({' '.join(str(e).split())})") from e
