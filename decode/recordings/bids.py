"""Where things lie in a BIDS folder: runs, their sidecars, and the stimuli that events name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import pandas as pd

from decode.content import open_picture
from decode.core import InputError, Kind, Stimulus
from decode.recordings.places import check_place
from decode.recordings.tables import read_events

SUFFIXES: dict[str, Kind] = {
    **dict.fromkeys(("png", "jpg", "jpeg", "bmp", "gif", "tif", "tiff", "webp"), "image"),
    **dict.fromkeys(("wav", "flac", "mp3", "ogg"), "audio"),
    **dict.fromkeys(("mp4", "avi", "mkv", "mov", "webm"), "video"),
    **dict.fromkeys(("obj", "ply", "stl", "glb"), "mesh"),
    "txt": "text",
}


@dataclass(frozen=True, slots=True)
class Run:
    """One recording file of a subject and the events that belong to it."""

    path: Path
    events: Path
    subject: str
    session: str
    run: str


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of events.tsv mean what.

    `stimulus` names a file below `folder`, or, where `kind` is "text" or "event", is the stimulus
    itself. `labels` are facts about the stimulus, `split` says train or test; None: nothing does.
    Where `within` names folders, files must lie below one of them.
    """

    stimulus: str
    folder: Path
    kind: Kind | None
    labels: tuple[str, ...]
    split: str | None
    within: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in get_args(Kind):
            raise InputError(
                f"data.kind: expected null or one of {', '.join(get_args(Kind))}, got {self.kind!r}"
            )


def entities(path: Path) -> dict[str, str]:
    """The key-value pairs of a BIDS file name."""
    parts = path.name.split(".")[0].split("_")
    return dict(p.split("-", 1) for p in parts if "-" in p)


def description(root: Path) -> dict[str, Any]:
    """dataset_description.json, empty where it is missing."""
    path = root / "dataset_description.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as e:
        raise InputError(f"{path}: expected JSON, got: {e}; correct the file") from e
    return content if isinstance(content, dict) else {}


def subjects_with(folder: Path, datatype: str) -> tuple[str, ...]:
    """Names such as "sub-01" of those with recordings of the datatype."""
    there = [p for p in sorted(folder.glob("sub-*")) if p.is_dir()]
    return tuple(
        p.name
        for p in there
        if (p / datatype).is_dir() or any(s.is_dir() for s in p.glob(f"ses-*/{datatype}"))
    )


def files_of(
    folder: Path, subject: str, datatype: str, endings: Iterable[str], task: str | None
) -> list[Path]:
    """Files of one subject that end so, of one task; the first file of a recording in many."""
    found = []
    for place in [folder / subject, *sorted((folder / subject).glob("ses-*"))]:
        for path in sorted((place / datatype).glob(f"{subject}_*")):
            names = entities(path)
            first = int(names.get("split", "1")) == 1
            if "task" in names and path.name.endswith(tuple(endings)) and first:
                found.append(path)
    tasks = sorted({entities(p)["task"] for p in found})
    if task is None and len(tasks) > 1:
        raise InputError(
            f"{folder / subject}: expected one task, got {', '.join(tasks)}; set data.task to one"
        )
    chosen = [p for p in found if task in (None, entities(p)["task"])]
    if found and not chosen:
        raise InputError(
            f"{folder / subject}: no {datatype} recording of task {task!r}, only of "
            f"{', '.join(tasks)}; correct data.task"
        )
    return chosen


def as_runs(root: Path, folder: Path, files: Sequence[Path]) -> list[Run]:
    """Runs with their events, which lie in the raw data set even for derivatives."""
    runs: dict[tuple[str, str], Run] = {}
    for path in files:
        names = entities(path)
        session, run = names.get("ses", ""), names.get("run", "")
        if (session, run) in runs:
            raise InputError(
                f"{path.parent}: expected one recording per session and run, got "
                f"{runs[session, run].path.name} and {path.name}; keep one of them there"
            )
        raw = root / path.relative_to(folder)
        events = sidecar(raw, root, "events.tsv")
        if events is None:
            raise InputError(
                f"{path}: expected events beside {raw}, found none; add "
                f"{path.name.split('_task-')[0]}_task-{names['task']}[_run-..]_events.tsv"
            )
        runs[session, run] = Run(path, events, f"sub-{names['sub']}", session, run)
    return list(runs.values())


def sidecar(path: Path, root: Path, ending: str, *, ignore: Sequence[str] = ()) -> Path | None:
    """The nearest and most specific file `*_<ending>` that applies to `path`.

    By BIDS' inheritance principle it lies in the same folder or above, up to `root`, and has no
    entity that `path` has not; entities in `ignore` need not agree.
    """
    own = entities(path).items()
    folder = path.parent
    while True:
        fitting = []
        for candidate in sorted(folder.glob(f"*_{ending}")):
            theirs = {k: v for k, v in entities(candidate).items() if k not in ignore}
            if theirs.items() <= own:
                fitting.append((len(theirs), candidate))
        if fitting:
            return max(fitting)[1]
        if folder in (root, folder.parent):
            return None
        folder = folder.parent


def trials_of(path: Path, columns: Columns) -> pd.DataFrame:
    """Rows of events.tsv that show a stimulus: onset, duration, stimulus, split and labels."""
    table = read_events(
        path,
        shows=columns.stimulus,
        others=[*columns.labels, *([columns.split] if columns.split else [])],
        remedy="add {} or correct data.stim_column, data.label_columns or data.split_column",
    ).reset_index(drop=True)
    trials = table[["onset", "duration"]].assign(
        stimulus=table[columns.stimulus],
        split=table[columns.split].fillna("") if columns.split else "",
        **{c: table[c] for c in columns.labels},
    )
    unknown = sorted(set(trials["split"]) - {"train", "test", ""})
    if unknown:
        raise InputError(
            f"{path}: expected train, test or n/a in column {columns.split!r}, got {unknown[0]!r}; "
            "correct the column or set data.split_column to another one"
        )
    return trials


def stimuli_of(paths: Iterable[Path], columns: Columns) -> dict[str, Stimulus]:
    """Everything that these events show, by uid; refuses a uid with two different contents."""
    found: dict[str, Stimulus] = {}
    said_by: dict[str, Path] = {}
    for path in dict.fromkeys(paths):
        table = trials_of(path, columns)
        for row in table.drop_duplicates(["stimulus", *columns.labels]).to_dict("records"):
            uid = str(row["stimulus"])
            labels = {c: row[c] for c in columns.labels}
            known = found.get(uid)
            if known is None:
                found[uid], said_by[uid] = _stimulus(uid, labels, columns, path), path
            elif any(known.labels[c] != labels[c] for c in labels):
                column = next(c for c in labels if known.labels[c] != labels[c])
                raise InputError(
                    f"{path}: stimulus {uid!r} has {column}={labels[column]!r}, but "
                    f"{known.labels[column]!r} in {said_by[uid].name}; a label column holds facts "
                    "about the stimulus: correct it or leave it out of data.label_columns"
                )
    return found


def _stimulus(uid: str, labels: dict[str, Any], columns: Columns, events: Path) -> Stimulus:
    if columns.kind == "event":
        return Stimulus(uid, "event", labels={columns.stimulus: uid, **labels})
    if columns.kind == "text":
        return Stimulus(uid, "text", text=uid, labels={columns.stimulus: uid, **labels})
    path = columns.folder / PurePosixPath(uid)
    kind = columns.kind or SUFFIXES.get(path.suffix.lower().lstrip("."))
    if kind is None:
        raise InputError(
            f"{events}: column {columns.stimulus!r} names {uid!r}, whose ending says no kind; "
            f"expected one of {', '.join(SUFFIXES)}, or set data.kind (text and event need no file)"
        )
    if columns.within:
        check_place(events, path, columns.within)
    if not path.is_file():
        raise InputError(
            f"{events}: column {columns.stimulus!r} names {uid!r}, but there is no file {path}; "
            "put it there or correct data.stimuli or the events"
        )
    text = None
    if kind == "image":
        _check_image(path, events)
    elif kind == "text":
        text = _read_text(path)
    return Stimulus(uid, kind, path=str(path), text=text, labels=labels)


def _check_image(path: Path, events: Path) -> None:
    try:
        # Reads the header only: enough to tell a picture from something else, and quick.
        with open_picture(path):
            return
    except Exception as e:
        raise InputError(
            f"{path}, named in {events.name}: expected a picture, got {' '.join(str(e).split())}; "
            "replace the file"
        ) from e


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: expected a text in UTF-8, got: {e}; replace the file") from e
