"""How loud a sound is from moment to moment."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from decode.core import Kind, Reads, Stimulus
from decode.features.sound import envelope, mono


class AudioEnvelope:
    """Amplitude of the analytic signal, to the power `power`, (time, 1) at `rate` Hz: 1 for a tone at full
    scale, 0 for silence (`decode.features.sound.envelope`).

    A power of 0.6 is what loudness is taken for (Biesmans et al. 2017, doi:10.1109/TNSRE.2016.2571900).
    Channels of a sound are mixed. The brain is taken to lie `lag` s behind.
    """

    accepts: ClassVar[frozenset[Kind]] = frozenset({"audio"})
    reads: ClassVar[frozenset[Reads]] = frozenset({"file"})
    rest: ClassVar[float] = 0.0

    def __init__(self, *, rate: float = 100.0, power: float = 0.6, lag: float = 0.1) -> None:
        self.rate, self.power, self.lag = rate, power, lag

    def series(self, stretch: Stimulus) -> Tensor:
        """(time, 1) float32."""
        sound, sfreq = mono(stretch)
        loud = envelope(sound, sfreq, rate=self.rate, power=self.power)
        return torch.from_numpy(loud)[:, None]
