"""Time and memory of one call in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def anonymous() -> float:
    """Memory of this process that no file backs, MB.

    Pages of mapped files do not count: the system takes them back whenever it needs room.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def peak() -> float:
    """The most memory that this program has held, MB.

    `getrusage` counts what the process that started it held, too.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def watched(call: Callable[[], T], *, every: float) -> tuple[T, float, float]:
    """What the call gives, its seconds, and the most that no file backed, looked at `every` seconds, MB."""
    most, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(every):
            most[0] = max(most[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        made = call()
        seconds = time.perf_counter() - start
    finally:
        done.set()
        watcher.join()
    return made, seconds, most[0]
