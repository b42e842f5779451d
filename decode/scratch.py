"""Room for signals that are too long for memory: files without a name, gone with their arrays."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np

IN_MEMORY = 512 * 2**20  # bytes; what is larger lies on disk
_folder: ContextVar[Path | None] = ContextVar("folder of large signals", default=None)


@contextmanager
def scratch_in(folder: Path) -> Iterator[None]:
    """Large arrays that are asked for inside the block lie on the disk of `folder`, not of TMPDIR."""
    before = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(before)


def empty(shape: tuple[int, ...]) -> np.ndarray:
    """An array of float32 to fill, in memory or, where it is large, mapped to a file that needs no removal.

    Its room on disk is taken at once, so that a full disk is an OSError here and no crash later.
    """
    size = 4 * int(np.prod(shape))
    if size <= IN_MEMORY:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(dir=_folder.get()) as file:
        os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, np.float32, "r+", shape=shape)
