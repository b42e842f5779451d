"""EEG, MEG and intracranial recordings: pick channels, filter, resample, reference, cut windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from decode.core import InputError, Layout, Recording, refusal
from decode.notices import heard
from decode.preprocessing.prepared import Prepared

CHUNK_BYTES = 64 * 2**20


def meeg(
    recording: Recording,
    *,
    kinds: Sequence[str] = ("eeg",),
    channels: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    l_freq: float | None = 0.1,
    h_freq: float | None = None,
    notch: Sequence[float] = (),
    sfreq: float | None = 250.0,
    reference: str | Sequence[str] | None = None,
    window: tuple[float, float] = (0.0, 1.0),
    baseline: tuple[float, float] | None = (-0.2, 0.0),
    incomplete: Literal["refuse", "drop"] = "refuse",
) -> Prepared:
    """Zero-phase filtered, resampled signal (time, channel) and the sample each window starts at.

    Channels of one of `kinds` that are neither in `drop` nor marked bad (column `bad`) are kept, or
    exactly those named in `channels`, in that order. `l_freq`, `h_freq` and `notch` are in Hz;
    `sfreq` None keeps the sampling rate, otherwise everything above its half is removed first.
    `reference` is "average" or channel names. `window` and `baseline` are seconds after each event,
    the end excluded. Trials whose window or baseline leaves the recording are refused, or dropped.
    """
    picks = _picks(recording, kinds, channels, drop)
    rate = recording.sfreq if sfreq is None else float(sfreq)
    _check_frequencies(recording, l_freq, h_freq, notch, rate)
    n_times = round((window[1] - window[0]) * rate)
    if n_times < 1:
        raise InputError(
            f"preprocess.window: expected end after start, at least {1 / rate:g} s, "
            f"got {list(window)}"
            "; write it as [start, end] in s from the stimulus"
        )
    _check_channels(recording, picks)
    signal = _filtered(recording, picks, l_freq, h_freq, notch, rate)
    _rereference(signal, recording, picks, reference)
    offsets = None if baseline is None else _baseline(baseline, window, rate)
    reach = (min(0, offsets[0]), max(n_times, offsets[1])) if offsets else (0, n_times)
    table = _table(recording, len(signal), rate, window, reach, incomplete)
    chosen = recording.channels.iloc[picks]
    layout = Layout(
        modality=recording.modality,
        names=tuple(chosen["name"].astype(str)),
        positions=chosen[["x", "y", "z"]].to_numpy(np.float64),
        rois=tuple(chosen["roi"].astype(str)),
        sfreq=rate,
        n_times=n_times,
        start=round(window[0] * rate) / rate,
    )
    return Prepared(signal, layout, table, offsets)


def start_samples(onset: np.ndarray, begin: float, sfreq: float) -> np.ndarray:
    """Sample (int64) at which windows begin, `begin` seconds after each onset (s).

    The onset and the way from there are rounded apart (halves up), so that the event lies at the
    same sample of every window.
    """
    return np.floor(np.asarray(onset) * sfreq + 0.5).astype(np.int64) + round(begin * sfreq)


def filter_and_resample(
    x: np.ndarray,
    sfreq: float,
    *,
    l_freq: float | None,
    h_freq: float | None,
    notch: Sequence[float],
    new_sfreq: float,
) -> np.ndarray:
    """Zero-phase FIR band-pass and notch, then resampling behind a low-pass at the new Nyquist.

    `x` is (channel, time) float64; sample k of the result lies at k / new_sfreq seconds.
    """
    import mne

    if l_freq is not None or h_freq is not None:
        x = mne.filter.filter_data(x, sfreq, l_freq, h_freq, copy=True, verbose="warning")
    if len(notch):
        x = mne.filter.notch_filter(x, sfreq, np.asarray(notch, float), verbose="warning")
    if new_sfreq != sfreq:
        x = mne.filter.resample(x, up=new_sfreq, down=sfreq, npad="auto", verbose="warning")
    return x


def _filtered(
    recording: Recording,
    picks: np.ndarray,
    l_freq: float | None,
    h_freq: float | None,
    notch: Sequence[float],
    rate: float,
) -> np.ndarray:
    """A few channels at a time, so that memory does not grow with the number of channels."""
    n = len(recording.signal)
    step = max(1, CHUNK_BYTES // (8 * n))
    signal: np.ndarray | None = None
    for start in range(0, len(picks), step):
        part = picks[start : start + step]
        x = np.ascontiguousarray(recording.signal[:, part].T, np.float64)
        with heard(recording.where):
            x = filter_and_resample(
                x, recording.sfreq, l_freq=l_freq, h_freq=h_freq, notch=notch, new_sfreq=rate
            )
        if signal is None:
            signal = np.empty((x.shape[1], len(picks)), np.float32)
        signal[:, start : start + step] = x.T
    assert signal is not None
    return signal


def _picks(
    recording: Recording,
    kinds: Sequence[str],
    channels: Sequence[str] | None,
    drop: Sequence[str],
) -> np.ndarray:
    names = recording.channels["name"].astype(str).tolist()
    unknown = [name for name in (*(channels or ()), *drop) if name not in names]
    if unknown:
        raise refusal(
            "preprocess.channels/drop",
            f"channels of {recording.where}",
            f"{unknown[0]!r}",
            f"it has {', '.join(names[:6])}, ...",
        )
    if channels is not None:
        return np.array([names.index(name) for name in channels if name not in drop], np.int64)
    good = recording.channels["kind"].isin(list(kinds)) & ~recording.channels["name"].isin(drop)
    if "bad" in recording.channels:
        good &= ~recording.channels["bad"].astype(bool)
    if not good.any():
        there = sorted(set(recording.channels["kind"]))
        raise refusal(
            "preprocess.kinds",
            f"good channels of a kind that {recording.where} has, {there}",
            list(kinds),
            "name kinds that it has",
        )
    return np.flatnonzero(good)


def _check_channels(recording: Recording, picks: np.ndarray) -> None:
    """Refuse what no filter can mend; memory-mapped signals are read in pieces of time."""
    signal = recording.signal
    low, high = np.full(len(picks), np.inf), np.full(len(picks), -np.inf)
    finite = np.ones(len(picks), bool)
    step = max(1, CHUNK_BYTES // (8 * signal.shape[1]))
    for start in range(0, len(signal), step):
        x = np.asarray(signal[start : start + step])[:, picks]
        finite &= np.isfinite(x).all(0)
        low, high = np.fmin(low, np.fmin.reduce(x)), np.fmax(high, np.fmax.reduce(x))
    names = recording.channels["name"].astype(str).to_numpy()[picks]
    for bad, what in ((~finite, "NaN or infinite"), (finite & (low == high), "constant")):
        if bad.any():
            some = ", ".join(names[bad][:8]) + (", ..." if bad.sum() > 8 else "")
            raise InputError(
                f"{recording.where}: expected a signal in every channel, got {what} values in "
                f"{some}; name them in preprocess.drop or mark them bad in channels.tsv"
            )


def _check_frequencies(
    recording: Recording,
    l_freq: float | None,
    h_freq: float | None,
    notch: Sequence[float],
    rate: float,
) -> None:
    nyquist = recording.sfreq / 2
    named = [("l_freq", l_freq), ("h_freq", h_freq), *(("notch", f) for f in notch)]
    for key, value in named:
        if value is not None and not 0 < value < nyquist:
            raise InputError(
                f"preprocess.{key}: expected a frequency between 0 and {nyquist:g} Hz (half the "
                f"sampling rate of {recording.where}), got {value:g}"
                "; lower it below half the sampling rate, or set it to null"
            )
    if l_freq is not None and h_freq is not None and l_freq >= h_freq:
        raise InputError(
            f"preprocess.l_freq: expected less than h_freq ({h_freq:g} Hz), got {l_freq:g}"
            "; lower l_freq or raise h_freq"
        )
    if rate <= 0:
        raise InputError(
            f"preprocess.sfreq: expected a positive rate in Hz, got {rate:g}; give a rate in Hz, or "
            "null for that of the recording"
        )


def _rereference(
    signal: np.ndarray,
    recording: Recording,
    picks: np.ndarray,
    reference: str | Sequence[str] | None,
) -> None:
    """Subtract the mean of all channels, or of the named ones, in place."""
    if reference is None:
        return
    if reference == "average":
        signal -= signal.mean(1, keepdims=True)
        return
    wanted = [reference] if isinstance(reference, str) else list(reference)
    names = recording.channels["name"].astype(str).to_numpy()[picks].tolist()
    missing = [name for name in wanted if name not in names]
    if missing:
        raise InputError(
            f"preprocess.reference: expected 'average' or picked channels, got {missing[0]!r}, "
            f"which {recording.where} has not or preprocessing did not pick"
            "; name channels that it has"
        )
    signal -= signal[:, [names.index(name) for name in wanted]].mean(1, keepdims=True)


def _baseline(
    baseline: tuple[float, float], window: tuple[float, float], rate: float
) -> tuple[int, int]:
    begin = round(window[0] * rate)
    first, last = (round(edge * rate) - begin for edge in baseline)
    if last <= first:
        raise InputError(
            f"preprocess.baseline: expected end after start, at least {1 / rate:g} s, "
            f"got {list(baseline)}"
            "; write it as [start, end] in s from the stimulus, or null"
        )
    return first, last


def _table(
    recording: Recording,
    n_samples: int,
    rate: float,
    window: tuple[float, float],
    reach: tuple[int, int],
    incomplete: str,
) -> pd.DataFrame:
    """Events with the start of their window; `reach` is what a trial reads, relative to it."""
    events = recording.events.reset_index(drop=True)
    length = len(recording.signal) / recording.sfreq
    if reach[1] - reach[0] > n_samples:
        raise refusal(
            "preprocess.window",
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
        "correct the events, shorten preprocess.window or .baseline, or set preprocess.incomplete=drop",
    )
