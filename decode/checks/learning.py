"""Whether everything that is scored has been fitted by something."""

from __future__ import annotations

from collections.abc import Collection

from decode.building import bound, build
from decode.checks.frame import named, short
from decode.core import InputError, refusal
from decode.keys import Config
from decode.kinds import defaults, locate
from decode.trainable import left_to_training, own


def check_learning(config: Config) -> None:
    """Raise InputError when an encoder would be scored with weights that nothing has fitted: neither
    `Encoder.initialise` nor an objective.
    """
    drawn = {name for names in (config["protocol"].get("drawn") or {}).values() for name in names}
    predicted = [name for name in config["targets"] if name not in drawn]
    taught: set[str] = set()
    for name, node in config["objectives"].items():
        of = locate(node["_target_"], f"objectives.{name}")
        if bound(node).get("weight") != 0:
            taught |= of.teaches(defaults(of) | node)
    for where, node in (*named(config, "encoder"), *named(config, "baselines")):
        asked = left_to_training(build(node, where), predicted)
        if not asked:
            continue
        encoder = f"{where} {short(node)}, which is trained step by step"
        if not config["trainer"].get("epochs", 1):
            raise refusal(
                "trainer.epochs", f"1 or more for {encoder}", 0,
                "choose trainer=default or set trainer.epochs, or choose an encoder that is solved in "
                "closed form, for example encoder=ridge",
            )  # fmt: skip
        for target, any_of in asked.items():
            if not any_of & taught:
                raise _untaught(encoder, target, any_of, config)


def _untaught(encoder: str, target: str, any_of: Collection[str], config: Config) -> InputError:
    needed = " or ".join(sorted(any_of))
    known = [name for name in any_of if name in config["targets"]]
    remedy = (
        f"add one, for example +objective@objectives.more=mse objectives.more.target={known[0]}, "
        f"or drop what it does not need (~target@targets.{known[0]})"
        if known
        else f"add the objective of {needed}, for example +objective@objectives.more="
        + ("prior" if own("prior") in any_of else "flow")
    )
    names = list(config["objectives"])
    return refusal(
        f"targets.{target} is predicted by weights that nothing has fitted: objectives",
        f"one that teaches {needed}, for {target} of {encoder}",
        f"only {names}" if names else "none",
        remedy,
    )
