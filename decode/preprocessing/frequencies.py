"""Frequencies that a filter is asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from decode.core import Recording, refusal

# Longer than any filter that is asked for it; what is smaller than this part of an answer is rounding.
IMPULSE_S, ROUNDING = 20.0, 1e-9


def check_frequency(recording: Recording, key: str, value: float) -> None:
    """InputError for what is no frequency below half the sampling rate; `key` names the knob."""
    half = recording.sfreq / 2
    if not 0 < value < half:
        raise refusal(
            key, f"a frequency between 0 and {half:g} Hz, half the sampling rate of {recording.where}",
            f"{value:g}", "correct it",
        )  # fmt: skip


def reach_of_band(sfreq: float, low: float | None, high: float | None) -> float:
    """Seconds before and after a sample from which MNE's zero-phase FIR filter of a band takes part."""
    import mne

    response = mne.filter.create_filter(None, sfreq, low, high, verbose="error")
    return (len(response) - 1) / 2 / sfreq


def reach_of(make: Callable[[np.ndarray], np.ndarray], sfreq: float) -> float:
    """The same of any FIR filter shorter than IMPULSE_S, by its answer to one impulse."""
    middle = round(IMPULSE_S * sfreq / 2)
    impulse = np.zeros((1, 2 * middle + 1))
    impulse[0, middle] = 1.0
    answer = np.abs(make(impulse)[0])
    there = np.flatnonzero(answer > ROUNDING * answer.max())
    return float(np.abs(there - middle).max() / sfreq)


def check_band(low: float | None, high: float | None) -> None:
    """InputError for a band that ends before it begins."""
    if low is not None and high is not None and low >= high:
        raise refusal("low", f"less than `high`, {high:g} Hz", f"{low:g}", "correct one of them")
