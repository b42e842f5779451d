"""What there is to fetch: files of an S3 bucket, of a figshare article, of the Natural Scenes Dataset."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

from decode.core import InputError, refusal
from decode.downloads.transfer import fetch, fits_parts, read_text

NSD_BUCKET = "https://natural-scenes-dataset.s3.amazonaws.com"
NSD_TERMS = "https://cvnlab.slite.page/p/IB6BSeW_7o/Terms-and-Conditions"
FIGSHARE = "https://api.figshare.com/v2"
NSD_PARTS = ("design", "stimuli", "masks", "betas", "timeseries")
NSD_SPACES = ("func1pt8mm", "fsaverage")
NSD_SURFACE = "nsddata/freesurfer/fsaverage"
PATCHES = ("lh.cortex.patch.flat", "rh.cortex.patch.flat")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a server; `name` is its path below the local folder, `size` is in bytes.

    `md5` is None where none is published; `etag` is the tag of an S3 upload in parts.
    """

    url: str
    name: str
    size: int | None = None
    md5: str | None = None
    etag: str | None = None


def fetch_all(files: Sequence[RemoteFile], folder: str | Path, *, dry: bool = False) -> None:
    """Print the files and their sizes, then bring them below `folder`; `dry` only prints.

    Raises InputError before anything is fetched when a name leads out of the folder or the disk
    has less room than is still to come, and as `fetch` does.
    """
    folder = Path(folder)
    places = [_place(folder, file.name) for file in files]
    for file in files:
        print(f"{_in_words(file.size):>10}  {file.name}", file=sys.stderr)
    print(f"{_in_words(_total(files)):>10}  in {len(files)} files", file=sys.stderr)
    if dry:
        return
    _check_room(files, places, folder)
    unchecked = []
    for file, place in zip(files, places, strict=True):
        new = fetch(file.url, place, md5=file.md5, size=file.size)
        print(f"{'fetched' if new else 'is there'}: {place}", file=sys.stderr)
        if file.md5 is None and new and not (file.etag and fits_parts(place, file.etag)):
            unchecked.append(file.name)
    if unchecked:
        print(
            f"only the length could be checked of {', '.join(unchecked)}: the server gives no "
            "checksum of the whole file",
            file=sys.stderr,
        )


def list_bucket(address: str, prefix: str) -> list[RemoteFile]:
    """All files of a public S3 bucket whose path begins with `prefix`.

    The ETag of a file that was uploaded in one piece is its MD5. Raises InputError when there is
    none, or when the server does not answer as S3 does.
    """
    files: list[RemoteFile] = []
    query = {"list-type": "2", "prefix": prefix}
    while True:
        page = _parse_listing(f"{address.rstrip('/')}/?{urlencode(query)}")
        for item in page.iterfind("{*}Contents"):
            key = item.findtext("{*}Key", "")
            if not key.endswith("/"):
                files.append(_from_bucket(address, key, item))
        token = page.findtext("{*}NextContinuationToken")
        if page.findtext("{*}IsTruncated") != "true":
            break
        if not token or token == query.get("continuation-token"):
            raise InputError(
                f"{address}: expected another page below {prefix}, got none; run again"
            )
        query["continuation-token"] = token
    if not files:
        raise InputError(f"{address}: expected files below {prefix}, found none; correct the names")
    return files


def list_figshare(article: str | int, *, api: str = FIGSHARE) -> list[RemoteFile]:
    """The files of a figshare article, which is named by number, address or DOI."""
    match = re.search(r"(?:^|/|figshare\.)(\d{5,})(?:\.v\d+|/\d{1,3})?/?$", str(article))
    if match is None or "/collections/" in str(article):
        raise refusal(
            "figshare",
            "the number or address of an article",
            f"{article!r}",
            "in a collection, open the article and copy its address",
        )
    files: dict[Any, RemoteFile] = {}
    for item in _pages(f"{api.rstrip('/')}/articles/{match[1]}/files"):
        if item.get("is_link_only"):
            print(f"not on figshare: {item['name']} {item['download_url']}", file=sys.stderr)
            continue
        md5 = item.get("computed_md5") or item.get("supplied_md5") or None
        files[item["id"]] = RemoteFile(item["download_url"], item["name"], item["size"], md5)
    if not files:
        raise InputError(
            f"figshare article {match[1]}: expected files, found none; look at the article in a "
            "browser: it may be a collection or under embargo"
        )
    return list(files.values())


def nsd_files(
    subjects: Sequence[str],
    *,
    what: Sequence[str] = ("design", "stimuli", "masks", "betas"),
    sessions: int | None = None,
    betas: str = "betas_fithrf_GLMdenoise_RR",
    ending: str | None = None,
    space: str = "func1pt8mm",
    bucket: str = NSD_BUCKET,
) -> list[RemoteFile]:
    """Files of the Natural Scenes Dataset that `data=nsd` and `data=nsd_timeseries` read.

    `what` is any of NSD_PARTS, `sessions` keeps the first so many of each subject, `betas` is the
    preparation and `ending` the format of its volumes, `nii.gz` (None) or `hdf5`. In the `space`
    "fsaverage" masks are the labels of that surface, and betas come one file per hemisphere. Names
    are the bucket's own paths.
    """
    for subject in subjects:
        if not re.fullmatch(r"subj0[1-8]", subject):
            raise refusal(
                "--subject",
                "subjects out of subj01 to subj08",
                f"{subject!r}",
                "name some of these",
            )
    unknown = [part for part in what if part not in NSD_PARTS]
    if unknown:
        raise refusal(
            "--part",
            f"parts out of {', '.join(NSD_PARTS)}",
            f"{unknown[0]!r}",
            "name some of these",
        )
    _check_space(space, what, ending)
    files: list[RemoteFile] = []
    for part, prefix, pattern in _nsd_places(subjects, betas, ending or "nii.gz", space):
        if part not in what:
            continue
        listed = list_bucket(bucket, prefix)
        kept = [f for f in listed if re.fullmatch(pattern, f.name.removeprefix(prefix))]
        kept = [f for f in kept if sessions is None or _session(f.name) <= sessions]
        if not any(part not in ("betas", "timeseries") or _session(f.name) for f in kept):
            raise InputError(
                f"{bucket}: expected {part} below {prefix}, found {len(listed)} other files; "
                "compare subject, sessions and preparation with the data manual"
            )
        files += kept
    return files


def flat_patches(*, bucket: str = NSD_BUCKET) -> list[RemoteFile]:
    """The flat patches of fsaverage, a FreeSurfer folder that the bucket holds a copy of.

    They are named `fsaverage/surf/...` as `preprocess=flat_maps` reads them, beside the folder of the
    data set. Raises InputError where the bucket lacks one.
    """
    prefix = f"{NSD_SURFACE}/surf/"
    found = {f.name.removeprefix(prefix): f for f in list_bucket(bucket, prefix)}
    missing = [name for name in PATCHES if name not in found]
    if missing:
        raise InputError(
            f"{bucket}: expected {prefix}{missing[0]}, found {len(found)} other files; leave out the part "
            f"flat and copy {' and '.join(PATCHES)} from FreeSurfer's or MNE's fsaverage/surf"
        )
    return [replace(found[name], name=f"fsaverage/surf/{name}") for name in PATCHES]


def _check_space(space: str, what: Sequence[str], ending: str | None) -> None:
    if space not in NSD_SPACES:
        raise refusal(
            "--space", f"a space out of {', '.join(NSD_SPACES)}", f"{space!r}", "name one of these"
        )
    if space != "fsaverage":
        return
    if "timeseries" in what:
        raise refusal(
            "--space", "timeseries in func1pt8mm", "fsaverage", "fetch them without a space"
        )
    if ending is not None:
        raise refusal(
            "--format",
            "betas on fsaverage without a format, as they are MGH files",
            f"{ending!r}",
            "leave it out",
        )


def _nsd_places(
    subjects: Sequence[str], betas: str, ending: str, space: str
) -> Iterator[tuple[str, str, str]]:
    """(part, prefix, pattern of the rest of the path)."""
    yield "design", "nsddata/experiments/nsd/", r"nsd_expdesign\.mat|nsd_stim_info_merged\.csv"
    yield "stimuli", "nsddata_stimuli/stimuli/nsd/", r"nsd_stimuli\.hdf5"
    if space == "fsaverage":
        yield "masks", f"{NSD_SURFACE}/label/", r"[lr]h\.[^/]+\.mgz"
    for subject in subjects:
        home = f"ppdata/{subject}/{space}"
        prepared = f"nsddata_betas/{home}/{betas}/"
        if space == "fsaverage":
            yield "betas", prepared, r"[lr]h\.(betas_session\d+|ncsnr)\.mgh"
            continue
        series = f"nsddata_timeseries/{home}"
        wanted = rf"betas_session\d+\.{re.escape(ending)}|ncsnr\.nii\.gz"
        yield "masks", f"nsddata/{home}/roi/", r"[^/]+\.nii\.gz"
        yield "betas", prepared, wanted
        yield "timeseries", f"{series}/timeseries/", r"timeseries_session\d+_run\d+\.nii\.gz"
        yield "timeseries", f"{series}/design/", r"design_session\d+_run\d+\.tsv"


def _session(name: str) -> int:
    """Number of the session in a file name; 0 for files of all sessions."""
    match = re.search(r"_session(\d+)", name)
    return int(match[1]) if match else 0


def _parse_listing(url: str) -> ElementTree.Element:
    text = read_text(url)
    try:
        page = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        page = None
    if page is None or not page.tag.endswith("ListBucketResult"):
        raise InputError(
            f"{url}: expected the listing of an S3 bucket, got {text[:60]!r}"
            "; correct it or try again later"
        )
    return page


def _from_bucket(address: str, key: str, item: ElementTree.Element) -> RemoteFile:
    etag = item.findtext("{*}ETag", "").strip('"')
    whole = re.fullmatch(r"[0-9a-f]{32}", etag) is not None
    return RemoteFile(
        f"{address.rstrip('/')}/{quote(key)}",
        key,
        size=int(item.findtext("{*}Size", "0")),
        md5=etag if whole else None,
        etag=etag if "-" in etag else None,
    )


def _pages(url: str, *, size: int = 100) -> Iterator[dict[str, Any]]:
    """Items of a figshare list, page after page."""
    page = 1
    while True:
        address = f"{url}?page={page}&page_size={size}"
        text = read_text(address)
        try:
            items = json.loads(text)
        except ValueError:
            items = None
        if not isinstance(items, list):
            raise InputError(
                f"{address}: expected a list of files, got {text[:60]!r}"
                "; correct it or try again later"
            )
        yield from items
        if len(items) < size:
            return
        page += 1


def _place(folder: Path, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name or "\\" in name:
        raise refusal(
            folder,
            "names of files inside it",
            f"{name!r} from the server",
            "do not fetch this listing, and tell who publishes it",
        )
    return folder.joinpath(*path.parts)


def _check_room(files: Sequence[RemoteFile], places: Sequence[Path], folder: Path) -> None:
    there = 0
    for place in places:
        part = place.with_name(place.name + ".part")
        there += next((p.stat().st_size for p in (place, part) if p.is_file()), 0)
    home = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    free, needed = shutil.disk_usage(home).free, _total(files) - there
    if needed > free:
        raise InputError(
            f"{home}: expected {_in_words(needed)} of free space, got {_in_words(free)}; "
            "fetch less, or into another folder"
        )


def _total(files: Sequence[RemoteFile]) -> int:
    return sum(file.size or 0 for file in files)


def _in_words(size: int | None) -> str:
    if size is None:
        return "?"
    unit = next((u for u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= u[0]), None)
    return f"{size / unit[0]:.1f} {unit[1]}" if unit else f"{size} B"
