"""Haxby et al. 2001: BOLD of a person who looks at blocks of faces, houses, cats and objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pandas as pd

from decode.core import Facts, InputError, Recording, Stimulus, Truth, refusal
from decode.preprocessing.blocks import GAP_S, joined
from decode.recordings.bold import Voxels, read_bold, read_mask, usable
from decode.recordings.masks import bright_voxels
from decode.recordings.tables import read_events

CATEGORIES = ("bottle", "cat", "chair", "face", "house", "scissors", "scrambledpix", "shoe")
WORDS = {"scrambledpix": "scrambled picture"}


class Haxby2001:
    """BOLD runs with 8 blocks of one category each, in the openFMRI layout.

    `<root>/sub<nnn>/BOLD/task001_run<nnn>/<image>.nii.gz` lies beside its `bold_events.tsv`. One
    trial is one block: events of one category that follow each other within 6 s are joined. `image`
    chooses the spatial version ("bold_1slice": one axial slice; "bold_25mm": the whole brain,
    coarse). Voxels come from `mask`, a NIfTI file below the subject's folder, or, where it is null,
    are those that are bright in every run. Raises InputError for missing or broken files.
    """

    facts: ClassVar[Facts] = Facts(
        citation="Haxby et al. 2001, Science 293, 2425-2430",
        licence="CC BY-SA 3.0",
        modality="fmri",
        n_subjects=1,
        n_channels=474,
        sfreq=0.4,
        n_stimuli=8,
        n_trials=96,
    )

    def __init__(
        self,
        root: str,
        *,
        image: str = "bold_1slice",
        mask: str | None = None,
    ) -> None:
        self.root, self.image, self.mask = Path(root), image, mask
        if not self.root.is_dir():
            raise InputError(
                f"haxby2001: expected the openFMRI folder (sub001/BOLD/...) at {self.root}, found "
                "none; set paths.data to the folder that contains haxby2001"
            )
        there = sorted(p.name for p in self.root.glob("sub*") if (p / "BOLD").is_dir())
        if not there:
            raise InputError(
                f"haxby2001: expected sub001/BOLD/... in {self.root}, found none; "
                "correct paths.data"
            )
        self.subjects: tuple[str, ...] = tuple(there)

    def recordings(self, subject: str) -> Iterator[Recording]:
        """One recording per run: (time, voxel) in percent signal change, one event per block."""
        self._check(subject, self.subjects)
        runs = self._runs(subject)
        voxels = self._voxels(subject, runs)
        channels = voxels.channels()
        for run in runs:
            blocks = read_blocks(run / "bold_events.tsv")
            yield read_bold(
                run / f"{self.image}.nii.gz",
                voxels,
                _trials(blocks),
                subject=subject,
                run=run.name.rsplit("run", 1)[-1],
                channels=channels,
            )

    def stimuli(self) -> Mapping[str, Stimulus]:
        """One text stimulus per category: its name in words."""
        return {
            f"haxby2001/{c}": Stimulus(
                f"haxby2001/{c}", "text", texts=(WORDS.get(c, c),), labels={"category": c}
            )
            for c in CATEGORIES
        }

    def files(self, subject: str) -> Iterable[Path]:
        masks = [] if self.mask is None else [self.root / subject / self.mask]
        names = ("bold_events.tsv", f"{self.image}.nii.gz")
        return masks + [run / name for run in self._runs(subject) for name in names]

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

    def _runs(self, subject: str) -> list[Path]:
        runs = sorted((self.root / subject / "BOLD").glob("task001_run*"))
        for run in runs:
            if not (run / f"{self.image}.nii.gz").is_file():
                raise InputError(
                    f"haxby2001: expected {self.image}.nii.gz in {run}, found "
                    f"{sorted(p.name for p in run.glob('*.nii.gz'))}; correct data.image"
                )
        if not runs:
            raise refusal(
                f"{self.root / subject}/BOLD",
                "folders task001_run<nnn>",
                "none",
                "unpack the runs of that subject there",
            )
        return runs

    def _voxels(self, subject: str, runs: Sequence[Path]) -> Voxels:
        images = [run / f"{self.image}.nii.gz" for run in runs]
        if self.mask is not None:
            return usable(images, read_mask(self.root / subject / self.mask))
        return bright_voxels(images)


def read_blocks(path: Path, *, gap_s: float = GAP_S) -> pd.DataFrame:
    """Events (onset, duration, trial_type), with consecutive ones of one category joined."""
    events = read_events(path, shows="trial_type")
    unknown = sorted(set(events["trial_type"]) - set(CATEGORIES))
    if unknown:
        raise refusal(
            path,
            f"the categories {list(CATEGORIES)}",
            f"{unknown} as well",
            "correct trial_type, or read the study with data=bids",
        )
    return joined(events[["onset", "duration", "trial_type"]], gap_s, by="trial_type")


def _trials(blocks: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "onset": blocks["onset"].astype(float),
            "duration": blocks["duration"].astype(float),
            "stimulus": "haxby2001/" + blocks["trial_type"],
            "split": "",
            "category": blocks["trial_type"],
        }
    )
