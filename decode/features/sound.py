"""Features of sounds over time: mel bands and the amplitude envelope, frame by frame.

Frame i stands for the moment i / rate after the beginning, and there are as many as begin before the
sound ends. Frames reach over both ends, where silence is taken. Memory does not grow with the sound.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from decode.core import Stimulus

FRAMES_AT_ONCE = 2048
# Power of the quietest sound that is told from silence, as a share of a tone at full scale.
FLOOR = 1e-6
# Samples of the analytic signal that are computed at once, and those on both sides that are thrown away.
STRETCH, MARGIN = 2**18, 2**14


def mono(stimulus: Stimulus) -> tuple[np.ndarray, float]:
    """(sample,) mean over the channels of a sound, and its rate in Hz."""
    media = stimulus.read_as("audio")
    assert media.rate is not None
    return media.data.mean(0).numpy(), media.rate  # type: ignore[union-attr]


def framed(
    sound: np.ndarray, sfreq: float, rate: float, width: int, of: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """(frame, ...): what `of` makes of (frame, width samples), each around its moment in `sound`."""
    moments = np.arange(int(np.ceil(len(sound) / sfreq * rate - 1e-9)))
    centres = np.round(moments * sfreq / rate).astype(np.int64)
    padded = np.pad(np.asarray(sound, np.float32), (width // 2, width))
    around = np.arange(width)
    parts = [
        of(padded[centres[i : i + FRAMES_AT_ONCE, None] + around])
        for i in range(0, len(centres), FRAMES_AT_ONCE)
    ]
    return np.concatenate(parts).astype(np.float32)


def mel_bands(
    sound: np.ndarray,
    sfreq: float,
    *,
    rate: float,
    bands: int,
    low: float,
    high: float,
    frame: float,
) -> np.ndarray:
    """(frame, band) decadic logarithm of the power in mel bands from `low` to `high` Hz, of a `sound`
    (sample,) in [-1, 1] at `sfreq` Hz: 0 for a tone at full scale, -6 for silence.

    Hann windows of `frame` s; triangular bands with a peak of 1, equally spaced on the mel scale of
    O'Shaughnessy (1987), 2595 log10(1 + f / 700).
    """
    n = max(2, round(frame * sfreq))
    window = np.hanning(n + 1)[:-1]
    size = 2 ** int(np.ceil(np.log2(n)) + 1)
    weights = triangles(bands, low, high, np.fft.rfftfreq(size, 1 / sfreq))

    def power(frames: np.ndarray) -> np.ndarray:
        spectrum = np.abs(np.fft.rfft(frames * window, size)) / (window.sum() / 2)
        # Neighbouring bins see the same tone: power counts by the bandwidth of the window.
        shared = size / n * float((window**2).mean() / window.mean() ** 2)
        return np.log10(spectrum**2 @ weights.T / shared + FLOOR)

    return framed(sound, sfreq, rate, n, power)


def to_mel(frequency: float | np.ndarray) -> np.ndarray:
    return 2595 * np.log10(1 + np.asarray(frequency) / 700)


def from_mel(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)


def triangles(bands: int, low: float, high: float, frequency: np.ndarray) -> np.ndarray:
    """(band, frequency): the weight of each frequency in each band."""
    edges = from_mel(np.linspace(to_mel(low), to_mel(high), bands + 2))
    rising = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    return np.clip(np.minimum(rising, falling), 0, None)


def envelope(sound: np.ndarray, sfreq: float, *, rate: float, power: float) -> np.ndarray:
    """(frame,) amplitude of a `sound` (sample,), to a power: that of the analytic signal, averaged with
    the weights of a Hann window of two frames, which leaves out what changes faster.
    """
    n = max(2, round(2 * sfreq / rate))
    window = np.hanning(n + 1)[:-1]
    smooth = framed(amplitude(sound), sfreq, rate, n, lambda x: x @ window / window.sum())
    return np.clip(smooth, 0, None) ** power


def amplitude(sound: np.ndarray) -> np.ndarray:
    """(sample,) magnitude of the analytic signal, a stretch at a time."""
    from scipy.signal import hilbert

    out = np.empty(len(sound), np.float32)
    for first in range(0, len(sound), STRETCH):
        begin, stop = max(0, first - MARGIN), min(len(sound), first + STRETCH + MARGIN)
        found = np.abs(hilbert(np.asarray(sound[begin:stop], np.float64)))
        out[first : first + STRETCH] = found[first - begin :][:STRETCH]
    return out
