"""What is remembered between commands: defaults of classes and configs that were found sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_configs import composed
from worlds import config

from decode import memory
from decode.building import bound
from decode.core import InputError
from decode.memory import Memory
from decode.pipeline import FILL
from decode.stages.table import NAMES, STAGES
from decode.workshop import Run

RIDGE = {"_target_": "decode.encoders.ridge.Ridge", "_partial_": True, "per": "name"}


@pytest.fixture
def remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Memory:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Memory.of_user()


def test_a_node_is_bound_alike_from_memory(remembered: Memory) -> None:
    direct = bound(RIDGE)
    assert bound(RIDGE, remembered.defaults) == direct
    remembered.keep()
    assert bound(RIDGE, Memory.of_user().defaults) == direct
    assert "alphas" in Memory.of_user().takes(RIDGE["_target_"])


def test_defaults_come_from_memory_once_they_are_there(
    remembered: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered.defaults(RIDGE["_target_"])
    remembered.keep()

    def gone(*_: object) -> Any:
        raise AssertionError("a class was loaded")

    monkeypatch.setattr(memory, "locate", gone)
    assert "alphas" in Memory.of_user().defaults(RIDGE["_target_"])


def test_other_code_knows_nothing(remembered: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered.add({"encoder": RIDGE})
    remembered.keep()
    assert Memory.of_user().is_sound({"encoder": RIDGE})
    assert not Memory.of_user().is_sound({"encoder": RIDGE | {"per": "target"}})
    monkeypatch.setattr(memory, "code_stamp", lambda: "other")
    assert not Memory.of_user().is_sound({"encoder": RIDGE})


def test_classes_of_others_are_looked_at_every_time(remembered: Memory) -> None:
    mine = {"_target_": "worlds.PixelWorld"}
    remembered.add({"data": mine})
    assert not remembered.is_sound({"data": mine})
    remembered.defaults(mine["_target_"])
    assert remembered.takes(mine["_target_"]) == []


def test_a_broken_or_closed_memory_is_none(remembered: Memory) -> None:
    remembered.add({"encoder": RIDGE})
    remembered.keep()
    assert remembered.file is not None
    for text in ("", "[]", json.dumps({"stamp": remembered.stamp})):
        remembered.file.write_text(text)
        assert not Memory.of_user().is_sound({"encoder": RIDGE})
    remembered.file.unlink()
    remembered.file.mkdir()
    again = Memory.of_user()
    again.add({"encoder": RIDGE})
    again.keep()
    assert not Memory.of_user().is_sound({"encoder": RIDGE})


def test_plans_with_and_without_memory_have_the_same_keys(
    remembered: Memory, tmp_path: Path
) -> None:
    first = Run(config(tmp_path), memory=remembered).tasks
    assert Run(config(tmp_path), memory=Memory.of_user()).tasks == first
    assert Run(config(tmp_path)).tasks == first


def test_every_stage_of_the_table_is_filled_by_one_function() -> None:
    assert {*FILL, "features"} == set(NAMES)
    order = list(NAMES)
    for stage in STAGES:
        assert all(order.index(before) < order.index(stage.name) for before in stage.needs)


def test_what_is_gone_since_is_told(remembered: Memory, tmp_path: Path) -> None:
    """Files are looked at every time, also where all else of a plan is known."""
    weights = tmp_path / "vgg.pth"
    weights.touch()
    known = composed("experiment=quickstart", f"paths.outputs={tmp_path / 'outputs'}")
    known["targets"]["more"] = {"_target_": "decode.targets.vgg.Vgg", "model": str(weights)}
    Run(known, memory=remembered)
    Run(known | {"dry": True}, memory=Memory.of_user())
    weights.unlink()
    for dry in (True, False):
        with pytest.raises(InputError, match=r"targets\.more\.model: expected a file or folder"):
            Run(known | {"dry": dry}, memory=Memory.of_user())
