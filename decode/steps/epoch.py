"""Windows of a recording around its events."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from decode.core import Recording, refusal
from decode.preprocessing.bold import trial_layout
from decode.preprocessing.prepared import Prepared
from decode.preprocessing.streams import check_finite
from decode.stimuli import NOTHING


class Epoch:
    """The last step of EEG, MEG and intracranial recordings: where the window of each event begins.

    `window` and `baseline` are seconds after each event, the end excluded; the mean over `baseline` is
    subtracted from each channel when a window is read. Trials whose window or baseline leaves the
    recording are refused, or with `incomplete` "drop" left out: no window reaches into another run.
    With `hop` a window begins every so many seconds of the run, as early as it is whole and as long as
    it is, whatever the events are: for learning without targets, or of rest. Such trials show nothing
    (`decode.stimuli.NOTHING`).
    Raises InputError for windows without a sample, for events outside the recording and for values that
    are no numbers.
    """

    def __init__(
        self,
        *,
        window: tuple[float, float] = (0.0, 1.0),
        baseline: tuple[float, float] | None = (-0.2, 0.0),
        incomplete: Literal["refuse", "drop"] = "refuse",
        hop: float | None = None,
    ) -> None:
        self.window, self.baseline, self.incomplete = window, baseline, incomplete
        self.hop = hop

    def __call__(self, recording: Recording) -> Prepared:
        rate = recording.sfreq
        n_times = round((self.window[1] - self.window[0]) * rate)
        if n_times < 1:
            raise refusal(
                "window",
                f"end after start, at least {1 / rate:g} s",
                list(self.window),
                "write [start, end] in s from the stimulus",
            )
        check_finite(recording)
        offsets = None if self.baseline is None else _baseline(self.baseline, self.window, rate)
        reach = (min(0, offsets[0]), max(n_times, offsets[1])) if offsets else (0, n_times)
        if self.hop is not None:
            recording = replace(recording, events=_every(self.hop, recording, self.window, reach))
        table = _table(recording, self.window, reach, self.incomplete)
        layout = replace(
            trial_layout(recording, np.ones(len(recording.channels), bool)),
            sfreq=rate,
            n_times=n_times,
            start=round(self.window[0] * rate) / rate,
        )
        return Prepared(recording.signal, layout, table, offsets, recording.reach)


def start_samples(onset: np.ndarray, begin: float, sfreq: float) -> np.ndarray:
    """Sample (int64) at which windows begin, `begin` seconds after each onset (s).

    The onset and the way from there are rounded apart (halves up), so that the event lies at the
    same sample of every window.
    """
    return np.floor(np.asarray(onset) * sfreq + 0.5).astype(np.int64) + round(begin * sfreq)


def _baseline(
    baseline: tuple[float, float], window: tuple[float, float], rate: float
) -> tuple[int, int]:
    begin = round(window[0] * rate)
    first, last = (round(edge * rate) - begin for edge in baseline)
    if last <= first:
        raise refusal(
            "baseline",
            f"end after start, at least {1 / rate:g} s",
            list(baseline),
            "write [start, end] in s from the stimulus, or null",
        )
    return first, last


def _every(
    hop: float, recording: Recording, window: tuple[float, float], reach: tuple[int, int]
) -> pd.DataFrame:
    """Events every `hop` s, from the first to the last whose window is whole."""
    rate, begin = recording.sfreq, round(window[0] * recording.sfreq)
    first = max(0.0, (-reach[0] - begin) / rate)
    last = min(len(recording.signal) - reach[1] - begin, len(recording.signal) - 1) / rate
    onset = first + hop * np.arange(max(0, int(np.floor((last - first) / hop + 1e-9)) + 1))
    events = pd.DataFrame({"onset": onset, "duration": window[1] - window[0]})
    return events.assign(stimulus=NOTHING.uid, split="")


def _table(
    recording: Recording,
    window: tuple[float, float],
    reach: tuple[int, int],
    incomplete: str,
) -> pd.DataFrame:
    """Events with the start of their window; `reach` is what a trial reads, relative to it."""
    events = recording.events.reset_index(drop=True)
    n_samples, rate = len(recording.signal), recording.sfreq
    length = n_samples / rate
    if reach[1] - reach[0] > n_samples:
        raise refusal(
            "window",
            f"at most what {recording.where} lasts, {length:.3f} s",
            f"{(reach[1] - reach[0]) / rate:.3f} s of one window with its baseline",
            "shorten it",
        )
    onset = events["onset"].to_numpy(np.float64)
    starts = start_samples(np.nan_to_num(onset, nan=-1e6), window[0], rate)
    _refuse_event(recording, events, ~((onset >= 0) & (onset < length)), "the event")
    inside = (starts + reach[0] >= 0) & (starts + reach[1] <= n_samples)
    if incomplete == "refuse":
        _refuse_event(recording, events, ~inside, "the window or baseline of the event")
    table = events.assign(
        start=starts, subject=recording.subject, session=recording.session, run=recording.run
    )
    return table[inside].reset_index(drop=True)


def _refuse_event(
    recording: Recording, events: pd.DataFrame, outside: np.ndarray, what: str
) -> None:
    if not outside.any():
        return
    row = int(np.flatnonzero(outside)[0])
    length = len(recording.signal) / recording.sfreq
    raise refusal(
        recording.where,
        f"{what} inside the recording, which lasts {length:.3f} s",
        f"row {row} ({events['stimulus'][row]!r}, onset {events['onset'][row]:g} s), where it leaves it",
        "correct the events, shorten preprocess.trials.window or .baseline, or set "
        "preprocess.trials.incomplete=drop",
    )
