"""What was found in a file that something was shown or played from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Seen:
    """`height` and `width` in pixels, 0 where there are none; `seconds` that the clip lasts, None where it
    stands still; `peculiar`, in words, what was changed to make it usable.
    """

    height: int = 0
    width: int = 0
    seconds: float | None = None
    peculiar: tuple[str, ...] = ()
