"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported, and for child processes: two test processes with two threads each would
# wait for each other on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

ROOT = Path(__file__).resolve().parents[1]


# Files whose tests take longest go first, so that no process waits at the end for the last of another.
LONG = ("test_experiments", "test_more_experiments", "test_nsd_experiments", "test_dynadiff")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of real recordings; DECODE_DATA names another one."""
    folder = Path(os.environ.get("DECODE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}; set DECODE_DATA to their folder")
    return folder
