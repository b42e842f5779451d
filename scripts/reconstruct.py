"""Everything up to reconstructed media: `decode until=reconstruct` with the same overrides."""

import sys

from decode.cli import main

if __name__ == "__main__":
    sys.argv.append("until=reconstruct")
    main()
