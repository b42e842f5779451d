"""Published results beside a run: only those on the same test pictures, never without their mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from decode.core import InputError
from decode.recordings.nsd import LAST_SESSION
from decode.report.content import Score, overall

TESTS = ("shared982", "shared1000")
UNKNOWN = "unknown"
DECLARED = "decode.splits.published"
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
class Own:
    """A run's scores on one split; `training` says on which sessions, in the words of the systems."""

    split: str
    training: str
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Beside:
    """A run's scores (`own`, a row per split) beside those of published systems on the test pictures
    `test`; `elsewhere` are systems whose test pictures are not known, which cannot be compared.

    `columns` are the metrics that both sides have; `protocol` is how the run scored its pictures, ""
    when in no published way: then picture scores are left out and the page says so. `cut` is the last
    session that the run read where that takes test pictures away: then there are no systems.
    """

    test: str
    subjects: str
    protocol: str
    columns: Sequence[str]
    own: Sequence[Own]
    systems: Sequence[System]
    elsewhere: Sequence[System] = ()
    cut: int | None = None


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


def beside_published(config: Mapping[str, Any], scores: Sequence[Score]) -> Beside | None:
    """What the page shows for the test pictures that `published` names; None when it is null.

    Splits that the data set does not declare have other test pictures and are left out; so are systems
    that share no metric with the run.
    """
    test = config.get("published")
    if test is None:
        return None
    protocol = protocol_of(config["metrics"])
    systems, subjects = read_systems()
    last = config["data"].get("last_session")
    cut = last if last is not None and last < LAST_SESSION[test] else None
    known = {m for s in systems if s.test in (test, UNKNOWN) for m in s.scores}
    own: dict[str, dict[str, float]] = {}
    for s in overall(scores):
        if s.metric in known and (protocol or not s.metric.startswith(PICTURES)):
            own.setdefault(s.split, {})[s.metric] = s.value
    rows = [
        Own(name, trained_on(node, config["data"]), own[name])
        for name, node in config["splits"].items()
        if name in own and node["_target_"] == DECLARED
    ]
    columns = list(dict.fromkeys(m for row in rows for m in row.scores))
    kept = [] if cut else [s for s in systems if set(s.scores) & set(columns)]
    alike, elsewhere = ([s for s in kept if s.test == t] for t in (test, UNKNOWN))
    return Beside(test, subjects, protocol, columns, rows, alike, elsewhere, cut)


def trained_on(split: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The sessions that a split of the data set trains on: "all sessions", "one session" or how many."""
    of, within = split.get("of"), data.get("sessions")
    asked = [n for n in (within, None if of else split.get("sessions")) if n is not None]
    words = _sessions(min(asked)) if asked else "all sessions"
    if of and split.get("sessions"):
        mine = min(n for n in (within, split["sessions"]) if n is not None)
        return f"{words}; {_sessions(mine)} of {of}"
    return words


def _sessions(n: int) -> str:
    return "one session" if n == 1 else f"first {n} sessions"
