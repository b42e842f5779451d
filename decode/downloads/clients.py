"""Data sets of OpenNeuro and the Hugging Face hub, through those sites' own clients."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from decode.core import InputError, refusal
from decode.downloads.listings import RemoteFile, fetch_all
from decode.downloads.transfer import find_fault
from decode.machine import DISTRIBUTION

Kind = Literal["dataset", "model"]


def fetch_openneuro(
    dataset: str, folder: str | Path, *, tag: str | None = None, include: Sequence[str] = ()
) -> None:
    """Bring an OpenNeuro data set (`ds004192`) below `folder`, or what matches `include`.

    Its client goes on with broken files and checks them. Raises InputError when the client is not
    installed or gives up.
    """
    try:
        import openneuro
    except ImportError as e:
        raise refusal(
            "fetching from OpenNeuro",
            "the package openneuro-py",
            "none",
            f"install it: pip install '{DISTRIBUTION}[fetch]'",
        ) from e
    try:
        openneuro.download(
            dataset=dataset, tag=tag, target_dir=Path(folder), include=list(include) or None
        )
    except Exception as e:  # its own and its HTTP library's errors share no other class
        raise refusal(
            f"openneuro {dataset}", "a whole download", _line(e), "run again, it goes on"
        ) from e


def fetch_huggingface(
    repo: str,
    folder: str | Path | None,
    *,
    kind: Kind = "dataset",
    revision: str = "main",
    include: Sequence[str] = (),
    dry: bool = False,
) -> str:
    """Bring a data set or a model of the hub below `folder`, and return the commit it came from.

    `folder` None is the hub's own cache, where everything that names `repo` finds it, also without a
    network. `include` are patterns of file names. Large files are compared with the SHA-256 that the
    hub publishes. Raises InputError when the hub refuses or a file does not fit.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        info: Any = HfApi().repo_info(repo, repo_type=kind, revision=revision, files_metadata=True)
    except Exception as e:  # errors of its HTTP library changed class between versions
        raise refusal(
            f"hub {kind} {repo} at {revision}",
            "a list of its files",
            _line(e),
            "check name, kind and network",
        ) from e
    wanted = [
        s for s in info.siblings if not include or any(fnmatch(s.rfilename, p) for p in include)
    ]
    if not wanted:
        raise InputError(
            f"hub {repo}: expected files that match {list(include)}, found none"
            "; correct it or try again later"
        )
    names = [s.rfilename for s in wanted]
    fetch_all([RemoteFile("", s.rfilename, s.size) for s in wanted], folder or ".", dry=True)
    print(f"commit {info.sha}", file=sys.stderr)
    if dry:
        return str(info.sha)
    try:
        # The cache remembers what a branch means only when it is asked by the branch's name.
        asked = revision if folder is None else info.sha
        place = snapshot_download(
            repo, repo_type=kind, revision=asked, local_dir=folder, allow_patterns=names
        )
    except Exception as e:
        raise refusal(f"hub {repo}", "a whole download", _line(e), "run again, it goes on") from e
    for s in wanted:
        path = Path(place) / s.rfilename
        fault = find_fault(path, sha256=s.lfs.sha256 if s.lfs else None, size=s.size)
        if fault:
            path.resolve().unlink()  # in the cache it is a link to the content
            path.unlink(missing_ok=True)
            raise refusal(
                path,
                "the file as the hub lists it",
                fault,
                "it was deleted, run again for a new copy",
            )
    return str(info.sha)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
