"""preprocess: raw recordings of one subject -> continuous signal, trials and the stimuli they name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from decode.core import (
    PARTS,
    Dataset,
    InputError,
    Layout,
    Recording,
    Stimulus,
    joint_digest,
    refusal,
)
from decode.notices import tell
from decode.preprocessing.prepared import Cut, Prepared
from decode.preprocessing.streams import stretches
from decode.progress import progress
from decode.scratch import scratch_in
from decode.series import stretches_of
from decode.stimuli import with_nothing
from decode.store import write_json, write_table


def run(
    out: Path,
    *,
    dataset: Dataset,
    preprocess: Cut,
    subject: str,
) -> dict[str, Any]:
    """Fill `out` with signal.npy (time, channel), trials.parquet, stimuli.parquet and layout.json."""
    if subject not in dataset.subjects:
        raise InputError(
            f"subjects: expected some of {list(dataset.subjects)}, got {subject!r}; correct the list"
        )
    tables: list[pd.DataFrame] = []
    first: Prepared | None = None
    length, begins = 0, []
    dropped: dict[str, int] = {}
    with scratch_in(out), _GrowingArray(out / "signal.npy") as signal:
        for recording in progress(dataset.recordings(subject), f"preprocess {subject}"):
            prepared = preprocess(recording)
            first = first or prepared
            _same_layout(first.layout, prepared.layout, recording)
            signal.append(prepared.signal)
            tables.append(prepared.table.assign(start=prepared.table["start"] + length))
            begins.append(length)
            length += len(prepared.signal)
            dropped[recording.where] = len(recording.events) - len(prepared.table)
    _tell_dropped(subject, dropped, sum(map(len, tables)))
    if first is None or not tables:
        raise refusal(
            f"subject {subject}",
            "recordings in the data set",
            "none",
            "put them there or correct paths.data",
        )
    trials = pd.concat(tables, ignore_index=True)
    if trials.empty:
        raise refusal(
            f"subject {subject}",
            "trials after preprocessing",
            "none",
            "correct its events, or preprocess.window",
        )
    known = with_nothing(dataset.stimuli())
    write_table(out / "stimuli.parquet", describe_stimuli(trials["stimulus"], known))
    write_table(out / "trials.parquet", with_blocks(trials, known))
    write_json(out / "layout.json", {**_layout_facts(first), "runs": begins})
    return {"n_trials": len(trials), "n_samples": length, "n_channels": first.layout.n_channels}


def _tell_dropped(subject: str, dropped: Mapping[str, int], n_kept: int) -> None:
    """How many trials are missing from the table, since their windows leave the recording."""
    gone = {where: n for where, n in dropped.items() if n > 0}
    if not gone:
        return
    n = sum(gone.values())
    runs = (
        f"in {len(gone)} runs, first {next(iter(gone))}"
        if len(gone) > 1
        else f"in {next(iter(gone))}"
    )
    tell(
        f"subject {subject}",
        f"{n} of {n + n_kept} trials dropped, as preprocess.trials.incomplete=drop says: their windows leave "
        f"the recording ({runs})",
    )


def with_blocks(trials: pd.DataFrame, known: Mapping[str, Stimulus]) -> pd.DataFrame:
    """The trials with the blocks that their stimuli belong to in the column `block`, where any does; what
    the events say of it themselves stands.
    """
    blocks = trials["stimulus"].map(lambda uid: known[uid].block)
    if blocks.notna().any():
        said = trials["block"] if "block" in trials else pd.Series(None, trials.index, object)
        trials = trials.assign(block=said.where(said.notna(), blocks))
    return trials


def describe_stimuli(uids: pd.Series, known: Mapping[str, Stimulus]) -> pd.DataFrame:
    """One row per stimulus: uid, kind, the digest of its content and of each part of it and, of a picture
    or film, height and width (else 0). Of what lies in a file also the stretch that its series is made
    of (`decode.series`) and how many seconds after its beginning it is.

    Raises InputError for a stimulus that is not known, and for a file that is missing or cannot be
    read to its end: it would be found hours later, when targets are computed.
    """
    rows, changed = [], Counter[str]()
    clips = {uid: known[uid] for uid in pd.unique(uids) if uid in known}
    stretches = stretches_of(clips, known)
    for uid in pd.unique(uids):
        if uid not in known:
            raise refusal(
                "events",
                "stimuli that the data set lists",
                f"{uid!r}, which it does not",
                "correct the events or add the stimulus",
            )
        stimulus = known[uid]
        seen, parts = stimulus.look(), stimulus.digests()
        changed.update(seen.peculiar)
        row: dict[str, Any] = {
            "uid": uid,
            "kind": stimulus.kind,
            "digest": joint_digest(parts, PARTS),
        }
        row |= {"height": seen.height, "width": seen.width}
        row |= {str(part): hashed for part, hashed in parts.items()}
        if (stretch := stretches.get(uid)) is not None:
            row |= {"series": stretch.digest({"file"}), "at": stimulus.start - stretch.start}
            row |= {"series_start": stretch.start, "series_duration": stretch.duration}
        rows.append(row)
    for what, n in changed.items():
        tell("stimuli", f"{n} of {len(rows)} pictures have {what}")
    return pd.DataFrame(rows)


def _layout_facts(prepared: Prepared) -> dict[str, Any]:
    layout = prepared.layout
    return {
        "modality": layout.modality,
        "names": list(layout.names),
        "positions": np.asarray(layout.positions, float).round(6).tolist(),
        "rois": list(layout.rois),
        "sfreq": layout.sfreq,
        "n_times": layout.n_times,
        "start": layout.start,
        "baseline": list(prepared.baseline) if prepared.baseline else None,
        "reach": prepared.reach,
        "timed": prepared.timed,
    }


def _same_layout(first: Layout, now: Layout, recording: Recording) -> None:
    alike = "; leave the run out or make the runs alike"
    if first.names != now.names:
        one, other = set(first.names), set(now.names)
        names = [*sorted(other - one)[:4], *(f"no {n}" for n in sorted(one - other)[:4])]
        got = ", ".join(names) or "another order of them"
        raise refusal(
            recording.where,
            f"the {first.n_channels} channels of the subject's first run",
            f"{got}{alike}",
            "leave that run out, or give all runs one mask or montage",
        )
    if first.n_times != now.n_times or first.sfreq != now.sfreq:
        raise refusal(
            recording.where,
            f"windows of {first.n_times} samples at {first.sfreq:g} Hz as in the subject's first run",
            f"{now.n_times} at {now.sfreq:g} Hz{alike}",
            "set preprocess.sfreq, so that all runs have one rate, or leave that run out",
        )


class _GrowingArray:
    """A float32 .npy file whose rows are appended, so that a subject never has to fit in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self.width: int | None = None

    def __enter__(self) -> _GrowingArray:
        self.file = self.path.open("wb+")
        return self

    def append(self, values: np.ndarray) -> None:
        if self.width is None:
            self.width = values.shape[1]
            self._header()
        for piece in stretches(values):
            self.file.write(np.ascontiguousarray(values[piece], np.float32).tobytes())
        self.rows += len(values)

    def _header(self) -> None:
        facts = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.width)}
        np.lib.format.write_array_header_1_0(self.file, facts)

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None and self.width is not None:
            end = self.file.tell()
            # numpy pads the header so that the first axis may grow without moving the data.
            self.file.seek(0)
            self._header()
            if (end - self.file.tell()) != self.rows * self.width * 4:
                raise RuntimeError("the array header changed its length")
            os.fsync(self.file.fileno())
        self.file.close()
