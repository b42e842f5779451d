"""The Natural Scenes Dataset as MindEye packed it: tar files of pictures and voxel responses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from decode.core import Facts, InputError, Recording, Stimulus, Truth, refusal
from decode.pictures import StimuliOnDemand
from decode.progress import progress
from decode.recordings import packed
from decode.recordings.samples import (
    Part,
    Samples,
    folder_samples,
    member,
    numbered,
    tar_samples,
)
from decode.store import whole_file

NAME = "mindeye1"
FOLDERS = {"train": "train", "val": "train", "test": "test"}
PICTURES = ("jpg", "png")
READ = ("coco73k.npy", "nsdgeneral.npy", "num_uniques.npy")
SAMPLES_AT_ONCE = 500
Chunk = tuple[str, str, Samples]


class MindEye1:
    """Responses of nsdgeneral to 9,841 pictures per subject, up to three trials each.

    `root` is the folder `webdataset_avg_split`: `train/train_subj01_{0..17}.tar`,
    `val/val_subj01_0.tar` and `test/test_subj01_{0,1}.tar`, or the same samples extracted to
    `train/subj01/sample000000000.*` and so on. A sample is `.jpg`, `.coco73k.npy` (number of the
    picture among the 73,000, from 0), `.nsdgeneral.npy` (three trials x voxel) and, not needed,
    `.num_uniques.npy`. Pictures are copied once to `cache`, byte for byte.

    Voxels: 15724, 14278, 13039, 12682 for subjects 1, 2, 5 and 7. They come z-scored over **all**
    trials of a session, test trials included: the scale of what is published here is not leak-free.
    The packing was 37 of the 40 sessions with 8,559 train, 300 val and 982 test pictures (the split
    `982`); val counts as train here and is told apart by the column `part`. Sessions and runs cannot
    be known from these files: recordings are pieces of them, with neither.

    Pictures shown fewer than three times have their rows filled up. Copies of an earlier row of the
    same picture are dropped, and of the rest no more than `num_uniques` are kept. That these come
    first among the three has not been checked on the data, nor has the meaning of `.trial.npy`,
    which is not read.

    Raises InputError where files are missing, broken, or do not belong together.
    """

    facts: ClassVar[Facts] = Facts(
        citation="Scotti et al. (2023), Reconstructing the mind's eye, NeurIPS 36; recordings: Allen "
        "et al. (2022), Nature Neuroscience 25:116-126",
        licence="NSD terms and conditions",
        modality="fmri",
        n_subjects=4,
        sfreq=1.0,
    )

    def __init__(self, root: str, *, cache: str) -> None:
        self.root, self.cache = Path(root), Path(cache)
        self._known: dict[str, list[Chunk]] = {}
        self.subjects: tuple[str, ...] = _subjects(self.root)
        if not self.subjects:
            raise InputError(
                f"{NAME}: expected train/train_subj01_0.tar or train/subj01/ in {self.root}, found "
                "none; put webdataset_avg_split there or set paths.data"
            )

    def recordings(self, subject: str) -> Iterator[Recording]:
        packed.check_subject(NAME, subject, self.subjects, self.root)
        seen: dict[int, set[bytes]] = {}
        sizes: set[int] = set()
        for part, where, samples in self._chunks(subject):
            rows, ids, repeats = [], [], []
            for key, sample in samples.items():
                number = _id(key, sample)
                for row in _trials(where, key, sample):
                    known = seen.setdefault(number, set())
                    if row.tobytes() in known:
                        continue
                    known.add(row.tobytes())
                    rows.append(row)
                    ids.append(number)
                    repeats.append(len(known))
            if not rows:
                continue
            sizes |= {len(r) for r in rows}
            if len(sizes) > 1:
                raise InputError(
                    f"{NAME}: expected the same voxels in every sample of {subject}, got "
                    f"{sorted(sizes)} up to {where}; fetch that file again"
                )
            events = packed.beta_events(
                [_uid(i) for i in ids], FOLDERS[part], repeat=repeats, part=part
            )
            channels = packed.voxels(len(rows[0]), "nsdgeneral")
            signal = np.stack(rows).astype(np.float32)
            yield Recording(subject, "", "", "fmri", signal, 1.0, channels, events)

    def only(self, subjects: Sequence[str]) -> MindEye1:
        """Without the other subjects, whose files need not be whole."""
        return packed.narrowed(self, subjects)

    def stimuli(self) -> Mapping[str, Stimulus]:
        """Pictures of all subjects that are there, by their number among the 73,000."""
        places: dict[str, tuple[Part, str]] = {}
        for subject in progress(self.subjects, f"{NAME} pictures"):
            for _, where, samples in self._chunks(subject):
                for key, sample in samples.items():
                    places.setdefault(_uid(_id(key, sample)), _picture(where, key, sample))

        def make(uid: str) -> Stimulus:
            number = int(uid.rsplit("/", 1)[1])
            picture, ending = places[uid]
            path = self.cache / packed.stamp(picture.file) / f"{number:05d}.{ending}"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(path) as partial:
                    partial.write_bytes(picture.read())
            return Stimulus(uid, "image", path=str(path), labels={"nsd_id": number})

        return StimuliOnDemand(list(places), make)

    def files(self, subject: str) -> Iterable[Path]:
        # A picture is taken from the first subject that saw it.
        until = self.subjects[: self.subjects.index(subject) + 1]
        return [file for s in until for part in FOLDERS for file in _files(self.root, part, s)]

    def truth(self, subject: str) -> Truth | None:
        return None

    def _chunks(self, subject: str) -> list[Chunk]:
        if subject not in self._known:
            self._known[subject] = _chunks(self.root, subject)
        return self._known[subject]


def _uid(number: int) -> str:
    return f"nsd/{number:05d}"


def _subjects(root: Path) -> tuple[str, ...]:
    tars = {
        m[1] for p in root.glob("train/*.tar") if (m := re.match(r"train_(subj\d+)_\d+", p.stem))
    }
    return tuple(sorted(tars | {p.name for p in root.glob("train/subj*") if p.is_dir()}))


def _tars(root: Path, part: str, subject: str) -> list[Path]:
    return numbered(NAME, (root / part).glob(f"{part}_{subject}_*.tar"))


def _files(root: Path, part: str, subject: str) -> list[Path]:
    """The tars of one part of a subject, or what is read of the samples that were taken out of them."""
    folder = root / part / subject
    samples = sorted(folder.iterdir()) if folder.is_dir() else []
    read = [p for p in samples if p.name.partition(".")[2] in (*READ, *PICTURES)]
    return _tars(root, part, subject) or read


def _chunks(root: Path, subject: str) -> list[Chunk]:
    """(folder, where, samples) of train, val and test; a missing val is fine."""
    chunks: list[Chunk] = []
    for part in FOLDERS:
        tars = _tars(root, part, subject)
        folder = root / part / subject
        if tars:
            labelled = progress(tars, f"{NAME} {part} {subject}")
            chunks += [(part, str(p), tar_samples(NAME, p)) for p in labelled]
        elif folder.is_dir():
            samples = list(folder_samples(folder).items())
            for i in range(0, len(samples), SAMPLES_AT_ONCE):
                chunks.append((part, str(folder), dict(samples[i : i + SAMPLES_AT_ONCE])))
        elif part != "val":
            raise InputError(
                f"{NAME}: expected {part}_{subject}_0.tar or {subject}/ in {root / part}, found none; "
                "fetch the tars of this subject"
            )
    return chunks


def _id(key: str, sample: dict[str, Part]) -> int:
    part = member(NAME, sample, key, "coco73k.npy")
    where = f"{part.file}, {key}.coco73k.npy"
    number = packed.parse_npy(NAME, where, part.read()).ravel()
    if len(number) != 1 or not 0 <= int(number[0]) < 73_000:
        raise refusal(where, "one picture number from 0 to 72999", number, "fetch the tar again")
    return int(number[0])


def _trials(where: str, key: str, sample: dict[str, Part]) -> np.ndarray:
    """(trial, voxel) of one sample, filling included where it is not declared."""
    data = member(NAME, sample, key, "nsdgeneral.npy").read()
    rows = np.atleast_2d(packed.parse_npy(NAME, f"{where}, {key}.nsdgeneral.npy", data))
    if rows.ndim != 2:
        raise refusal(
            f"{where}, {key}.nsdgeneral.npy", "(trial, voxel)", rows.shape, "fetch the tar again"
        )
    if "num_uniques.npy" not in sample:
        return rows
    data = sample["num_uniques.npy"].read()
    n = int(packed.parse_npy(NAME, f"{where}, {key}.num_uniques.npy", data).ravel()[0])
    if not 1 <= n <= len(rows):
        raise refusal(
            f"{where}, {key}.num_uniques.npy", f"1 to {len(rows)}", n, "fetch the tar again"
        )
    distinct = {row.tobytes(): row for row in rows}
    return np.stack(list(distinct.values())[:n])


def _picture(where: str, key: str, sample: dict[str, Part]) -> tuple[Part, str]:
    """The part that is the picture, and its ending."""
    for ending in PICTURES:
        if ending in sample:
            return sample[ending], ending
    raise refusal(where, f"{key}.jpg or {key}.png", sorted(sample), "fetch the tar again")
