"""What the scripts share: one-line errors and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable

from decode.core import InputError


def command(main: Callable[[], None]) -> None:
    """Run a script's `main` and leave the process: 0, 2 with a line on standard error, or 130."""
    try:
        main()
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
