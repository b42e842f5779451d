"""How strong a band is from moment to moment, as the high gamma band of intracranial recordings."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from decode.core import Recording, refusal
from decode.preprocessing.frequencies import check_band, check_frequency, reach_of_band
from decode.preprocessing.streams import Array, channel_by_channel

Scale = Literal["power", "amplitude", "log"]


class BandPower:
    """The envelope of the band from `low` to `high` Hz, of the analytic signal (Hilbert transform).

    Power (V^2, the square of the envelope), `scale` "amplitude" (V) or "log" (its tenth logarithm, so
    that a baseline makes a ratio of it; no unit). With more than one of `bands` the band is cut into as
    many of equal width; the power of each is divided by its mean over the run, so that the lowest, which
    is the strongest, does not stand for all, and these are averaged: no unit, and the mean looks at the
    whole run, but at no stimulus. Zero-phase as `Filter`: a burst stays where it is.

    Raises InputError for frequencies that the sampling rate does not carry.
    """

    def __init__(
        self, *, low: float = 70.0, high: float = 150.0, bands: int = 1, scale: Scale = "power"
    ) -> None:
        check_band(low, high)
        if scale not in get_args(Scale):
            raise refusal(
                "scale", f"one of {', '.join(get_args(Scale))}", repr(scale), "correct it"
            )
        self.low, self.high, self.bands, self.scale = low, high, bands, scale

    def __call__(self, recording: Recording) -> Recording:
        check_frequency(recording, "low", self.low)
        check_frequency(recording, "high", self.high)
        signal = channel_by_channel(recording, lambda x: self._scaled(x, recording.sfreq))
        return replace(
            recording, signal=signal, reach=recording.reach + self._reach(recording.sfreq)
        )

    def _reach(self, sfreq: float) -> float:
        """That of the widest filter; the analytic signal dies away within a few periods."""
        edges = np.linspace(self.low, self.high, self.bands + 1)
        return max(reach_of_band(sfreq, low, high) for low, high in pairwise(edges))

    def _scaled(self, x: Array, sfreq: float) -> Array:
        power = self._power(x, sfreq)
        if self.scale == "amplitude":
            return np.sqrt(power)
        if self.scale == "log":
            # The smallest number that float32 holds in full, where a band is exactly silent.
            return np.log10(np.maximum(power, np.finfo(np.float32).tiny))
        return power

    def _power(self, x: Array, sfreq: float) -> Array:
        edges = np.linspace(self.low, self.high, self.bands + 1)
        if self.bands == 1:
            return band_power(x, sfreq, self.low, self.high)
        total = np.zeros_like(x)
        for low, high in pairwise(edges):
            power = band_power(x, sfreq, low, high)
            mean = power.mean(1, keepdims=True)
            total += power / np.where(mean > 0, mean, 1.0)
        return total / self.bands


def band_power(x: Array, sfreq: float, low: float, high: float) -> Array:
    """Square of the envelope of (channel, time) `x` between `low` and `high` Hz."""
    import mne
    from scipy.fft import next_fast_len
    from scipy.signal import hilbert

    n = x.shape[1]
    x = mne.filter.filter_data(x, sfreq, low, high, copy=True, verbose="warning")
    for row in range(len(x)):
        # One channel at a time: an analytic signal is twice as large as the signal.
        x[row] = np.abs(hilbert(x[row], N=next_fast_len(n))[:n]) ** 2
    return x
