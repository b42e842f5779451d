"""Line noise and other tones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from decode.core import Recording
from decode.preprocessing.frequencies import check_frequency, reach_of
from decode.preprocessing.streams import channel_by_channel


class Notch:
    """Everything but narrow bands around `frequencies` (Hz), and around their multiples with `harmonics`.

    Harmonics go up to half the sampling rate. A zero-phase FIR filter whose notches are 1/200 of their
    frequency wide, as MNE has it. Raises InputError for frequencies that the sampling rate does not carry.
    """

    def __init__(self, *, frequencies: Sequence[float] = (50.0,), harmonics: bool = False) -> None:
        self.frequencies, self.harmonics = tuple(frequencies), harmonics

    def __call__(self, recording: Recording) -> Recording:
        import mne

        for value in self.frequencies:
            check_frequency(recording, "frequencies", value)
        tones = self.tones(recording.sfreq)

        def without(x: np.ndarray) -> np.ndarray:
            return mne.filter.notch_filter(x, recording.sfreq, tones, verbose="warning")

        signal = channel_by_channel(recording, without)
        reach = recording.reach + reach_of(without, recording.sfreq)
        return replace(recording, signal=signal, reach=reach)

    def tones(self, sfreq: float) -> np.ndarray:
        """The frequencies (Hz) that are taken out of a signal of that rate, each once."""
        found = list(self.frequencies)
        if self.harmonics:
            # A notch needs room for its transition below half the rate.
            last = sfreq / 2 - 1.0
            found += [k * f for f in self.frequencies for k in range(2, int(last // f) + 1)]
        return np.unique(np.array(found, float))
