"""Everything up to trained weights: `decode until=train` with the same overrides."""

import sys

from decode.cli import main

if __name__ == "__main__":
    sys.argv.append("until=train")
    main()
