"""Another sampling rate."""

from __future__ import annotations

from dataclasses import replace

from decode.core import Recording, refusal
from decode.preprocessing.streams import channel_by_channel


class Resample:
    """The signal at `sfreq` Hz, behind a low-pass at half of the new rate, so that nothing is aliased.

    Sample k of the result stands for the moment k / sfreq s, within half a sample at the end of a run
    whose length the new rate does not divide. By Fourier transform of the whole run, continued by its
    mirror image at the ends. Raises InputError for a rate that is not above 0.
    """

    def __init__(self, *, sfreq: float = 250.0) -> None:
        if not sfreq > 0:
            raise refusal("sfreq", "a positive rate in Hz", f"{sfreq:g}", "correct it")
        self.sfreq = float(sfreq)

    def __call__(self, recording: Recording) -> Recording:
        import mne

        if self.sfreq == recording.sfreq:
            return recording
        signal = channel_by_channel(
            recording,
            lambda x: mne.filter.resample(
                x, up=self.sfreq, down=recording.sfreq, npad="auto", verbose="warning"
            ),
        )
        return replace(recording, signal=signal, sfreq=self.sfreq)
