"""What is on disk: finished folders, tables with aligned arrays, weights, and growing feature stores.

A folder is finished when it holds `manifest.json`, which is written last. Every single file is
written beside its place and renamed into it, so that a process killed at any moment leaves either
the whole file or none.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from decode.core import InputError

MANIFEST = "manifest.json"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write; rename it to `path` only when the block succeeds."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:6]}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


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


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise InputError(
            f"expected readable JSON at {path}, got: {e}; delete {path.parent} and run again"
        ) from e


def write_array(path: Path, value: np.ndarray) -> None:
    with whole_file(path) as part, part.open("wb") as f:
        np.save(f, np.ascontiguousarray(value), allow_pickle=False)


def read_array(path: Path) -> np.ndarray:
    """Memory-mapped array; InputError when the file is missing, truncated or holds objects."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise InputError(
            f"expected a whole .npy array at {path}, got: {e}; delete its folder and run again"
        ) from e
    return array


def write_table(path: Path, table: pd.DataFrame) -> None:
    with whole_file(path) as part:
        table.to_parquet(part, index=False)


def read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except Exception as e:
        raise InputError(
            f"expected a whole parquet table at {path}, got: {e}; delete its folder and run again"
        ) from e


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


RUN_AGAIN = "delete its folder and run again"


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
        yield
    except (OSError, SafetensorError) as e:
        raise InputError(
            f"{where}expected whole safetensors weights at {path}, got: {e}; {remedy}"
        ) from e


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A table and arrays aligned with its rows."""

    table: pd.DataFrame
    arrays: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        for name, array in self.arrays.items():
            if len(array) != len(self.table):
                raise ValueError(
                    f"array {name!r} has {len(array)} rows, the table {len(self.table)}"
                )

    def tensors(self, source: str) -> dict[str, Tensor]:
        """The arrays called `<source>.<name>`, by name."""
        prefix = f"{source}."
        return {
            k[len(prefix) :]: torch.from_numpy(np.array(v))
            for k, v in self.arrays.items()
            if k.startswith(prefix)
        }

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in self.arrays.items():
            write_array(folder / f"{name}.npy", array)
        write_table(folder / "table.parquet", self.table)

    @classmethod
    def read(cls, folder: Path) -> Frame:
        table = read_table(folder / "table.parquet")
        arrays = {p.stem: read_array(p) for p in sorted(folder.glob("*.npy"))}
        for name, array in arrays.items():
            if len(array) != len(table):
                raise InputError(
                    f"{folder}: array {name!r} has {len(array)} rows, its table {len(table)}; "
                    "delete the folder and run again"
                )
        return cls(table, arrays)


def is_finished(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def fill_folder(folder: Path, fill: Callable[[Path], Mapping[str, Any]], *, keep: bool) -> None:
    """Fill `folder` through `<folder>.partial`: manifest last, then one rename.

    `fill` writes files and returns the manifest; `keep` says that it can go on from what an earlier,
    interrupted run left. A second process waits for the first and then finds the folder finished.
    """
    import shutil

    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(folder.name + ".partial")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if is_finished(folder):
            return
        if partial.exists() and not keep:
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        manifest = fill(partial)
        write_json(partial / MANIFEST, dict(manifest))
        os.replace(partial, folder)


def set_aside(folder: Path) -> None:
    """Move a folder out of the way without deleting anything in it."""
    for number in range(1, 10_000):
        old = folder.with_name(f"{folder.name}.old-{number}")
        if not old.exists():
            os.replace(folder, old)
            return


def fingerprint(root: Path) -> str:
    """Hash of the names, sizes and times of the files under `root`: tells other data from the same."""
    h = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        stat = path.stat()
        h.update(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return h.hexdigest()[:16]


class FeatureStore:
    """One target's vectors by stimulus digest, in shards that are appended and never rewritten.

    A shard is `values-000k.npy` and, written after it, `digests-000k.parquet`; a shard without its
    digests does not count and its number is written over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._place: dict[str, tuple[int, int]] = {}
        self._shards: list[np.ndarray] = []
        self.refresh()

    def refresh(self) -> None:
        """Read the shards that are on disk now."""
        self._place, self._shards = {}, []
        for path in sorted(self.folder.glob("digests-*.parquet")):
            number = len(self._shards)
            digests = read_table(path)["digest"].tolist()
            values = read_array(path.with_name(path.stem.replace("digests", "values") + ".npy"))
            if len(values) != len(digests):
                raise InputError(
                    f"{path}: names {len(digests)} stimuli but its values have {len(values)} rows; "
                    f"delete {self.folder} and run again"
                )
            self._shards.append(values)
            self._place.update({d: (number, row) for row, d in enumerate(digests)})

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one stimulus' vector."""
        if not self._shards:
            raise InputError(f"{self.folder} holds no features; run `until=features` first")
        return tuple(self._shards[0].shape[1:])

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Digests without features, each once, in the order given."""
        return [d for d in dict.fromkeys(digests) if d not in self._place]

    def append(self, digests: Sequence[str], values: np.ndarray) -> None:
        """Add one shard: `values` is (stimulus, *shape)."""
        if self._shards and tuple(values.shape[1:]) != self.shape:
            raise ValueError(f"features of shape {values.shape[1:]} in a store of {self.shape}")
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(self._shards)
        write_array(self.folder / f"values-{number:04d}.npy", values)
        write_table(
            self.folder / f"digests-{number:04d}.parquet", pd.DataFrame({"digest": list(digests)})
        )
        self.refresh()

    @property
    def bytes_each(self) -> int:
        """What one stimulus' vector takes on disk."""
        return int(np.prod(self.shape)) * self._dtype().itemsize

    def _dtype(self) -> np.dtype[Any]:
        return np.result_type(*(values.dtype for values in self._shards))

    def stored(self, digests: Sequence[str]) -> Tensor:
        """(len(digests), *shape) in the precision of the store, reading only the rows asked for."""
        out = np.empty((len(digests), *self.shape), self._dtype())
        shard, row = np.array([self._place[d] for d in digests], np.int64).reshape(-1, 2).T
        for number in np.unique(shard):
            here = shard == number
            out[here] = self._shards[number][row[here]]
        return torch.from_numpy(out)

    def rows(self, digests: Sequence[str]) -> Tensor:
        """(len(digests), *shape) float32, reading only the rows asked for."""
        return self.stored(digests).float()

    def columns(self, digests: Sequence[str], block: slice) -> Tensor:
        """(len(digests), columns of the flattened vectors) float32, reading no other columns."""
        out: np.ndarray | None = None
        shard, row = np.array([self._place[d] for d in digests], np.int64).reshape(-1, 2).T
        for number in np.unique(shard):
            here = shard == number
            values = self._shards[number]
            part = values.reshape(len(values), -1)[:, block]
            if out is None:
                out = np.empty((len(digests), part.shape[1]), np.float32)
            out[here] = part[row[here]]
        return torch.from_numpy(np.empty((0, 0), np.float32) if out is None else out)


class Columns:
    """Targets of trials, (trial, all targets joined), read from disk a block of columns at a time.

    `columns[:, a:b]` is a float32 tensor; `digests` names the stimulus of each trial.
    """

    def __init__(self, stores: Sequence[FeatureStore], digests: Sequence[str]) -> None:
        self.stores, self.digests = tuple(stores), tuple(digests)
        names, self._row = np.unique(np.array(self.digests), return_inverse=True)
        self._names = names.tolist()
        self._ends = np.cumsum([int(np.prod(s.shape)) for s in stores])

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.digests), int(self._ends[-1])

    def __len__(self) -> int:
        return len(self.digests)

    def __getitem__(self, key: tuple[slice, slice]) -> Tensor:
        first, stop, _ = key[1].indices(self.shape[1])
        parts = []
        for store, end, begin in zip(self.stores, self._ends, [0, *self._ends[:-1]], strict=True):
            low, high = max(first, begin), min(stop, end)
            if low < high:
                parts.append(store.columns(self._names, slice(low - begin, high - begin)))
        return torch.cat(parts, 1)[torch.from_numpy(self._row)]

    def followed_by(self, other: Columns) -> Columns:
        """The trials of both, these first."""
        return Columns(self.stores, self.digests + other.digests)
