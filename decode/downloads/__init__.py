"""Downloads that can be stopped at any moment: resumed where they broke, checked before they count.

`fetch` brings one file, `fetch_all` a list of them; `list_bucket`, `list_figshare`, `nsd_files` and
`flat_patches` make such lists; `fetch_coco` brings and unpacks COCO's annotations; `fetch_openneuro` and
`fetch_huggingface` go through those sites' own clients.
The scripts `scripts/fetch_*.py` are the command lines of these functions.
"""

from decode.downloads.clients import fetch_huggingface, fetch_openneuro
from decode.downloads.coco import fetch_coco
from decode.downloads.command import command
from decode.downloads.listings import (
    RemoteFile,
    fetch_all,
    flat_patches,
    list_bucket,
    list_figshare,
    nsd_files,
)
from decode.downloads.transfer import fetch, find_fault, fits_parts

__all__ = [
    "RemoteFile",
    "command",
    "fetch",
    "fetch_all",
    "fetch_coco",
    "fetch_huggingface",
    "fetch_openneuro",
    "find_fault",
    "fits_parts",
    "flat_patches",
    "list_bucket",
    "list_figshare",
    "nsd_files",
]
