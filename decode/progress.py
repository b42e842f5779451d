"""Progress bars that only show when something takes longer than two seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], label: str, *, total: int | None = None) -> Iterator[T]:
    """Yield `items`, drawing a bar on standard error once two seconds have passed."""
    from tqdm import tqdm

    yield from tqdm(items, desc=label, total=total, delay=2.0, dynamic_ncols=True, leave=False)


def close_bars() -> None:
    """Take away the bars of loops that an error has left, the innermost first, so that what is
    printed next is not drawn over.
    """
    from tqdm import tqdm

    for bar in sorted(getattr(tqdm, "_instances", ()), key=lambda b: b.pos):
        bar.close()


def clear_bars() -> None:
    """Blank the bars that are shown, so that a line can be printed; they come back by themselves."""
    from tqdm import tqdm

    for bar in getattr(tqdm, "_instances", ()):
        if bar.last_print_t > bar.start_t:
            bar.clear()
