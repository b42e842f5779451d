"""What BIDS says beside a recording: files that apply to it by inheritance, and when its volumes were taken.

A sidecar may lie beside the file or in any folder above it, up to the root of the data set, under a
name without any key-value pair that the file has not. All that apply are read; what the nearest, or
in one folder the most specific, says comes first (BIDS specification, "The Inheritance Principle").
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from decode.core import refusal
from decode.recordings.names import entities, meant

SHORTEST_TR, LONGEST_TR = 0.05, 60.0


@dataclass(frozen=True, slots=True)
class Timing:
    """When volumes were taken: `tr` s apart, and the first stands for the moment `offset` s after the
    one that onsets count from.
    """

    tr: float
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Said:
    """A value of a sidecar and the file that says it."""

    value: Any
    file: Path


def sidecars(path: Path, root: Path, ending: str, *, ignore: Sequence[str] = ()) -> Iterator[Path]:
    """The files `*_<ending>` that apply to `path`, the nearest and most specific first.

    Entities in `ignore` need not agree. Raises InputError where two of a folder apply equally.
    """
    own, folder = meant(path), path.parent
    while True:
        fitting: dict[tuple[int, bool], Path] = {}
        for candidate in sorted(folder.glob(f"*{ending}")):
            theirs = {k: v for k, v in meant(candidate).items() if k not in ignore}
            if not _called(candidate, ending) or not theirs.items() <= own.items():
                continue
            spelt = entities(candidate).items() <= entities(path).items()
            other = fitting.setdefault((len(theirs), spelt), candidate)
            if other != candidate:
                raise refusal(
                    folder,
                    f"one *_{ending} that applies to {path.name}",
                    f"{other.name} and {candidate.name}",
                    "keep one of them there",
                )
        yield from (fitting[rank] for rank in sorted(fitting, reverse=True))
        if folder in (root, folder.parent):
            return
        folder = folder.parent


def _called(candidate: Path, ending: str) -> bool:
    return candidate.name == ending or candidate.name.endswith(f"_{ending}")


def sidecar(path: Path, root: Path, ending: str, *, ignore: Sequence[str] = ()) -> Path | None:
    """The nearest and most specific file `*_<ending>` that applies to `path`, if there is any."""
    return next(sidecars(path, root, ending, ignore=ignore), None)


def said_of(path: Path, root: Path) -> dict[str, Said]:
    """All that JSON sidecars say about the file at `path`, each by the nearest; null says nothing."""
    ending = f"{path.name.split('.')[0].rsplit('_', 1)[-1]}.json"
    found: dict[str, Said] = {}
    for file in sidecars(path, root, ending):
        for key, value in read_json_object(file).items():
            if value is not None:
                found.setdefault(key, Said(value, file))
    return found


def read_json_object(path: Path) -> dict[str, Any]:
    """The content of a JSON file; InputError where it is not an object."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as e:
        raise refusal(path, "JSON in UTF-8", e, "correct the file") from e
    if not isinstance(content, dict):
        raise refusal(path, "a JSON object in braces", type(content).__name__, "correct the file")
    return content


def timing_of(said: Mapping[str, Said], volumes: int) -> Timing | None:
    """What sidecars say about the time of `volumes` volumes; None where they say no repetition time.

    Raises InputError for what is no time in seconds, and for volumes that are not evenly spaced.
    """
    given = said.get("VolumeTiming")
    even = None if given is None else _even(given, volumes)
    tr = even.tr if even else _number(said, "RepetitionTime", SHORTEST_TR, LONGEST_TR)
    if tr is None:
        return None
    start = _number(said, "StartTime", 0.0, tr)
    _check_slices(said, tr)
    return Timing(tr, (start or 0.0) + (even.offset if even else 0.0))


def _number(said: Mapping[str, Said], key: str, low: float, high: float) -> float | None:
    if key not in said:
        return None
    value, file = said[key].value, said[key].file
    if not _is_time(value) or not low <= value <= high:
        what = f"{key} as a number of seconds from {low:g} to {high:g}"
        raise refusal(file, what, json.dumps(value)[:60], "correct it there")
    return float(value)


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)


def _check_slices(said: Mapping[str, Said], tr: float) -> None:
    """InputError unless every slice was taken within a repetition time."""
    if "SliceTiming" not in said:
        return
    value, file = said["SliceTiming"].value, said["SliceTiming"].file
    if isinstance(value, list) and all(_is_time(v) and 0 <= v <= tr * 1.001 for v in value):
        return
    wrong = value if not isinstance(value, list) else [
        v for v in value if not _is_time(v) or not 0 <= v <= tr * 1.001
    ]  # fmt: skip
    raise refusal(
        file,
        f"SliceTiming as a list of seconds from 0 to the repetition time of {tr:g}",
        json.dumps(wrong)[:60],
        "correct it there",
    )


def _even(given: Said, volumes: int) -> Timing:
    """Volumes at a fixed distance, out of the list of their times."""
    times = given.value
    numbers = isinstance(times, list) and all(_is_time(t) for t in times)
    steps = np.diff(np.array(times, float)) if numbers else np.empty(0)
    if len(steps) + 1 != volumes or volumes < 2:
        raise refusal(
            given.file,
            f"VolumeTiming as a list of {volumes} numbers of seconds, one per volume",
            json.dumps(times)[:60],
            "correct it there",
        )
    tr = float(steps.mean())
    uneven = np.ptp(steps) > 0.01 * tr
    if uneven or not SHORTEST_TR <= tr <= LONGEST_TR:
        raise refusal(
            given.file,
            f"VolumeTiming with one step from {SHORTEST_TR:g} to {LONGEST_TR:g} s",
            f"steps from {steps.min():g} to {steps.max():g} s",
            "runs whose volumes are not evenly spaced cannot be modelled: leave them out",
        )
    return Timing(tr, float(times[0]))
