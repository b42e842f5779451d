"""COCO's captions and boxes of 2017, which describe the pictures of the Natural Scenes Dataset."""

from __future__ import annotations

import os
import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from shutil import copyfileobj

from decode.core import InputError, refusal
from decode.downloads.listings import RemoteFile, fetch_all

# Its certificate does not name the host, so that the address is a plain one and the MD5 counts.
COCO = "http://images.cocodataset.org"
ARCHIVE = "annotations/annotations_trainval2017.zip"
SIZE, MD5 = 252_907_541, "f4bbac642086de4f52a3fdda2de5fa2c"
PARTS = ("captions", "instances")


def fetch_coco(
    folder: str | Path,
    *,
    what: Sequence[str] = PARTS,
    server: str = COCO,
    dry: bool = False,
) -> None:
    """Bring COCO's annotations of 2017 to `folder`/annotations and unpack those of `what`.

    The archive stays there, so that the same command has nothing to fetch again; `dry` only prints.
    Raises InputError for unknown parts, and as `fetch_all` does.
    """
    unknown = [part for part in what if part not in PARTS]
    if unknown:
        raise refusal(
            "--part", f"parts out of {', '.join(PARTS)}", f"{unknown[0]!r}", "name some of these"
        )
    archive = RemoteFile(f"{server.rstrip('/')}/{ARCHIVE}", ARCHIVE, SIZE, MD5)
    fetch_all([archive], folder, dry=dry)
    if dry:
        return
    names = [f"annotations/{part}_{half}2017.json" for part in what for half in ("train", "val")]
    unpack(Path(folder) / ARCHIVE, names, Path(folder))


def unpack(archive: Path, names: Sequence[str], folder: Path) -> None:
    """Write the members `names` of a zip file below `folder`; what is there whole stays.

    Raises InputError, before anything is written, when a member is not in the archive, and when its
    content does not fit its checksum; no file is half written.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            missing = [name for name in names if name not in file.namelist()]
            if missing:
                raise InputError(
                    f"{archive}: expected {missing[0]}, got {file.namelist()[:6]}; fetch it again"
                )
            for name in names:
                if fits(folder / name, file.getinfo(name)):
                    continue
                place = folder / name
                place.parent.mkdir(parents=True, exist_ok=True)
                part = place.with_name(place.name + ".part")
                with file.open(name) as packed, part.open("wb") as f:
                    copyfileobj(packed, f, 1 << 20)
                os.replace(part, place)
                print(f"unpacked: {place}", file=sys.stderr)
    except (zipfile.BadZipFile, zlib.error) as e:
        raise refusal(archive, "a whole zip file", e, "delete it and run again") from e
    except OSError as e:
        raise refusal(folder, "a folder to write into", e, "mend that first") from e


def fits(path: Path, member: zipfile.ZipInfo) -> bool:
    """Whether a file is there and has the content of a member, by length and CRC-32."""
    if not path.is_file() or path.stat().st_size != member.file_size:
        return False
    found = 0
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            found = zlib.crc32(block, found)
    return found == member.CRC
