"""Which files of a BIDS data set have to do with one recording, by the inheritance principle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from decode.recordings.names import meant

# What a recording takes from the folders above its own.
SIDECARS = frozenset(
    ("bold", "eeg", "meg", "ieeg", "events", "channels", "electrodes", "coordsystem", "headshape")
)
TABLES = (".json", ".tsv")
# Files of one recording differ in what they describe and in the parts that it was cut into.
MAY_DIFFER = frozenset(("desc", "split"))


def files_about(path: Path, root: Path, *, tables_only: bool = False) -> Iterator[Path]:
    """The files that may be read with the recording at `path`: it (all of it, where it is a folder),
    those in its folder, and sidecars above it up to `root`, whose names do not speak of another one.
    """
    own = _parts(path)
    for folder in _upwards(path.parent, root):
        beside = folder == path.parent
        for found in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not _agree(own, _parts(found)) or _is_another_image(found, path):
                continue
            table = found.suffix in TABLES and _suffix(found) in SIDECARS
            if table or (beside and not tables_only):
                yield from _inside(found)


def _is_another_image(found: Path, path: Path) -> bool:
    """Whether it is a BOLD image, as the same run in the scanner's own space, that is not `path`."""
    return found != path and found.name.endswith(("_bold.nii", "_bold.nii.gz"))


def _upwards(folder: Path, root: Path) -> Iterator[Path]:
    yield folder
    while folder != root and folder.is_relative_to(root):
        folder = folder.parent
        yield folder


def _inside(path: Path) -> Iterator[Path]:
    """The file, or every file of a recording that is a folder."""
    if path.is_dir():
        yield from (p for p in sorted(path.rglob("*")) if p.is_file())
    else:
        yield path


def _parts(path: Path) -> dict[str, str]:
    return {k: v for k, v in meant(path).items() if k not in MAY_DIFFER}


def _agree(own: dict[str, str], theirs: dict[str, str]) -> bool:
    return all(theirs[k] == own[k] for k in theirs.keys() & own.keys())


def _suffix(path: Path) -> str:
    return path.name.split(".")[0].rsplit("_", 1)[-1]
