"""Samples of several files each, in a tar file or in a folder, as WebDataset writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from decode.core import InputError, reading, refusal

AGAIN = "fetch it again"
END_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Part:
    """`size` bytes of a file, from `offset` on."""

    file: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with self.file.open("rb") as f:
            f.seek(self.offset)
            return f.read(self.size)


Samples = dict[str, dict[str, Part]]


def tar_samples(name: str, path: Path) -> Samples:
    """The samples of a tar file: `000123.behav.npy` is the part `behav.npy` of sample `000123`."""
    import tarfile

    samples: Samples = {}
    with reading(f"{name}: {path}", "a whole tar file", AGAIN), tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.isfile():
                part = Part(path, member.offset_data, member.size)
                _add(samples, Path(member.name).name, part)
        end = tar.offset
    _check_end(name, path, end)
    if not samples:
        raise refusal(f"{name}: {path}", "a tar file of samples", "an empty one", AGAIN)
    return samples


def _check_end(name: str, path: Path, end: int) -> None:
    """InputError unless two blocks of zeros end the tar at the byte `end`, and zeros alone follow.

    Where a header is damaged or the file is cut off between two of them, readers stop without a word.
    """
    with path.open("rb") as f:
        f.seek(end)
        closed = f.read(END_BYTES) == bytes(END_BYTES)
        goes_on = closed and any(any(block) for block in iter(lambda: f.read(2**20), b""))
    if not closed or goes_on:
        got = f"more behind its end at byte {end}" if goes_on else f"none at byte {end}"
        raise refusal(
            f"{name}: {path}", "a whole tar file that two blocks of zeros end", got, AGAIN
        )


def numbered(name: str, paths: Iterable[Path], first: int = 0) -> list[Path]:
    """Files whose names end in a number, in the order of the numbers; InputError where one is left out."""
    found = {int(m[1]): p for p in paths if (m := re.search(r"(\d+)$", p.stem))}
    absent = [i for i in range(first, max(found, default=first)) if i not in found]
    if absent:
        some = found[max(found)]
        lacking = re.sub(r"\d+$", str(absent[0]), some.stem) + some.suffix
        raise refusal(
            f"{name}: {some.parent}",
            f"an unbroken series of files up to {some.name}",
            f"none of {lacking} ({len(absent)} missing)",
            "fetch it",
        )
    return [found[i] for i in sorted(found)]


def folder_samples(folder: Path) -> Samples:
    """The same samples, extracted into a folder."""
    samples: Samples = {}
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        _add(samples, path.name, Part(path, 0, path.stat().st_size))
    return samples


def _add(samples: Samples, file: str, part: Part) -> None:
    key, dot, ending = file.partition(".")
    if key and dot:
        samples.setdefault(key, {})[ending] = part


def member(name: str, sample: dict[str, Part], key: str, ending: str) -> Part:
    """The part of a sample with this ending."""
    if ending not in sample:
        file = next(iter(sample.values())).file
        raise InputError(
            f"{name}: expected {key}.{ending} in {file if file.suffix == '.tar' else file.parent}, "
            f"found {sorted(sample)}; fetch it again"
        )
    return sample[ending]
