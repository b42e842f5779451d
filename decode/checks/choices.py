"""What can be seen in the choices of a config alone: names of targets, what fits together."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from decode.building import bound, build
from decode.checks.arguments import check
from decode.checks.direction import check_direction
from decode.checks.frame import check_classes, nodes
from decode.core import InputError, refusal
from decode.keys import NODES, Config
from decode.kinds import as_annotated, hints, locate
from decode.linear.encoding import BRAIN
from decode.trainable import Encoder, predicts_brain

# Arguments of an objective that name a target, which is predicted or compared with.
NAMING = ("target", "other", "image", "latents", "text", "hint")


def check_config(config: Config) -> None:
    """Raise InputError for a mistake that can be seen in the config alone."""
    check_classes(config)
    for name in NODES:
        check(config.get(name), name)
    check({"_target_": "decode.folds.Protocol", **config["protocol"]}, "protocol")
    build({"_target_": "decode.folds.Protocol", **config["protocol"]}, "protocol")
    for name in ("trainer", "scaler", "splits", "preprocess"):
        build(config[name], name)
    check_encoders(config)
    check_names(config)
    check_direction(config)
    check_tuning(config)


def check_encoders(config: Config) -> None:
    """Raise InputError for what an encoder refuses without seeing data."""
    for where, node in nodes(config, ("encoder", "baselines")):
        target = locate(node["_target_"], where)
        if isinstance(target, type) and issubclass(target, Encoder):
            known = hints(target)
            target.check_node({k: as_annotated(v, known.get(k)) for k, v in node.items()}, where)


def check_names(config: Config) -> None:
    """Raise InputError where an encoder, a part, an objective or a metric names no target."""
    known = list(config["targets"])
    known = [name for name in known if name not in _drawn(config, known)]
    taught = [*known, *([BRAIN] if predicts_brain(build(config["encoder"], "encoder")) else [])]
    for where, node in nodes(config, ("encoder", "baselines")):
        _check_target(f"{where}.target", bound(node).get("target"), known)
    for where, node in nodes(config, ("parts",)):
        for name in node.get("targets") or ():
            _check_target(f"{where}.targets", name, known)
    for where, node in nodes(config, ("objectives",)):
        for key in NAMING:
            _check_target(f"{where}.{key}", bound(node).get(key), taught)
        if not getattr(locate(node["_target_"], where), "tunes", False):  # those open a generator
            told(where, node)
    for name, node in config["metrics"].items():
        where = f"metrics.{name}"
        if locate(node["_target_"], where).looks_at == "predictions":
            _check_target(f"{where}.target", bound(node).get("target"), known)


def _drawn(config: Config, known: Sequence[str]) -> set[str]:
    """The targets that stand for others in training by gradient, and nowhere else."""
    drawn = config["protocol"].get("drawn") or {}
    for target, names in drawn.items():
        where = f"protocol.drawn.{target}"
        if not names or set(names) & set(drawn):
            raise refusal(
                where,
                "a list of other targets, which are drawn in its place",
                names,
                "name other targets of the config",
            )
        for name in (target, *names):
            _check_target(where, name, known)
    return {name for names in drawn.values() for name in names}


def _check_target(where: str, name: Any, known: Sequence[str]) -> None:
    if not isinstance(name, str) or name in known:
        return
    near = difflib.get_close_matches(name, known, 1)
    raise InputError(
        f"{where}: expected a target of the experiment, one of {sorted(known)}, got {name!r}; "
        + (f"did you mean {near[0]!r}?" if near else "correct it or add a target of that name")
    )


def told(where: str, node: Mapping[str, Any]) -> Any:
    """The object of a node; what it refuses is told with the node's key."""
    try:
        return build(node, where)
    except InputError as e:
        raise e if where in str(e) else InputError(f"{where}: {e}") from e


def check_tuning(config: Config) -> None:
    """Raise InputError when an objective trains weights that the generator does not take."""
    node = config["generator"]
    if not node or getattr(locate(node["_target_"], "generator"), "tunable", False):
        return
    for name, objective in config["objectives"].items():
        if getattr(locate(objective["_target_"], f"objectives.{name}"), "tunes", False):
            raise refusal(
                f"objectives.{name}",
                "a generator that takes the weights which it trains",
                f"generator {node['_target_']}, which takes none",
                "choose the one that the objective belongs to or set it to null",
            )
