"""One file over HTTP, resumed and checked.

Pooch, which is installed beside MNE, starts a broken file over from nothing. Sessions of the Natural
Scenes Dataset are larger than many connections live, so the transfer is written here, over the
standard library.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from decode.core import InputError, refusal
from decode.progress import progress

CHUNK = 1 << 20
TIMEOUT = 60.0
# some archives refuse the name that Python gives itself
AGENT = {"User-Agent": "decode-downloads/1.0", "Accept-Encoding": "identity"}
ADVICE = {
    401: "it needs an account or an agreement of your own, see the page of the data set",
    403: "sign the agreement of the data set first, or fetch it with your own account",
    404: "there is no such file, compare the address with the page of the data set",
}
# sizes of parts in MiB that programs for uploading to S3 use
PART_SIZES = (8, 16, 5, 10, 15, 20, 25, 32, 50, 64, 100, 128, 256, 512, 1024)


class _BrokenError(Exception):
    """The connection ended early; what came is kept."""


def fetch(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    tries: int = 5,
) -> bool:
    """Bring `url` to `path`; False when it is there already and fits `size` (bytes) and checksums.

    Bytes go to `path.part`, and the server's version of the file to `path.part.version`: the next
    call goes on from there if the file on the server is still the same, else it starts over. A
    connection that breaks is taken up again up to `tries` times, as long as each try brings
    something. Raises InputError for everything that the researcher must mend; the part is deleted
    only when its content is wrong, and a file at `path` stays until another one is whole.
    """
    path = Path(path)
    checks = {"sha256": sha256, "md5": md5}
    if path.is_file() and find_fault(path, size=size, **checks) is None:
        return False
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as f:
            _lock(f, part)
            try:
                _transfer(url, f, part, size=size, checked=any(checks.values()), tries=tries)
            except InputError:
                if f.tell() == 0:
                    _forget(part)
                raise
            f.flush()
            fault = find_fault(part, size=size, **checks)
            if fault is not None:
                _forget(part)
                raise refusal(
                    url,
                    "the file as it is listed",
                    fault,
                    "what came was deleted, run again for a new copy",
                )
            os.replace(part, path)
            _version_file(part).unlink(missing_ok=True)
    except OSError as e:
        full = e.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space and run again, what came is kept" if full else "mend that first"
        raise refusal(part, "a place to write to", e.strerror, f"{advice}") from e
    return True


def find_fault(
    path: Path, *, sha256: str | None = None, md5: str | None = None, size: int | None = None
) -> str | None:
    """What is wrong with a file, in words with expected and got; None if it fits."""
    got = path.stat().st_size
    if size is not None and got != size:
        return f"expected {size} bytes, got {got}"
    for name, expected in (("sha256", sha256), ("md5", md5)):
        if expected is None:
            continue
        digest = hashlib.new(name, usedforsecurity=False)
        for block in _contents(path):
            digest.update(block)
        if digest.hexdigest() != expected.lower():
            return f"expected {name} {expected.lower()}, got {digest.hexdigest()}"
    return None


def fits_parts(path: Path, etag: str) -> bool:
    """Whether a file fits the ETag of an S3 upload in parts (`...-12`), for any usual size of them.

    That ETag is the MD5 of the MD5s of the parts, and their size is not published: False means that
    no usual size fits, not that the file is broken.
    """
    expected, _, count = etag.partition("-")
    size = path.stat().st_size
    for mib in PART_SIZES:
        if not count.isdigit() or -(-size // (mib * CHUNK)) != int(count):
            continue
        whole, piece = hashlib.md5(usedforsecurity=False), hashlib.md5(usedforsecurity=False)
        for i, block in enumerate(_contents(path)):
            if i and i % mib == 0:
                whole.update(piece.digest())
                piece = hashlib.md5(usedforsecurity=False)
            piece.update(block)
        whole.update(piece.digest())
        if whole.hexdigest() == expected.lower():
            return True
    return False


def read_text(url: str) -> str:
    """A small page, as a listing is."""
    with _open(url) as reply:
        try:
            return str(reply.read().decode())
        except (OSError, http.client.HTTPException, UnicodeDecodeError) as e:
            raise refusal(url, "a whole page", e, "run again") from e


def _transfer(
    url: str, f: IO[bytes], part: Path, *, size: int | None, checked: bool, tries: int
) -> None:
    """Fill the part, taking up a broken connection while each try brings anything."""
    for left in reversed(range(tries)):
        before = f.tell()
        try:
            return _once(url, f, part, size=size, checked=checked)
        except _BrokenError as e:
            f.flush()
            if not left or f.tell() <= before:
                raise refusal(
                    url,
                    f"{e}",
                    f"a connection that broke after {f.tell()} bytes",
                    "run again, it goes on from there",
                ) from e
            time.sleep(0.2)


def _once(url: str, f: IO[bytes], part: Path, *, size: int | None, checked: bool) -> None:
    version = _version_file(part)
    have, known = f.tell(), version.read_text() if version.exists() else ""
    asked = {"Range": f"bytes={have}-"} if have and (known or checked) else {}
    if asked and known:
        asked["If-Range"] = known
    with _open(url, asked) as reply:
        tag = _version_of(reply.headers)
        if asked and reply.status != 200:
            # some servers ignore If-Range
            same = not tag or not known or tag == known
            if same and reply.status == 416 and _range(reply, r"\*/(\d+)") == have:
                return
            if not same or reply.status != 206 or _range(reply, r"(\d+)-") != have:
                _empty(f, part)
                return _once(url, f, part, size=size, checked=checked)
        else:
            _empty(f, part)
            version.write_text(tag)
        length = reply.headers.get("Content-Length", "")
        total = f.tell() + int(length) if length.isdigit() else size
        if size is not None and total != size:
            raise refusal(url, f"{size} bytes", f"{total} on the server", "list it again")
        _copy(reply, f, part.name.removesuffix(".part"), total=total)
    if total is not None and f.tell() < total:
        raise _BrokenError(f"{total} bytes")


def _copy(reply: Any, f: IO[bytes], label: str, *, total: int | None) -> None:
    left = None if total is None else total - f.tell()
    for block in _blocks(_received(reply, total), f"{label} (MiB)", size=left):
        f.write(block)


def _received(reply: Any, total: int | None) -> Iterator[bytes]:
    try:
        while block := reply.read(CHUNK):
            yield block
    except (OSError, http.client.HTTPException) as e:
        raise _BrokenError(f"{total} bytes" if total is not None else "the whole file") from e


def _contents(path: Path) -> Iterator[bytes]:
    with path.open("rb") as f:
        blocks = iter(lambda: f.read(CHUNK), b"")
        yield from _blocks(blocks, f"checking {path.name} (MiB)", size=path.stat().st_size)


def _blocks(blocks: Iterator[bytes], label: str, *, size: int | None) -> Iterator[bytes]:
    return progress(blocks, label, total=None if size is None else -(-size // CHUNK))


def _open(url: str, headers: Mapping[str, str] | None = None) -> Any:
    """The server's reply, of status 200, 206 or 416; InputError in one line for all others."""
    if not url.startswith(("https://", "http://")):
        raise refusal("address", "one that begins with https://", f"{url!r}", "give that address")
    request = urllib.request.Request(url, headers={**AGENT, **(headers or {})})
    try:
        reply = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as e:
        if e.code == 416 and headers:
            return e
        advice = ADVICE.get(e.code, "try again later")
        raise InputError(f"{url}: expected a file, got {e.code} {e.reason}; {advice}") from e
    except (OSError, http.client.HTTPException, ValueError) as e:
        reason = getattr(e, "reason", None) or e
        raise refusal(url, "a connection", reason, "check the network") from e
    if reply.status not in (200, 206):
        reply.close()
        raise InputError(f"{url}: expected a file, got {reply.status}; try again later")
    return reply


def _version_of(headers: Any) -> str:
    """What names this version of the file; a weak ETag does not, since two versions may share it."""
    etag = str(headers.get("ETag", ""))
    return etag if etag and not etag.startswith("W/") else str(headers.get("Last-Modified", ""))


def _range(reply: Any, pattern: str) -> int | None:
    match = re.match("bytes " + pattern, reply.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _empty(f: IO[bytes], part: Path) -> None:
    if f.tell():
        f.seek(0)
        f.truncate()
    _version_file(part).unlink(missing_ok=True)


def _version_file(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


def _lock(f: IO[bytes], part: Path) -> None:
    try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.path.samestat(os.fstat(f.fileno()), part.stat())
    except (BlockingIOError, FileNotFoundError):
        mine = False
    if not mine:
        raise refusal(
            part,
            "a file that nobody else writes",
            "another process that is fetching it",
            "wait for that one and run again",
        )
