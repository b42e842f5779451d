"""P300 speller: EEG of people who attend to one flashing character among many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from decode.core import Facts, InputError, Recording, Stimulus, Truth, refusal
from decode.recordings.matlab import read_mat

CLASSES = {1: "target", -1: "nontarget"}
PAUSE_S = 2.0
FLASH = "p300_speller/flash"


class P300Speller:
    """Flashes of a speller, of which some were attended, as one `S<n>.mat` per subject.

    A file holds `y` (time, channel) in microvolts, `trig` (time,), which is 1 where an attended and
    -1 where an ignored flash begins, and `fs` in Hz. The subject spells a few characters one after
    the other with a pause between them. Each character becomes one recording, cut in the middle of
    the pause, so that neither an epoch nor a filter reaches from one run into the next: leaving
    runs out gives contiguous folds without leak. What flashed is not documented, so every trial shows
    the same stimulus; whether it was attended is the trial's column `class` (target, nontarget). The
    electrodes are not named in the files; they are called EEG1 to EEG8 and have no positions. Raises
    InputError for missing or broken files.
    """

    facts: ClassVar[Facts] = Facts(
        citation="P300 speller recordings S1-S3 (8 EEG channels, 250 Hz); source not documented",
        licence="not stated",
        modality="eeg",
        n_subjects=3,
        n_channels=8,
        sfreq=250.0,
        n_stimuli=1,
        n_trials=3600,
    )

    def __init__(self, root: str, *, outside: bool = False) -> None:
        self.root, self.outside = Path(root), outside
        if not self.root.is_dir():
            raise InputError(
                f"p300_speller: expected a folder with S1.mat, S2.mat, ... at {self.root}, found "
                "none; set paths.data to the folder that contains p300_speller"
            )
        there = sorted(p.stem for p in self.root.glob("S*.mat"))
        self.subjects: tuple[str, ...] = tuple(there)
        if not self.subjects:
            raise InputError(
                f"p300_speller: expected files S1.mat, S2.mat, ... in {self.root}, found none; "
                "copy them there or correct paths.data"
            )

    def recordings(self, subject: str) -> Iterator[Recording]:
        """One recording per spelt character: (time, channel) in V at 250 Hz."""
        self._check(subject, self.subjects)
        path = self.root / f"{subject}.mat"
        volts, trigger, sfreq = read_speller(path, outside=self.outside)
        channels = _channels(volts.shape[1])
        for run, (first, last) in enumerate(characters(trigger, sfreq), start=1):
            flashes = first + onsets(trigger[first:last])
            kinds = [CLASSES[int(t)] for t in trigger[flashes]]
            events = pd.DataFrame(
                {
                    "onset": (flashes - first) / sfreq,
                    "duration": 0.0,
                    "stimulus": FLASH,
                    "split": "",
                    "class": kinds,
                }
            )
            yield Recording(
                subject,
                "",
                f"{run:02d}",
                "eeg",
                volts[first:last],
                sfreq,
                channels,
                events,
                source=path,
            )

    def stimuli(self) -> Mapping[str, Stimulus]:
        return {FLASH: Stimulus(FLASH, "event", labels={"shown": "flash"})}

    def files(self, subject: str) -> Iterable[Path]:
        return [self.root / f"{subject}.mat"]

    def truth(self, subject: str) -> Truth | None:
        return None

    def _check(self, subject: str, known: Sequence[str]) -> None:
        if subject not in known:
            raise refusal(
                "subjects",
                f"subjects that lie in {self.root}",
                f"{subject!r}",
                f"choose from {list(known)}",
            )


def read_speller(path: Path, *, outside: bool = False) -> tuple[np.ndarray, np.ndarray, float]:
    """(time, channel) float32 in V, the trigger (time,) int, and the sampling rate in Hz; values in
    other files are read with `outside` only.
    """
    raw = read_mat(path, ("y", "trig", "fs"), outside=outside)
    signal, trigger, rate = raw["y"], raw["trig"].ravel(), raw["fs"].ravel()
    if len(rate) != 1 or not 0 < rate[0] < 1e6:
        raise refusal(path, "one sampling rate in Hz in fs", rate[:3], "get the file again")
    sfreq = float(rate[0])
    if (
        signal.ndim != 2
        or trigger.shape != signal.shape[:1]
        or not np.isin(trigger, (-1, 0, 1)).all()
    ):
        raise InputError(
            f"{path}: expected y (time, channel) and trig (time,) of -1, 0 and 1, got shapes "
            f"{signal.shape} and {trigger.shape}; get the file again"
        )
    return (signal * 1e-6).astype(np.float32), trigger.astype(np.int64), sfreq


def onsets(trigger: np.ndarray) -> np.ndarray:
    """Samples at which the trigger takes a new value other than zero."""
    before = np.r_[0, trigger[:-1]]
    return np.flatnonzero((trigger != before) & (trigger != 0))


def characters(trigger: np.ndarray, sfreq: float) -> list[tuple[int, int]]:
    """First and one-past-last sample of each spelt character, cut in the middle of the pauses."""
    flashes = onsets(trigger)
    pauses = np.flatnonzero(np.diff(flashes) > PAUSE_S * sfreq)
    cuts = (flashes[pauses] + flashes[pauses + 1]) // 2
    edges = [0, *cuts.tolist(), len(trigger)]
    return list(pairwise(edges))


def _channels(count: int) -> pd.DataFrame:
    names = [f"EEG{i + 1}" for i in range(count)]
    return pd.DataFrame(
        {"name": names, "kind": "eeg", "x": np.nan, "y": np.nan, "z": np.nan, "roi": ""}
    )
