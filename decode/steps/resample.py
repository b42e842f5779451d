"""Another sampling rate."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from decode.core import Recording, refusal
from decode.preprocessing.streams import Array, channel_by_channel

# Of the ratio of two rates; what it leaves out is 4 ms in a day.
LARGEST_DENOMINATOR = 10_000


class Resample:
    """The signal at `sfreq` Hz, behind a low-pass at half of the new rate, so that nothing is aliased.

    Sample k of the result stands for the moment k / sfreq s, in the first second of a run and in the last.
    By Fourier transform of the whole run, continued by its mirror image at the ends. Raises InputError
    for a rate that is not above 0.
    """

    def __init__(self, *, sfreq: float = 250.0) -> None:
        if not sfreq > 0:
            raise refusal(
                "sfreq", "a positive rate in Hz", f"{sfreq:g}", "give the rate to resample to"
            )
        self.sfreq = float(sfreq)

    def __call__(self, recording: Recording) -> Recording:
        if self.sfreq == recording.sfreq:
            return recording
        signal = channel_by_channel(
            recording, lambda x: resampled(x, sfreq=recording.sfreq, new_sfreq=self.sfreq)
        )
        return replace(recording, signal=signal, sfreq=self.sfreq)


def resampled(x: Array, *, sfreq: float, new_sfreq: float) -> Array:
    """(channel, time) at another rate, round(time * new_sfreq / sfreq) samples."""
    import mne

    n = x.shape[1]
    ratio = Fraction(new_sfreq / sfreq).limit_denominator(LARGEST_DENOMINATOR)
    if _usual_padding_fits(n, ratio):
        return mne.filter.resample(x, up=new_sfreq, down=sfreq, npad="auto", verbose="warning")
    q = ratio.denominator
    longer = np.pad(x, [(0, 0), (0, -n % q)], mode="reflect", reflect_type="odd")
    made = mne.filter.resample(
        longer, up=ratio.numerator, down=q, npad=_padding(longer.shape[1], q), verbose="warning"
    )
    return made[:, : max(round(n * new_sfreq / sfreq), 1)]


def _usual_padding_fits(n: int, ratio: Fraction) -> bool:
    """Whether MNE's padding of n samples to a power of 2 is a whole number of new samples on both sides.

    Where it is not MNE rounds it, and the samples of the result come up to one sample early or late.
    """
    total = 2 ** int(np.ceil(np.log2(n + 2 * min(n // 8, 100))))
    return total % ratio.denominator == 0 and (total - n) // 2 % ratio.denominator == 0


def _padding(n: int, q: int) -> int:
    """Samples to put before and behind n of them: a multiple of q, for a length that transforms quickly."""
    from scipy.fft import next_fast_len

    pieces = n // q
    least = 1 + min(n // 8, 100) // q
    more = next(k for k in range(least, n + 100) if next_fast_len(pieces + 2 * k) == pieces + 2 * k)
    return more * q
