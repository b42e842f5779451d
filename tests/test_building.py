"""Config nodes: bound before use, and keys that change when results may."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from decode.building import bound, build, check
from decode.core import InputError
from decode.training import Trainer


class Thing:
    def __init__(self, root: str, *, width: int = 3, inner: object = None) -> None:
        self.root, self.width, self.inner = root, width, inner


HERE = f"{__name__}.Thing"


def test_build_nests_and_leaves_partials() -> None:
    made = build({"_target_": HERE, "root": "r", "inner": {"_target_": HERE, "root": "q"}})
    assert (made.root, made.inner.root) == ("r", "q")
    partial = build({"_target_": HERE, "_partial_": True, "width": 5})
    assert partial("r").width == 5


def test_a_misspelt_argument_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"config.data: .*takes no 'widht'; did you mean 'width'"):
        check({"_target_": HERE, "root": "r", "widht": 5}, "data")
    with pytest.raises(InputError, match=r"config.data.inner: .* needs 'root'"):
        check({"_target_": HERE, "root": "r", "inner": {"_target_": HERE}}, "data")
    with pytest.raises(InputError, match="importable _target_"):
        check({"_target_": "decode.nowhere.Thing"}, "data")


def test_keys_follow_values_not_places() -> None:
    plain = bound({"_target_": HERE, "root": "a"})
    assert plain == bound({"_target_": HERE, "root": "b", "width": 3})
    assert plain != bound({"_target_": HERE, "root": "a", "width": 4})
    trainer = {"_target_": "decode.training.Trainer"}
    assert bound(trainer) == bound({**trainer, "epochs": Trainer().epochs})
    assert bound(trainer) == bound({**trainer, "rate": 3e-4})


def test_refused_values_name_the_node() -> None:
    with pytest.raises(InputError, match="keep"):
        build({"_target_": "decode.training.Trainer", "keep": "worst"}, "trainer")


class Started:
    def __init__(self, *, weights: str | None = None) -> None:
        self.weights = weights


def started(path: Path | str | None) -> object:
    return bound({"_target_": f"{__name__}.Started", "weights": path and str(path)})


def test_weights_are_known_by_their_content(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "encoder.safetensors").write_bytes(b"first")
    (other / "history.jsonl").write_text("whatever")
    before = started(one)
    # A copy, the file itself and the folder that holds it are the same weights.
    assert before == started(other) == started(one / "encoder.safetensors")
    assert "one" not in str(before)
    assert before != started(None)
    file = one / "encoder.safetensors"
    stat = file.stat()
    file.write_bytes(b"again")  # of the same length, under the same name
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert started(one) != before
    file.write_bytes(b"first")
    assert started(one) == before


def test_a_folder_of_weights_is_all_of_its_files_and_a_name_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"a")
    before = started(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"b")
    assert started(tmp_path) != before
    assert started("IMAGENET1K_V1") == {
        "_target_": f"{__name__}.Started", "weights": "IMAGENET1K_V1",
    }  # fmt: skip
