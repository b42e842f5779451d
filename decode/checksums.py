"""Whether a finished file still is what was written: sizes and checksums, kept in its folder's manifest.

Files of up to WHOLE_BYTES are read to their ends: CRC-32 finds every flipped byte, every damaged
stretch of up to 32 bits, and other damage but for one case in four billion. Of larger files the size,
the time of writing and SAMPLES blocks spread evenly are compared; where the time is another, as after
copying, they are read to their ends as well. A single flipped byte in 10 GB that leaves the time alone
is then found with a probability of 0.2 %, a lost stretch of 40 MB or more for certain.
Each file is looked at once per process.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from decode.core import InputError, refusal

MANIFEST = "manifest.json"
WHOLE_BYTES = 4 * 2**30
SAMPLES, SAMPLE_BYTES, BLOCK_BYTES = 256, 64 * 2**10, 4 * 2**20
# Files lie at most so deep below the manifest that lists them.
DEPTH = 4
Check = dict[str, Any]


def checks_of(folder: Path) -> dict[str, Check]:
    """Size and checksum of every file in a folder, by its path below it."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {p.relative_to(folder).as_posix(): check_of(p) for p in files}


def check_of(path: Path) -> Check:
    """What is kept of a file, to know it again."""
    stat = path.stat()
    check: Check = {"size": stat.st_size, "crc32": whole_sum(path)}
    if stat.st_size > WHOLE_BYTES:
        check |= {"time": stat.st_mtime_ns, "samples": sampled_sum(path)}
    return check


def is_check(value: object) -> TypeGuard[Check]:
    """Whether what was read from a file is what `check_of` says of one."""
    return isinstance(value, dict) and {"size", "crc32"} <= set(value)


def differs(path: Path, known: Check) -> str | None:
    """In words, how a file differs from what is known of it; None where it is the same."""
    if not path.is_file():
        return "no such file"
    stat = path.stat()
    if stat.st_size != known["size"]:
        return f"expected {known['size']} bytes, as were written, got {stat.st_size}"
    untouched = "time" in known and stat.st_mtime_ns == known["time"]
    kind, measure = ("samples", sampled_sum) if untouched else ("crc32", whole_sum)
    got = measure(path)
    if got != known[kind]:
        return (
            f"expected the content that was written (checksum {known[kind]}), got another ({got})"
        )
    return None


def whole_sum(path: Path) -> str:
    total = 0
    with path.open("rb") as f:
        while block := f.read(BLOCK_BYTES):
            total = zlib.crc32(block, total)
    return f"{total:08x}"


def sampled_sum(path: Path) -> str:
    """CRC-32 of blocks spread evenly from the first byte to the last."""
    with path.open("rb") as f:
        last = max(0, os.fstat(f.fileno()).st_size - SAMPLE_BYTES)
        total = 0
        for i in range(SAMPLES):
            total = zlib.crc32(_block(f, last * i // (SAMPLES - 1)), total)
    return f"{total:08x}"


def _block(f: BinaryIO, start: int) -> bytes:
    f.seek(start)
    return f.read(SAMPLE_BYTES)


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be written as JSON with its own checksum in it."""
    return {**value, "seal": _seal(value)}


def is_sealed(value: Any) -> bool:
    """Whether something read from JSON is just what was sealed."""
    if not isinstance(value, dict) or "seal" not in value:
        return False
    return value["seal"] == _seal({k: v for k, v in value.items() if k != "seal"})


def _seal(value: Mapping[str, Any]) -> str:
    # Read back as it will be, so that a float or a key is written the same again.
    text = json.dumps(json.loads(json.dumps(value)), sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"


def identity(files: Iterable[Path], root: Path) -> str:
    """Hash of the names, sizes and times of files, links followed: tells other data from the same.

    Names are those below `root` where they lie there. A folder, and what is not there, counts by its name.
    """
    h = hashlib.sha256()
    for path in sorted(set(files)):
        name = path.relative_to(root) if path.is_relative_to(root) else path
        state = path.stat() if path.is_file() else None
        known = f"{state.st_size} {state.st_mtime_ns}" if state else ""
        h.update(f"{name.as_posix()} {known}\n".encode())
    return h.hexdigest()[:16]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What a finished folder says of itself; None where it is not finished or its manifest is broken."""
    path = folder / MANIFEST
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _parsed(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _parsed(path: Path, time: int, size: int) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except ValueError:
        return None
    if not isinstance(found, dict) or ("seal" in found and not is_sealed(found)):
        return None
    return found


def check_finished(path: Path) -> None:
    """Raise InputError where a file of a finished folder is not what was written there.

    What lies in no finished folder, or came into it later, is not looked at.
    """
    for folder in list(path.absolute().parents)[:DEPTH]:
        manifest = read_manifest(folder)
        if manifest is None:
            continue
        known = manifest.get("files", {}).get(path.absolute().relative_to(folder).as_posix())
        if known is not None:
            _look_once(path, known, _remedy(folder, manifest))
        return


def check_folder(folder: Path) -> None:
    """Raise InputError where a finished folder lacks a file that was written there, or where one has
    another size; contents are compared when they are read.
    """
    manifest = read_manifest(folder) or {}
    for name, known in manifest.get("files", {}).items():
        path = folder / name
        got = path.stat().st_size if path.is_file() else None
        if got != known["size"]:
            raise InputError(
                f"{path}: expected {known['size']} bytes, as were written, got "
                f"{'no such file' if got is None else got}; {_remedy(folder, manifest)}"
            )


def _look_once(path: Path, known: Check, remedy: str) -> None:
    try:
        stat = path.stat()
    except FileNotFoundError as e:
        raise InputError(f"{path}: expected a file, found none; {remedy}") from e
    place = (str(path), stat.st_mtime_ns, stat.st_size, known["crc32"])
    if place in _SEEN:
        return
    if fault := differs(path, known):
        raise refusal(path, "what was written there", fault, f"it was damaged or changed: {remedy}")
    _SEEN.add(place)


_SEEN: set[tuple[str, int, int, str]] = set()


def _remedy(folder: Path, manifest: dict[str, Any]) -> str:
    stage = manifest.get("stage")
    if stage is None:
        return f"delete {folder} and run again"
    return f"do that stage again with force=[{stage}], which moves the folder aside"
