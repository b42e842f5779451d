"""Bad values for every knob of every yaml, chosen by what its annotation says: a config is planned or
refused in one line, and what cannot be meant is never accepted. Knobs are found, not listed.

`FUZZ_SEED` draws other values, `FUZZ_CASES` more of them.
"""

from __future__ import annotations

import copy
import inspect
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from test_configs import PLUGINS, choice, composed

from decode.building import build, made
from decode.checks.arguments import check
from decode.checks.knobs import range_of
from decode.cli import CONFIGS, explain, run
from decode.core import Layout, Shape
from decode.keys import CHOICES, KEYS
from decode.kinds import hints, is_node, locate
from decode.workshop import Run

SEED = int(os.environ.get("FUZZ_SEED", "0"))
CASES = int(os.environ.get("FUZZ_CASES", "1200"))
# Group of a yaml -> the key of a config whose names it fills; others are keys themselves.
NAMED = {"split": "splits", "target": "targets", "part": "parts", "objective": "objectives",
         "metric": "metrics"}  # fmt: skip
NODE = {"_target_": "os.getcwd"}
ODD = [math.nan, math.inf, -math.inf, 10**30, -(10**30), -1, -0.5, 0, 7, True, None, "abc", "", "x" * 300,
       "a\0b", "/dev/null", "../..", [], [None], [-1], [math.nan], [""], [[]], {}, {"a": None}, NODE,
       {"_target_": 3}, {"_target_": "no.such"}]  # fmt: skip


def numeric(hint: Any) -> bool:
    return hint in (int, float) or any(numeric(h) for h in get_args(hint))


def knobs(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """(path, class, annotation) of every knob of a node and of the nodes inside, listed or not."""
    if is_node(node):
        target = locate(node["_target_"], "here")
        takes = inspect.signature(target).parameters
        for name, hint in hints(target).items():
            if name not in takes:
                continue  # what is returned
            given = node.get("_partial_") and takes[name].default is inspect.Parameter.empty
            if not (given and takes[name].kind is not inspect.Parameter.KEYWORD_ONLY):
                yield (*path, name), target.__name__, hint
    if isinstance(node, dict):
        for name, inside in node.items():
            yield from knobs(inside, (*path, name))
    elif isinstance(node, list):
        for number, inside in enumerate(node):
            yield from knobs(inside, (*path, number))  # type: ignore[arg-type]


def filled(node: Any) -> Any:
    """The node with a word where it asks for one."""
    if isinstance(node, dict):
        return {k: filled(v) for k, v in node.items()}
    return "x" if node == "???" else node


def placed(
    config: dict[str, Any], file: Path, outputs: Path
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config with the choice of that yaml, and where it is."""
    group = file.relative_to(CONFIGS).parts[0]
    node = filled(choice(file))
    if group == "step":
        inside = {**config["preprocess"], "steps": {"it": node}}
        return {**config, "preprocess": inside}, ("preprocess", "steps", "it")
    if group not in NAMED:
        return {**config, group: node}, (group,)
    key = NAMED[group]
    return {**config, key: {**config[key], "it": node}}, (key, "it")


def host(outputs: Path) -> dict[str, Any]:
    config = composed("experiment=quickstart")
    return config | {
        "paths": {"data": str(outputs / "data"), "outputs": str(outputs / "outputs")},
        "baselines": config["baselines"] or {},
        "until": "preprocess",
    }


def changed(config: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    config = copy.deepcopy(config)
    inside: Any = config
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return config


def plan(config: dict[str, Any]) -> None:
    """What the command does before it runs anything, without what a shell adds."""
    Run(config)


def told(config: dict[str, Any], use: Callable[[dict[str, Any]], object] = plan) -> str | None:
    """What is said against a config, in one line; None when it is planned."""
    try:
        use(config)
    except Exception as e:
        message = explain(e, [])
        if message is None:
            raise
        return message
    return None


def cannot_be(value: Any, hint: Any) -> bool:
    """Whether the annotation tells that the value is not meant, whatever the knob is called."""
    if value is None:
        return type(None) not in (hint, *get_args(hint)) and hint is not Any and numeric(hint)
    if isinstance(value, float) and not math.isfinite(value):
        return numeric(hint)
    alone = hint in (int, float, str, bool)
    if isinstance(value, list | dict):
        return alone
    if isinstance(value, bool) or value == "abc":
        return hint in (int, float)
    return value == "a\0b"


EVERY = [(file, *knob) for file in PLUGINS for knob in knobs(filled(choice(file)))]


def test_every_number_of_every_yaml_has_a_range() -> None:
    without = {
        f"{kind}.{path[-1]}"
        for _, path, kind, hint in EVERY
        if numeric(hint) and not range_of(kind, path[-1])
    }
    assert not without, "say in decode/checks/knobs.py what these numbers may be"


@pytest.mark.slow
def test_a_bad_value_of_any_knob_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "a/b"  # so that ../.. is a folder of this test
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    rng = random.Random(SEED)
    config = host(tmp_path)
    for file, path, kind, hint in rng.sample(EVERY, len(EVERY)) * (1 + CASES // len(EVERY)):
        value = rng.choice(ODD)
        base, where = placed(config, file, tmp_path)
        message = told(changed(base, (*where, *path), value))
        what = f"{file.stem}: {kind}.{'.'.join(map(str, path))}={value!r} (FUZZ_SEED={SEED})"
        assert message is None or "\n" not in message, what
        if cannot_be(value, hint):
            assert message is not None, f"{what} was accepted"
    assert not (tmp_path / "outputs").exists()


def layout(times: int) -> Layout:
    positions = np.random.default_rng(0).normal(size=(16, 3))
    names = tuple(f"c{i}" for i in range(16))
    return Layout("eeg", names, positions, ("V1",) * 16, 100.0, times)


SHAPES = [
    {"image": (8,), "tokens": (5, 8), "text": (4, 8), "latents": (4, 8, 8), "pixels": (3, 8, 8)},
    {"image": (5, 8)},
    {"image": (3, 8, 8)},
]


def built(node: dict[str, Any], times: int, shapes: Mapping[str, Shape]) -> None:
    """What training does first with an encoder, without its weights."""
    check(node, "encoder")
    with torch.device("meta"):
        made(build(node, "encoder"), "encoder", {"a": layout(times), "b": layout(times)}, shapes)


@pytest.mark.slow
def test_an_encoder_with_a_bad_value_is_built_or_refused_in_one_line(tmp_path: Path) -> None:
    """As it is where training begins; arguments that a plan refuses are refused here as well."""
    rng = random.Random(SEED)
    config, encoders = host(tmp_path), [e for e in EVERY if e[0].parent.name == "encoder"]
    outcomes = set()
    for file, path, kind, _ in rng.sample(encoders, min(len(encoders), CASES // 8)):
        value, times, shapes = rng.choice(ODD), rng.choice([1, 60]), rng.choice(SHAPES)
        base, where = placed(config, file, tmp_path)
        node = changed(base, (*where, *path), value)["encoder"]
        message = told(node, lambda n, t=times, s=shapes: built(n, t, s))
        outcomes.add(message is None)
        what = f"{file.stem}: {kind}.{'.'.join(map(str, path))}={value!r} (FUZZ_SEED={SEED})"
        assert message is None or "\n" not in message, what
    assert outcomes == {True, False}


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where anything stands in a config."""
    inside = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    for key, value in inside:
        yield (*path, key)
        yield from places(value, (*path, key))


@pytest.mark.slow
@pytest.mark.parametrize("by", ["command", "Python"])
def test_whatever_is_left_out_is_one_line(by: str, tmp_path: Path) -> None:
    """As `~key` on the command line does, of keys inside others too."""
    config = host(tmp_path) | {"dry": True}
    refused = set()
    for path in places(config):
        without = copy.deepcopy(config)
        inside: Any = without
        for key in path[:-1]:
            inside = inside[key]
        del inside[path[-1]]
        message = told(without, plan if by == "Python" else run)
        assert message is None or "\n" not in message, path
        refused |= {path} if message else set()
    top = {(key,) for key in config}
    assert (
        refused & top == top
        if by == "command"
        else {(k,) for k in [k.name for k in KEYS if k.usual]} <= refused
    )
    assert {("data", "_target_"), ("compute", "device"), ("paths", "data")} <= refused
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_a_bad_value_of_any_key_is_one_line(tmp_path: Path) -> None:
    """The keys of a config itself, choices and names of choices included."""
    config = host(tmp_path)
    for key in config:
        for value in ODD:
            message = told(changed(config, (key,), value))
            made = is_node(value) and key in {k.name for k in CHOICES if k.contract}
            if made or (isinstance(value, float) and key != "seed"):
                assert message, f"{key}={value!r} was accepted"
