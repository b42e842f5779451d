"""A run from a stranger is data: nothing in it is run, imported, written elsewhere or moved."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_configs import EXPERIMENTS, composed
from worlds import config

from decode.core import InputError
from decode.kinds import MOVED, locate
from decode.runs import moved, recorded_plan, recorded_run
from decode.shipped import shipped_names
from decode.store import write_json
from decode.trust import VARIABLE, check_trusted
from decode.workshop import Run


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of the user, with a class of its own and something that it has only imported."""
    package = tmp_path / "my_lab"
    package.mkdir()
    (package / "__init__.py").write_text("from functools import partial\n")
    code = "import os\nfrom os import system\n\nclass Reader:\n    pass\n\ndef read():\n    pass\n"
    (package / "reading.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_lab"
    for name in [n for n in sys.modules if n.partition(".")[0] == "my_lab"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "functools.partial",
        "decode.cli.main",
        "decode.cli.os.system",
        "decode.cli.os",
        "decode.kinds.importlib.import_module",
        "decode.store.set_aside",
        "decode.store.os.remove",
        "decode.building.partial",
        "decode.trials.Callable",
        "decode",
        "decode.encoders",
        "decode.encoders.ridge.Ridge.__init__.__globals__",
        "decode.encoders.ridge.Ridge.",
        "",
        None,
        7,
        ["os.system"],
    ],
)
def test_only_what_the_package_builds_is_built(target: object) -> None:
    with pytest.raises(InputError, match="a name that a yaml of this version builds"):
        check_trusted({"encoder": {"network": [{"_target_": target}]}}, "config.json")


def test_a_planted_command_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[str] = []
    monkeypatch.setattr(os, "system", run.append)
    for key in ("data", "encoder", "generator", "scaler", "baselines", "notes"):
        node: Any = {"_target_": "os.system", "command": "touch taken"}
        folder = tmp_path / "outputs" / "report" / f"{key}-0123abcd"
        folder.mkdir(parents=True)
        planted = {"more": node} if key == "baselines" else [node] if key == "notes" else node
        write_json(folder / "config.json", config(tmp_path, **{key: planted}))
        with pytest.raises(InputError, match=rf"{key}.*os\.system.*{VARIABLE}"):
            recorded_run(folder, packages=["worlds"])
    assert run == []


def test_a_strange_module_is_not_even_imported(own: str) -> None:
    with pytest.raises(InputError):
        check_trusted({"_target_": f"{own}.reading.Reader"}, "config.json")
    assert own not in sys.modules


def test_packages_that_the_user_lists_are_built(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Reader", "read"):
        check_trusted({"_target_": f"{own}.reading.{name}"}, "config.json", [own])
    for name in ("reading.system", "reading.os", "partial", "reading.os.system", "reading.absent"):
        with pytest.raises(InputError):
            check_trusted({"_target_": f"{own}.{name}"}, "config.json", [own])
    with pytest.raises(InputError):
        check_trusted({"_target_": f"{own}_two.reading.Reader"}, "config.json", [own])
    monkeypatch.setenv(VARIABLE, f"another, {own}")
    check_trusted({"_target_": f"{own}.reading.Reader"}, "config.json")


def test_all_experiments_are_trusted() -> None:
    assert "decode.encoders.ridge.Ridge" in shipped_names()
    for name in ("digits69", "quickstart", "nsd/mindeye2"):
        assert name in EXPERIMENTS
        check_trusted(composed(f"experiment={name}"), "config.json")


def test_keys_of_a_run_do_not_lead_out_of_its_outputs(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"plan": ["train:None:0a1b2c3d"]})
    assert recorded_plan(tmp_path) == ["train:None:0a1b2c3d"]
    other = tmp_path / "other"
    other.mkdir()
    write_json(other / "manifest.json", {"plan": ["train:None:x/../../../elsewhere"]})
    with pytest.raises(InputError, match="keys of 8 hexadecimal digits"):
        recorded_plan(other)


def test_what_an_opened_data_set_writes_stays_in_its_outputs(tmp_path: Path) -> None:
    data = {"_target_": "decode.data.god.God", "root": "/data/god", "cache": "/home/somebody"}
    made = {"paths": {"outputs": "/old/outputs"}, "data": data}
    found = moved(made, tmp_path)
    assert found["paths"]["outputs"] == str(tmp_path)
    assert found["data"]["root"] == "/data/god"
    assert found["data"]["cache"] == str(tmp_path / "stimuli" / "god")
    within = {**data, "root": "/old/outputs/simulated", "cache": "/old/outputs/a/b"}
    found = moved({**made, "data": within}, tmp_path)
    assert found["data"]["root"] == str(tmp_path / "simulated")
    assert found["data"]["cache"] == str(tmp_path / "a" / "b")
    assert made["data"]["cache"] == "/home/somebody"


def test_a_run_that_names_classes_where_they_lay_before_is_opened(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "report" / "old-0123abcd"
    folder.mkdir(parents=True)
    scaler = {"_target_": "decode.scalers.ZScore", "by": None}
    split = {"_target_": "decode.splits.published", "_partial_": True, "validation": 0.2}
    old = config(tmp_path, scaler=scaler, splits={"published": split})
    write_json(folder / "config.json", old)
    plan = ["preprocess:a:00000001", "split:None:00000002", "train:None:00000003"]
    write_json(folder / "manifest.json", {"plan": plan})
    opened = recorded_run(folder, packages=["worlds"])
    assert opened.config["scaler"]["_target_"] == "decode.scalers.zscore.ZScore"
    assert opened.config["splits"]["published"]["_target_"] == "decode.splits.published.published"
    assert [t.key for t in opened.of("train")] == ["00000003"]
    scaler = {**scaler, "_target_": "decode.scalers.zscore.ZScore"}
    assert Run(old).tasks == Run(config(tmp_path, scaler=scaler)).tasks


def test_names_of_before_lead_to_classes_of_today() -> None:
    for old, new in MOVED.items():
        assert callable(locate(new, old))
        assert new not in MOVED
        with pytest.raises(InputError, match="_target_"):
            locate(old, old)
