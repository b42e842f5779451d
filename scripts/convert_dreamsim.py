"""Turn DreamSim's published ensemble into the file that the metric `dreamsim` reads.

    python scripts/convert_dreamsim.py FOLDER --out data/weights/dreamsim.safetensors

FOLDER is the unpacked dreamsim_ensemble_checkpoint.zip of github.com/ssundaram21/dreamsim (releases,
v0.2.0-checkpoints) with DINO's own weights beside its files:
https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from decode.downloads import command
from decode.store import write_tensors
from decode.weights.dreamsim_layout import read_release


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, help="a file to write")
    args = parser.parse_args(argv)

    import torch

    from decode.scoring.dreamsim import open_ensemble

    weights = read_release(args.folder)
    open_ensemble(weights, str(args.folder), torch.device("cpu"))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(args.out, weights)
    print(f"{args.out}: {len(weights)} tensors")


if __name__ == "__main__":
    command(main)
