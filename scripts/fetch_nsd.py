"""Fetch files of the Natural Scenes Dataset from its public bucket.

    python scripts/fetch_nsd.py subj01 --i-have-signed --dry              # what, and how big
    python scripts/fetch_nsd.py subj01 subj02 --i-have-signed             # all that data=nsd reads
    python scripts/fetch_nsd.py subj01 --sessions 5 --what betas masks --i-have-signed
    python scripts/fetch_nsd.py subj01 --what design masks timeseries --i-have-signed

The bucket's own paths are kept below --to. Stop it whenever you like: the same command goes on.
With --sessions N, run decode with data.last_session=N.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from decode.core import InputError
from decode.downloads import command, fetch_all, nsd_files
from decode.downloads.listings import NSD_BUCKET, NSD_PARTS, NSD_TERMS

AGREEMENT = (
    "the Natural Scenes Dataset is given to those who accept its terms and fill in its access form: "
    f"read {NSD_TERMS} and follow https://naturalscenesdataset.org, then run this again with "
    "--i-have-signed"
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subjects", nargs="+", metavar="SUBJECT", help="subj01 to subj08")
    parser.add_argument("--sessions", type=int, metavar="N", help="only the first N sessions")
    parser.add_argument(
        "--what",
        nargs="+",
        choices=NSD_PARTS,
        default=["design", "stimuli", "masks", "betas"],
        help="default: all but timeseries",
    )
    parser.add_argument("--betas", default="betas_fithrf_GLMdenoise_RR", help="preparation")
    parser.add_argument(
        "--format",
        choices=["nii.gz", "hdf5"],
        default="nii.gz",
        help="of the betas: nii.gz is smaller (default), hdf5 is not compressed and faster to read",
    )
    parser.add_argument("--to", type=Path, default=Path("data/nsd"), help="default: data/nsd")
    parser.add_argument("--bucket", default=NSD_BUCKET, help="address of the bucket or a mirror")
    parser.add_argument("--dry", action="store_true", help="only list files and sizes")
    parser.add_argument("--i-have-signed", action="store_true", help="I have accepted the terms")
    args = parser.parse_args(argv)
    if not args.i_have_signed:
        raise InputError(AGREEMENT)
    files = nsd_files(
        args.subjects,
        what=args.what,
        sessions=args.sessions,
        betas=args.betas,
        ending=args.format,
        bucket=args.bucket,
    )
    fetch_all(files, args.to, dry=args.dry)


if __name__ == "__main__":
    command(main)
