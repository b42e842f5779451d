"""Frequencies that a filter is asked for."""

from __future__ import annotations

from decode.core import Recording, refusal


def check_frequency(recording: Recording, key: str, value: float) -> None:
    """InputError for what is no frequency below half the sampling rate; `key` names the knob."""
    half = recording.sfreq / 2
    if not 0 < value < half:
        raise refusal(
            key, f"a frequency between 0 and {half:g} Hz, half the sampling rate of {recording.where}",
            f"{value:g}", "correct it",
        )  # fmt: skip


def check_band(low: float | None, high: float | None) -> None:
    """InputError for a band that ends before it begins."""
    if low is not None and high is not None and low >= high:
        raise refusal("low", f"less than `high`, {high:g} Hz", f"{low:g}", "correct one of them")
