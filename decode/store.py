"""What is on disk: finished folders, tables with aligned arrays, weights, and growing feature stores.

A folder is finished when it holds `manifest.json`, which is written last. Every single file is
written beside its place and renamed into it, so that a process killed at any moment leaves either
the whole file or none.
"""

from __future__ import annotations

import json
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from decode.checksums import (
    MANIFEST,
    check_finished,
    checks_of,
    read_manifest,
    sealed,
)
from decode.core import InputError, refusal
from decode.machine import in_words
from decode.notices import tell

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

# What a process killed while it wrote leaves: our files, and those of safetensors.
HALF_WRITTEN = re.compile(r"\..+\.\d+-[0-9a-f]{6}\.part|\.tmp[0-9A-Za-z]{6}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary, empty file to write; rename it to `path` only when the block succeeds.

    It gets the rights that this account's umask gives, whatever the writing library thinks. A full
    disk and its like are InputErrors that name `path`.
    """
    part = path.with_name(f".{path.name[:80]}.{os.getpid()}-{uuid.uuid4().hex[:6]}.part")
    try:
        part.touch()
        mode = part.stat().st_mode
        yield part
        if part.stat().st_mode != mode:
            part.chmod(stat.S_IMODE(mode))
        os.replace(part, path)
    except Exception as e:
        said = None if isinstance(e, InputError) else in_words(e, path)
        if said is None:
            raise
        raise InputError(said) from e
    finally:
        with suppress(OSError):
            part.unlink()


def sweep(folder: Path) -> None:
    """Remove what killed processes left half written below a folder; its lock must be held."""
    for path in folder.rglob(".*"):
        if HALF_WRITTEN.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def as_file_name(name: str) -> str:
    """A name of a region, subject or split as the name of a file: no folder, nothing hidden."""
    return re.sub(r"[%/\\\0]|^\.", lambda found: f"%{ord(found[0]):02X}", name)


def from_file_name(name: str) -> str:
    """The name that `as_file_name` was given."""
    return re.sub(r"%([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), name)


RUN_AGAIN = "delete its folder and run again"


def write_json(path: Path, value: Any) -> None:
    with whole_file(path) as part:
        part.write_text(json.dumps(value, indent=1, sort_keys=True, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def unreadable(path: Path, expected: str, e: Exception, remedy: str) -> InputError:
    """The refusal of a file: what the machine says where it is the machine's, else `remedy`."""
    said = in_words(e, path)
    if said is not None:
        return InputError(said)
    return refusal(path, f"{expected}", e, f"{remedy}")


def read_json(path: Path, remedy: str = RUN_AGAIN) -> Any:
    check_finished(path)
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise unreadable(path, "readable JSON", e, remedy) from e


def write_array(path: Path, value: np.ndarray) -> None:
    with whole_file(path) as part, part.open("wb") as f:
        np.save(f, np.ascontiguousarray(value), allow_pickle=False)


def read_array(path: Path, remedy: str = RUN_AGAIN) -> np.ndarray:
    """Memory-mapped array; InputError when the file is missing, damaged or holds objects."""
    check_finished(path)
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise unreadable(path, "a whole .npy array", e, remedy) from e
    return array


def write_table(path: Path, table: pd.DataFrame) -> None:
    with whole_file(path) as part:
        table.to_parquet(part, index=False)


def read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    check_finished(path)
    try:
        return pd.read_parquet(path)
    except Exception as e:
        raise unreadable(path, "a whole parquet table", e, RUN_AGAIN) from e


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Weights or other named tensors, as safetensors."""
    from safetensors.torch import save_file

    seen: set[int] = set()

    def alone(value: Tensor) -> Tensor:
        """The tensor in memory of its own: copied only where another one shares it."""
        value = value.detach().cpu().contiguous()
        storage = value.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != value.nbytes
        seen.add(storage.data_ptr())
        return value.clone() if shared else value

    with whole_file(path) as part:
        save_file({k: alone(v) for k, v in tensors.items()}, part)


def read_tensors(path: Path, where: str = "", remedy: str = RUN_AGAIN) -> dict[str, Tensor]:
    """All tensors of a file; InputError, beginning with `where`, when it is not whole."""
    from safetensors.torch import load_file

    with _whole_weights(path, where, remedy):
        return load_file(path)


def check_tensors(path: Path, where: str = "", remedy: str = RUN_AGAIN) -> None:
    """InputError, beginning with `where`, unless a file's head promises just what the file holds."""
    from safetensors import safe_open

    with _whole_weights(path, where, remedy), safe_open(path, "pt"):
        pass


@contextmanager
def _whole_weights(path: Path, where: str, remedy: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        check_finished(path)
        yield
    except InputError as e:
        raise InputError(f"{where}{e}") from e
    except (OSError, SafetensorError) as e:
        fault = unreadable(path, "whole safetensors weights", e, remedy)
        raise InputError(f"{where}{fault}") from e


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A table and arrays aligned with its rows.

    An array is called by its name, or by folders and its name as in `baselines/ridge/image`: those of
    one folder belong together, and lie together on disk.
    """

    table: pd.DataFrame
    arrays: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        for name, array in self.arrays.items():
            if len(array) != len(self.table):
                raise ValueError(
                    f"array {name!r} has {len(array)} rows, the table {len(self.table)}"
                )

    def tensors(self, folder: str) -> dict[str, Tensor]:
        """The arrays that lie in a folder, by name."""
        import torch

        places = {name: PurePosixPath(name) for name in self.arrays}
        return {
            place.name: torch.from_numpy(np.array(self.arrays[name]))
            for name, place in places.items()
            if place.parent == PurePosixPath(folder)
        }

    def write(self, folder: Path) -> None:
        for name, array in self.arrays.items():
            path = folder / f"{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_array(path, array)
        folder.mkdir(parents=True, exist_ok=True)
        write_table(folder / "table.parquet", self.table)

    @classmethod
    def read(cls, folder: Path) -> Frame:
        table = read_table(folder / "table.parquet")
        found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*.npy"))}
        arrays = {name.removesuffix(".npy"): read_array(path) for name, path in found.items()}
        for name, array in arrays.items():
            if len(array) != len(table):
                raise refusal(
                    folder,
                    f"as many rows of array {name!r} as of its table, {len(table)}",
                    len(array),
                    "delete the folder and run again",
                )
        return cls(table, arrays)


def is_finished(folder: Path) -> bool:
    return read_manifest(folder) is not None


def fill_folder(folder: Path, fill: Callable[[Path], Mapping[str, Any]], *, keep: bool) -> None:
    """Fill `folder` through `<folder>.partial`: manifest last, then one rename.

    `fill` writes files and returns the manifest, to which their checksums are added; `keep` says that
    it can go on from what an earlier, interrupted run left. A second process waits for the first and
    then finds the folder finished. A folder that lost its manifest is put aside.
    """
    import shutil

    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(folder.name + ".partial")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if is_finished(folder):
            return
        if folder.exists():
            tell(
                folder,
                f"no readable {MANIFEST}, so that nobody knows whether it is whole: it is put aside as "
                f"{set_aside(folder).name} and made again",
            )
        if partial.exists() and not keep:
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        sweep(partial)
        manifest = {**fill(partial), "files": checks_of(partial)}
        write_json(partial / MANIFEST, sealed(json.loads(json.dumps(manifest, default=_plain))))
        os.replace(partial, folder)


def set_aside(folder: Path) -> Path:
    """Move a folder out of the way without deleting anything in it; returns where it lies now."""
    numbers = (n for n in range(1, 10_000))
    old = next(p for n in numbers if not (p := folder.with_name(f"{folder.name}.old-{n}")).exists())
    os.replace(folder, old)
    return old
