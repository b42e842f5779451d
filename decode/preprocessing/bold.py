"""BOLD runs to one beta per trial."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from decode.core import InputError, Layout, Recording, refusal
from decode.notices import tell
from decode.preprocessing import blocks, glm
from decode.preprocessing.prepared import Prepared

Method = Literal["lss", "lsa"]
WEIGHTS = {"lss": glm.separate_weights, "lsa": glm.together_weights}
CONFOUND = "confound"


def single_trial_betas(
    recording: Recording,
    *,
    method: Method = "lss",
    hrf: str = "glover",
    high_pass: float = 0.01,
    noise: Literal["white", "ar1"] = "white",
    slice_time: float | None = None,
    min_response: float = 0.2,
    join: float | None = None,
) -> Prepared:
    """One beta per trial and voxel, in percent signal change at the peak of the response.

    `method` is "lss" (least squares - separate: stable when trials follow each other quickly) or
    "lsa" (least squares - all: unbiased, noisier). `hrf` is "glover" or "spm"; `high_pass` is the
    highest frequency (Hz) of the cosine drifts; `noise` "ar1" prewhitens with one autocorrelation
    per run; `slice_time` is the moment within a TR that a volume stands for (0 start, 0.5 middle;
    None: what the recording says, as fMRIPrep does with StartTime, else 0). With `join` events of one
    stimulus that follow each other within so many seconds are one block, and there is one beta per
    block. Channels of kind "confound" are regressed out and left out of the result. Where events make
    blocks and single trials are fitted, it is said.

    Raises InputError for recordings that hold one response per trial already, for NaN or constant
    voxels, for events outside the recording or longer than it, and for trials of whose response less
    than the share `min_response` was recorded.
    """
    if join is not None and not 0 <= join < np.inf:
        raise refusal("preprocess.trials.join", "a gap in s from 0, or null", join, "correct it")
    if method not in WEIGHTS:
        raise refusal(
            "preprocess.trials.method", f"one of {sorted(WEIGHTS)}", f"{method!r}", "choose one"
        )
    if noise not in ("white", "ar1"):
        raise refusal("preprocess.trials.noise", "'white' or 'ar1'", f"{noise!r}", "choose one")
    check_series(recording)
    brain = (recording.channels["kind"] != CONFOUND).to_numpy()
    signal = check_signal(recording, brain)
    tr = 1 / recording.sfreq
    n = len(signal)
    check_events(recording, n * tr)
    recording = _in_blocks(recording, method, join)
    onsets = recording.events["onset"].to_numpy(float)
    durations = recording.events["duration"].fillna(0.0).to_numpy(float)
    times = volume_times(recording, slice_time)
    trials = glm.trial_regressors(onsets, durations, times, hrf=hrf)
    _check_recorded(recording, trials, times, hrf, min_response)
    confounds = np.asarray(recording.signal[:, ~brain], np.float64)
    nuisance = np.hstack([glm.cosine_drift(n, tr, high_pass), standardised(confounds)])
    if nuisance.shape[1] + 2 >= n:
        raise refusal(
            recording.where,
            f"more volumes than drift and confound regressors, {nuisance.shape[1]}",
            n,
            "lower preprocess.trials.high_pass or use fewer confounds",
        )
    weights = beta_weights(trials, nuisance, method=method, rho=None)
    if noise == "ar1":
        rho = glm.residual_ar1(signal, np.hstack([trials, nuisance]))
        weights = beta_weights(trials, nuisance, method=method, rho=rho)
    table = recording.events.reset_index(drop=True).assign(
        start=np.arange(len(onsets)),
        subject=recording.subject,
        session=recording.session,
        run=recording.run,
    )
    return Prepared(
        (weights @ signal).astype(np.float32), trial_layout(recording, brain), table, timed=False
    )


def _in_blocks(recording: Recording, method: Method, join: float | None) -> Recording:
    """The recording with its events joined, if asked for; says so where blocks are taken for trials."""
    if join is not None:
        return replace(recording, events=blocks.joined(recording.events, join))
    length = blocks.typical_block(recording.events) if method == "lss" else None
    if length is not None:
        tell(
            recording.where,
            f"events make blocks of about {length:.0f} s, of which single trials are fitted and slow changes "
            "taken away; preprocess=bold_blocks fits one response per block, and scaler=mvnn_repeats suits "
            "classes that return in every run",
        )
    return recording


def volume_times(recording: Recording, slice_time: float | None = None) -> np.ndarray:
    """(time,) s that volumes stand for, on the clock of the onsets; `slice_time` as for the betas."""
    tr = 1 / recording.sfreq
    if slice_time is None:
        return np.arange(len(recording.signal)) * tr + recording.offset
    if not 0 <= slice_time <= 1:
        raise refusal(
            "preprocess.trials.slice_time",
            "null or a share of a TR from 0 to 1",
            slice_time,
            "correct it",
        )
    if recording.offset and abs(slice_time * tr - recording.offset) > 0.01 * tr:
        tell(
            recording.where,
            f"its files say that a volume stands for {recording.offset:g} s after its start, taken is "
            f"preprocess.trials.slice_time, {slice_time * tr:g} s",
        )
    return (np.arange(len(recording.signal)) + slice_time) * tr


def beta_weights(
    trials: np.ndarray, nuisance: np.ndarray, *, method: Method, rho: float | None
) -> np.ndarray:
    """(trial, time) weights with betas = weights @ signal; `rho` prewhitens AR(1) noise."""
    if rho is None:
        return WEIGHTS[method](trials, nuisance)
    p = glm.ar1_whitener(len(trials), rho)
    return WEIGHTS[method](p @ trials, p @ nuisance) @ p


def trial_layout(recording: Recording, keep: np.ndarray) -> Layout:
    """Layout of one sample per trial over the channels that `keep` (channel,) marks."""
    channels = recording.channels[keep]
    return Layout(
        modality=recording.modality,
        names=tuple(channels["name"]),
        positions=channels[["x", "y", "z"]].to_numpy(float),
        rois=tuple(channels["roi"].fillna("")),
        sfreq=1.0,
        n_times=1,
    )


def check_series(recording: Recording) -> None:
    """InputError for beta maps, whose sample i is the response to event i and no moment in time."""
    onsets = recording.events["onset"].to_numpy(float)
    n = len(recording.signal)
    if recording.sfreq == 1.0 and len(onsets) == n and np.array_equal(onsets, np.arange(n)):
        raise InputError(
            f"{recording.where}: expected a run of volumes, got {n} samples for {n} events: one response "
            "per trial, estimated already; use preprocess=betas"
        )


def check_signal(recording: Recording, keep: np.ndarray) -> np.ndarray:
    """Signal (time, voxel) float64 of the kept channels; InputError for NaN or constant ones."""
    signal = np.asarray(recording.signal[:, keep], np.float64)
    broken = np.asarray(~np.isfinite(signal).all(axis=0))
    # One sample alone cannot vary: a run with a single beta map is fine.
    flat = np.asarray(np.ptp(np.where(broken, 0.0, signal), axis=0) == 0)
    constant = ~broken & flat & (len(signal) > 1)
    for bad, word in ((broken, "NaN or infinite values"), (constant, "a constant signal")):
        if bad.any():
            names = recording.channels["name"].to_numpy()[keep][bad]
            raise InputError(
                f"{recording.where}: expected a finite, varying signal in all {len(bad)} channels, "
                f"got {word} in {bad.sum()} ({', '.join(map(str, names[:3]))}"
                f"{', ...' if bad.sum() > 3 else ''}); leave them out of the mask"
            )
    return signal


def check_events(recording: Recording, length: float) -> None:
    """InputError unless every event starts inside the recording of `length` seconds and lasts no longer."""
    events = recording.events
    onsets = events["onset"].to_numpy(float)
    if not len(onsets):
        raise refusal(
            recording.where, "at least one event", "none", "correct its events or leave the run out"
        )
    outside = np.flatnonzero(~((onsets >= 0) & (onsets < length)))
    if len(outside):
        i = outside[0]
        name = events["stimulus"].iloc[i] if "stimulus" in events else ""
        raise refusal(
            recording.where,
            f"events inside the recording of {length:g} s",
            f"event {i} ({name}) at {onsets[i]:g} s",
            "correct the onsets or the TR in the events or image header",
        )
    lasts = events["duration"].fillna(0.0).to_numpy(float)
    if (odd := np.flatnonzero(~((lasts >= 0) & (lasts <= length)))).size:
        raise refusal(
            f"{recording.where}, event {odd[0]}",
            f"a duration from 0 s to that of the recording, {length:g} s",
            f"{lasts[odd[0]]:g} s",
            "correct the events: onsets and durations are seconds",
        )


def _check_recorded(
    recording: Recording, trials: np.ndarray, times: np.ndarray, hrf: str, least: float
) -> None:
    """InputError when a trial's response lies mostly after the last volume."""
    events = recording.events
    step = times[1] - times[0] if len(times) > 1 else 1.0
    onsets = events["onset"].to_numpy(float)
    durations = events["duration"].fillna(0.0).to_numpy(float)
    longer = np.arange(times[0], times[-1] + durations.max() + 32, step)
    whole = np.sum(glm.trial_regressors(onsets, durations, longer, hrf=hrf) ** 2, axis=0)
    share = np.sum(trials**2, axis=0) / whole
    late = np.flatnonzero(share < least)
    if len(late):
        i = late[0]
        raise refusal(
            recording.where,
            f"{least:.0%} of each response in the recording of {len(times) * step:g} s",
            f"only {share[i]:.0%} of that to event {i} at {onsets[i]:g} s",
            f"drop {len(late)} such event(s) or lower preprocess.trials.min_response",
        )


def standardised(x: np.ndarray) -> np.ndarray:
    """Columns of x (time, confound) with mean 0 and standard deviation 1; what is NaN has the mean."""
    x = np.nan_to_num(x - np.nanmean(x, axis=0, keepdims=True)) if x.size else x
    scale = x.std(axis=0, keepdims=True)
    return x / np.where(scale > 0, scale, 1.0)
