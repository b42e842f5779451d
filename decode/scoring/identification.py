"""Two-way identification among many pictures in bounded memory."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from decode.scoring.picture_scores import standardise

IN_MEMORY = 256 * 2**20
BLOCK_VALUES = 16 * 2**20


class References:
    """Standardised features of the true pictures, (picture, feature) float32.

    Above 256 MiB they lie in a temporary file, so memory does not grow with the number of pictures;
    `correlate` reads them block by block.
    """

    def __init__(self, n: int, folder: Path) -> None:
        self.n, self.folder = n, folder
        self._store: np.ndarray | None = None
        self._filled = 0

    def append(self, features: np.ndarray) -> None:
        """Add the features (picture, ...) of the next pictures."""
        rows = standardise(np.asarray(features, dtype=np.float32))
        if self._store is None:
            shape = (self.n, rows.shape[1])
            if self.n * rows.shape[1] * 4 <= IN_MEMORY:
                self._store = np.empty(shape, np.float32)
            else:
                file = self.folder / f"references-{id(self)}.npy"
                self._store = np.lib.format.open_memmap(file, "w+", np.float32, shape)
        self._store[self._filled : self._filled + len(rows)] = rows
        self._filled += len(rows)
        self._release()

    def correlate(self, features: np.ndarray) -> np.ndarray:
        """Pearson r of each row of `features` (row, ...) with each reference: (row, reference)."""
        if self._store is None or self._filled != self.n:
            raise ValueError(f"{self._filled} of {self.n} references were given")
        rows = standardise(np.asarray(features, dtype=np.float32))
        found = np.empty((len(rows), self.n), np.float32)
        step = max(1, BLOCK_VALUES // rows.shape[1])
        for start in range(0, self.n, step):
            found[:, start : start + step] = rows @ self._store[start : start + step].T
            self._release()
        return found

    def _release(self) -> None:
        """Give pages of the file back at once instead of when memory runs short."""
        if isinstance(self._store, np.memmap) and isinstance(self._store.base, mmap.mmap):
            self._store.base.madvise(mmap.MADV_DONTNEED)


@contextmanager
def references(n: int, names: Iterable[str]) -> Iterator[dict[str, References]]:
    """One empty store of `n` references per feature name; temporary files vanish at the end."""
    with tempfile.TemporaryDirectory(prefix="decode-references-") as folder:
        yield {name: References(n, Path(folder)) for name in names}


def share_beaten(
    similar: np.ndarray, own: np.ndarray, rival: np.ndarray, *, tie: float = 0.0
) -> np.ndarray:
    """Share of rivals to which each row is less similar than to its own reference; nan without any.

    `similar` is (row, reference), `own` (row,) the index of the right reference, `rival`
    (row, reference) bool. A rival exactly as similar counts `tie`.
    """
    right = np.take_along_axis(similar, own[:, None], axis=1)
    won = ((similar < right) & rival).sum(axis=1) + tie * ((similar == right) & rival).sum(axis=1)
    number = rival.sum(axis=1)
    return np.divide(won, number, out=np.full(len(similar), np.nan), where=number > 0)
