"""The keys of a config: one row each, which the command, the checks and the plan read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a config.

    A "value" is plain, of `kind`; a "choice" is a node of the config group `group`, which "perhaps" may
    be missing; "named" are names with a choice each. `example` is a choice. What a node makes is, where
    `later`, called by a stage with arguments that only it has; it must be of the class `contract`, given
    by its dotted path ("type": any class). Where something is `usual`, the key must not be left out.
    """

    name: str
    holds: Literal["value", "choice", "perhaps", "named"]
    kind: Any = Any
    group: str = ""
    example: str = ""
    later: bool = False
    contract: str = ""
    usual: str = ""


def _value(name: str, kind: Any, usual: str = "") -> Key:
    return Key(name, "value", kind, usual=usual)


KEYS = (
    _value("paths", Mapping[str, str], "{data: ..., outputs: ...}"),
    _value("name", str, "..."),
    _value("notes", Sequence[str]),
    _value("subjects", Sequence[str] | None, "null"),
    _value("seed", Any, "0"),  # whose range is checked as well
    _value("until", str, "report"),
    _value("force", Sequence[str], "[]"),
    _value("dry", bool),
    _value("debug", bool),
    Key("data", "choice", group="data", example="digits69", contract="type"),
    Key("preprocess", "choice", group="preprocess", example="betas"),
    Key("scaler", "choice", group="scaler", example="zscore", contract="type"),
    Key("splits", "named", group="split", example="kfold", later=True),
    _value("protocol", Mapping[str, Any], "{}"),
    Key("targets", "named", group="target", example="pixels"),
    Key("encoder", "choice", group="encoder", example="ridge", later=True),
    Key("baselines", "named", group="encoder", example="ridge", later=True),
    Key("parts", "named", group="part", example="regions", later=True),
    Key("objectives", "named", group="objective", example="mse", contract="decode.trainable.Objective"),
    Key("trainer", "choice", group="trainer", example="closed_form", contract="type"),
    Key("generator", "perhaps", group="generator", example="pixels", contract="decode.core.Generator",
        usual="null"),
    Key("voxel_model", "perhaps", group="target", example="pixels"),
    Key("metrics", "named", group="metric", example="retrieval", contract="decode.core.Metric"),
    _value("published", str | None),
    _value("compute", Mapping[str, str], "{device: auto}"),
)  # fmt: skip
CHOICES = tuple(key for key in KEYS if key.holds != "value")
NODES = tuple(key.name for key in CHOICES)
NAMED = tuple(key.name for key in KEYS if key.holds == "named")
NAMES = frozenset(key.name for key in KEYS)
