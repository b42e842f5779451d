"""Fetch a data set of OpenNeuro through openneuro-py (pip install 'decode-brain[fetch]').

    python scripts/fetch_openneuro.py ds004192 --include 'sub-01/**' --to data/things_fmri_raw
    python scripts/fetch_openneuro.py ds001246 --tag VERSION              # one published version

Stop it whenever you like: the same command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from decode.downloads import command, fetch_openneuro


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", metavar="DATASET", help="as in ds004192")
    parser.add_argument("--tag", help="version; default: the newest")
    parser.add_argument("--include", nargs="+", metavar="PATTERN", default=[], help="only these")
    parser.add_argument("--to", type=Path, help="folder; default: data/DATASET")
    args = parser.parse_args(argv)
    folder = args.to or Path("data") / args.dataset
    fetch_openneuro(args.dataset, folder, tag=args.tag, include=args.include)


if __name__ == "__main__":
    command(main)
