"""Simulated MEG: participants look at drawn scenes; raw FIF in BIDS layout, known noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from decode.core import Facts, Recording, Stimulus, Truth
from decode.simulation.meeg_study import Design, Study


class SimulatedMEG:
    """102 magnetometers on a whole-head helmet, in T; they see tangential currents only.

    A single trial says more than a real one: pictures of the test part are shown `test_repeats`
    times, not twelve, and the default noise is such that a ridge from their whitened averages
    ranks 200 pictures about as well as linear decoders do on THINGS-MEG."""

    facts: ClassVar[Facts] = Facts(
        citation="simulated by this package",
        licence="MIT",
        modality="meg",
        n_channels=102,
        simulated=True,
    )

    def __init__(
        self,
        root: str | Path,
        *,
        n_subjects: int = 2,
        n_train: int = 1500,
        train_repeats: int = 2,
        n_test: int = 100,
        test_repeats: int = 8,
        noise: float = 1.0,
        sfreq: float = 200.0,
        seed: int = 0,
    ) -> None:
        design = Design(
            modality="meg",
            n_subjects=n_subjects,
            n_train=n_train,
            train_repeats=train_repeats,
            n_test=n_test,
            test_repeats=test_repeats,
            noise=noise,
            sfreq=sfreq,
            seed=seed,
        )
        self._study = Study("simulated_meg", Path(root), design)
        self.subjects = self._study.subjects

    @property
    def folder(self) -> Path:
        """Where the raw files lie."""
        return self._study.folder

    def recordings(self, subject: str) -> Iterator[Recording]:
        return self._study.recordings(subject)

    def stimuli(self) -> Mapping[str, Stimulus]:
        return self._study.stimuli

    def truth(self, subject: str) -> Truth:
        return self._study.truth(subject)
