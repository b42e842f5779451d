"""Datasets of HDF5 files, found whole before any value is read.

An HDF5 file may take values from other files that it names: through links into them, or as virtual and
external datasets. They are followed only where a data set was told so (`data.outside=true`), and then
have to be there. Failures are OSErrors whose text says what was found; who asks turns them into advice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

HERE = (
    "such are not followed: copy the values into this file, put that file in its place, or, where you "
    "trust it, set data.outside=true"
)
# Deflate makes nothing smaller than this many times.
MOST_PACKED = 1032
ENDINGS = (".h5", ".hdf5", ".mat", ".set")


def dataset(file: str | Path, key: str, *, outside: bool = False) -> Any:
    """An HDF5 dataset, not yet read; its file stays open for the next row."""
    # A handle must not cross a fork, nor outlive the files that it was opened for.
    found, names = _found(str(file), key, outside, os.getpid(), _states(str(file), outside))
    if found is None:
        raise OSError(f"no dataset {key!r}, only {names}")
    return found


States = tuple[tuple[int, int], ...]


def _states(file: str, outside: bool) -> States:
    """Time and size of the file and, where they are followed, of those that it names."""
    own = _state(file)
    others = _named(file, os.getpid(), own) if outside else ()
    return (own, *(_state(other) for other in others if os.path.isfile(other)))


def _state(file: str) -> tuple[int, int]:
    stat = os.stat(file)
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=32)
def _found(
    file: str, key: str, outside: bool, process: int, states: States
) -> tuple[Any, list[str]]:
    """The checked dataset, None where it is none, and the names beside it."""
    handle = _handle(file, process, states)
    found = inside(handle, key, outside=outside)
    return (found, []) if getattr(found, "shape", ()) else (None, sorted(handle))


def inside(handle: Any, key: str, *, outside: bool = False) -> Any:
    """What an open HDF5 file holds under a key, None where there is nothing.

    Raises OSError unless all values of it lie in the file itself: a file may name others that it takes
    values from, which are read with `outside` only, and then have to be there. Parts that were never
    written, as when writing was interrupted, read as zeros.
    """
    import h5py

    away = _leads_away(handle, key)
    if away and not outside:
        raise OSError(f"{key!r} as a link into another file ({away}); {HERE}")
    try:
        found = handle.get(key)
    except (KeyError, OSError) as e:
        raise OSError(
            f"{key!r} as a link that leads to nothing ({' '.join(str(e).split())})"
        ) from e
    if found is None and away:
        raise OSError(f"{key!r} as a link into {away}, where it is not")
    if isinstance(found, h5py.Dataset):
        _check_values(found, outside)
    return found


def _check_values(found: Any, outside: bool) -> None:
    named = found.size * found.dtype.itemsize
    if (found.is_virtual or found.external) and not outside:
        raise OSError(f"{found.name!r} with its values in other files; {HERE}")
    if found.is_virtual:
        _check_sources(found)
        return
    held, packed = found.id.get_storage_size(), found.id.get_create_plist().get_nfilters()
    if found.external:
        held = sum(_held(Path(_text(name)), start, size) for name, start, size in found.external)
    if named > held * (MOST_PACKED if packed else 1):
        raise OSError(
            f"{found.name!r} of shape {found.shape}, {named} bytes, of which {held} were written"
        )


def _held(path: Path, start: int, size: int) -> int:
    """Bytes of an external file that a dataset may read; HDF5 counts its name from the working folder."""
    if not path.is_file():
        raise OSError(f"values in {path}, which is not there")
    return max(0, min(size, path.stat().st_size - start))


def _check_sources(found: Any) -> None:
    """OSError unless every part of a virtual dataset is in a file that is there."""
    import h5py

    parts = found.virtual_sources()
    for part in parts:
        path = _source(found, part.file_name)
        if not path.is_file():
            raise OSError(f"values in {part.file_name}, which is not there")
        with h5py.File(path, "r", locking=False) as file:
            if inside(file, part.dset_name, outside=True) is None:
                raise OSError(f"values in {path}, which has no {part.dset_name!r}")
    mapped = sum(part.vspace.get_select_npoints() for part in parts)
    if mapped < found.size:
        raise OSError(
            f"{found.name!r} of {found.size} values, of which {mapped} are in other files"
        )


def _source(found: Any, name: str) -> Path:
    """The file that a virtual dataset names, "." being its own."""
    own = Path(found.file.filename)
    return own if name == "." else own.parent / name


def _leads_away(handle: Any, key: str) -> str | None:
    """The other HDF5 file, where a part of the key is a link into one."""
    import h5py

    place = handle
    for name in filter(None, key.split("/")):
        link = place.get(name, getlink=True) if isinstance(place, h5py.Group) else None
        if isinstance(link, h5py.ExternalLink):
            return str(link.filename)
        if isinstance(link, h5py.SoftLink) and (away := _leads_away(handle, link.path)):
            return away
        place = place.get(name)
    return None


def files_named(file: str | Path) -> tuple[Path, ...]:
    """The other files that an HDF5 file takes values from, and those that these name; none of what is
    no HDF5 file or cannot be opened.
    """
    if not str(file).endswith(ENDINGS) or not os.path.isfile(file):
        return ()
    return tuple(map(Path, _named(str(file), os.getpid(), _state(str(file)))))


@lru_cache(maxsize=1024)
def _named(file: str, process: int, state: tuple[int, int]) -> tuple[str, ...]:
    import h5py

    seen: dict[str, None] = {}
    to_do = [file]
    while to_do:
        one = to_do.pop()
        if not os.path.isfile(one) or not h5py.is_hdf5(one):
            continue
        try:
            with h5py.File(one, "r", locking=False) as handle:
                found = [*_names_in(handle, one)]
        except (OSError, RuntimeError, KeyError):
            continue  # damaged: told when it is read
        new = [name for name in found if name != file and name not in seen]
        seen.update(dict.fromkeys(new))
        to_do += new
    return tuple(seen)


def _names_in(handle: Any, file: str) -> Iterator[str]:
    """Files that the links and datasets of an open HDF5 file name."""
    import h5py

    folder = Path(file).parent
    groups, known = [handle], set[Any]()
    while groups:
        group = groups.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                yield str(folder / link.filename)
            if not isinstance(link, h5py.HardLink):
                continue
            found = group[name]
            if isinstance(found, h5py.Dataset):
                yield from (str(Path(_text(part[0]))) for part in found.external or ())
                sources = found.virtual_sources() if found.is_virtual else ()
                yield from (str(folder / s.file_name) for s in sources if s.file_name != ".")
            elif isinstance(found, h5py.Group) and found.id not in known:
                known.add(found.id)
                groups.append(found)


def _text(name: str | bytes) -> str:
    return os.fsdecode(name)


@lru_cache(maxsize=8)
def _handle(file: str, process: int, states: States) -> Any:
    import h5py

    try:
        # Read-only network drives often refuse locks, and nobody writes here.
        return h5py.File(file, "r", locking=False)
    except OSError as e:
        raise OSError(f"a damaged HDF5 file ({' '.join(str(e).split())})") from e
