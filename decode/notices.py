"""What is worth telling but is no error: one line each on standard error, kept for the report."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from decode.core import refusal
from decode.progress import clear_bars

# Loggers to which reading libraries complain instead of warning.
LOGGERS = ("mne", "nibabel.global", "PIL")
# Warnings about a library's own future, which say nothing of the data.
CODE = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
# What is optional in the standard that it belongs to: its absence is no news. Nothing is read from
# BIDS' table of participants here.
OPTIONAL = re.compile(
    r"participants\.tsv file not found|not listed in participants\.tsv", re.IGNORECASE
)
_open: list[dict[str, list[str]]] = []


def tell(where: object, what: str) -> None:
    """Say `what` of `where` (a file, a recording, a config key) in one line.

    Inside `collected`, what has been said of one thing is only counted when it comes again.
    """
    what = " ".join(what.split())
    places = _open[-1].setdefault(what, []) if _open else []
    places.append(str(where))
    if len(places) == 1:
        _print(f"note: {where}: {what}")


@contextmanager
def collected() -> Iterator[list[str]]:
    """The lines told inside the block, filled in when it ends: one line for what was said of many."""
    lines: list[str] = []
    told: dict[str, list[str]] = {}
    _open.append(told)
    try:
        yield lines
    finally:
        _open.pop()
        for what, places in told.items():
            more = len(dict.fromkeys(places)) - 1
            lines.append(f"{places[0]}{f' (and {more} more)' if more else ''}: {what}")
            if more:
                _print(f"note: {lines[-1]}")


@contextmanager
def heard(
    where: object, *, wrong: str = "$.", expected: str = "a complete file", silent: str = "$."
) -> Iterator[None]:
    """Turn every warning of a reading library inside the block into a line to the user, or, where it
    matches the pattern `wrong` (case aside), into an InputError: `expected` is what `where` should be.
    What matches `silent` is left out.
    """
    listener = _Listener()
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in LOGGERS}
    for logger in loggers:
        logger.addHandler(listener)
        logger.setLevel(logging.WARNING)  # MNE does not even warn above that
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for kind in CODE:
                warnings.simplefilter("ignore", kind)
            yield
    finally:
        for logger, level in loggers.items():
            logger.removeHandler(listener)
            logger.setLevel(level)
    lines = dict.fromkeys([*(str(w.message) for w in said), *listener.lines])
    for line in (" ".join(line.split()) for line in lines):
        if re.search(wrong, line, re.IGNORECASE):
            raise refusal(where, expected, line[:300], "fetch the file again")
        if OPTIONAL.search(line) or re.search(silent, line, re.IGNORECASE):
            continue
        # What is said of many files alike is told once, so it does not name its own.
        tell(where, line.replace(str(where), "it")[:300])


class _Listener(logging.Handler):
    """Keeps what is logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _print(line: str) -> None:
    if "tqdm" in sys.modules:
        clear_bars()
    print(line, file=sys.stderr)
