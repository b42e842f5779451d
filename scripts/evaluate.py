"""Everything up to scores: `decode until=evaluate` with the same overrides."""

import sys

from decode.cli import main

if __name__ == "__main__":
    sys.argv.append("until=evaluate")
    main()
