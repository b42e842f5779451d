"""The Natural Scenes Dataset as Brain-Diffuser prepared it: averaged responses in npy files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from decode.core import Facts, InputError, Recording, Stimulus, Truth
from decode.pictures import StimuliOnDemand
from decode.recordings import packed

NAME = "brain_diffuser"
SPLITS = ("train", "test")


class BrainDiffuser:
    """Responses of nsdgeneral to 8,859 training and 982 test pictures, **averaged over repeats**.

    `root` is `processed_data`: `subj01/nsd_{train,test}_fmriavg_nsdgeneral_sub1.npy` (picture x
    voxel), `nsd_{train,test}_stim_sub1.npy` (picture x 425 x 425 x 3, from 0 to 255, memory-mapped:
    stored as float64 it is about 38 GB) and, unless `captions` is false,
    `nsd_{train,test}_cap_sub1.npy` (picture x 5 captions; text arrays only). Voxels: 15724, 14278,
    13039, 12682 for subjects 1, 2, 5 and 7. The pictures that a run names are written once as PNG into
    `cache`.

    Single trials, sessions and the pictures' numbers are not in these files: `repeat` is 1, how many
    trials a mean holds is unknown, and a stimulus is named by subject, part and row. Betas are as
    published, not z-scored. Raises InputError where files are missing or do not belong together.
    """

    facts: ClassVar[Facts] = Facts(
        citation="Ozcelik & VanRullen (2023), Scientific Reports 13:15666; recordings: Allen et al. "
        "(2022), Nature Neuroscience 25:116-126",
        licence="NSD terms and conditions",
        modality="fmri",
        n_subjects=4,
        sfreq=1.0,
    )

    def __init__(self, root: str, *, cache: str, captions: bool = True) -> None:
        self.root, self.cache, self.captions = Path(root), Path(cache), captions
        there = self.root.glob("subj*/nsd_train_fmriavg_nsdgeneral_sub*.npy")
        self.subjects: tuple[str, ...] = tuple(sorted({p.parent.name for p in there}))
        if not self.subjects:
            raise InputError(
                f"{NAME}: expected subj01/nsd_train_fmriavg_nsdgeneral_sub1.npy in {self.root}, found "
                "none; put processed_data there or set paths.data"
            )

    def recordings(self, subject: str) -> Iterator[Recording]:
        """Two recordings, training and test pictures."""
        packed.check_subject(NAME, subject, self.subjects, self.root)
        for split in SPLITS:
            betas = self._betas(subject, split)
            uids = [_uid(subject, split, i) for i in range(len(betas))]
            events = packed.beta_events(uids, split, repeat=1)
            channels = packed.voxels(betas.shape[1], "nsdgeneral")
            signal = np.asarray(betas, np.float32)
            yield Recording(subject, "", "", "fmri", signal, 1.0, channels, events)

    def only(self, subjects: Sequence[str]) -> BrainDiffuser:
        """Without the other subjects, whose files need not be whole."""
        return packed.narrowed(self, subjects)

    def stimuli(self) -> Mapping[str, Stimulus]:
        uids = [
            _uid(subject, split, i)
            for subject in self.subjects
            for split in SPLITS
            for i in range(len(self._betas(subject, split)))
        ]
        return StimuliOnDemand(uids, self._stimulus)

    def files(self, subject: str) -> Iterable[Path]:
        kinds = ("fmriavg_nsdgeneral", "stim", *(["cap"] if self.captions else []))
        return [self._file(subject, split, kind) for split in SPLITS for kind in kinds]

    def truth(self, subject: str) -> Truth | None:
        return None

    def _stimulus(self, uid: str) -> Stimulus:
        _, subject, split, number = uid.split("/")
        row, file = int(number), self._file(subject, split, "stim")
        pictures = packed.open_npy(NAME, file, ndim=4)
        self._same_length(subject, split, file, len(pictures))
        target = self.cache / subject / split / packed.stamp(file) / f"{row:05d}.png"
        path = packed.unpack(NAME, target, f"{file}, row {row}", lambda: pictures[row], white=255.0)
        if not self.captions:
            return Stimulus(uid, "image", path=path, labels={"row": row})
        captions = self._file(subject, split, "cap")
        said = packed.captions(NAME, captions, len(pictures))(row)
        return Stimulus(uid, "image", path=path, texts=said, labels={"row": row})

    def _betas(self, subject: str, split: str) -> np.ndarray:
        return packed.open_npy(NAME, self._file(subject, split, "fmriavg_nsdgeneral"), ndim=2)

    def _file(self, subject: str, split: str, what: str) -> Path:
        number = int(re.sub(r"\D", "", subject))
        return self.root / subject / f"nsd_{split}_{what}_sub{number}.npy"

    def _same_length(self, subject: str, split: str, file: Path, n: int) -> None:
        if n != (expected := len(self._betas(subject, split))):
            raise InputError(
                f"{NAME}: expected {expected} pictures in {file}, one per response, got {n}; the files "
                "do not belong together, prepare them again"
            )


def _uid(subject: str, split: str, row: int) -> str:
    return f"{NAME}/{subject}/{split}/{row:05d}"
