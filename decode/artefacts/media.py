"""What was made for each row of a table: one file each, called by the number of its row."""

from __future__ import annotations

from pathlib import Path

from decode.checksums import check_finished
from decode.core import Kind, Media
from decode.media.medium import KINDS, MEDIA
from decode.store import whole_file


def place(folder: Path, row: int, kind: Kind) -> Path:
    """Where the media of a row lies."""
    return folder / f"{row:05d}{MEDIA[kind].ENDING}"


def write_media(folder: Path, row: int, media: Media) -> None:
    with whole_file(place(folder, row, media.kind)) as part:
        media.write(part)


def kept_kind(folder: Path) -> Kind:
    """The kind of the media in a folder."""
    return next((kind for kind in KINDS if place(folder, 0, kind).is_file()), "image")


def read_media(folder: Path, n: int) -> list[Media]:
    """The media of `n` rows."""
    kind = kept_kind(folder)
    paths = [place(folder, i, kind) for i in range(n)]
    for path in paths:
        check_finished(path)
    return [Media(kind, *MEDIA[kind].read(str(path), 0.0, None)) for path in paths]
