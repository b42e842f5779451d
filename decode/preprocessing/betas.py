"""Beta maps: recordings that already hold one sample per trial."""

from __future__ import annotations

import numpy as np

from decode.core import InputError, Recording, refusal
from decode.preprocessing.bold import check_signal, trial_layout
from decode.preprocessing.prepared import Prepared


def beta_maps(recording: Recording) -> Prepared:
    """Row i of the signal (trial, voxel) is the response to event i; nothing is computed.

    Raises InputError when rows and events do not match, and for NaN or constant voxels.
    """
    if recording.sfreq != 1.0:
        raise InputError(
            f"{recording.where}: expected one sample per trial (sfreq 1), got "
            f"{recording.sfreq:g} Hz; use preprocess=bold for time series"
        )
    if len(recording.signal) != len(recording.events):
        raise refusal(
            recording.where,
            "one beta map per event",
            f"{len(recording.signal)} maps and {len(recording.events)} events",
            "choose preprocess=bold for a time series, or correct the table of trials",
        )
    keep = np.ones(len(recording.channels), bool)
    signal = check_signal(recording, keep).astype(np.float32)
    table = recording.events.reset_index(drop=True).assign(
        start=np.arange(len(signal)),
        subject=recording.subject,
        session=recording.session,
        run=recording.run,
    )
    return Prepared(signal, trial_layout(recording, keep), table, timed=False)
