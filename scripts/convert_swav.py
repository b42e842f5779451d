"""Turn SwAV's published ResNet-50 into the file that the picture metrics read.

    python scripts/convert_swav.py swav_800ep_pretrain.pth.tar --out data/weights/swav_resnet50.safetensors

The checkpoint is the first one in the table of github.com/facebookresearch/swav:
https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from decode.downloads import command
from decode.store import write_tensors
from decode.weights.swav_layout import read_checkpoint, trunk


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--out", type=Path, required=True, help="a file to write")
    args = parser.parse_args(argv)

    import torch
    from torchvision.models import resnet50

    with torch.device("meta"):
        network = resnet50(weights=None)
    weights = trunk(read_checkpoint(args.checkpoint), network)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(args.out, weights)
    print(f"{args.out}: {len(weights)} tensors")


if __name__ == "__main__":
    command(main)
