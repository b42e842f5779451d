"""Turn the published SDXL unCLIP checkpoint into the folder that generator sdxl_unclip opens.

    python scripts/convert_sdxl_unclip.py unclip6_epoch0_step110000.ckpt --out data/weights/mindeye2_unclip

Experiments look for it in <paths.data>/weights/mindeye2_unclip, and `data` is the default of paths.data.
The autoencoder is SDXL's own; its decoder is not taken from the checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from decode.core import InputError
from decode.weights.reading import find_weights, loading
from decode.weights.sdxl_layout import load_denoiser, read_checkpoint, write_folder


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vae", default="stabilityai/sdxl-vae", help="hub name or folder")
    args = parser.parse_args(argv)
    try:
        from diffusers import AutoencoderKL

        network = load_denoiser(read_checkpoint(args.checkpoint))
        with loading(args.vae):
            autoencoder = AutoencoderKL.from_pretrained(
                str(find_weights(args.vae)), use_safetensors=True
            )
        write_folder(args.out, network, autoencoder)
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(f"{args.out}: give it as generator.model of generator=sdxl_unclip")
    return 0


if __name__ == "__main__":
    sys.exit(main())
