"""Band-pass, high-pass or low-pass."""

from __future__ import annotations

from dataclasses import replace

from decode.core import Recording
from decode.preprocessing.frequencies import check_band, check_frequency, reach_of_band
from decode.preprocessing.streams import channel_by_channel


class Filter:
    """What lies between `low` and `high` Hz; None leaves that side open, both leave the signal alone.

    A zero-phase FIR filter (a window of Hamming's kind, length and transition bands as MNE chooses
    them): nothing moves in time. At the ends of a run the signal is continued by its mirror image;
    within the length of the filter of an end it is an estimate. Raises InputError for frequencies that
    the sampling rate does not carry.
    """

    def __init__(self, *, low: float | None = 0.1, high: float | None = None) -> None:
        check_band(low, high)
        self.low, self.high = low, high

    def __call__(self, recording: Recording) -> Recording:
        import mne

        named = {"low": self.low, "high": self.high}
        for key, value in named.items():
            if value is not None:
                check_frequency(recording, key, value)
        if self.low is None and self.high is None:
            return recording
        signal = channel_by_channel(
            recording,
            lambda x: mne.filter.filter_data(
                x, recording.sfreq, self.low, self.high, copy=True, verbose="warning"
            ),
        )
        reach = recording.reach + reach_of_band(recording.sfreq, self.low, self.high)
        return replace(recording, signal=signal, reach=reach)
