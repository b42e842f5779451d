"""Every experiment and every choice composes, and its arguments bind."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from decode import keys
from decode.building import bound
from decode.checks.arguments import check
from decode.cli import CONFIGS
from decode.keys import NAMED, NODES

EXPERIMENTS = sorted(
    str(p.relative_to(CONFIGS / "experiment").with_suffix(""))
    for p in (CONFIGS / "experiment").rglob("*.yaml")
)
PLUGINS = sorted(
    p
    for group in ("data", "preprocess", "step", "scaler", "split", "target", "encoder", "part", "objective",
                  "trainer", "generator", "metric")
    for p in (CONFIGS / group).rglob("*.yaml")
)  # fmt: skip

EXCHANGED = ("data", "preprocess", "scaler", "encoder", "trainer", "generator")
CHOICES = {group: [p.stem for p in PLUGINS if p.parent.name == group] for group in EXCHANGED}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, nodes inside nodes as well; where they differ, what is above."""
    both = {k for k in above if isinstance(below.get(k), dict) and isinstance(above[k], dict)}
    return {**below, **above, **{k: merged(below[k], above[k]) for k in both}}


def choice(file: Path) -> dict[str, Any]:
    """The node of a yaml and those that its defaults name, in their order, read without Hydra."""
    node = yaml.safe_load(file.read_text())
    entries = node.pop("defaults", [])
    made: dict[str, Any] = {}
    for entry in [*entries, *(["_self_"] if "_self_" not in entries else [])]:
        made = merged(made, node if entry == "_self_" else named(file, entry))
    return made


def named(file: Path, entry: str | dict[str, str]) -> dict[str, Any]:
    """What an entry of the defaults of a yaml adds, at its place."""
    where, name = next(iter(entry.items())) if isinstance(entry, dict) else ("", entry)
    group, _, place = where.removeprefix("/").partition("@")
    found = choice(CONFIGS / (group or file.parent.name) / f"{name}.yaml")
    for key in reversed(place.split(".") if place else ()):
        found = {key: found}
    return found


def composed(*overrides: str) -> dict[str, Any]:
    """A config of one's own, composed once per process."""
    return copy.deepcopy(_composed(*overrides))


@cache
def _composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)
    assert isinstance(config, dict)
    config.pop("launcher", None)
    return config


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes_and_binds(name: str) -> None:
    config = composed(f"experiment={name}")
    assert set(config) <= keys.NAMES
    assert config["name"] == name.replace("/", "_")
    for node in NODES:
        check(config[node], node)
        bound(config[node])
    assert config["splits"]
    assert config["metrics"]


@pytest.mark.parametrize("path", PLUGINS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_choice_binds_to_its_class(path: Path) -> None:
    node = choice(path)
    assert node["_target_"].startswith("decode.")
    check({k: v for k, v in node.items() if v != "???"} | {"_partial_": True}, path.stem)


def test_no_choice_is_another_under_a_second_name() -> None:
    names: dict[str, list[str]] = {}
    for path in PLUGINS:
        names.setdefault(f"{path.parent.name} {choice(path)}", []).append(path.stem)
    assert [same for same in names.values() if len(same) > 1] == []


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_yaml_is_plain(path: Path) -> None:
    """Interpolation only of paths; no tags, no resolvers."""
    text = path.read_text()
    assert "!!" not in text
    for part in text.split("${")[1:]:
        assert part.startswith(("paths.", "hydra.job.num"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_turns_no_knob_of_a_plug_in(name: str) -> None:
    """A knob lives in a yaml of its own group: in a body it would stay when the plug-in is exchanged."""
    body = yaml.safe_load((CONFIGS / "experiment" / f"{name}.yaml").read_text())
    for entry in body.pop("defaults"):
        place = next(iter(entry)).partition("@")[2] if isinstance(entry, dict) else ""
        key, *inside = place.split(".") if place else ("",)
        assert not place or key in NODES, entry
        assert len(inside) == (key in NAMED), f"{place} is inside a plug-in: write a yaml for it"
    assert not set(body) & set(NODES), "write a yaml for it in the folder of the group"
    assert set(body) <= keys.NAMES - {"paths"}


def in_defaults(name: str) -> set[str]:
    """Groups that the defaults of an experiment, or of those that it goes on from, choose from."""
    found: set[str] = set()
    for entry in yaml.safe_load((CONFIGS / "experiment" / f"{name}.yaml").read_text())["defaults"]:
        if isinstance(entry, dict):
            found.add(next(iter(entry)).removeprefix("override ").removeprefix("/"))
        elif inherited := re.fullmatch(r"/experiment/(.+)", entry):
            found |= in_defaults(inherited[1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", range(max(len(EXPERIMENTS), *map(len, CHOICES.values()))))
def test_an_exchanged_plug_in_leaves_nothing_of_itself(number: int) -> None:
    """Every choice takes the place of another somewhere, and in every experiment some do."""
    name = EXPERIMENTS[number % len(EXPERIMENTS)]
    taken = {group: names[number % len(names)] for group, names in CHOICES.items()}
    there = in_defaults(name)
    typed = [f"{'' if group in there else '+'}{group}={new}" for group, new in taken.items()]
    config = composed(f"experiment={name}", *typed, "paths.data=DATA", "paths.outputs=OUTPUTS")
    for group, new in taken.items():
        wanted = str(choice(CONFIGS / group / f"{new}.yaml"))
        wanted = wanted.replace("${paths.data}", "DATA").replace("${paths.outputs}", "OUTPUTS")
        assert config[group] == ast.literal_eval(wanted), group
