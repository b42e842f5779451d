"""A signal that may be larger than memory, worked through a few channels or a stretch of time at once.

Signals are (time, channel); what is made lies channel by channel in memory or on disk, so that the
next step may take either way through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from decode import scratch
from decode.core import Recording, refusal
from decode.notices import heard

CHUNK_BYTES = 64 * 2**20
Array = np.ndarray


def channel_by_channel(recording: Recording, make: Callable[[Array], Array]) -> Array:
    """(time, channel) float32: `make` of (channel, time) float64, some channels at a time.

    What a library warns of is told.
    """
    n, width = recording.signal.shape
    step = max(1, CHUNK_BYTES // (8 * max(n, 1)))
    out: Array | None = None
    for start in range(0, width, step):
        some = slice(start, start + step)
        x = np.ascontiguousarray(recording.signal[:, some].T, np.float64)
        with heard(recording.where):
            x = make(x)
        if out is None:
            out = scratch.empty((width, x.shape[1]))
        out[some] = x
    assert out is not None
    return out.T


def stretches(signal: Array) -> Iterator[slice]:
    """Pieces of time of a (time, channel) signal that fit in memory as float64."""
    step = max(1, CHUNK_BYTES // (8 * max(signal.shape[1], 1)))
    for start in range(0, len(signal), step):
        yield slice(start, min(start + step, len(signal)))


def sample_by_sample(signal: Array, make: Callable[[Array], Array], width: int) -> Array:
    """(time, `width`) float32: `make` of (time, channel) float64, which looks at no other sample."""
    out = scratch.empty((width, len(signal)))
    for piece in stretches(signal):
        out[:, piece] = make(np.asarray(signal[piece], np.float64)).T
    return out.T


def taken(recording: Recording, channels: Array) -> Recording:
    """The recording with those channels, (channel,) numbers, in that order."""
    if np.array_equal(channels, np.arange(recording.signal.shape[1])):
        return recording
    signal = sample_by_sample(recording.signal, lambda x: x[:, channels], len(channels))
    table = recording.channels.iloc[channels].reset_index(drop=True)
    return replace(recording, signal=signal, channels=table)


def derived(recording: Recording, weights: Array, channels: pd.DataFrame) -> Recording:
    """The recording with `channels`, whose signal is `weights` (new channel, channel) times the old one."""
    from scipy.sparse import csr_array

    sparse = csr_array(weights)
    signal = sample_by_sample(recording.signal, lambda x: (sparse @ x.T).T, len(channels))
    return replace(recording, signal=signal, channels=channels.reset_index(drop=True))


def check_signals(recording: Recording, channels: Array, *, remedy: str) -> None:
    """InputError where one of the channels holds NaN, infinite or only equal values: no step mends that."""
    n = len(channels)
    low, high, finite = np.full(n, np.inf), np.full(n, -np.inf), np.ones(n, bool)
    for piece in stretches(recording.signal):
        x = np.asarray(recording.signal[piece])[:, channels]
        finite &= np.isfinite(x).all(0)
        low, high = np.fmin(low, np.fmin.reduce(x)), np.fmax(high, np.fmax.reduce(x))
    names = recording.channels["name"].astype(str).to_numpy()[channels]
    for bad, what in ((~finite, "NaN or infinite"), (finite & (low == high), "constant")):
        if bad.any():
            some = ", ".join(names[bad][:8]) + (", ..." if bad.sum() > 8 else "")
            raise refusal(
                recording.where, "a signal in every channel", f"{what} values in {some}", remedy
            )


def check_finite(recording: Recording) -> None:
    """InputError where the steps so far have left values that are no numbers."""
    for piece in stretches(recording.signal):
        broken = ~np.isfinite(np.asarray(recording.signal[piece])).all(0)
        if broken.any():
            names = ", ".join(recording.channels["name"].astype(str)[broken][:8])
            raise refusal(
                recording.where, "finite values after all steps", f"others in {names}",
                "let the step `pick` come first, which names the channels that were broken before",
            )  # fmt: skip
