"""Simulated EEG: participants look at drawn scenes; raw FIF in BIDS layout, known noise."""

from __future__ import annotations

from typing import ClassVar

from decode.core import Facts
from decode.simulation.meeg_study import Study


class SimulatedEEG(Study):
    """63 electrodes in the order of THINGS-EEG2, referenced to Fz, in V.

    A single trial says more than a real one: pictures of the test part are shown `test_repeats`
    times, not eighty, and the default noise is such that a ridge from their whitened averages
    ranks 200 pictures about as well as linear decoders do on THINGS-EEG2.
    """

    facts: ClassVar[Facts] = Facts(
        citation="simulated by this package",
        licence="MIT",
        modality="eeg",
        n_channels=63,
        simulated=True,
    )
