"""Fetch the files of a figshare article, checked against the MD5 that figshare publishes.

    python scripts/fetch_figshare.py 14456124 --dry                       # BOLD5000 2.0
    python scripts/fetch_figshare.py 14456124 --include '*CSI1*' --to data/bold5000
    python scripts/fetch_figshare.py 7387130 --to data/god                # Generic Object Decoding
    python scripts/fetch_figshare.py 20492835 --to data/things_fmri       # THINGS-fMRI, table format

ARTICLE is a number, an address or a DOI. Stop it whenever you like: the same command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from decode.core import InputError
from decode.downloads import command, fetch_all, list_figshare
from decode.downloads.listings import FIGSHARE


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("article", metavar="ARTICLE", help="number, address or DOI")
    parser.add_argument("--include", nargs="+", metavar="PATTERN", default=["*"], help="file names")
    parser.add_argument("--to", type=Path, help="folder; default: data/figshare_ARTICLE")
    parser.add_argument("--api", default=FIGSHARE, help="address of the figshare API")
    parser.add_argument("--dry", action="store_true", help="only list files and sizes")
    args = parser.parse_args(argv)
    listed = list_figshare(args.article, api=args.api)
    files = [f for f in listed if any(fnmatch(f.name, p) for p in args.include)]
    if not files:
        names = ", ".join(f.name for f in listed[:5])
        raise InputError(f"expected files that match {args.include}, found only {names}, ...")
    name = "figshare_" + args.article.rstrip("/").rpartition("/")[2]
    fetch_all(files, args.to or Path("data") / name, dry=args.dry)


if __name__ == "__main__":
    command(main)
