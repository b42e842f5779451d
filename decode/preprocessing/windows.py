"""BOLD runs to windows of volumes after each stimulus, without a model of the response."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from decode.core import Recording, refusal
from decode.preprocessing import glm
from decode.preprocessing.bold import (
    CONFOUND,
    check_events,
    check_signal,
    standardised,
    trial_layout,
)
from decode.preprocessing.prepared import Prepared


def bold_windows(
    recording: Recording,
    *,
    start: float = 4.6,
    n_trs: int = 6,
    detrend: bool = True,
    standardise: bool = True,
    incomplete: Literal["refuse", "drop"] = "drop",
) -> Prepared:
    """`n_trs` volumes of each trial, the first one `start` s after the volume of its onset.

    Both ways are rounded to whole TRs apart, so that a trial is at the same volume of every window.
    Each voxel of a run loses its mean and, with `detrend`, a straight line; with `standardise` it is
    divided by its standard deviation over the run (of a sample, n - 1). Both look at the whole run,
    its test trials included, but at no stimulus. Channels of kind "confound" are regressed out with
    the trend and left out of the result. Trials whose window leaves the run are dropped or refused.

    The windows of Dynadiff (Careil et al. 2025, arXiv:2505.14556). Raises InputError for NaN or
    constant voxels, events outside the run, and a run without any whole window.
    """
    if n_trs < 1:
        raise refusal("preprocess.trials.n_trs", "at least 1 volume", n_trs, "raise it")
    if incomplete not in ("refuse", "drop"):
        raise refusal(
            "preprocess.trials.incomplete", "'refuse' or 'drop'", f"{incomplete!r}", "choose one"
        )
    brain = (recording.channels["kind"] != CONFOUND).to_numpy()
    signal = check_signal(recording, brain)
    n = len(signal)
    check_events(recording, n / recording.sfreq)
    trend = np.linspace(-1, 1, n)[:, None] if detrend else np.empty((n, 0))
    confounds = standardised(np.asarray(recording.signal[:, ~brain], np.float64))
    signal = glm.remove(signal, np.hstack([np.ones((n, 1)), trend, confounds]))
    if standardise:
        signal /= _spread(recording, signal)
    onsets = recording.events["onset"].to_numpy(float)
    delay = round(start * recording.sfreq)
    # The volume that stands for the moment nearest to the onset.
    first = np.floor((onsets - recording.offset) * recording.sfreq + 0.5).astype(np.int64) + delay
    inside = (first >= 0) & (first + n_trs <= n)
    if not inside.all() and (incomplete == "refuse" or not inside.any()):
        i = int(np.flatnonzero(~inside)[0])
        raise refusal(
            recording.where,
            f"the volumes {first[i]} to {first[i] + n_trs - 1}, which the window of event {i} at "
            f"{onsets[i]:g} s needs",
            f"a run of {n}",
            "shorten preprocess.trials.n_trs or set preprocess.trials.incomplete=drop",
        )
    table = recording.events.reset_index(drop=True).assign(
        start=first,
        subject=recording.subject,
        session=recording.session,
        run=recording.run,
    )
    layout = replace(
        trial_layout(recording, brain),
        sfreq=recording.sfreq,
        n_times=n_trs,
        start=delay / recording.sfreq,
    )
    table = table[inside].reset_index(drop=True)
    return Prepared(signal.astype(np.float32), layout, table, reach=recording.reach)


def _spread(recording: Recording, signal: np.ndarray) -> np.ndarray:
    spread = signal.std(axis=0, ddof=1)
    # What is left of a voxel that is nothing but a trend is rounding error.
    flat = np.flatnonzero(spread <= 1e-10 * spread.max())
    if len(flat):
        raise refusal(
            recording.where,
            "voxels that vary beyond a trend",
            f"{len(flat)} that do not (the first is number {flat[0]})",
            "leave them out of the mask",
        )
    return spread
