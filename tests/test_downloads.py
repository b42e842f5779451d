"""Downloads against a real server on this machine that can be told to misbehave."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import re
import runpy
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
from nsd_twin import write_nsd, write_surface
from test_configs import composed

from decode.building import build
from decode.core import InputError
from decode.data.nsd import NSD
from decode.downloads import (
    RemoteFile,
    coco,
    command,
    fetch,
    fetch_all,
    fetch_coco,
    fits_parts,
    flat_patches,
    list_bucket,
    list_figshare,
    nsd_files,
)
from decode.downloads.transfer import CHUNK

ROOT = Path(__file__).resolve().parents[1]
BODY = np.random.default_rng(0).bytes(3 * CHUNK + 12345)
SHA = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Holds `files` by path; `cuts` are numbers of bytes after which replies break, one each."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/a.bin": BODY}
        self.status: dict[str, int] = {}
        self.cuts: list[int] = []
        self.ranges, self.if_range, self.versions, self.page = True, True, True, 2
        self.sent = 0
        self.asked: list[tuple[str, str | None]] = []
        self.prefixes: list[str] = []

    def handle_error(self, *args: Any) -> None:
        """Clients that hang up early are part of the tests."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET(head=True)

    def do_GET(self, head: bool = False) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), {k: v[0] for k, v in parse_qs(parts.query).items()}
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        if path in server.status:
            return self._reply(server.status[path], b"refused", {}, head)
        if "list-type" in query:
            return self._reply(200, list_xml(server, query), {}, head)
        if path.endswith("/files") and "page" in query:
            items = json.loads(server.files[path])
            first = (int(query["page"]) - 1) * int(query["page_size"])
            page = items[first : first + int(query["page_size"])]
            return self._reply(200, json.dumps(page).encode(), {}, head)
        if path not in server.files:
            return self._reply(404, b"", {}, head)
        self._file(server.files[path], head)

    def _file(self, body: bytes, head: bool) -> None:
        server = self.server
        digest = hashlib.md5(body).hexdigest()
        headers = {"ETag": f'"{digest}"'} if server.versions else {}
        headers["X-Repo-Commit"] = "c" * 40
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        known = self.headers.get("If-Range")
        if not (server.ranges and match) or (
            server.if_range and known and known != headers.get("ETag")
        ):
            return self._reply(200, body, headers, head)
        start = int(match[1])
        if start >= len(body):
            headers["Content-Range"] = f"bytes */{len(body)}"
            return self._reply(416, b"", headers, head)
        headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self._reply(206, body[start:], headers, head)

    def _reply(self, status: int, body: bytes, headers: dict[str, str], head: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if head:
            return
        if self.server.cuts and status in (200, 206) and len(body) > self.server.cuts[0]:
            body = body[: self.server.cuts.pop(0)]
            self.close_connection = True
        self.server.sent += len(body)
        self.wfile.write(body)


def list_xml(server: Server, query: dict[str, str]) -> bytes:
    """As S3 writes it, `page` files at a time; files over 2 MiB count as uploaded in parts."""
    server.prefixes.append(query["prefix"])
    keys = sorted(k[1:] for k in server.files if k[1:].startswith(query["prefix"]))
    first = int(query.get("continuation-token", "0"))
    items = ""
    for key in keys[first : first + server.page]:
        body = server.files["/" + key]
        items += (
            f"<Contents><Key>{key}</Key><ETag>&quot;{etag_of(body)}&quot;</ETag>"
            f"<Size>{len(body)}</Size></Contents>"
        )
    last = first + server.page >= len(keys)
    more = "" if last else f"<NextContinuationToken>{first + server.page}</NextContinuationToken>"
    return (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{'false' if last else 'true'}</IsTruncated>{more}{items}</ListBucketResult>"
    ).encode()


def etag_of(body: bytes, part: int = 8 * CHUNK) -> str:
    pieces = [body[i : i + part] for i in range(0, len(body), part)]
    if len(pieces) < 2:
        return hashlib.md5(body).hexdigest()
    digests = b"".join(hashlib.md5(p).digest() for p in pieces)
    return f"{hashlib.md5(digests).hexdigest()}-{len(pieces)}"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def left_over(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if ".part" in p.name)


def test_fetches_once_and_leaves_nothing_else(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    assert fetch(f"{server.url}/a.bin", path, sha256=SHA, md5=MD5, size=len(BODY))
    assert path.read_bytes() == BODY
    assert left_over(tmp_path) == []
    requests = len(server.asked)
    assert not fetch(f"{server.url}/a.bin", path, sha256=SHA.upper())
    assert len(server.asked) == requests


def test_a_finished_file_that_does_not_fit_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(BODY[:-1] + bytes([BODY[-1] ^ 1]))
    assert fetch(f"{server.url}/a.bin", path, md5=MD5)
    assert path.read_bytes() == BODY


@pytest.mark.parametrize("sha256", [SHA, None])
def test_goes_on_where_it_broke(server: Server, tmp_path: Path, sha256: str | None) -> None:
    path, half = tmp_path / "a.bin", len(BODY) // 2
    server.cuts = [half]
    with pytest.raises(InputError, match=f"{len(BODY)} bytes.*broke after {half}"):
        fetch(f"{server.url}/a.bin", path, sha256=sha256, tries=1)
    assert not path.exists()
    assert (tmp_path / "a.bin.part").read_bytes() == BODY[:half]
    assert fetch(f"{server.url}/a.bin", path, sha256=sha256)
    assert path.read_bytes() == BODY
    assert server.asked[-1][1] == f"bytes={half}-"
    assert server.sent == len(BODY)
    assert left_over(tmp_path) == []


def test_takes_up_broken_connections_by_itself(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000, 200_000]
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", sha256=SHA, tries=3)
    assert server.sent == len(BODY)
    assert [r for _, r in server.asked] == [None, "bytes=100000-", "bytes=300000-"]


def test_gives_up_on_a_server_that_sends_nothing(server: Server, tmp_path: Path) -> None:
    server.cuts = [0] * 10
    with pytest.raises(InputError, match="broke after 0"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", tries=5)
    assert len(server.asked) == 1
    assert left_over(tmp_path) == []


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cuts = False, [len(BODY) // 2]
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert server.sent == len(BODY) // 2 + len(BODY)


@pytest.mark.parametrize("if_range", [True, False], ids=["obeys-if-range", "ignores-if-range"])
def test_a_file_that_changed_in_between_starts_over(
    server: Server, tmp_path: Path, if_range: bool
) -> None:
    server.cuts, server.if_range = [len(BODY) // 2], if_range
    with pytest.raises(InputError):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", tries=1)
    server.files["/a.bin"] = BODY[::-1]
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY[::-1]


def test_without_versions_only_a_checksum_allows_to_go_on(server: Server, tmp_path: Path) -> None:
    server.versions = False
    for number, (sha256, expected) in enumerate([(None, None), (SHA, "bytes=500-")]):
        server.cuts = [500]
        path = tmp_path / str(number)
        with pytest.raises(InputError):
            fetch(f"{server.url}/a.bin", path, sha256=sha256, tries=1)
        assert fetch(f"{server.url}/a.bin", path, sha256=sha256)
        assert server.asked[-1][1] == expected
        assert path.read_bytes() == BODY


def test_killed_between_the_last_byte_and_the_rename(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(BODY)
    (tmp_path / "a.bin.part.version").write_text(f'"{MD5}"')
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", sha256=SHA)
    assert server.sent == 0
    assert left_over(tmp_path) == []


def test_a_part_that_is_too_long_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(BODY + b"x")
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", sha256=SHA)


def test_wrong_checksum_deletes_the_part(server: Server, tmp_path: Path) -> None:
    wrong = "0" * 64
    with pytest.raises(InputError, match=f"expected sha256 {wrong}, got {SHA}"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", sha256=wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_was_damaged_is_found(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(bytes(1000))
    (tmp_path / "a.bin.part.version").write_text(f'"{MD5}"')
    with pytest.raises(InputError, match="expected md5"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", md5=MD5)
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", md5=MD5)


def test_wrong_length_is_refused_before_it_is_fetched(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"an older one")
    with pytest.raises(InputError, match=f"expected 7 bytes, got {len(BODY)}"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", size=7)
    assert (tmp_path / "a.bin").read_bytes() == b"an older one"
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "words"), [(403, "sign the agreement"), (404, "no such file"), (503, "later")]
)
def test_refusals_in_one_line(server: Server, tmp_path: Path, status: int, words: str) -> None:
    server.status["/a.bin"] = status
    with pytest.raises(InputError, match=f"got {status}.*{words}") as caught:
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_network(server: Server, tmp_path: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match="check the network"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")


def test_only_the_web_is_asked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="https"):
        fetch((ROOT / "README.md").as_uri(), tmp_path / "a")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_full_disk(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"No space left.*free some space"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")


def test_two_processes_do_not_mix(server: Server, tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / "a.bin.part").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process"):
            fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin")


def test_etag_of_an_upload_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(BODY * 3)  # 9.04 MiB
    for mib in (5, 8):
        assert fits_parts(path, etag_of(BODY * 3, mib * CHUNK))
    path.write_bytes(bytes(1) + (BODY * 3)[1:])
    assert not fits_parts(path, etag_of(BODY * 3))


def test_bucket_listing_turns_all_pages(server: Server) -> None:
    server.files = {f"/d/{i} +é.txt": bytes([i]) * i for i in range(7)} | {"/d/": b"", "/e": b"x"}
    files = list_bucket(server.url, "d/")
    assert [f.name for f in files] == [f"d/{i} +é.txt" for i in range(7)]
    assert [f.size for f in files] == list(range(7))
    assert files[3].md5 == hashlib.md5(bytes([3]) * 3).hexdigest()
    assert len(server.prefixes) == 4
    with pytest.raises(InputError, match="found none"):
        list_bucket(server.url, "nothing/")


def test_what_is_no_listing(server: Server) -> None:
    server.status["/"] = 200
    with pytest.raises(InputError, match="expected the listing of an S3 bucket, got 'refused'"):
        list_bucket(server.url, "d/")


def test_fetch_all_checks_what_can_be_checked(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files = {"/d/a": BODY, "/d/b c": b"small", "/d/parts": BODY * 3}
    files = list_bucket(server.url, "d/")
    odd = RemoteFile(f"{server.url}/d/a", "odd", size=len(BODY), etag="0" * 32 + "-1")
    fetch_all(files, tmp_path, dry=True)
    assert list(tmp_path.iterdir()) == []
    fetch_all([*files, odd], tmp_path)
    assert (tmp_path / "d/b c").read_bytes() == b"small"
    assert (tmp_path / "d/parts").read_bytes() == BODY * 3
    shown = capsys.readouterr().err
    assert "in 3 files" in shown
    assert "only the length could be checked of odd:" in shown
    sent = server.sent
    fetch_all([*files, odd], tmp_path)
    assert server.sent == sent


@pytest.mark.parametrize("name", ["../a", "/etc/a", "x/../../a", "..\\a", ""])
def test_names_that_lead_out_of_the_folder(server: Server, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="inside"):
        fetch_all([RemoteFile(f"{server.url}/a.bin", name)], tmp_path / "in")
    assert server.asked == []


def test_more_than_the_disk_holds(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="free space"):
        fetch_all([RemoteFile(f"{server.url}/a.bin", "a", size=10**18)], tmp_path / "in")
    assert server.asked == []


def add_figshare(server: Server, n: int) -> None:
    items = []
    for i in range(n):
        body = f"file {i}".encode()
        server.files[f"/ndownloader/{i}"] = body
        items.append(
            {
                "id": i,
                "name": f"sub-{i:03d}.txt",
                "size": len(body),
                "is_link_only": False,
                "download_url": f"{server.url}/ndownloader/{i}",
                "supplied_md5": "",
                "computed_md5": hashlib.md5(body).hexdigest(),
            }
        )
    items.append({"id": n, "name": "page", "is_link_only": True, "download_url": "elsewhere"})
    server.files["/v2/articles/1234567/files"] = json.dumps(items).encode()


@pytest.mark.parametrize(
    "article",
    [
        1234567,
        "1234567",
        "https://figshare.com/articles/dataset/BOLD5000/1234567",
        "https://figshare.com/articles/dataset/BOLD5000/1234567/2",
        "10.6084/m9.figshare.1234567.v1",
    ],
)
def test_figshare_listing(server: Server, article: str | int) -> None:
    add_figshare(server, 205)
    files = list_figshare(article, api=f"{server.url}/v2")
    assert [f.name for f in files] == [f"sub-{i:03d}.txt" for i in range(205)]
    assert files[204].md5 == hashlib.md5(b"file 204").hexdigest()


def test_figshare_refuses_what_is_no_article(server: Server) -> None:
    for article in ("BOLD5000", "x/BOLD50000", "10.25452/figshare.plus.c.6161151"):
        with pytest.raises(InputError, match="number or address of an article"):
            list_figshare(article, api=server.url)
    server.files["/articles/1234567/files"] = b"[]"
    with pytest.raises(InputError, match="found none"):
        list_figshare(1234567, api=server.url)
    assert len(server.asked) == 1


def add_nsd(server: Server) -> None:
    home = "ppdata/subj01/func1pt8mm"
    betas = f"/nsddata_betas/{home}/betas_fithrf_GLMdenoise_RR"
    names = [
        "/nsddata/experiments/nsd/nsd_expdesign.mat",
        "/nsddata/experiments/nsd/nsd_stim_info_merged.csv",
        "/nsddata/experiments/nsd/nsd_screencapture.mp4",
        "/nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5",
        f"/nsddata/{home}/roi/nsdgeneral.nii.gz",
        f"{betas}/ncsnr.nii.gz",
        f"{betas}/R2.nii.gz",
        *(f"{betas}/betas_session{s:02d}.{e}" for s in range(1, 13) for e in ("nii.gz", "hdf5")),
        *(
            f"/nsddata_timeseries/{home}/{kind}_session{s:02d}_run01.{ending}"
            for s in (1, 2)
            for kind, ending in (("timeseries/timeseries", "nii.gz"), ("design/design", "tsv"))
        ),
    ]
    server.files = {name: name.encode() for name in names}


def test_nsd_files_are_those_that_are_read(server: Server) -> None:
    add_nsd(server)
    names = [f.name for f in nsd_files(["subj01"], sessions=2, bucket=server.url)]
    betas = "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    assert names == [
        "nsddata/experiments/nsd/nsd_expdesign.mat",
        "nsddata/experiments/nsd/nsd_stim_info_merged.csv",
        "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5",
        "nsddata/ppdata/subj01/func1pt8mm/roi/nsdgeneral.nii.gz",
        f"{betas}/betas_session01.nii.gz",
        f"{betas}/betas_session02.nii.gz",
        f"{betas}/ncsnr.nii.gz",
    ]
    series = nsd_files(["subj01"], what=["timeseries"], sessions=1, bucket=server.url)
    assert [Path(f.name).name for f in series] == [
        "timeseries_session01_run01.nii.gz",
        "design_session01_run01.tsv",
    ]
    for bad in ({"subjects": ["sub1"]}, {"subjects": ["subj01"], "what": ["beta"]}):
        with pytest.raises(InputError, match="expected"):
            nsd_files(**bad, bucket=server.url)
    with pytest.raises(InputError, match=r"found none|other files"):
        nsd_files(["subj02"], what=["betas"], bucket=server.url)
    with pytest.raises(InputError, match="other files"):
        nsd_files(["subj01"], what=["betas"], ending="mat", bucket=server.url)


def run(script: str, *args: str) -> int:
    """What the script leaves the process with."""
    main = runpy.run_path(str(ROOT / "scripts" / script))["main"]
    with pytest.raises(SystemExit) as left:
        command(lambda: main([str(a) for a in args]))
    return int(left.value.code or 0)


def test_nsd_script_asks_nothing_before_the_agreement(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_nsd(server)
    args = ["subj01", "--sessions", "1", "--bucket", server.url, "--to", str(tmp_path / "nsd")]
    assert run("fetch_nsd.py", *args) == 2
    assert "--i-have-signed" in capsys.readouterr().err
    assert server.asked == []
    assert run("fetch_nsd.py", *args, "--i-have-signed", "--dry") == 0
    assert "in 6 files" in capsys.readouterr().err
    assert not (tmp_path / "nsd").exists()
    assert run("fetch_nsd.py", *args, "--i-have-signed") == 0
    stimuli = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
    assert (tmp_path / "nsd" / stimuli).read_text() == f"/{stimuli}"
    assert len([p for p in (tmp_path / "nsd").rglob("*") if p.is_file()]) == 6


def test_surfaces_have_no_time_series_and_one_format(server: Server) -> None:
    for knobs, said in (
        ({"space": "mni"}, "a space out of func1pt8mm, fsaverage, got 'mni'"),
        ({"space": "fsaverage", "what": ["timeseries"]}, "timeseries in func1pt8mm"),
        ({"space": "fsaverage", "ending": "hdf5"}, "they are MGH files, got 'hdf5'"),
    ):
        with pytest.raises(InputError, match=said):
            nsd_files(["subj01"], **knobs, bucket=server.url)
    assert server.asked == []
    add_nsd(server)
    with pytest.raises(InputError, match=r"found none"):
        nsd_files(["subj01"], what=["betas"], space="fsaverage", bucket=server.url)
    surf = "/nsddata/freesurfer/fsaverage/surf"
    server.files |= {f"{surf}/lh.cortex.patch.flat": b"l", f"{surf}/rh.curv": b"r"}
    with pytest.raises(
        InputError, match=r"surf/rh\.cortex\.patch\.flat, found 2 other files; leave"
    ):
        flat_patches(bucket=server.url)


@pytest.fixture(scope="module")
def surface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a miniature of the data set with volumes and surfaces."""
    place = tmp_path_factory.mktemp("twin")
    twin = write_nsd(place / "nsd", n_images=80, size=8, grid=(2, 2, 2))
    write_surface(twin, "subj01", n=60)
    return twin.root


def serve_nsd(server: Server, root: Path) -> None:
    """The bucket as it is: the data set, and a copy of FreeSurfer's folder with more than is read."""
    below = {f"/{p.relative_to(root).as_posix()}": p for p in root.rglob("*") if p.is_file()}
    surf = "/nsddata/freesurfer/fsaverage/surf"
    below |= {f"{surf}/{p.name}": p for p in (root.parent / "fsaverage/surf").iterdir()}
    server.files = {name: path.read_bytes() for name, path in below.items()}
    server.files |= {f"{surf}/lh.inflated": b"surface", f"{surf}/lh.cortex.patch.3d": b"not flat"}
    server.files["/nsddata/freesurfer/fsaverage/label/lh.aparc.annot"] = b"labels"
    server.page = 1000


def test_what_is_fetched_of_the_surface_is_enough_to_read_it(
    server: Server, surface: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve_nsd(server, surface)
    args = ["subj01", "--space", "fsaverage", "--i-have-signed", "--bucket", server.url]
    assert run("fetch_nsd.py", *args, "--to", str(tmp_path / "nsd")) == 0
    got = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert not [name for name in got if "func1pt8mm" in name or "annot" in name]
    assert {n for n in got if "/surf/" in n} == {
        f"fsaverage/surf/{h}.cortex.patch.flat" for h in ("lh", "rh")
    }
    knobs = {"space": "fsaverage", "rois": ["streams"], "ncsnr_above": 0.5}
    data, whole = NSD(str(tmp_path / "nsd"), **knobs), NSD(str(surface), **knobs)
    node = composed("experiment=nsd/neuropictor", f"paths.data={tmp_path}")["preprocess"]
    node["steps"]["flat_maps"]["side"] = 16
    make = build(node, "preprocess")
    runs, expected = list(data.recordings("subj01")), list(whole.recordings("subj01"))
    assert len(runs) == len(expected) == 40
    for mine, theirs in zip(runs, expected, strict=True):
        np.testing.assert_array_equal(mine.signal, theirs.signal)
        pd.testing.assert_frame_equal(mine.events, theirs.events)
        pd.testing.assert_frame_equal(mine.channels, theirs.channels)
    assert make(runs[0]).signal.shape[0] == len(runs[0].events)
    assert len(data.stimuli()) == len(whole.stimuli())


def test_sessions_and_parts_of_the_surface(server: Server, surface: Path, tmp_path: Path) -> None:
    serve_nsd(server, surface)
    args = ["subj01", "--space", "fsaverage", "--i-have-signed", "--bucket", server.url]
    to = ["--sessions", "2", "--to", str(tmp_path / "nsd")]
    assert run("fetch_nsd.py", *args, *to, "--what", "design", "stimuli", "masks", "betas") == 0
    data = NSD(str(tmp_path / "nsd"), space="fsaverage", last_session=2)
    assert len(list(data.recordings("subj01"))) == 2
    assert not (tmp_path / "fsaverage").exists()
    with pytest.raises(InputError, match="got no betas_session03"):
        list(NSD(str(tmp_path / "nsd"), space="fsaverage").recordings("subj01"))
    assert run("fetch_nsd.py", *args, "--what", "flat", "--to", str(tmp_path / "b/nsd")) == 0
    assert sorted(p.name for p in (tmp_path / "b").rglob("*.flat")) == [
        "lh.cortex.patch.flat",
        "rh.cortex.patch.flat",
    ]
    # A mirror without patches is told before anything is fetched.
    server.files.pop("/nsddata/freesurfer/fsaverage/surf/rh.cortex.patch.flat")
    assert run("fetch_nsd.py", *args, "--to", str(tmp_path / "c/nsd")) == 2
    assert not (tmp_path / "c").exists()


def test_sizes_of_the_surface_are_the_derived_ones() -> None:
    """What docs/data_nsd.md says of a session on the surface."""
    hemisphere = 163_842 * 750 * 4
    words = (ROOT / "docs/data_nsd.md").read_text()
    assert f"{2 * hemisphere / 1e9:.2f} GB a session" in words
    assert f"{37 * 2 * hemisphere / 1e9:.1f} GB" in words


def test_figshare_script(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_figshare(server, 12)
    args = ["1234567", "--api", f"{server.url}/v2", "--to", str(tmp_path / "f"), "--include"]
    assert run("fetch_figshare.py", *args, "sub-00*") == 0
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == [
        f"sub-00{i}.txt" for i in range(10)
    ]
    assert run("fetch_figshare.py", *args, "nothing*") == 2
    assert "expected files that match ['nothing*']" in capsys.readouterr().err


def add_coco(server: Server, monkeypatch: pytest.MonkeyPatch, **members: bytes) -> dict[str, bytes]:
    """The archive with its own layout, more in it than is read; what is unpacked, by name."""
    names = [
        f"{part}_{half}2017" for part in ("captions", "instances") for half in ("train", "val")
    ]
    wanted = {f"annotations/{n}.json": members.get(n, n.encode() * 999) for n in names}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, body in {**wanted, "annotations/person_keypoints_val2017.json": b"no"}.items():
            file.writestr(name, body)
    body = packed.getvalue()
    server.files["/annotations/annotations_trainval2017.zip"] = body
    monkeypatch.setattr(coco, "SIZE", len(body))
    monkeypatch.setattr(coco, "MD5", hashlib.md5(body).hexdigest())
    return wanted


def test_coco_script_puts_annotations_where_experiments_look(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wanted = add_coco(server, monkeypatch)
    args = ["--server", server.url, "--to", str(tmp_path / "nsd")]
    assert run("fetch_coco.py", *args, "--dry") == 0
    assert not (tmp_path / "nsd").exists()
    server.cuts = [60]
    assert run("fetch_coco.py", *args, "--what", "captions") == 0
    below = {p.relative_to(tmp_path / "nsd").as_posix() for p in (tmp_path / "nsd").rglob("*.json")}
    assert below == {n for n in wanted if "captions" in n}
    assert run("fetch_coco.py", *args) == 0
    for name, body in wanted.items():
        assert (tmp_path / "nsd" / name).read_bytes() == body
    assert not list((tmp_path / "nsd").rglob("person_keypoints*"))
    captions = composed("experiment=nsd/takagi")["data"]["captions"]
    boxes = composed("experiment=nsd/umbrae_grounding", f"paths.data={tmp_path}")
    files = boxes["metrics"]["grounding"]["files"]
    assert all((tmp_path / "nsd" / c).is_file() for c in captions)
    assert files
    assert all(Path(f).is_file() for f in files)
    # Nothing is fetched or written again, and what was changed is put right.
    server.asked.clear()
    first, second = (tmp_path / "nsd" / n for n in list(wanted)[:2])
    first.write_bytes(b"x" * len(wanted["annotations/captions_train2017.json"]))
    before = second.stat().st_mtime_ns
    assert run("fetch_coco.py", *args) == 0
    assert server.asked == []
    assert first.read_bytes() == wanted["annotations/captions_train2017.json"]
    assert second.stat().st_mtime_ns == before
    assert "unpacked" in capsys.readouterr().err


def test_coco_archives_of_another_kind_are_refused(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_coco(server, monkeypatch)
    with pytest.raises(InputError, match="parts out of captions, instances, got 'boxes'"):
        fetch_coco(tmp_path, what=["boxes"], server=server.url)
    monkeypatch.setattr(coco, "MD5", "0" * 32)
    assert run("fetch_coco.py", "--server", server.url, "--to", str(tmp_path)) == 2
    assert "expected md5 0000" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("one.json", b"1" * 99)
    with pytest.raises(InputError, match=r"a\.zip: expected two\.json, got \['one\.json'\]"):
        coco.unpack(archive, ["one.json", "two.json"], tmp_path / "out")
    archive.write_bytes(archive.read_bytes().replace(b"1" * 99, b"1" * 98 + b"2"))
    with pytest.raises(InputError, match="expected a whole zip file, got"):
        coco.unpack(archive, ["one.json"], tmp_path / "out")
    assert not (tmp_path / "out/one.json").exists()


def test_openneuro_is_asked_for_what_the_script_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its client is replaced by one of the same signature, so that no server is asked."""
    asked: list[dict[str, Any]] = []

    def download(*, dataset: str, tag: Any, target_dir: Path, include: Any) -> None:
        asked.append({"dataset": dataset, "tag": tag, "to": target_dir, "include": include})
        if dataset == "ds999999":
            raise RuntimeError("no such\ndata set")
        (target_dir / "sub-01").mkdir(parents=True)

    monkeypatch.setitem(sys.modules, "openneuro", SimpleNamespace(download=download))
    args = ["ds004192", "--tag", "1.0.7", "--include", "sub-01/**", "--to", str(tmp_path / "t")]
    assert run("fetch_openneuro.py", *args) == 0
    assert (tmp_path / "t/sub-01").is_dir()
    assert asked == [
        {"dataset": "ds004192", "tag": "1.0.7", "to": tmp_path / "t", "include": ["sub-01/**"]}
    ]
    assert run("fetch_openneuro.py", "ds999999", "--to", str(tmp_path / "u")) == 2
    said = capsys.readouterr().err
    assert (
        "openneuro ds999999: expected a whole download, got RuntimeError: no such data set; run again"
        in said
    )
    assert asked[1]["include"] is None


@pytest.mark.skipif(find_spec("openneuro") is not None, reason="openneuro-py is installed")
def test_openneuro_script_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fetch_openneuro.py", "ds004192") == 2
    assert "pip install 'decode-brain[fetch]'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nsd", "coco", "figshare", "openneuro", "huggingface"])
def test_every_script_shows_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"fetch_{name}.py", "--help") == 0
    assert f"python scripts/fetch_{name}.py" in capsys.readouterr().out


def add_hub(server: Server, repo: str = "lab/brains", kind: str = "datasets") -> None:
    bodies = {"wds/subj01/0.tar": BODY, "wds/subj02/0.tar": b"no", "README.md": b"hello"}
    siblings = []
    below = "" if kind == "models" else f"/{kind}"
    for name, body in bodies.items():
        digest = hashlib.sha256(body).hexdigest()
        lfs = {"sha256": digest, "size": len(body), "pointerSize": 130}
        siblings.append(
            {"rfilename": name, "size": len(body), "blobId": "b" * 40}
            | ({"lfs": lfs} if name.endswith(".tar") else {})
        )
        for revision in ("main", "c" * 40):
            server.files[f"{below}/{repo}/resolve/{revision}/{name}"] = body
    info = {"_id": "1", "id": repo, "sha": "c" * 40, "siblings": siblings, "private": False}
    info |= {"downloads": 0, "likes": 0, "tags": [], "disabled": False, "gated": False}
    tree = [
        {"type": "file", "path": s["rfilename"], "size": s["size"], "oid": "b" * 40}
        for s in siblings
    ]
    for revision in ("main", "c" * 40):
        server.files[f"/api/{kind}/{repo}/revision/{revision}"] = json.dumps(info).encode()
        server.files[f"/api/{kind}/{repo}/tree/{revision}"] = json.dumps(tree).encode()


@pytest.mark.slow  # its own process: the address of the hub is read when its client is imported
def test_huggingface_script(server: Server, tmp_path: Path) -> None:
    add_hub(server)
    here = {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    script = [sys.executable, ROOT / "scripts/fetch_huggingface.py"]
    args = ["lab/brains", "--to", tmp_path / "b", "--include", "wds/subj01/*"]
    ask = functools.partial(
        subprocess.run, capture_output=True, text=True, env={**os.environ, **here}, check=False
    )
    done = ask([*script, *args])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "c" * 40
    assert (tmp_path / "b/wds/subj01/0.tar").read_bytes() == BODY
    assert not (tmp_path / "b/wds/subj02").exists()
    server.files[f"/datasets/lab/brains/resolve/{'c' * 40}/wds/subj01/0.tar"] = BODY[::-1]
    done = ask([*script, *args[:1], "--to", tmp_path / "c", *args[3:]])
    assert done.returncode == 2
    assert f"expected sha256 {SHA}" in done.stderr
    assert not (tmp_path / "c/wds/subj01/0.tar").exists()
    done = ask([*script, "lab/missing"])
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1


READ = """
import sys
from huggingface_hub import hf_hub_download
print(open(hf_hub_download("lab/net", "README.md")).read())
"""


@pytest.mark.slow  # its own process, as above
def test_a_model_goes_into_the_cache_that_experiments_read(server: Server, tmp_path: Path) -> None:
    add_hub(server, "lab/net", "models")
    here = {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    script = [sys.executable, ROOT / "scripts/fetch_huggingface.py", "lab/net", "--model"]
    ask = functools.partial(subprocess.run, capture_output=True, text=True, check=False)
    done = ask([*script, "--include", "*.md", "wds/subj01/*"], env={**os.environ, **here})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "c" * 40
    assert "data/net" not in done.stderr
    assert not (ROOT / "data/net").exists()
    # Without a network, by the name alone.
    offline = {**os.environ, **here, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    read = ask([sys.executable, "-c", READ], env=offline)
    assert read.stdout.strip() == "hello", read.stderr
    # A folder of its own, and content that does not fit.
    for revision in ("main", "c" * 40):
        server.files[f"/lab/net/resolve/{revision}/wds/subj01/0.tar"] = BODY[::-1]
    for to in (["--to", tmp_path / "own"], []):
        here["HF_HOME"] = str(tmp_path / "other")
        done = ask([*script, "--include", "wds/subj01/*", *to], env={**os.environ, **here})
        assert done.returncode == 2, done.stderr
        assert f"expected sha256 {SHA}" in done.stderr
        assert not list((tmp_path / "own").rglob("*.tar"))
        assert not list((tmp_path / "other").rglob("*.tar"))
    done = ask([*script[:2], "lab/brains", "--model"], env={**os.environ, **here})
    assert done.returncode == 2
    assert "hub model lab/brains at main: expected a list of its files, got" in done.stderr
