"""Where things lie in a BIDS folder: runs, their sidecars, and the stimuli that events name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from decode.core import InputError, Kind, Stimulus, about, refusal
from decode.media.medium import MEDIA, SUFFIXES, kind_of
from decode.recordings.json_files import read_json_object
from decode.recordings.names import entities, in_order, meant, told_apart
from decode.recordings.places import check_place
from decode.recordings.sidecars import check_seconds, sidecar
from decode.recordings.stimuli import check_kind, from_file, from_name, needs_file
from decode.recordings.tables import numbers, read_events


@dataclass(frozen=True, slots=True)
class Run:
    """One recording file of a subject and the events that belong to it; None where none are needed."""

    path: Path
    events: Path | None
    subject: str
    session: str
    run: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A stimulus, what the label columns say about it, and the events that say so."""

    stimulus: Stimulus
    labels: Mapping[str, Any]
    events: Path


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of events.tsv mean what.

    `stimulus` names a file below `folder`, or, where `kind` is "text" or "event", is the stimulus
    itself; None: no event is a trial. `labels` are facts about the stimulus, `trial` about the trial
    alone, `split` says train or test; None: nothing does. Where `within` names folders, files must lie
    below one of them. `begins` is the second of the file at which an event begins to play it: the event
    is a clip as long as it lasts, and those of one file are one block.
    """

    stimulus: str | None
    folder: Path
    kind: Kind | None
    labels: tuple[str, ...]
    split: str | None
    within: tuple[Path, ...] = ()
    begins: str | None = None
    trial: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_kind(self.kind)


def description(root: Path) -> dict[str, Any]:
    """dataset_description.json, empty where it is missing."""
    path = root / "dataset_description.json"
    return read_json_object(path) if path.is_file() else {}


def files_with(
    folder: Path, datatype: str, endings: Sequence[str]
) -> dict[str, dict[str, list[Path]]]:
    """Recordings of the datatype by subject ("sub-01") and task, in the order of sessions and runs.

    Of a recording in many files the first. What BIDS reserves for recordings of an empty room, the
    subject "emptyroom" and for MEG the task "noise", is left out, and so are phases and other parts of
    complex images than their magnitude.
    """
    found: dict[str, dict[str, list[Path]]] = {}
    for subject in sorted(folder.glob("sub-*"), key=lambda p: in_order(p.name)):
        if subject.is_dir() and subject.name != "sub-emptyroom":
            found[subject.name] = _by_task(subject, datatype, tuple(endings))
    return {name: tasks for name, tasks in found.items() if tasks}


def _by_task(subject: Path, datatype: str, endings: tuple[str, ...]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    sessions = sorted(subject.glob("ses-*"), key=lambda p: in_order(p.name))
    for place in (subject, *sessions):
        paths = sorted((place / datatype).glob(f"{subject.name}_*"), key=lambda p: in_order(p.name))
        for path in paths:
            names = meant(path)
            empty_room = datatype == "meg" and names.get("task") == "noise"
            first = names.get("split", "1") == "1"
            magnitude = names.get("part", "mag") == "mag"
            left_out = empty_room or not first or not magnitude
            if "task" in names and path.name.endswith(endings) and not left_out:
                found.setdefault(names["task"], []).append(path)
    return found


def of_task(
    tasks: Mapping[str, list[Path]], task: str | None, where: Path, datatype: str
) -> list[Path]:
    """A subject's recordings of the task, or of its only one where `task` is None."""
    if task is None and len(tasks) > 1:
        raise refusal(where, "one task", ", ".join(sorted(tasks)), "set data.task to one")
    if task is not None and task not in tasks:
        raise refusal(
            where,
            f"{datatype} recordings of task {task!r}",
            f"only those of {', '.join(sorted(tasks))}",
            "correct data.task",
        )
    return tasks[task] if task is not None else next(iter(tasks.values()))


def raw_of(path: Path, root: Path, folder: Path) -> Path:
    """Where the file in `folder`, derivatives or the data set itself, has its place in the raw data set."""
    return root / path.relative_to(folder)


def as_runs(
    root: Path, folder: Path, files: Sequence[Path], *, with_events: bool = True
) -> list[Run]:
    """Runs with their events, which lie in the raw data set even for derivatives."""
    runs: dict[tuple[str, str], Run] = {}
    for path in files:
        names = entities(path)
        session, run = names.get("ses", ""), names.get("run", "")
        key = session, meant(path).get("run", "")
        if key in runs:
            other = runs[key].path
            raise refusal(
                path.parent,
                "one recording per session and run",
                f"{other.name} and {path.name}",
                told_apart(other, path),
            )
        raw = raw_of(path, root, folder)
        events = sidecar(raw, root, "events.tsv") if with_events else None
        if events is None and with_events:
            raise InputError(
                f"{path}: expected events beside {raw}, found none; add "
                f"{path.name.split('_task-')[0]}_task-{names['task']}[_run-..]_events.tsv"
            )
        if events is not None:
            check_seconds(events, root)
        runs[key] = Run(path, events, f"sub-{names['sub']}", session, run)
    return list(runs.values())


def trials_of(path: Path | None, columns: Columns) -> pd.DataFrame:
    """Rows of events.tsv that show a stimulus: onset, duration, stimulus, split and labels."""
    if columns.stimulus is None or path is None:
        return pd.DataFrame({"onset": [0.0], "duration": 0.0, "stimulus": "", "split": ""})[:0]
    table = read_events(
        path,
        shows=columns.stimulus,
        others=[
            *columns.labels,
            *columns.trial,
            *filter(None, [columns.split, columns.begins]),
        ],
        remedy="add {} or correct data.stim_column, data.label_columns, data.trial_columns or "
        "data.split_column",
    ).reset_index(drop=True)
    trials = table[["onset", "duration"]].assign(
        stimulus=table[columns.stimulus],
        split=table[columns.split].fillna("") if columns.split else "",
        **{c: table[c] for c in (*columns.labels, *columns.trial)},
    )
    unknown = sorted(set(trials["split"]) - {"train", "test", ""})
    if unknown:
        raise InputError(
            f"{path}: expected train, test or n/a in column {columns.split!r}, got {unknown[0]!r}; "
            "correct the column or set data.split_column to another one"
        )
    return trials if columns.begins is None else _clips(path, table, trials, columns.begins)


def _clips(path: Path, table: pd.DataFrame, trials: pd.DataFrame, begins: str) -> pd.DataFrame:
    """The trials as clips of what they name, which stands in `clip_of`, from `clip_start` s on."""
    start, lasts = numbers(path, table, begins, least=0.0), trials["duration"].to_numpy(float)
    for column, wrong in ((begins, np.isnan(start)), ("duration", lasts <= 0)):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0]) + 1
            raise refusal(
                path, f"seconds above 0 in {column} of each clip" if column == "duration"
                else f"seconds in {column} of each clip", f"none in trial {row}", "write them there",
            )  # fmt: skip
    named = zip(trials["stimulus"], start, lasts, strict=True)
    uids = [f"{name}@{begin:.6g}+{length:.6g}" for name, begin, length in named]
    return trials.assign(clip_of=trials["stimulus"], clip_start=start, stimulus=uids)


def files_named(trials: pd.DataFrame) -> list[str]:
    """The files that trials name, each once."""
    return list(trials["clip_of" if "clip_of" in trials else "stimulus"].unique())


def stimuli_of(paths: Iterable[Path | None], columns: Columns) -> dict[str, Shown]:
    """Everything that these events show, by uid; refuses a uid with two different contents."""
    found: dict[str, Shown] = {}
    for path in dict.fromkeys(p for p in paths if p is not None):
        table = trials_of(path, columns)
        for row in table.drop_duplicates(["stimulus", *columns.labels]).to_dict("records"):
            uid = str(row["stimulus"])
            labels = {str(c): row[c] for c in columns.labels}
            if uid in found:
                check_labels(found[uid], labels, path)
            else:
                name = uid if columns.begins is None else str(row["clip_of"])
                shown = _stimulus(name, labels, columns, path)
                if columns.begins is not None:
                    clip = {"start": row["clip_start"], "duration": row["duration"], "block": name}
                    shown = replace(shown, uid=uid, **clip)
                found[uid] = Shown(shown, labels, path)
    return found


def agreed(shown: Sequence[Mapping[str, Shown]], uid: str) -> Stimulus:
    """The stimulus of a uid that one or more subjects saw; refuses one with two different contents."""
    first, *others = (seen[uid] for seen in shown if uid in seen)
    for other in others:
        check_labels(first, other.labels, other.events)
    return first.stimulus


def check_labels(known: Shown, labels: Mapping[str, Any], path: Path) -> None:
    """InputError where the events at `path` say something else about a stimulus that is known."""
    column = next((c for c in labels if known.labels[c] != labels[c]), None)
    if column is not None:
        raise refusal(
            path,
            f"{column}={known.labels[column]!r} of stimulus {known.stimulus.uid!r}, as in "
            f"{known.events.name}",
            f"{labels[column]!r}",
            "a label column holds facts about the stimulus: correct it or leave it out of data.label_columns",
        )


def _stimulus(uid: str, labels: dict[str, Any], columns: Columns, events: Path) -> Stimulus:
    if columns.kind is not None and not needs_file(columns.kind):
        return from_name(uid, columns.kind, str(columns.stimulus), (), labels)
    path = columns.folder / PurePosixPath(uid)
    kind = columns.kind or kind_of(path)
    if kind is None:
        raise refusal(
            events,
            f"files whose ending says their kind ({', '.join(SUFFIXES)}) in column {columns.stimulus!r}",
            f"{uid!r}",
            "rename it, or set data.kind (text and event need no file)",
        )
    if columns.within:
        check_place(events, path, columns.within)
    if not path.is_file():
        raise refusal(
            events,
            f"files that are there in column {columns.stimulus!r}",
            f"{uid!r}, but there is no file {path}",
            "put it there or correct data.stimuli or the events",
        )
    with about(f"{path}, named in {events.name}"):
        MEDIA[kind].glance(str(path))
    return from_file(uid, kind, path, (), labels)
