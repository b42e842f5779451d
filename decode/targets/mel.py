"""What a sound sounds like from moment to moment: its mel bands."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from decode.core import Kind, Reads, Stimulus, refusal
from decode.features.sound import FLOOR, mel_bands, mono


class Mel:
    """Decadic logarithm of the power in `bands` mel bands from `low` to `high` Hz, (time, band) at `rate`
    Hz: 0 for a tone at full scale, -6 for silence (`decode.features.sound.mel_bands`).

    `frame` is the length of a spectrum in seconds. Channels of a sound are mixed. The brain is taken to lie
    `lag` s behind: 0.15 s in Défossez et al. 2023 (doi:10.1038/s42256-023-00714-5).
    """

    accepts: ClassVar[frozenset[Kind]] = frozenset({"audio"})
    reads: ClassVar[frozenset[Reads]] = frozenset({"file"})
    rest: ClassVar[float] = float(np.log10(FLOOR))

    def __init__(
        self,
        *,
        bands: int = 40,
        low: float = 50.0,
        high: float = 8000.0,
        rate: float = 100.0,
        frame: float = 0.025,
        lag: float = 0.15,
    ) -> None:
        if low >= high:
            raise refusal(
                "mel target: low",
                f"less than high, {high:g} Hz",
                f"{low:g}",
                "lower it or raise high",
            )
        self.bands, self.low, self.high = bands, low, high
        self.rate, self.frame, self.lag = rate, frame, lag

    def series(self, stretch: Stimulus) -> Tensor:
        """(time, band) float32."""
        sound, sfreq = mono(stretch)
        if self.high > sfreq / 2:
            raise refusal(
                "mel target: high", f"at most half the rate of {stretch.path}, {sfreq / 2:g} Hz",
                f"{self.high:g}", "lower it",
            )  # fmt: skip
        return torch.from_numpy(
            mel_bands(
                sound, sfreq, rate=self.rate, bands=self.bands, low=self.low, high=self.high,
                frame=self.frame,
            )
        )  # fmt: skip
