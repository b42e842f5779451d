"""The Natural Scenes Dataset as MindEye2 packed it: trial lists in tars, betas and pictures in HDF5."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from decode.core import Facts, InputError, Recording, Stimulus, Truth, refusal
from decode.pictures import StimuliOnDemand
from decode.progress import progress
from decode.recordings import packed
from decode.recordings.samples import member, numbered, tar_samples

NAME = "mindeye2"
# Name of the test split -> its folder and the last session that it knows of.
TESTS = {"shared1000": ("new_test", 40), "shared982": ("test", 37)}
COLUMNS = {"image": 0, "session": 2, "run": 3, "row": 5, "is_old": 7, "shared1000": 16}
WIDTH = 17
PICTURES = "coco_images_224_float16.hdf5"


class MindEye2:
    """Single-trial betas of nsdgeneral, session by session, up to 30,000 per subject.

    `root` holds `wds/subj01/train/{0..39}.tar` (one per session), `wds/subj01/new_test/0.tar`,
    `wds/subj01/test/0.tar`, `betas_all_subj01_fp32_renorm.hdf5` (key `betas`, trial x voxel) and
    `coco_images_224_float16.hdf5` (key `images`, 73000 x 3 x 224 x 224 in [0, 1]); of a tar's samples
    only `behav.npy` (1 x 17) is read. Voxels of subjects 1 to 8: 15724, 14278, 15226, 13153, 13039,
    17907, 12682, 14386. The pictures that a run names are written once as PNG into `cache`.

    `test` chooses the published split: "shared1000" is the pictures that all subjects saw, in up to 40
    sessions, "shared982" the earlier test tar and the first 37 sessions only (982 pictures for
    subjects 1, 2, 5, 7). `sessions` keeps the training trials of the first so many sessions, as
    scanned: one session is about one hour. Test trials are always all of them, so that a scaler per
    session finds no training trials in the sessions that were left out. `captions` names a text array
    (73000, caption), whose first caption that is not empty becomes the stimulus' text (all of them:
    label `captions`). That sessions count from 1 has not been checked on the data.

    The betas were z-scored per session before any session was left out, by the published script over
    **all** trials; the paper's own files left the shared pictures out, as that script says. Which of both
    these are is not known: take it that test trials have shaped that scale. Where repeats are
    missing (subjects 3, 4, 6, 8) the tars list a trial more than once to fill up; copies are dropped.

    Raises InputError where files are missing, broken, or do not belong together.
    """

    facts: ClassVar[Facts] = Facts(
        citation="Scotti et al. (2024), MindEye2, ICML; recordings: Allen et al. (2022), Nature "
        "Neuroscience 25:116-126",
        licence="NSD terms and conditions",
        modality="fmri",
        n_subjects=8,
        sfreq=1.0,
    )

    def __init__(
        self,
        root: str,
        *,
        cache: str,
        test: Literal["shared1000", "shared982"] = "shared1000",
        sessions: int | None = None,
        captions: str | None = None,
        outside: bool = False,
    ) -> None:
        if test not in TESTS:
            raise refusal("data.test", f"one of {list(TESTS)}", f"{test!r}", "choose one")
        if sessions is not None and sessions < 1:
            raise refusal(
                "data.sessions",
                "null, or 1 or more",
                sessions,
                "give a number of sessions or null for all",
            )
        self.root, self.cache, self.outside = Path(root), Path(cache), outside
        self.folder, self.last_session = TESTS[test]
        self.sessions = sessions
        self.captions = None if captions is None else Path(captions)
        there = [p.name for p in (self.root / "wds").glob("subj*") if p.is_dir()]
        self.subjects: tuple[str, ...] = tuple(sorted(there))
        if not there:
            raise InputError(
                f"{NAME}: expected wds/subj01/ in {self.root}, found none; put the folder of MindEye2 "
                "there or set paths.data"
            )

    def recordings(self, subject: str) -> Iterator[Recording]:
        """One recording per session, trials in the order of the scanner."""
        packed.check_subject(NAME, subject, self.subjects, self.root)
        file = self.root / f"betas_all_{subject}_fp32_renorm.hdf5"
        betas = packed.open_hdf5(NAME, file, "betas", ndim=2, outside=self.outside)
        table = self._trials(subject)
        packed.check_ids(NAME, str(file), table["row"].to_numpy(), len(betas), "trial rows")
        images = self._images()
        where = str(self.root / PICTURES)
        packed.check_ids(NAME, where, table["image"].to_numpy(), len(images), "pictures")
        for session, rows in table.groupby("session", sort=True):
            events = packed.beta_events(
                [_uid(i) for i in rows["image"]],
                rows["split"].to_numpy(),
                repeat=rows["repeat"].to_numpy(),
                nsd_run=rows["run"].to_numpy(),
                shared=rows["shared1000"].to_numpy() == 1,
            )
            signal = packed.read_rows(betas, rows["row"].to_numpy())
            channels = packed.voxels(betas.shape[1], "nsdgeneral")
            name = f"{int(str(session)):02d}"
            yield Recording(subject, name, "", "fmri", signal, 1.0, channels, events, source=file)

    def stimuli(self) -> Mapping[str, Stimulus]:
        """All pictures of the file by their number from 0; only those asked for are unpacked."""
        images, file = self._images(), self.root / PICTURES
        folder = self.cache / packed.stamp(file)
        said = None
        if self.captions is not None:
            said = packed.captions(NAME, self.captions, len(images))

        def make(uid: str) -> Stimulus:
            number = int(uid.rsplit("/", 1)[1])
            target = folder / f"{number:05d}.png"
            where = f"{file}, row {number} of 'images'"
            path = packed.unpack(NAME, target, where, lambda: images[number], white=1.0)
            texts = () if said is None else said(number)
            return Stimulus(uid, "image", path=path, texts=texts, labels={"nsd_id": number})

        return StimuliOnDemand([_uid(i) for i in range(len(images))], make)

    def files(self, subject: str) -> Iterable[Path]:
        folder = self.root / "wds" / subject
        own = [self.root / f"betas_all_{subject}_fp32_renorm.hdf5", folder / self.folder / "0.tar"]
        said = [] if self.captions is None else [self.captions]
        return [*own, *(folder / "train").glob("*.tar"), self.root / PICTURES, *said]

    def truth(self, subject: str) -> Truth | None:
        return None

    def _images(self) -> Any:
        return packed.open_hdf5(NAME, self.root / PICTURES, "images", ndim=4, outside=self.outside)

    def _trials(self, subject: str) -> pd.DataFrame:
        """image, session, run, row, is_old, shared1000, split and repeat, one row per trial."""
        folder = self.root / "wds" / subject
        train = numbered(NAME, (folder / "train").glob("*.tar"))
        if not train:
            raise refusal(folder / "train", "0.tar, 1.tar, ...", "none", "fetch that folder")
        test = packed.need_file(NAME, folder / self.folder / "0.tar")
        files = [(p, "train") for p in train] + [(test, "test")]
        tables = [
            _behaviour(path).assign(split=split)
            for path, split in progress(files, f"{NAME} {subject}")
        ]
        table = pd.concat(tables)
        table = table[table["session"] <= self.last_session]
        self._check(subject, table, len(train), folder)
        table = table.drop_duplicates("row").sort_values("row", ignore_index=True)
        # Before sessions are left out, so that a repeat keeps its number.
        table["repeat"] = packed.count_repeats(table["image"].tolist())
        if self.sessions is None:
            return table
        sessions = np.unique(table.loc[table["split"] == "train", "session"])
        kept = table["session"].isin(sessions[: self.sessions])
        return table[(table["split"] == "test") | kept]

    def _check(self, subject: str, table: pd.DataFrame, n_tars: int, folder: Path) -> None:
        sides = table.groupby("image")["split"].nunique()
        if (sides > 1).any():
            raise refusal(
                folder,
                f"pictures either in train or in {self.folder}",
                f"picture {sides.idxmax()} in both",
                "the tars do not belong together: fetch them from one release",
            )
        trained = table.loc[table["split"] == "train", "session"]
        if (wanted := self.sessions or 0) > trained.nunique():
            raise refusal(
                "data.sessions",
                f"at most {trained.nunique()}, the sessions of {subject} with training trials ({n_tars} "
                f"tars in {folder / 'train'})",
                wanted,
                "lower it or fetch the other tars",
            )


def _uid(number: int) -> str:
    return f"nsd/{int(number):05d}"


def _behaviour(path: Path) -> pd.DataFrame:
    """The trials that one tar lists."""
    rows = []
    for key, sample in tar_samples(NAME, path).items():
        part = member(NAME, sample, key, "behav.npy")
        row = packed.parse_npy(NAME, f"{path}, {key}.behav.npy", part.read())
        if row.size != WIDTH:
            raise refusal(
                f"{path}, {key}.behav.npy",
                f"{WIDTH} values",
                f"shape {row.shape}",
                "fetch the tar again",
            )
        rows.append(row.ravel()[list(COLUMNS.values())])
    return pd.DataFrame(np.stack(rows).astype(np.int64), columns=list(COLUMNS))
