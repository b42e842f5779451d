"""A full disk, a lack of rights or of memory are one line each, and leave nothing half written."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from worlds import config

from decode.artefacts.media import write_media
from decode.building import made
from decode.cli import explain
from decode.core import InputError, Media
from decode.machine import in_words, is_memory
from decode.pictures import write_picture
from decode.store import (
    fill_folder,
    read_json,
    write_array,
    write_json,
    write_table,
    write_tensors,
)
from decode.workshop import Run

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
WRITERS: dict[str, Callable[[Path], None]] = {
    "x.npy": lambda path: write_array(path, NOISE),
    "x.parquet": lambda path: write_table(path, pd.DataFrame(NOISE[0])),
    "x.safetensors": lambda path: write_tensors(path, {"a": torch.from_numpy(NOISE)}),
    "x.json": lambda path: write_json(path, NOISE.tolist()),
    "x.png": lambda path: write_picture(NOISE, path),
    "00000.txt": lambda path: write_media(path.parent, 0, Media("text", "a" * 9999)),
}


def _limited(path: Path, said: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        WRITERS[path.name](path)
    except BaseException as e:
        said.put((type(e).__name__, str(e)))
    else:
        said.put(("", ""))


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_a_limit_on_files_is_one_line(name: str, tmp_path: Path) -> None:
    """A real limit of the operating system, in every library that writes."""
    context = multiprocessing.get_context("fork")
    said: Any = context.Queue()
    worker = context.Process(target=_limited, args=(tmp_path / name, said))
    worker.start()
    kind, message = said.get(timeout=30)
    worker.join()
    assert kind == "InputError", message
    assert name in message
    assert "limit" in message
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("mask", "mode"), [(0o002, 0o664), (0o077, 0o600), (0o022, 0o644)])
def test_files_follow_the_umask(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        for name, write in WRITERS.items():
            write(tmp_path / name)
    finally:
        os.umask(before)
    assert {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == dict.fromkeys(
        WRITERS, mode
    )


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / "s.partial" / "published-00.part"
    left.mkdir(parents=True)
    for name in (".last-3.safetensors.123-0a1b2c.part", ".tmpAb3dE9", "kept.npy", ".hidden"):
        (left / name).write_bytes(b"x")
    seen: list[str] = []

    def fill(out: Path) -> dict[str, str]:
        seen.extend(sorted(p.name for p in out.rglob("*") if p.is_file()))
        return {}

    fill_folder(tmp_path / "s", fill, keep=True)
    assert seen == [".hidden", "kept.npy"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/x"), "the disk is full (/a/x)"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/a/x"), "quota"),
        (OSError(errno.EROFS, "Read-only file system", "/a/x"), "can only be read (/a/x)"),
        (OSError("1000 requested and 10 written"), "the disk takes no more (here)"),
        (OSError("Can't write data (errno = 28, error message = 'No space')"), "is full (here)"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/x"), "no permission for /a/x"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/a"), "expected a file, got a folder"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/a/b"), "expected a folder"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/aaa"), "too long"),
        (MemoryError("Unable to allocate 8.00 EiB for an array"), "out of memory (Unable to"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
    ],
)
def test_the_machine_is_told_in_words(error: Exception, words: str) -> None:
    said = in_words(error, "here")
    assert said is not None
    assert words in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "error",
    [ValueError("No space left on device"), RuntimeError("shape mismatch"), KeyError("x"),
     FileNotFoundError(errno.ENOENT, "No such file", "/a"), OSError("a damaged HDF5 file")],
)  # fmt: skip
def test_other_errors_are_not_the_machines(error: Exception) -> None:
    assert in_words(error) is None


def test_memory_is_no_fault_of_the_arguments() -> None:
    """Real allocations that no machine can serve, by numpy and by torch."""
    for ask in (lambda: np.empty(2**60, np.uint8), lambda: torch.empty(2**50)):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            made(ask, "encoder")
        assert is_memory(caught.value)
        assert "out of memory" in str(explain(caught.value, []))
    with pytest.raises(InputError, match=r"expected arguments that .* takes, got a refusal"):
        made(lambda: torch.ones(2) @ torch.ones(3), "encoder")


def test_no_permission_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.json").write_text("{}")

    def closed(self: Path, *_: Any, **__: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", closed)
    with pytest.raises(InputError, match=r"no permission for .*x\.json; ask its owner"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("closed", ["world", "world/sub-01"])
def test_data_that_may_not_be_read_are_not_missing(
    closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "world" / "sub-01").mkdir(parents=True)
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda p, mode: Path(p) != tmp_path / closed and allowed(p, mode)
    )
    with pytest.raises(InputError, match=rf"data\.root: .*{closed}: expected a folder that may"):
        Run(config(tmp_path))


@pytest.mark.slow
def test_a_closed_pipe_ends_without_a_word(tmp_path: Path) -> None:
    words = ["experiment=quickstart", "dry=true", f"paths.outputs={tmp_path / 'o'}"]
    command = [sys.executable, "-m", "decode.cli", *words, f"paths.data={tmp_path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(60) == 141
