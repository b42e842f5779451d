"""Decode brain recordings into what was seen, heard or read.

`open_run(folder)` opens a finished run and `open_decoder(folder)` a shared decoder, see docs/python.md;
nothing is imported before one of them is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decode.use.opened import open_run as open_run
    from decode.use.share import open_decoder as open_decoder

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "open_run":
        from decode.use.opened import open_run

        return open_run
    if name == "open_decoder":
        from decode.use.share import open_decoder

        return open_decoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
