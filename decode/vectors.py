"""Vectors of stimuli on disk: one growing store per target, and its columns for closed forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decode.checksums import Check, check_of, differs, is_check
from decode.core import InputError, refusal
from decode.events import BETWEEN
from decode.store import read_array, read_json, write_array, write_json

if TYPE_CHECKING:
    from torch import Tensor


class FeatureStore:
    """One target's vectors by stimulus digest, in shards that are appended and never rewritten.

    A shard is `values-000k.npy` and, written after it, `shard-000k.json` with the digests of its rows
    and the checksum of the values, which is compared when they are first read; values without it do
    not count and their number is written over. `keys` says by which digest the store knows that of a
    stimulus, where a target reads a part of stimuli only; a digest that is not in it is its own. Where
    a target reads trials (`of_trials`) the key of the trial, behind the digest, is what it is known by.
    """

    def __init__(
        self, folder: Path, keys: Mapping[str, str] | None = None, *, of_trials: bool = False
    ) -> None:
        self.folder, self.of_trials = folder, of_trials
        self._keys = dict(keys or {})
        self._place: dict[str, tuple[int, int]] = {}
        self._shards: dict[int, _Shard] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the shards that are on disk now."""
        self._place, self._shards = {}, {}
        for path in sorted(self.folder.glob("shard-*.json")):
            number, kept = int(path.stem.removeprefix("shard-")), _read_shard(path)
            values = self.folder / f"values-{number:04d}.npy"
            array = read_array(values, shard_remedy(values))
            self._shards[number] = _Shard(values, array, kept["values"])
            self._place.update({d: (number, row) for row, d in enumerate(kept["digests"])})
            self._shards[number].check_rows(len(kept["digests"]))

    @property
    def _first(self) -> np.ndarray:
        return next(iter(self._shards.values())).array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one stimulus' vector."""
        if not self._shards:
            raise refusal(self.folder, "features", "none", "run `until=features` first")
        return tuple(self._first.shape[1:])

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Keys of digests without features, each once, in the order given."""
        return [d for d in dict.fromkeys(map(self.key, digests)) if d not in self._place]

    def key(self, digest: str) -> str:
        """What the store knows a stimulus by, of whose digest it is, or a trial (`decode.events`)."""
        stimulus, _, trial = digest.partition(BETWEEN)
        return (trial or stimulus) if self.of_trials else self._keys.get(stimulus, stimulus)

    def _places(self, digests: Sequence[str]) -> np.ndarray:
        """(2, row): the number of each shard, and the row in it."""
        return np.array([self._place[self.key(d)] for d in digests], np.int64).reshape(-1, 2).T

    def append(self, digests: Sequence[str], values: np.ndarray) -> None:
        """Add one shard: `values` is (stimulus, *shape)."""
        if self._shards and tuple(values.shape[1:]) != self.shape:
            raise ValueError(f"features of shape {values.shape[1:]} in a store of {self.shape}")
        self.folder.mkdir(parents=True, exist_ok=True)
        number = max(self._shards, default=-1) + 1
        path = self.folder / f"values-{number:04d}.npy"
        write_array(path, values)
        kept = {"digests": list(digests), "values": check_of(path)}
        write_json(self.folder / f"shard-{number:04d}.json", kept)
        self.refresh()

    @property
    def bytes_each(self) -> int:
        """What one stimulus' vector takes on disk."""
        return int(np.prod(self.shape)) * self._dtype().itemsize

    def _dtype(self) -> np.dtype[Any]:
        return np.result_type(*(shard.array.dtype for shard in self._shards.values()))

    def stored(self, digests: Sequence[str]) -> Tensor:
        """(len(digests), *shape) in the precision of the store, reading only the rows asked for."""
        import torch

        out = np.empty((len(digests), *self.shape), self._dtype())
        shard, row = self._places(digests)
        for number in np.unique(shard):
            here = shard == number
            out[here] = self._shards[int(number)].values[row[here]]
        return torch.from_numpy(out)

    def rows(self, digests: Sequence[str]) -> Tensor:
        """(len(digests), *shape) float32, reading only the rows asked for."""
        return self.stored(digests).float()

    def columns(self, digests: Sequence[str], block: slice) -> Tensor:
        """(len(digests), columns of the flattened vectors) float32, reading no other columns."""
        import torch

        out: np.ndarray | None = None
        shard, row = self._places(digests)
        for number in np.unique(shard):
            here = shard == number
            values = self._shards[int(number)].values
            part = values.reshape(len(values), -1)[:, block]
            if out is None:
                out = np.empty((len(digests), part.shape[1]), np.float32)
            out[here] = part[row[here]]
        return torch.from_numpy(np.empty((0, 0), np.float32) if out is None else out)


class _Shard:
    """Vectors of some stimuli: `array` as it lies on disk, `values` once it has been compared with its
    checksum.
    """

    def __init__(self, path: Path, array: np.ndarray, check: Check) -> None:
        self.path, self.array, self.check = path, array, check
        self.remedy = shard_remedy(path)

    def check_rows(self, n: int) -> None:
        if len(self.array) != n:
            raise InputError(
                f"{self.path}: expected the vectors of {n} stimuli, got {len(self.array)} rows; "
                f"{self.remedy}"
            )

    @cached_property
    def values(self) -> np.ndarray:
        if fault := differs(self.path, self.check):
            raise refusal(
                self.path,
                "what was written there",
                fault,
                f"it was damaged or changed: {self.remedy}",
            )
        return self.array


def shard_remedy(values: Path) -> str:
    """What mends a damaged shard: its vectors alone are made again, those of other shards stay."""
    return f"delete {values.name} and {_told_by(values)}, where they are there, and run again"


def _told_by(values: Path) -> str:
    return f"{values.stem.replace('values', 'shard')}.json"


def _read_shard(path: Path) -> dict[str, Any]:
    remedy = shard_remedy(path.with_name(f"{path.stem.replace('shard', 'values')}.npy"))
    kept = read_json(path, remedy)
    whole = isinstance(kept, dict) and isinstance(kept.get("digests"), list)
    if not whole or not is_check(kept.get("values")):
        got = type(kept).__name__ if not isinstance(kept, dict) else f"keys {sorted(kept)}"
        raise refusal(path, "digests and the checksum of their values", got, remedy)
    return kept


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
        import torch

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
