"""Damaged files of every reader: what is read is whole, or refused in one line that names a file.

A data yaml without a world fails here. `FUZZ_SEED` draws
other damage, `FUZZ_FILES` more of it for each reader.
"""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from reader_worlds import CASES, WORLDS, Open, Request, everything
from test_betas_folder import lab  # noqa: F401
from test_bids import bold, eeg_template  # noqa: F401
from test_configs import CONFIGS

from decode.cli import explain

SEED = int(os.environ.get("FUZZ_SEED", "0"))
DAMAGES = int(os.environ.get("FUZZ_FILES", "12"))
# Data that the house makes.
MADE = {"simulated_eeg", "simulated_fmri", "simulated_meg"}
WORDS = [
    b"",
    b"n/a",
    b"nan",
    b"inf",
    b"-1",
    b"abc",
    b"1e400",
    b"\xff",
    b"0,5",
    b"\t",
    b'"',
    b"\x00",
]
TEXT = {".tsv", ".csv", ".json", ".vhdr", ".vmrk", ".txt"}


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flipped(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def zeroed(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    size = min(len(data) - at, 1 + rng.randrange(64))
    return data[:at] + bytes(size) + data[at + size :]


def worded(data: bytes, rng: random.Random) -> bytes:
    """One cell of a table, or one word of another file, is another word."""
    words = data.replace(b"\n", b"\t").split(b"\t")
    at = rng.randrange(len(words))
    start = sum(len(w) + 1 for w in words[:at])
    return data[:start] + rng.choice(WORDS) + data[start + len(words[at]) :]


def noise(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(min(len(data), 4096))


def test_every_reader_has_a_world() -> None:
    """A yaml on top of another is a choice of the same reader."""
    nodes = {p.stem: yaml.safe_load(p.read_text()) for p in (CONFIGS / "data").glob("*.yaml")}
    own = {name for name, node in nodes.items() if "defaults" not in node}
    assert own == {*WORLDS, *MADE}
    for node in nodes.values():
        below = nodes.get(next(iter(node.get("defaults", [])), ""), node)
        assert node["_target_"] == below["_target_"]


@pytest.mark.slow
@pytest.mark.parametrize(("reader", "kind"), CASES, ids=lambda x: x)
def test_damaged_files_are_refused_or_read_right(
    reader: str, kind: str, tmp_path: Path, request: Request
) -> None:
    warnings.simplefilter("ignore")
    rng = random.Random(f"{reader} {kind} {SEED}")
    opened = WORLDS[reader][kind](request, tmp_path / "whole")
    whole = everything(opened(tmp_path / "whole", tmp_path / "cache"))
    files = sorted(p for p in (tmp_path / "whole").rglob("*") if p.is_file() and p.stat().st_size)
    for number in range(DAMAGES):
        file = rng.choice(files)
        change = rng.choice([cut, cut, flipped, zeroed, worded, noise])
        kept = file.read_bytes()
        what = f"{file.name}, {change.__name__} (damage {number}, FUZZ_SEED={SEED})"
        try:
            file.write_bytes(change(kept, rng))
            cache = tmp_path / f"cache{number}"
            found = _refused_or_read(opened, tmp_path / "whole", cache, what)
            sealed = file.suffix == ".gz" or (
                change is cut and file.suffix.lower() not in TEXT | PICTURES
            )
            if found is not None and sealed:
                assert found == whole, f"{what}: other numbers were read without a word"
        finally:
            file.write_bytes(kept)


PICTURES = {".png", ".jpg", ".jpeg"}  # read when they are looked at, not here


def _refused_or_read(opened: Open, root: Path, cache: Path, what: str) -> dict[str, Any] | None:
    """All that was read, or None when it was refused in one line."""
    try:
        return everything(opened(root, cache))
    except Exception as e:
        message = explain(e, [])
        if message is None:
            raise AssertionError(f"{what}: {type(e).__name__}: {e}") from e
        assert "\n" not in message, what
        return None
