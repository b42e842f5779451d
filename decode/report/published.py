"""Published results beside a run: only those on the same test pictures, never without their mark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from decode.core import InputError
from decode.recordings.nsd import LAST_SESSION
from decode.report.content import Score, of_decoder, overall

TESTS = ("shared982", "shared1000")
UNKNOWN = "unknown"
DECLARED = "decode.splits.published.published"
PROTOCOLS = {
    "mindeye-256": (256, 425, "bilinear", False, False),
    "mindeye-256-antialias": (256, 425, "bilinear_antialias", False, False),
    "braindiffuser-224": (None, 425, "pil_bicubic/pil_bilinear", True, True),
}


@dataclass(frozen=True, slots=True)
class System:
    """One published result: `test`, `training`, `protocol` and `mark` are printed with its scores, and so
    is `also`: figures that no score of ours can stand beside.
    """

    system: str
    paper: str
    test: str
    training: str
    protocol: str
    mark: str
    scores: Mapping[str, float]
    also: str = ""


@dataclass(frozen=True, slots=True)
class Own:
    """A run's scores on one split; `training` says on which sessions, in the words of the systems."""

    split: str
    training: str
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Beside:
    """A run's scores (`own`, a row per split) beside those of published systems on the test pictures
    `test`, picture scores of the same protocol only; `elsewhere` holds the scores of systems whose test
    pictures or protocol are other ones or not known, which cannot be compared.

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
        raise InputError(
            f"published: expected null or one of {list(TESTS)}, got {asked!r}; choose one of these"
        )
    used = config["data"].get("test", asked)
    if used != asked:
        raise InputError(
            f"published: expected {used!r}, the test pictures of data.test, got {asked!r}; results on "
            "different pictures are not put side by side"
        )


def protocol_of(metrics: Mapping[str, Any]) -> str:
    """The published way in which a config's metrics score pictures, or ""."""
    for node in metrics.values():
        if str(node.get("_target_", "")).endswith(".ImageSuite"):
            return next((name for name, way in PROTOCOLS.items() if way == _way(node)), "")
    return ""


def _way(node: Mapping[str, Any]) -> tuple[Any, ...]:
    """Of an image suite: the first size, that of pixel scores, how pictures that may shrink are
    resized, the kind of SSIM and whether pictures are rounded to 8 bits."""
    first, pixels = (node.get(k) or {} for k in ("first", "pixels"))
    networks = [n.get("resize") or {} for k in ("two_way", "distance") for n in node.get(k) or ()]
    # What enlarges is left out: with and without a low-pass are one thing there.
    shrink = [r for r in (pixels, *networks) if r and r["size"] <= first.get("size", r["size"])]
    ways = {r.get("how", "bilinear_antialias") for r in (first, *shrink) if r}
    legacy, rounded = node.get("ssim", "2d") == "columns_legacy", bool(node.get("quantise"))
    return first.get("size"), pixels.get("size"), "/".join(sorted(ways)), legacy, rounded


def _content() -> dict[str, Any]:
    import yaml

    text = resources.files("decode.report").joinpath("published.yaml").read_text("utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def picture_scores() -> frozenset[str]:
    """Which published scores are of pictures, so that they depend on the protocol."""
    return frozenset(_content()["pictures"])


def read_systems() -> tuple[list[System], str]:
    """All published results with their marks written out, and whom they average over."""
    content = _content()
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
    pictures = picture_scores()
    last = config["data"].get("last_session")
    cut = last if last is not None and last < LAST_SESSION[test] else None
    known = {m for s in systems if s.test in (test, UNKNOWN) for m in s.scores}
    own: dict[str, dict[str, float]] = {}
    for s in of_decoder(overall(scores)):
        if s.metric in known and (protocol or s.metric not in pictures):
            own.setdefault(s.split, {})[s.metric] = s.value
    rows = [
        Own(name, trained_on(node, config["data"]), own[name])
        for name, node in config["splits"].items()
        if name in own and node["_target_"] == DECLARED
    ]
    columns = list(dict.fromkeys(m for row in rows for m in row.scores))
    kept = [] if cut else [s for s in systems if s.test in (test, UNKNOWN)]

    def comparable(system: System, metric: str) -> bool:
        return system.test == test and (metric not in pictures or system.protocol == protocol)

    alike, elsewhere = (
        [t for s in kept if (t := _part(s, comparable, columns, alike=side)) is not None]
        for side in (True, False)
    )
    return Beside(test, subjects, protocol, columns, rows, alike, elsewhere, cut)


def _part(
    system: System,
    comparable: Callable[[System, str], bool],
    columns: Sequence[str],
    *,
    alike: bool,
) -> System | None:
    """A system with those of its scores that can (or cannot) be compared; None without any."""
    shared = {m: v for m, v in system.scores.items() if m in columns}
    scores = {m: v for m, v in shared.items() if comparable(system, m) == alike}
    return replace(system, scores=scores) if scores else None


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
