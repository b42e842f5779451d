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
from decode.notices import tell
from decode.recordings.json_files import read_json_object
from decode.recordings.names import entities, meant
from decode.volumes import open_image

SECONDS = ("", "n/a", "s", "sec", "secs", "second", "seconds", "second(s)")
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


def check_seconds(events: Path, root: Path) -> None:
    """InputError where a sidecar says that onsets or durations of the events are not in seconds."""
    for column, said in said_of(events, root).items():
        unit = said.value.get("Units") if isinstance(said.value, dict) else None
        known = isinstance(unit, str) and unit.strip().lower().rstrip(".") in SECONDS
        if column in ("onset", "duration") and unit is not None and not known:
            raise refusal(
                said.file,
                f"{column} in seconds",
                f"Units {unit!r}",
                "write seconds, as BIDS has it",
            )


def volume_timing(
    path: Path, root: Path | None = None, raw: tuple[Path, Path] | None = None
) -> Timing:
    """When the volumes of the image at `path` were taken, by its sidecars up to `root`, else its header.

    `raw` is the image of the raw data set that it was made from and that data set's root: their
    sidecars say the repetition time where its own do not. A sidecar's StartTime is the moment that
    slice timing correction moved the first volume to (fMRIPrep). Where sidecar and header disagree,
    the sidecar is believed and the user told.

    Raises InputError for what is no time in seconds, for volumes that are not evenly spaced, and
    where nothing says a repetition time.
    """
    image = open_image(path)
    volumes = image.shape[3] if len(image.shape) > 3 else 1
    own = said_of(path, path.parent if root is None else root)
    behind = {} if raw is None else said_of(*raw)
    header = _header_tr(image)
    said = _repetition(own, volumes) or _repetition(behind, volumes)
    if said is None and not SHORTEST_TR < header < LONGEST_TR:
        raise refusal(
            path,
            "a repetition time in its header",
            f"{header:g} s",
            f"add RepetitionTime to {path.name.split('.nii')[0]}.json",
        )
    timing = said or Timing(header)
    if SHORTEST_TR < header < LONGEST_TR and abs(timing.tr - header) > 1e-3 * timing.tr:
        tell(path, f"the header says {header:g} s from volume to volume; taken is {timing.tr:g} s")
    start = _number(own, "StartTime", 0.0, timing.tr)
    moved = own.get("SliceTimingCorrected")
    if start is None and moved is not None and moved.value is True:
        tell(
            path,
            "slices were moved in time, no StartTime says to which moment: taken is the start of the "
            "volume; preprocess.trials.slice_time says another",
        )
    _check_slices({**behind, **own}, timing.tr)
    return Timing(timing.tr, timing.offset + (start or 0.0))


def _header_tr(image: Any) -> float:
    """The repetition time of an image's header in s, 0 where it has none."""
    zooms = image.header.get_zooms()
    unit = {"msec": 1e-3, "usec": 1e-6}.get(image.header.get_xyzt_units()[1], 1.0)
    return float(zooms[3]) * unit if len(zooms) > 3 else 0.0


def _repetition(said: Mapping[str, Said], volumes: int) -> Timing | None:
    """What sidecars say about the time from volume to volume; None where they say nothing."""
    given = said.get("VolumeTiming")
    tr = _number(said, "RepetitionTime", SHORTEST_TR, LONGEST_TR)
    if given is None:
        return None if tr is None else Timing(tr)
    even = _even(given, volumes)
    if tr is not None and abs(tr - even.tr) > 0.01 * tr:
        raise refusal(
            given.file,
            f"VolumeTiming in steps of RepetitionTime, {tr:g} s",
            f"{even.tr:g} s",
            "take out the one that is wrong",
        )
    return even


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
