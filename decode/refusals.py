"""What a researcher can mend, said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(Exception):
    """Something the researcher can mend; the command prints it as one line and exits with 2.

    The message says what was expected, what came, which file or key, and what to do.
    """


def refusal(where: object, expected: str, got: object, remedy: str) -> InputError:
    """The one sentence of a refusal: `where` is the file or the config key that it is about."""
    return InputError(f"{where}: expected {expected}, got {got}; {remedy}")


@contextmanager
def about(where: object) -> Iterator[None]:
    """Put a file or config key in front of a refusal from inside the block that does not name it."""
    try:
        yield
    except InputError as e:
        if str(where) in str(e):
            raise
        raise InputError(f"{where}: {e}") from e


@contextmanager
def reading(where: object, expected: str, remedy: str) -> Iterator[None]:
    """Whatever a library says of a file that it cannot read becomes a refusal that names the file.

    Refusals from inside the block pass, and so does a lack of memory, which says nothing of the file.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except PermissionError as e:
        raise refusal(
            where, "a file that may be read", "no permission", "ask its owner for it"
        ) from e
    except Exception as e:
        raise refusal(where, expected, " ".join(str(e).split()) or type(e).__name__, remedy) from e
