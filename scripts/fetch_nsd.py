"""Fetch files of the Natural Scenes Dataset from its public bucket.

    python scripts/fetch_nsd.py subj01 --i-have-signed --dry              # what, and how big
    python scripts/fetch_nsd.py subj01 subj02 --i-have-signed             # all that data=nsd reads
    python scripts/fetch_nsd.py subj01 --sessions 5 --what betas masks --i-have-signed
    python scripts/fetch_nsd.py subj01 --what design masks timeseries --i-have-signed
    python scripts/fetch_nsd.py subj01 --space fsaverage --sessions 37 --i-have-signed

The bucket's own paths are kept below --to; flat patches go beside it, into fsaverage/surf. Stop it
whenever you like: the same command goes on. With --sessions N, run decode with data.last_session=N,
with --space fsaverage with data.space=fsaverage.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from decode.core import InputError
from decode.downloads import command, fetch_all, flat_patches, nsd_files
from decode.downloads.listings import NSD_BUCKET, NSD_PARTS, NSD_SPACES, NSD_TERMS

FLAT = "flat"

AGREEMENT = (
    "the Natural Scenes Dataset is given to those who accept its terms and fill in its access form: "
    f"read {NSD_TERMS} and follow https://naturalscenesdataset.org, then run this again with "
    "--i-have-signed"
)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("subjects", nargs="+", metavar="SUBJECT", help="subj01 to subj08")
    made.add_argument("--sessions", type=int, metavar="N", help="only the first N sessions")
    made.add_argument(
        "--what",
        nargs="+",
        choices=[*NSD_PARTS, FLAT],
        help="default: all but timeseries, flat (patches of the surface) with --space fsaverage alone",
    )
    made.add_argument(
        "--space",
        choices=NSD_SPACES,
        default=NSD_SPACES[0],
        help="of masks and betas: volumes (default) or the surface",
    )
    made.add_argument("--betas", default="betas_fithrf_GLMdenoise_RR", help="preparation")
    made.add_argument(
        "--format",
        choices=["nii.gz", "hdf5"],
        help="of betas in volumes: nii.gz is smaller (default), hdf5 is not compressed and faster to read",
    )
    made.add_argument("--to", type=Path, default=Path("data/nsd"), help="default: data/nsd")
    made.add_argument("--bucket", default=NSD_BUCKET, help="address of the bucket or a mirror")
    made.add_argument("--dry", action="store_true", help="only list files and sizes")
    made.add_argument("--i-have-signed", action="store_true", help="I have accepted the terms")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if not args.i_have_signed:
        raise InputError(AGREEMENT)
    what = args.what or ["design", "stimuli", "masks", "betas"]
    if args.what is None and args.space == "fsaverage":
        what = [*what, FLAT]
    files = nsd_files(
        args.subjects,
        what=[part for part in what if part != FLAT],
        sessions=args.sessions,
        betas=args.betas,
        ending=args.format,
        space=args.space,
        bucket=args.bucket,
    )
    # Listed first: whatever is missing shows before hours of fetching.
    patches = flat_patches(bucket=args.bucket) if FLAT in what else []
    for wanted, folder in ((files, args.to), (patches, args.to.absolute().parent)):
        if wanted:
            fetch_all(wanted, folder, dry=args.dry)


if __name__ == "__main__":
    command(main)
