"""Fetch COCO's captions and boxes for the pictures of the Natural Scenes Dataset.

    python scripts/fetch_coco.py --dry                       # what, and how big
    python scripts/fetch_coco.py                             # into data/nsd/annotations
    python scripts/fetch_coco.py --what captions             # unpack the captions only

They come in one archive, which stays beside what was unpacked. Stop it whenever you like: the same
command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from decode.downloads import command, fetch_coco
from decode.downloads.coco import COCO, PARTS


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--what", nargs="+", choices=PARTS, default=list(PARTS), help="default: both"
    )
    parser.add_argument("--to", type=Path, default=Path("data/nsd"), help="default: data/nsd")
    parser.add_argument("--server", default=COCO, help="address of COCO's files or a mirror")
    parser.add_argument("--dry", action="store_true", help="only list files and sizes")
    args = parser.parse_args(argv)
    fetch_coco(args.to, what=args.what, server=args.server, dry=args.dry)


if __name__ == "__main__":
    command(main)
