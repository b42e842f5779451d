"""New recordings -> windows that a decoder reads: aligned, preprocessed as in training, compared with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pandas as pd

from decode.core import Dataset, Facts, Layout, Narrowing, Recording, Stimulus, Truth, refusal
from decode.notices import tell
from decode.preprocessing.prepared import Prepared
from decode.stages import preprocess
from decode.trials import Trials, open_trials
from decode.use.decoder import Decoder
from decode.use.fits import REFUSED, Fit, align, check_layout, check_scale
from decode.use.trained import spread_of

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, eq=False)
class New:
    """New trials, the stimuli that are known of them, and how the recordings fit the decoder."""

    trials: Trials
    stimuli: Mapping[str, Stimulus]
    fits: Sequence[Fit]


class Aligned:
    """A data set as a decoder meets it: recordings have the channels of `layout`, in that order, and each
    trial whose stimulus is not said or not known is one of its own, an event without a file.
    """

    facts: ClassVar[Facts]

    def __init__(self, dataset: Dataset, layout: Layout) -> None:
        self.dataset, self.layout = dataset, layout
        self.facts = dataset.facts  # type: ignore[misc]
        self.subjects = tuple(dataset.subjects)
        self.fits: list[Fit] = []
        self.unknown: dict[str, Stimulus] = {}

    def recordings(self, subject: str) -> Iterator[Recording]:
        for recording in self.dataset.recordings(subject):
            aligned, fits = align(recording, self.layout)
            if recording.sfreq != self.layout.sfreq and recording.modality != "fmri":
                said = f"recorded at {recording.sfreq:g} Hz, read at {self.layout.sfreq:g} Hz"
                fits.append(Fit(subject, "rate", said))
            self.fits += [fit for fit in fits if fit not in self.fits]
            yield replace(aligned, events=self._named(aligned.events))

    def _named(self, events: pd.DataFrame) -> pd.DataFrame:
        known, uids = self.dataset.stimuli(), []
        said = events["stimulus"] if "stimulus" in events else pd.Series([""] * len(events))
        for value in said:
            uid = "" if pd.isna(value) else str(value)
            if uid not in known:
                uid = f"{UNKNOWN}/{len(self.unknown):05d}"
                self.unknown[uid] = Stimulus(uid, "event")
            uids.append(uid)
        split = events.get("split", "")
        return events.assign(stimulus=uids, split=split)

    def stimuli(self) -> Mapping[str, Stimulus]:
        return {**self.dataset.stimuli(), **self.unknown}

    def files(self, subject: str) -> Iterable[Path]:
        return self.dataset.files(subject)

    def truth(self, subject: str) -> Truth | None:
        return self.dataset.truth(subject)


def read_new(
    decoder: Decoder,
    dataset: Dataset,
    work: Path,
    *,
    step: Callable[[Recording], Prepared],
    subjects: Sequence[str] | None = None,
    known_as: Mapping[str, str] | None = None,
    trials: str | None = None,
    scale_within: float | None = REFUSED,
) -> New:
    """Preprocess subjects into folders below `work`, and keep the trials that satisfy the query `trials`.

    `known_as` says which subject of the decoder a new one is, where it is called otherwise.
    """
    names = _subjects(dataset, subjects)
    if isinstance(dataset, Narrowing):
        dataset = dataset.only(names)
    called = _called(names, {str(k): str(v) for k, v in (known_as or {}).items()}, decoder)
    fits: list[Fit] = []
    folders: dict[str, Path] = {}
    known: dict[str, Stimulus] = {}
    for name in names:
        who, out = called[name], work / str(len(folders))
        fits.append(
            Fit(name, "subject", decoder.reads(who) + (f" as {who}" if who != name else ""))
        )
        aligned = Aligned(dataset, decoder.layout_for(who))
        out.mkdir(parents=True)
        preprocess.run(out, dataset=aligned, preprocess=step, subject=name)
        fits += aligned.fits
        known.update(aligned.stimuli())
        folders[who] = out
    opened = open_trials(folders)
    for name in names:
        layout = opened.signals[called[name]].layout
        fits += check_layout(name, layout, decoder.layout_for(called[name]))
    check_baselines(opened, decoder)
    kept = opened if trials is None else _where(opened, trials)
    for name in names:
        now, then = spread_of(kept, called[name]), decoder.usual_spread(called[name])
        fits.append(check_scale(name, now, then, scale_within))
    for fit in fits:
        if fit.worth_telling:
            tell(f"subject {fit.subject}", f"{fit.what}: {fit.said}")
    return New(kept, {u: s for u, s in known.items() if not u.startswith(f"{UNKNOWN}/")}, fits)


def _subjects(dataset: Dataset, asked: Sequence[str] | None) -> list[str]:
    there = list(dataset.subjects)
    names = there if asked is None else [str(s) for s in asked]
    if wrong := [s for s in names if s not in there]:
        raise refusal("subjects", f"some of {there}", repr(wrong[0]), "correct the list")
    return names


def _called(names: Sequence[str], known_as: Mapping[str, str], decoder: Decoder) -> dict[str, str]:
    """The decoder's name of each new subject, its own where nothing is said."""
    for new, old in known_as.items():
        if new not in names or old not in decoder.people:
            raise refusal(
                f"known_as.{new}",
                f"one of {list(names)} and whom it is of {list(decoder.people)}",
                f"{new}: {old}",
                "correct it",
            )
    called = {name: known_as.get(name, name) for name in names}
    if len(set(called.values())) < len(called):
        raise refusal("known_as", "one new subject for each", str(called), "read them one by one")
    return called


def check_baselines(opened: Trials, decoder: Decoder) -> None:
    """Raise InputError where windows would lose another baseline than in training."""
    for who, signal in opened.signals.items():
        expected = decoder.person(who).baseline
        if signal.baseline != expected:
            raise refusal(
                f"subject {who}", f"a baseline of the samples {expected}", f"{signal.baseline}",
                "preprocess as the run did",
            )  # fmt: skip


def _where(trials: Trials, query: str) -> Trials:
    try:
        kept = trials.where(query)
    except Exception as e:  # pandas raises what it likes
        raise refusal(
            "trials", f"a condition on the columns {sorted(trials.table.columns)}", repr(query),
            f"write it as pandas' query does, such as \"split == 'test'\" ({e})",
        ) from e  # fmt: skip
    if not len(kept):
        raise refusal("trials", "a condition that some trial meets", repr(query), "widen it")
    return kept
