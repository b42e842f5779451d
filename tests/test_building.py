"""Config nodes: bound before use, and keys that change when results may."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from decode.building import bound, build
from decode.checks.arguments import check
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
    with pytest.raises(
        InputError, match=r"config.data: expected what .* takes, got 'widht'; did you mean 'width'"
    ):
        check({"_target_": HERE, "root": "r", "widht": 5}, "data")
    with pytest.raises(
        InputError, match=r"config.data.inner: expected 'root', which .*Thing needs"
    ):
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


def test_running_blocks_again_for_the_gradient_is_no_part_of_the_key() -> None:
    """What it trains is the same to the bit: tests/test_checkpointing.py."""
    for name in ("denoising.Denoising", "hinted_denoising.HintedDenoising"):
        node = {"_target_": f"decode.objectives.{name}", "model": "m"}
        plain = bound(node)
        assert (
            plain == bound(node | {"checkpointing": True}) == bound(node | {"checkpointing": False})
        )
        assert plain != bound(node | {"weight": 2.0})


class Kinds:
    def __init__(
        self,
        *,
        whole: int = 1,
        number: float = 1.0,
        either: int | None = None,
        word: Literal["a", "b"] = "a",
        names: str | Sequence[str] = (),
        sizes: Sequence[int] = (),
        pair: tuple[float, float] = (0.0, 1.0),
        each: Mapping[str, Sequence[int]] | None = None,
        made: Callable[[int], int] | None = None,
        plain=None,  # type: ignore[no-untyped-def]
    ) -> None: ...


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("whole", [3, -3, "???"], ["3", 3.0, True, None, [3]]),
        ("number", [3, 3.5, -1e-9], ["3", True, None]),
        ("either", [None, 3], ["null", 0.5]),
        ("word", ["a", "b"], ["c", None, 1, ["a"]]),
        ("names", ["x", ["x", "y"], [], ["01", 2]], [None, {"x": 1}, [["x"]]]),
        ("sizes", [[], [1, 2, 3], (4,)], [1, "12", [1, "2"], [1.0]]),
        ("pair", [[0, 1], (0.5, 2)], [[1], [1, 2, 3], "ab", ["a", 1]]),
        ("each", [None, {}, {"x": [1]}], [[1], {"x": 1}, {"x": ["y"]}]),
        ("made", [None, {"_target_": f"{__name__}.Thing", "root": "r"}], ["x", 3, True, [1]]),
        ("plain", [1, "x", [None]], []),
    ],
)
def test_values_are_of_the_kind_that_the_annotation_says(
    name: str, good: list[Any], bad: list[Any]
) -> None:
    node = {"_target_": f"{__name__}.Kinds"}
    for value in good:
        check(node | {name: value}, "here")
    for value in bad:
        with pytest.raises(
            InputError, match=rf"^here\.{name}: expected .*, got .*; correct it or leave it at "
        ):
            check(node | {name: value}, "here")


def test_the_kinds_of_an_inherited_dataclass_are_known() -> None:
    target = {"_target_": "decode.targets.dinov2.Dinov2", "model": "m"}
    check(target | {"batch_size": 8}, "targets.image")
    with pytest.raises(InputError, match=r"targets\.image\.batch_size: expected a whole number"):
        check(target | {"batch_size": "8"}, "targets.image")


@pytest.mark.parametrize("fault", [TypeError, ValueError, RuntimeError, AssertionError])
def test_what_a_class_refuses_names_the_node(
    fault: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Thing, root: str) -> None:
        raise fault("two\nlines")

    monkeypatch.setattr(Thing, "__init__", refuse)
    with pytest.raises(
        InputError, match=r"config\.data: .*Thing takes, got a refusal \(two lines\)"
    ) as told:
        build({"_target_": HERE, "root": "r"}, "data")
    assert isinstance(told.value.__cause__, fault)


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
    fold = tmp_path / "fold"
    (fold / "decoder").mkdir(parents=True)
    (fold / "decoder" / "encoder.safetensors").write_bytes(b"first")
    (fold / "scaler.safetensors").write_bytes(b"whatever")
    assert started(fold) == before
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
