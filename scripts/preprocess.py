"""Fit nothing yet: raw recordings to trials: `decode until=preprocess` with the same overrides."""

import sys

from decode.cli import main

if __name__ == "__main__":
    sys.argv.append("until=preprocess")
    main()
