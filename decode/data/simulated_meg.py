"""Simulated MEG: participants look at drawn scenes; raw FIF in BIDS layout, known noise."""

from __future__ import annotations

from typing import ClassVar

from decode.core import Facts
from decode.simulation.meeg_study import Study


class SimulatedMEG(Study):
    """102 magnetometers on a whole-head helmet, in T; they see tangential currents only.

    A single trial says more than a real one: pictures of the test part are shown `test_repeats`
    times, not twelve, and the default noise is such that a ridge from their whitened averages
    ranks 200 pictures about as well as linear decoders do on THINGS-MEG.
    """

    facts: ClassVar[Facts] = Facts(
        citation="simulated by this package",
        licence="MIT",
        modality="meg",
        n_channels=102,
        simulated=True,
    )
