"""Samples of several files each, in a tar file or in a folder, as WebDataset writes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from decode.core import InputError


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
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile():
                    part = Part(path, member.offset_data, member.size)
                    _add(samples, Path(member.name).name, part)
    except (tarfile.TarError, OSError, EOFError) as e:
        raise InputError(f"{name}: expected a whole tar file at {path}, got: {e}") from e
    last = max((p.offset + p.size for s in samples.values() for p in s.values()), default=0)
    if not samples or last > path.stat().st_size:
        raise InputError(
            f"{name}: expected a whole tar file at {path}, it ends early; fetch it again"
        )
    return samples


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
