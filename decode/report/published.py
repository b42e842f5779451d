"""Published results beside a run: only those on the same test pictures, never without their mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from decode.core import InputError
from decode.report.content import Score, overall

TESTS = ("shared982", "shared1000")
UNKNOWN = "unknown"
PICTURES = ("pixcorr", "ssim", "two_way_", "distance_")


@dataclass(frozen=True, slots=True)
class System:
    """One published result: `test`, `training`, `protocol` and `mark` are printed with its scores."""

    system: str
    paper: str
    test: str
    training: str
    protocol: str
    mark: str
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Beside:
    """A run's scores (`own`) beside those of published systems on the test pictures `test`.

    `columns` are the metrics that both sides have; `protocol` is how the run scored its pictures, ""
    when in no published way: then picture scores are left out and the page says so.
    """

    test: str
    subjects: str
    protocol: str
    columns: Sequence[str]
    own: Mapping[str, float]
    systems: Sequence[System]


def check_published(config: Mapping[str, Any]) -> None:
    """Raise InputError unless `published` is null or names the test pictures that the data uses."""
    asked = config.get("published")
    if asked is None:
        return
    if asked not in TESTS:
        raise InputError(f"published: expected null or one of {list(TESTS)}, got {asked!r}")
    used = config["data"].get("test", asked)
    if used != asked:
        raise InputError(
            f"published: expected {used!r}, the test pictures of data.test, got {asked!r}; results on "
            "different pictures are not put side by side"
        )


def protocol_of(metrics: Mapping[str, Any]) -> str:
    """The published way in which a config's metrics score pictures, or ""."""
    for node in metrics.values():
        if not str(node.get("_target_", "")).endswith(".ImageSuite"):
            continue
        first, pixels = (node.get(k) or {} for k in ("first", "pixels"))
        if pixels.get("size") != 425:
            continue
        if first.get("size") == 256 and node.get("ssim", "2d") == "2d":
            return "mindeye-256"
        if not first and node.get("quantise") and node.get("ssim") == "columns_legacy":
            return "braindiffuser-224"
    return ""


def read_systems() -> tuple[list[System], str]:
    """All published results with their marks written out, and whom they average over."""
    import yaml

    text = resources.files("decode.report").joinpath("published.yaml").read_text("utf-8")
    content = yaml.safe_load(text)
    marks = content["marks"]
    systems = [System(**{**row, "mark": marks[row["mark"]]}) for row in content["systems"]]
    return systems, content["subjects"]


def beside_published(
    test: str | None, metrics: Mapping[str, Any], scores: Sequence[Score]
) -> Beside | None:
    """What the page shows for the test pictures `test`; None when nothing was asked for.

    Systems whose test pictures are not known come last; those that share no metric are left out.
    """
    if test is None:
        return None
    protocol = protocol_of(metrics)
    systems, subjects = read_systems()
    kept = [s for t in (test, UNKNOWN) for s in systems if s.test == t]
    known = {m for s in kept for m in s.scores}
    own = {
        s.metric: s.value
        for s in overall(scores)
        if s.metric in known and (protocol or not s.metric.startswith(PICTURES))
    }
    kept = [s for s in kept if set(s.scores) & set(own)]
    return Beside(test, subjects, protocol, list(own), own, kept)
