"""Fetch a data set or a model of the Hugging Face hub; prints the commit that it came from.

    python scripts/fetch_huggingface.py pscotti/mindeyev2 --dry           # MindEye2, whole
    python scripts/fetch_huggingface.py pscotti/mindeyev2 --to data/mindeye2 \\
        --include 'wds/subj01/*' betas_all_subj01_fp32_renorm.hdf5 coco_images_224_float16.hdf5
    python scripts/fetch_huggingface.py pscotti/naturalscenesdataset --to data/mindeye1 \\
        --include 'webdataset_avg_split/*subj01*'                         # MindEye1

    python scripts/fetch_huggingface.py shi-labs/versatile-diffusion --model

The data sets hold data of the Natural Scenes Dataset, whose terms apply. A model goes into the hub's
cache (HF_HOME), where experiments that name it find it without a network; docs/weights.md lists which
experiment needs which. Stop it whenever you like: the same command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from decode.downloads import command, fetch_huggingface


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repo", metavar="REPO", help="as in pscotti/mindeyev2")
    parser.add_argument("--model", action="store_true", help="REPO is a model, not a data set")
    parser.add_argument("--revision", default="main", help="commit, tag or branch; default: main")
    parser.add_argument("--include", nargs="+", metavar="PATTERN", default=[], help="only these")
    parser.add_argument(
        "--to", type=Path, help="folder; default: data/REPO, of models the hub's cache"
    )
    parser.add_argument("--dry", action="store_true", help="only list files and sizes")
    args = parser.parse_args(argv)
    folder = args.to
    if folder is None and not args.model:
        folder = Path("data") / args.repo.rpartition("/")[2]
    print(
        fetch_huggingface(
            args.repo,
            folder,
            kind="model" if args.model else "dataset",
            revision=args.revision,
            include=args.include,
            dry=args.dry,
        )
    )


if __name__ == "__main__":
    command(main)
