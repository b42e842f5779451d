"""FEIS: consumer-grade EEG of people who prepare to speak phonemes. A null control here."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from decode.core import Facts, InputError, Recording, Stimulus, Truth, refusal

SFREQ = 256.0
ELECTRODES = (
    *("F3", "FC5", "AF3", "F7", "T7", "P7", "O1"),
    *("O2", "P8", "T8", "F8", "AF4", "FC6", "F4"),
)
PHONEMES = (
    *("f", "fleece", "goose", "k", "m", "n", "ng", "p"),
    *("s", "sh", "t", "thought", "trap", "v", "z", "zh"),
)


class Feis:
    """One epoch of EEG per phoneme, 16 phonemes in each of 10 passes, per subject.

    `<root>/<subject>/<stage>.zip` holds one csv with a row per sample; it is read inside the zip.
    A stage such as "articulators" (the second before speaking) keeps a part of every 22 seconds, so
    epochs are not continuous with each other. One pass through all phonemes becomes one recording:
    leaving runs out leaves whole passes out, every fold is balanced, and nothing that is filtered
    reaches from one fold into another. Microvolts become volts and each epoch loses its mean: the
    amplifier adds a constant (4.2 mV) whose drift would make steps where two epochs meet.
    Raises InputError for missing or broken files.
    """

    facts: ClassVar[Facts] = Facts(
        citation="Wellington and Clayton, Fourteen-channel EEG with Imagined Speech (FEIS), 2019, "
        "doi:10.5281/zenodo.3554128",
        licence="free for academic and research purposes (non-profit)",
        modality="eeg",
        n_subjects=2,
        n_channels=14,
        sfreq=SFREQ,
        n_stimuli=16,
        n_trials=320,
    )

    def __init__(self, root: str, *, stage: str = "articulators") -> None:
        self.root, self.stage = Path(root), stage
        if not self.root.is_dir():
            raise InputError(
                f"feis: expected a folder with 01/{stage}.zip, 02/{stage}.zip, ... at {self.root}, "
                "found none; set paths.data to the folder that contains feis"
            )
        there = sorted(p.parent.name for p in self.root.glob(f"*/{stage}.zip"))
        if not there:
            raise InputError(
                f"feis: expected <subject>/{stage}.zip in {self.root}, found none; correct "
                "data.stage or paths.data"
            )
        self.subjects: tuple[str, ...] = tuple(there)

    def recordings(self, subject: str) -> Iterator[Recording]:
        """One recording per pass through the phonemes: (time, channel) in V at 256 Hz."""
        self._check(subject, self.subjects)
        path = self.root / subject / f"{self.stage}.zip"
        epochs, labels = read_epochs(path)
        channels = electrode_table(ELECTRODES)
        length = epochs.shape[1] / SFREQ
        for run, rows in enumerate(passes(labels), start=1):
            names = [labels[i] for i in rows]
            events = pd.DataFrame(
                {
                    "onset": np.arange(len(rows)) * length,
                    "duration": length,
                    "stimulus": [f"feis/{name}" for name in names],
                    "split": "",
                    "phoneme": names,
                }
            )
            signal = epochs[rows].reshape(-1, len(ELECTRODES))
            yield Recording(
                subject, "", f"{run:02d}", "eeg", signal, SFREQ, channels, events, source=path
            )

    def stimuli(self) -> Mapping[str, Stimulus]:
        return {
            f"feis/{p}": Stimulus(f"feis/{p}", "event", labels={"phoneme": p}) for p in PHONEMES
        }

    def files(self, subject: str) -> Iterable[Path]:
        return [self.root / subject / f"{self.stage}.zip"]

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


def read_epochs(path: Path) -> tuple[np.ndarray, list[str]]:
    """(trial, time, channel) float32 in V without its mean over time, and a phoneme per trial."""
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [n for n in archive.namelist() if n.endswith(".csv")]
            with archive.open(inside[0]) as f:
                kinds = {"Label": str, **dict.fromkeys(ELECTRODES, np.float64)}
                named = ["Epoch", "Label", *ELECTRODES]
                table = pd.read_csv(f, usecols=named, dtype=kinds, keep_default_na=False)
    except Exception as e:
        raise InputError(
            f"{path}: expected a zip with one csv of columns Epoch, Label, {', '.join(ELECTRODES)}"
            f", got {type(e).__name__}: {' '.join(str(e).split())}; get the file again"
        ) from e
    sizes = table.groupby("Epoch", sort=False).size()
    length = int(sizes.iloc[0])
    if not (sizes == length).all():
        short = sizes.index[(sizes != length).to_numpy()][0]
        raise refusal(
            path,
            f"{length} samples in every epoch",
            f"{sizes[short]} in epoch {short}",
            "the csv is probably truncated, get it again",
        )
    labels = table["Label"].to_numpy(str)[::length].tolist()
    unknown = sorted(set(labels) - set(PHONEMES))
    if unknown:
        raise refusal(
            path,
            f"the labels {list(PHONEMES)}",
            f"{unknown} as well",
            "take the csv of one stage as it was published",
        )
    volts = table[list(ELECTRODES)].to_numpy(np.float64).reshape(len(sizes), length, -1) * 1e-6
    volts -= volts.mean(axis=1, keepdims=True)
    return volts.astype(np.float32), labels


def passes(labels: Sequence[str]) -> list[list[int]]:
    """Trial numbers of each pass: a new one begins where a phoneme comes round again."""
    found: list[list[int]] = []
    seen: set[str] = set()
    for i, label in enumerate(labels):
        if not found or label in seen:
            found.append([])
            seen = set()
        found[-1].append(i)
        seen.add(label)
    return found


def electrode_table(names: Sequence[str]) -> pd.DataFrame:
    """Channel table with the positions of the standard 10-05 montage, in metres."""
    import mne

    positions = mne.channels.make_standard_montage("colin27_1005").get_positions()["ch_pos"]
    xyz = np.array([positions[name] for name in names])
    table = pd.DataFrame(xyz, columns=["x", "y", "z"])
    return table.assign(name=list(names), kind="eeg", roi="")
