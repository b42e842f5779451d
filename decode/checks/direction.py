"""Whether all that is chosen goes one way: from the brain to targets, or from targets to the brain."""

from __future__ import annotations

from decode.building import build
from decode.checks.frame import named, short
from decode.core import refusal
from decode.keys import Config
from decode.kinds import locate
from decode.linear.encoding import BRAIN
from decode.trainable import predicts_brain


def check_direction(config: Config) -> None:
    """Raise InputError where a model of the brain stands beside what reads predictions of targets, or
    metrics of the brain's responses beside nothing that expects any.
    """
    if BRAIN in config["targets"]:
        raise refusal(
            f"targets.{BRAIN}",
            "another name, since models of the brain predict it",
            BRAIN,
            "rename it",
        )
    encodes = predicts_brain(build(config["encoder"], "encoder"))
    for where, node in named(config, "baselines"):
        if predicts_brain(build(node, where)) != encodes:
            raise refusal(
                where, f"another model that predicts {'the brain' if encodes else 'targets'}, as "
                f"encoder {short(config['encoder'])} does",
                short(node), "leave it out or choose one that goes the same way",
            )  # fmt: skip
    if encodes:
        _check_alone(config)
    _check_metrics(config, encodes)
    if config.get("voxel_model") and not config["generator"]:
        raise refusal(
            "voxel_model", "a generator, whose pictures it reads", "generator=null",
            "set one or leave voxel_model out",
        )  # fmt: skip


def _check_alone(config: Config) -> None:
    """What reads predictions of targets finds none beside a model of the brain."""
    reason = f"since encoder {short(config['encoder'])} predicts the brain, not targets"
    for key, empty in (("generator", "null"), ("parts", "{}")):
        if config[key]:
            raise refusal(
                key, f"{empty}, {reason}", "one", "leave it out or choose another encoder"
            )
    if config["protocol"].get("rescale") == "transductive":
        raise refusal("protocol.rescale", f"none, {reason}", "transductive", "set it to none")


def _check_metrics(config: Config, encodes: bool) -> None:
    for name, node in config["metrics"].items():
        looks_at = locate(node["_target_"], f"metrics.{name}").looks_at
        if looks_at == "brain" and not encodes and not config.get("voxel_model"):
            raise refusal(
                f"metrics.{name}", "a model of the brain", "voxel_model null and an encoder of targets",
                "choose an encoder that predicts the brain (encoder=banded_ridge), or set voxel_model to "
                "a target that takes pictures, for example +target@voxel_model=pixels_8",
            )  # fmt: skip
        if looks_at != "brain" and encodes:
            raise refusal(
                f"metrics.{name}", "a metric of the brain's responses, which the encoder predicts",
                f"{short(node)}, which looks at {looks_at}",
                "choose voxel_correlation, explained_variance or brain_correlation",
            )  # fmt: skip
