"""Finished folders, growing features, and what a killed process leaves."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from decode.core import InputError
from decode.store import (
    Frame,
    fill_folder,
    is_finished,
    read_array,
    read_tensors,
    set_aside,
    whole_file,
    write_array,
    write_tensors,
)
from decode.vectors import FeatureStore


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as part:
        part.write_text("half")
        raise RuntimeError("disk")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_is_finished_only_with_its_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "stage-1"

    def breaks(out: Path) -> dict[str, int]:
        (out / "half").write_text("x")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fill_folder(folder, breaks, keep=True)
    assert not is_finished(folder)
    seen: list[bool] = []

    def goes_on(out: Path) -> dict[str, int]:
        seen.append((out / "half").exists())
        return {"n": 1}

    fill_folder(folder, goes_on, keep=True)
    assert seen == [True]
    assert is_finished(folder)
    fill_folder(folder, breaks, keep=True)  # finished: not filled again


def test_a_stage_that_cannot_resume_starts_clean(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    (tmp_path / "s.partial").mkdir()
    (tmp_path / "s.partial" / "junk").write_text("x")
    fill_folder(folder, lambda out: {"left": len(list(out.iterdir()))}, keep=False)
    assert not (folder / "junk").exists()


def _slow_fill(folder: Path) -> None:
    def fill(out: Path) -> dict[str, int]:
        with (out / "calls").open("a") as f:
            f.write("x")
        time.sleep(0.5)
        return {}

    fill_folder(folder, fill, keep=True)


def test_two_processes_fill_a_folder_once(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_slow_fill, args=(folder,)) for _ in range(2)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert (folder / "calls").read_text() == "x"


def test_a_killed_process_gives_its_lock_back(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    worker = multiprocessing.get_context("fork").Process(target=_slow_fill, args=(folder,))
    worker.start()
    while not (tmp_path / "s.partial" / "calls").exists():
        time.sleep(0.01)
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join()
    assert not is_finished(folder)
    _slow_fill(folder)
    assert (folder / "calls").read_text() == "xx"


def test_set_aside_deletes_nothing(tmp_path: Path) -> None:
    for content in "ab":
        (tmp_path / "s").mkdir()
        (tmp_path / "s" / "f").write_text(content)
        set_aside(tmp_path / "s")
    assert sorted(p.read_text() for p in tmp_path.glob("s.old-*/f")) == ["a", "b"]


def test_frame_refuses_misaligned_arrays(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 2 rows, the table 3"):
        Frame(pd.DataFrame({"a": [1, 2, 3]}), {"x": np.zeros(2)})
    Frame(pd.DataFrame({"a": [1, 2]}), {"x.y": np.eye(2)}).write(tmp_path)
    back = Frame.read(tmp_path)
    np.testing.assert_array_equal(back.arrays["x.y"], np.eye(2))
    write_array(tmp_path / "x.y.npy", np.eye(3))
    with pytest.raises(InputError, match=r"as of its table, 2, got 3"):
        Frame.read(tmp_path)


def test_truncated_and_pickled_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    write_array(path, np.arange(1000.0))
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(InputError, match=r"expected a whole \.npy array"):
        read_array(path)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy"):
        read_array(path)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    shared = torch.arange(4.0)
    write_tensors(path, {"a": shared, "b": shared[1:]})
    torch.testing.assert_close(read_tensors(path)["b"], shared[1:])
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="expected whole safetensors"):
        read_tensors(path)


def test_features_grow_and_never_come_twice(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "f")
    assert store.missing(["a", "b", "a"]) == ["a", "b"]
    store.append(["a", "b"], np.array([[1.0], [2.0]], np.float32))
    store.append(["c"], np.array([[3.0]], np.float32))
    again = FeatureStore(tmp_path / "f")
    assert again.missing(["c", "d", "a"]) == ["d"]
    assert again.rows(["c", "a", "c"]).flatten().tolist() == [3, 1, 3]
    with pytest.raises(ValueError, match="in a store of"):
        again.append(["d"], np.zeros((1, 2)))


def test_a_shard_without_digests_does_not_count(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    store.append(["a"], np.ones((1, 2)))
    write_array(tmp_path / "values-0001.npy", np.zeros((5, 2)))  # killed before its digests
    again = FeatureStore(tmp_path)
    assert again.missing(["b"]) == ["b"]
    again.append(["b"], np.full((1, 2), 7.0))
    assert FeatureStore(tmp_path).rows(["b"]).tolist() == [[7.0, 7.0]]
