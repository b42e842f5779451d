"""BOLD5000, release 2.0: four people look at almost 5,000 pictures; betas of ten regions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from decode.core import Facts, InputError, Recording, Stimulus, Truth, reading, refusal
from decode.pictures import StimuliOnDemand
from decode.recordings import packed

NAME = "bold5000"
REGIONS = ("EarlyVis", "LOC", "OPA", "PPA", "RSC")
PARTS = tuple(f"{side}{region}" for region in REGIONS for side in ("LH", "RH"))
VERSION = "GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses"


class BOLD5000:
    """Single-trial betas: 5,254 trials of CSI1 to CSI3, 3,108 of CSI4.

    Anywhere below `root`: `CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_LHEarlyVis.npy` and so on
    (trial x voxel) for both hemispheres of EarlyVis, LOC, OPA, PPA and RSC, `CSI1_imgnames.txt` with
    one picture name per trial, and the pictures themselves (`BOLD5000_Stimuli`). Regions are
    concatenated; CSI1 has 1,685 voxels as reported from memory by others, not checked here.

    The files declare no split: test is every picture with more than one presentation (113 of them;
    fewer were repeated for CSI4), train the rest. Trials are taken to be in the order of the scanner,
    `trials_per_run` (37) to a run; null makes one recording of all. Which runs made a session is not
    in these files. The label `source` is the folder of the picture (COCO, ImageNet, Scene).
    Raises InputError for missing files and for counts that do not agree.
    """

    facts: ClassVar[Facts] = Facts(
        citation="Chang et al. (2019), Scientific Data 6:49; release 2.0: Prince et al. (2022), eLife "
        "11:e77599",
        licence="see bold5000.org; pictures: terms of COCO, ImageNet and SUN",
        modality="fmri",
        n_subjects=4,
        sfreq=1.0,
        n_stimuli=4916,
        n_trials=18870,
    )

    def __init__(self, root: str, *, trials_per_run: int | None = 37) -> None:
        if trials_per_run is not None and trials_per_run < 1:
            raise refusal(
                "data.trials_per_run",
                "null, or 1 or more",
                trials_per_run,
                "give the trials of a run, 37 as published",
            )
        self.root, self.trials_per_run = Path(root), trials_per_run
        self._files = packed.files_below(self.root)
        there = {n.split("_")[0] for n in self._files if f"_{VERSION}_" in n}
        self.subjects: tuple[str, ...] = tuple(sorted(there))
        if not there:
            raise InputError(
                f"{NAME}: expected CSI1_{VERSION}_LHEarlyVis.npy and so on below {self.root}, found "
                "none; put the ROI betas of release 2.0 there or set paths.data"
            )

    def recordings(self, subject: str) -> Iterator[Recording]:
        """One recording per run."""
        packed.check_subject(NAME, subject, self.subjects, self.root)
        betas, regions = self._betas(subject)
        names = self._names(subject)
        if len(names) != len(betas):
            raise InputError(
                f"{NAME}: expected {len(betas)} lines in {subject}_imgnames.txt, one per trial, got "
                f"{len(names)}; the files do not belong together"
            )
        shown = Counter(names)
        repeats = np.array(packed.count_repeats(names))
        split = np.array(["test" if shown[n] > 1 else "train" for n in names])
        channels = packed.voxels(len(regions), regions)
        size = self.trials_per_run or len(names)
        if len(names) % size:
            raise refusal(
                "data.trials_per_run",
                f"a divisor of the {len(names)} trials of {subject}",
                size,
                "set it to one or to null",
            )
        for number, first in enumerate(range(0, len(names), size), start=1):
            rows = slice(first, first + size)
            uids = [f"{NAME}/{n}" for n in names[rows]]
            events = packed.beta_events(uids, split[rows], repeat=repeats[rows])
            run = f"{number:03d}" if self.trials_per_run else ""
            yield Recording(subject, "", run, "fmri", betas[rows], 1.0, channels, events)

    def only(self, subjects: Sequence[str]) -> BOLD5000:
        """Without the other subjects, whose files need not be whole."""
        return packed.narrowed(self, subjects)

    def stimuli(self) -> Mapping[str, Stimulus]:
        """The pictures that any subject's list names."""
        names = dict.fromkeys(n for s in self.subjects for n in self._names(s))

        def make(uid: str) -> Stimulus:
            name = uid.removeprefix(f"{NAME}/")
            path = self._file(name, "put BOLD5000_Stimuli there")
            return Stimulus(uid, "image", path=str(path), labels={"source": path.parent.name})

        return StimuliOnDemand([f"{NAME}/{n}" for n in names], make)

    def files(self, subject: str) -> Iterable[Path]:
        names = [f"{subject}_imgnames.txt", *self._names(subject)]
        names += [f"{subject}_{VERSION}_{part}.npy" for part in PARTS]
        return [self._files[name] for name in names if name in self._files]

    def truth(self, subject: str) -> Truth | None:
        return None

    def _file(self, name: str, advice: str) -> Path:
        if name not in self._files:
            raise InputError(
                f"{NAME}: expected {name} somewhere below {self.root}, found {len(self._files)} other "
                f"files; {advice}"
            )
        return self._files[name]

    def _names(self, subject: str) -> list[str]:
        """Picture of each trial; the lists mark a repeated one by `rep_`, which is no part of its name."""
        file = self._file(f"{subject}_imgnames.txt", "fetch it with the betas of release 2.0")
        with reading(f"{NAME}: {file}", "a line of text per trial", "fetch it again"):
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        return [line.removeprefix("rep_") for line in lines if line]

    def _betas(self, subject: str) -> tuple[np.ndarray, list[str]]:
        """(trial, voxel) float32 over all regions, and the region of each voxel."""
        arrays: list[np.ndarray] = []
        regions: list[str] = []
        for part in PARTS:
            file = self._file(f"{subject}_{VERSION}_{part}.npy", "fetch all ten regions")
            array = packed.open_npy(NAME, file, ndim=2)
            if arrays and len(array) != len(arrays[0]):
                raise InputError(
                    f"{NAME}: expected {len(arrays[0])} trials in {file} as in the other regions, "
                    f"got {len(array)}; fetch it again"
                )
            arrays.append(array)
            regions += [part] * array.shape[1]
        return np.concatenate(arrays, axis=1).astype(np.float32), regions
