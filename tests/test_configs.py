"""Every experiment and every choice composes, and its arguments bind."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from decode.building import bound
from decode.checks.arguments import check
from decode.cli import CONFIGS, KEYS

EXPERIMENTS = sorted(
    str(p.relative_to(CONFIGS / "experiment").with_suffix(""))
    for p in (CONFIGS / "experiment").rglob("*.yaml")
)
PLUGINS = sorted(
    p
    for group in ("data", "preprocess", "scaler", "split", "target", "encoder", "part", "objective",
                  "trainer", "generator", "metric")
    for p in (CONFIGS / group).rglob("*.yaml")
)  # fmt: skip


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
    assert set(config) <= KEYS
    assert config["name"] == name.replace("/", "_")
    for node in ("data", "preprocess", "scaler", "splits", "targets", "encoder", "baselines", "parts",
                 "objectives", "trainer", "generator", "voxel_model", "metrics"):  # fmt: skip
        check(config[node], node)
        bound(config[node])
    assert config["splits"]
    assert config["metrics"]


@pytest.mark.parametrize("path", PLUGINS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_choice_binds_to_its_class(path: Path) -> None:
    node = yaml.safe_load(path.read_text())
    assert node["_target_"].startswith("decode.")
    check(
        {k: v for k, v in node.items() if v != "???" and k != "defaults"} | {"_partial_": True},
        path.stem,
    )


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_yaml_is_plain(path: Path) -> None:
    """Interpolation only of paths; no tags, no resolvers."""
    text = path.read_text()
    assert "!!" not in text
    for part in text.split("${")[1:]:
        assert part.startswith(("paths.", "hydra.job.num"))
