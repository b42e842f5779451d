"""THINGS-fMRI: three people look at 8,740 pictures of 720 objects; single-trial betas as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from decode.core import Facts, InputError, Recording, Stimulus, Truth, refusal
from decode.pictures import StimuliOnDemand
from decode.progress import progress
from decode.recordings import packed
from decode.recordings.tables import check_columns, numbers, read_words, whole_numbers

NAME = "things_fmri"
FILES = {
    "responses": ("{}_ResponseData.h5", "{}_task-things_voxel-wise-responses.h5"),
    "trials": ("{}_StimulusMetadata.csv", "{}_task-things_stimulus-metadata.csv"),
    "voxels": ("{}_VoxelMetadata.csv", "{}_task-things_voxel-metadata.csv"),
}
TRIAL_COLUMNS = ("trial_type", "session", "run", "trial_id", "stimulus", "concept")
GRID = {"i": "voxel_x", "j": "voxel_y", "k": "voxel_z"}
VOXELS_AT_ONCE = 20_000
SPLITS = ("train", "test")


class ThingsFMRI:
    """9,840 trials per subject: 12 sessions of 10 runs, 8,640 training pictures once, 100 test pictures
    in each session.

    `root` holds `sub-01_ResponseData.h5`, `sub-01_StimulusMetadata.csv` and `sub-01_VoxelMetadata.csv`
    (also in `betas_csv`, or under the names of OpenNeuro, `sub-01_task-things_*`). The HDF5 file is a
    pandas table: `ResponseData/block0_values` is (voxel, trial) and `block1_values` the voxels'
    numbers; its column labels are pickled and never read: column j is taken to be trial_id j. Pictures
    lie anywhere below `images`: `aardvark/aardvark_01b.jpg`.

    `rois` names columns of the voxel table, whose voxels are kept where one is not 0 (V1, V2, V3, hV4,
    lLOC, rLOC, lFFA, rFFA, lPPA, rPPA, lEBA, rEBA, IT, glasser-...); null keeps all 211,339 or so, which
    is 8 GB. A voxel's `roi` is the first that it belongs to. `min_ceiling` keeps voxels whose
    `nc_testset` (percent) reaches it; that ceiling was computed from the test repeats, so a selection
    by it has seen the test responses. Grid indices i, j, k are columns of the channels, but positions
    in metres are not published.

    Trial types other than train and test get split "". Raises InputError for missing files and columns
    and for counts that do not agree.
    """

    facts: ClassVar[Facts] = Facts(
        citation="Hebart et al. (2023), eLife 12:e82580",
        licence="CC0 (OpenNeuro ds004192); pictures: terms of the THINGS initiative",
        modality="fmri",
        n_subjects=3,
        sfreq=1.0,
        n_stimuli=8740,
        n_trials=29520,
    )

    def __init__(
        self,
        root: str,
        *,
        images: str,
        rois: Sequence[str] | None = ("V1", "V2", "V3", "hV4", "lLOC", "rLOC", "IT"),
        min_ceiling: float | None = None,
        outside: bool = False,
    ) -> None:
        self.root, self.images = Path(root), Path(images)
        self.rois = None if rois is None else tuple(rois)
        self.min_ceiling, self.outside = min_ceiling, outside
        self.subjects: tuple[str, ...] = tuple(sorted(_subjects(self.root)))
        if not self.subjects:
            raise InputError(
                f"{NAME}: expected sub-01_ResponseData.h5 in {self.root} or its folder betas_csv, found "
                "none; put the table format of the single-trial responses there or set paths.data"
            )

    def recordings(self, subject: str) -> Iterator[Recording]:
        """One recording per run of each session."""
        packed.check_subject(NAME, subject, self.subjects, self.root)
        betas, trials = self._betas(subject), self._trials(subject)
        channels, kept = self._voxels(subject, len(betas))
        self._check(subject, betas, trials)
        seen: Counter[str] = Counter()
        file = self._file(subject, "responses")
        for session, rows in trials.groupby("session", sort=True):
            signal = _read(betas, kept, rows["trial_id"].to_numpy(), f"{NAME} session {session}")
            for run, part in rows.groupby("run", sort=True):
                at = rows.index.get_indexer(part.index)
                uids = [_uid(s) for s in part["stimulus"]]
                split = np.where(part["trial_type"].isin(SPLITS), part["trial_type"], "")
                events = packed.beta_events(
                    uids,
                    split,
                    repeat=packed.count_repeats(uids, seen),
                    concept=part["concept"].to_numpy(),
                )
                name = f"{int(str(session)):02d}", f"{int(str(run)):02d}"
                yield Recording(
                    subject, *name, "fmri", signal[at], 1.0, channels, events, source=file
                )

    def only(self, subjects: Sequence[str]) -> ThingsFMRI:
        """Without the other subjects, whose tables need not be whole."""
        return packed.narrowed(self, subjects)

    def stimuli(self) -> Mapping[str, Stimulus]:
        """The pictures that any subject's table names, labelled with their concept."""
        tables = [self._trials(s)[["stimulus", "concept"]] for s in self.subjects]
        concepts = dict(pd.concat(tables).drop_duplicates("stimulus").to_numpy().tolist())
        there = packed.files_below(self.images)

        def make(uid: str) -> Stimulus:
            name = _picture_file(uid)
            if name not in there:
                raise InputError(
                    f"{NAME}: expected the picture {name} below {self.images}, found {len(there)} "
                    "other files; fetch the THINGS images (osf.io/jum2f) or set data.images"
                )
            labels = {"concept": concepts[name]}
            return Stimulus(uid, "image", path=str(there[name]), labels=labels)

        return StimuliOnDemand([_uid(s) for s in concepts], make)

    def files(self, subject: str) -> Iterable[Path]:
        pictures = packed.files_below(self.images)
        named = (_picture_file(_uid(s)) for s in self._trials(subject)["stimulus"].unique())
        seen = [pictures[name] for name in named if name in pictures]
        return seen + [self._file(subject, what) for what in FILES]

    def truth(self, subject: str) -> Truth | None:
        return None

    def _file(self, subject: str, what: str) -> Path:
        names = [pattern.format(subject) for pattern in FILES[what]]
        for folder in (self.root, self.root / "betas_csv"):
            for name in names:
                if (folder / name).is_file():
                    return folder / name
        raise InputError(
            f"{NAME}: expected {names[0]} in {self.root} or its folder betas_csv, found none; "
            "put it there or set paths.data"
        )

    def _betas(self, subject: str) -> Any:
        file = self._file(subject, "responses")
        key = "ResponseData/block0_values"
        return packed.open_hdf5(NAME, file, key, ndim=2, outside=self.outside)

    def _table(
        self, subject: str, what: str, columns: Sequence[str], more: Sequence[str] = ()
    ) -> pd.DataFrame:
        """Columns of one of the subject's tables, as words; `more` where they are there."""
        file = self._file(subject, what)
        only = [*columns, *more]
        table = read_words(file, separator=",", expected="a table of commas", only=only)
        check_columns(file, table, columns, "correct data.rois or fetch it again")
        return table

    def _trials(self, subject: str) -> pd.DataFrame:
        table, file = self._table(subject, "trials", TRIAL_COLUMNS), self._file(subject, "trials")
        for column in ("session", "run", "trial_id"):
            table[column] = whole_numbers(file, table, column)
        unnamed = table.index[table["stimulus"].isna()]
        if len(unnamed):
            raise refusal(f"{file}, row {unnamed[0]}", "a stimulus", "none", "fetch it again")
        return table.sort_values(["session", "run", "trial_id"], ignore_index=True)

    def _voxels(self, subject: str, n: int) -> tuple[pd.DataFrame, np.ndarray]:
        """Channels of the voxels kept, and their rows (voxel,) in the responses."""
        ceiling = () if self.min_ceiling is None else ("nc_testset",)
        rois = self.rois or ()
        table = self._table(subject, "voxels", ("voxel_id", *rois, *ceiling), [*GRID.values()])
        file = self._file(subject, "voxels")
        ids = whole_numbers(file, table, "voxel_id")
        if len(table) != n or not (ids == np.arange(n)).all():
            raise InputError(
                f"{NAME}: expected the {n} voxels of the responses in {file}, numbered from 0 in "
                f"order, got {len(table)}; the files do not belong together"
            )
        keep = np.full(n, self.rois is None)
        region = np.full(n, "", dtype=object)
        for roi in rois:
            inside = np.nan_to_num(numbers(file, table, roi)) != 0
            region[inside & (region == "")] = roi
            keep |= inside
        if self.min_ceiling is not None:
            keep &= numbers(file, table, "nc_testset") >= self.min_ceiling
        if not keep.any():
            raise refusal(
                "data.rois",
                f"regions with voxels in {file}",
                f"none in {list(rois)} with a ceiling of {self.min_ceiling}",
                "change data.rois or data.min_ceiling",
            )
        rows = np.flatnonzero(keep)
        channels = packed.voxels(len(rows), region[rows].tolist())
        channels["name"] = [f"voxel{i:06d}" for i in rows]
        for name, column in GRID.items():
            if column in table:
                channels[name] = whole_numbers(file, table, column)[rows]
        return channels, rows

    def _check(self, subject: str, betas: Any, trials: pd.DataFrame) -> None:
        file = self._file(subject, "responses")
        ids = trials["trial_id"].to_numpy()
        packed.check_ids(NAME, str(file), ids, betas.shape[1], "trial_id")
        if len(ids) != betas.shape[1] or len(set(ids.tolist())) != len(ids):
            raise InputError(
                f"{NAME}: expected {betas.shape[1]} trials in {self._file(subject, 'trials')}, each "
                f"trial_id once, got {len(ids)}; the files do not belong together"
            )


def _subjects(root: Path) -> set[str]:
    return {
        path.name.split("_")[0]
        for folder in (root, root / "betas_csv")
        for pattern in FILES["responses"]
        for path in folder.glob(pattern.format("sub-*"))
    }


def _read(betas: Any, kept: np.ndarray, trials: np.ndarray, label: str) -> np.ndarray:
    """(trial, voxel) float32 of some trials and voxels, read in blocks of the file (voxel, trial)."""
    first, last = int(trials.min()), int(trials.max()) + 1
    out = np.empty((len(trials), len(kept)), np.float32)
    blocks = np.unique(kept // VOXELS_AT_ONCE)
    for block in progress(blocks, label):
        at = np.flatnonzero(kept // VOXELS_AT_ONCE == block)
        rows = kept[at]
        found = betas[int(rows[0]) : int(rows[-1]) + 1, first:last]
        out[:, at] = found[rows - rows[0]][:, trials - first].T
    return out


def _picture_file(uid: str) -> str:
    return uid.removeprefix(f"{NAME}/") + ".jpg"


def _uid(stimulus: str) -> str:
    return f"{NAME}/{stimulus.rsplit('.', 1)[0]}"
