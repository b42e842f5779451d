"""Any BIDS data set whose events.tsv name what was shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from fnmatch import fnmatch
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import ClassVar

import pandas as pd

from decode.core import (
    Facts,
    InputError,
    Kind,
    Modality,
    Recording,
    Stimulus,
    Truth,
    about,
    refusal,
)
from decode.notices import tell
from decode.pictures import StimuliOnDemand
from decode.recordings import bids
from decode.recordings.bids import Columns, Run, Shown
from decode.recordings.bids_files import files_about
from decode.recordings.bids_meeg import files_of, read_runs
from decode.recordings.bold import (
    Scale,
    Voxels,
    check_scale,
    read_bold,
    read_mask,
    usable,
    with_confounds,
)
from decode.recordings.electrodes import Asked
from decode.recordings.masks import bright_voxels
from decode.recordings.names import chosen_entities, meant, with_entities
from decode.recordings.sidecars import sidecar, volume_timing
from decode.recordings.stimuli import needs_file
from decode.recordings.tables import numbers, read_words

MODALITIES: dict[str, Modality] = {"eeg": "eeg", "meg": "meg", "ieeg": "ieeg", "func": "fmri"}
RAW_ENDINGS = ("fif", "vhdr", "edf", "bdf", "set", "ds", "con", "sqd", "mefd", "nwb")
PREPROCESSED = "_desc-preproc_bold.nii.gz"


class Bids:
    """Raw EEG, MEG or iEEG through mne-bids; BOLD from fMRIPrep's derivatives or plain NIfTI.

    `datatype` is the BIDS folder: "eeg", "meg", "ieeg" or "func". `task` may be None where there is
    one. A row of events.tsv is a trial unless its `stim_column` is n/a (null: none is, as in recordings of
    rest, which need no events.tsv and a `hop` of the last step); that column names a file
    below `stimuli` (a folder in `root`), whose kind follows from its ending, or, with `kind`
    "text" or "event", is itself the word or the class. `start_column` holds the second of a sound or film
    at which the event begins to play it: events are clips, as words of a story, and those of one file
    are one block. `label_columns` are facts about the stimulus, kept with it and with the trials;
    `trial_columns`, as answers, are of each trial alone; `split_column` holds train, test or n/a.
    Events that name a file above `root` and `stimuli`, and recordings that name files above their own
    folder, are followed with `outside` only.

    Where a run was recorded or written several times, `entities` chooses by what file names say, as
    {"acq": "fast", "echo": 1, "res": 2}; None: names without that entity.

    For "func", `derivatives` is fMRIPrep's folder in `root`: `desc-preproc_bold` in `space` (None:
    the scanner's own) within `desc-brain_mask`, and the columns of the confounds table that match
    the names or patterns in `confounds` become channels for the GLM to regress out. Without
    `derivatives`, plain `_bold.nii.gz` files are read. `mask`, a NIfTI file in `root` ("{subject}"
    stands for sub-01), comes before any of these; without any, bright voxels are kept. BOLD comes
    in percent signal change, or with `scale` "as_is" in the unit of the files (residuals, z-scores:
    what has no mean to take percent of), M/EEG in V and T with sensor positions in metres.

    For "ieeg", `region_columns` are columns of electrodes.tsv that say the region of a contact, the first
    that is not n/a; `space` is that of the electrodes.tsv whose positions are taken (None: the only one),
    in metres by the unit in coordsystem.json. EEG has `region_columns` too.

    Raises InputError for what is missing, unreadable or does not fit together.
    """

    facts: ClassVar[Facts] = Facts(
        citation="see dataset_description.json",
        licence="see dataset_description.json",
        modality="eeg",
    )

    def __init__(
        self,
        root: str,
        *,
        datatype: str,
        task: str | None = None,
        subjects: Sequence[str] | None = None,
        stim_column: str | None = "stim_file",
        start_column: str | None = None,
        stimuli: str = "stimuli",
        kind: Kind | None = None,
        label_columns: Sequence[str] = (),
        split_column: str | None = None,
        derivatives: str | None = None,
        space: str | None = None,
        entities: Mapping[str, str | int | None] | None = None,
        mask: str | None = None,
        confounds: Sequence[str] = (),
        scale: Scale = "percent",
        outside: bool = False,
        region_columns: Sequence[str] = (),
        trial_columns: Sequence[str] = (),
    ) -> None:
        self.root, self.datatype, self.task = Path(root), datatype, task
        self.outside = outside
        if start_column is not None and not needs_file(kind):
            raise refusal(
                "data.start_column", f"null where data.kind is {kind}", repr(start_column),
                "name a column of files in data.stim_column, or set it to null",
            )  # fmt: skip
        if datatype not in MODALITIES:
            raise InputError(
                f"data.datatype: expected one of {', '.join(MODALITIES)}, got {datatype!r}"
                "; choose one of these"
            )
        if not self.root.is_dir():
            raise InputError(
                f"bids: expected a BIDS data set (sub-01/{datatype}/...) at {self.root}, found no "
                "such folder; set data.root or paths.data"
            )
        if datatype == "func" and region_columns:
            raise refusal(
                "data.region_columns", "none for func", list(region_columns), "use masks of regions"
            )
        self.electrodes = Asked(space, tuple(region_columns))
        if derivatives is None and ((space is not None and datatype != "ieeg") or confounds):
            raise InputError(
                "data.space and data.confounds: expected fMRIPrep's folder in data.derivatives, "
                "got null; set data.derivatives=derivatives/fmriprep or leave both out"
            )
        folder = Path(stimuli)
        self.columns = Columns(
            stim_column, self.root / folder, kind, tuple(label_columns), split_column,
            () if outside else (self.root, self.root / folder), start_column, tuple(trial_columns),
        )  # fmt: skip
        self.folder = self.root if derivatives is None else self.root / derivatives
        self.chosen = chosen_entities(entities or {})
        self.derivatives, self.space, self.mask = derivatives, space, mask
        check_scale(scale)
        self.scale = scale
        self.confounds = tuple(confounds)
        self._files = bids.files_with(self.folder, datatype, self._endings)
        self._shown_to: dict[str, dict[str, Shown]] = {}
        self.subjects = self._find_subjects(subjects)
        tasks = {t: s for s in self.subjects for t in self._files[s]} if task is None else {}
        if len(tasks) > 1:
            tell(
                "data.task",
                f"null, and subjects did different ones: {_listed(tasks)}; set it to one",
            )
        told = bids.description(self.root)
        self.facts = replace(  # type: ignore[misc]
            type(self).facts,
            citation=str(told.get("Name", self.root.name)),
            licence=str(told.get("License", "not stated")),
            modality=MODALITIES[datatype],
        )

    def recordings(self, subject: str) -> Iterator[Recording]:
        """One recording per run, read when it is asked for."""
        if subject not in self.subjects:
            raise refusal(
                "subjects",
                f"subjects with {self.datatype} recordings in {self.folder}",
                f"{subject!r}",
                f"choose from {', '.join(self.subjects)}",
            )
        # A stimulus that is not there is better found before an hour of filtering.
        self._shown(subject)
        runs = self._runs(subject)
        if self.datatype == "func":
            yield from self._bold(runs)
        else:
            yield from read_runs(
                runs,
                self.root,
                self.datatype,
                MODALITIES[self.datatype],
                partial(bids.trials_of, columns=self.columns),
                self.electrodes,
                outside=self.outside,
            )

    def stimuli(self) -> Mapping[str, Stimulus]:
        """What the events of all subjects name; the uid is the value of the stimulus column.

        Subjects whose files cannot be read are left out here; asking for their recordings says why.
        """
        return self._stimuli

    def files(self, subject: str) -> Iterable[Path]:
        found: list[Path] = []
        for run in self._runs(subject):
            found += files_about(run.path, self.folder)
            if self.derivatives is not None:
                raw = self.root / run.path.relative_to(self.folder)
                found += files_about(raw, self.root, tables_only=True)
            found += [run.events] if run.events is not None else []
            if self.outside and self.datatype != "func":
                found += files_of(run, self.root, self.datatype)
            if needs_file(self.columns.kind):
                shown = bids.files_named(bids.trials_of(run.events, self.columns))
                found += [self.columns.folder / name for name in shown]
        masks = [] if self.mask is None else [self.root / self.mask.format(subject=subject)]
        return found + masks

    def truth(self, subject: str) -> Truth | None:
        return None

    def only(self, subjects: Sequence[str]) -> Bids:
        """Without the other subjects, whose events may say something else about a stimulus."""
        other = copy(self)
        other.subjects, other._shown_to = tuple(subjects), {}
        vars(other).pop("_stimuli", None)
        return other

    @cached_property
    def _stimuli(self) -> Mapping[str, Stimulus]:
        found, faults = [], []
        for subject in self.subjects:
            try:
                found.append(self._shown(subject))
            except InputError as e:
                faults.append(e)
        if not found:
            raise faults[0]
        return StimuliOnDemand(list(dict.fromkeys(chain(*found))), partial(bids.agreed, found))

    def _shown(self, subject: str) -> dict[str, Shown]:
        """What a subject's events name, read once."""
        if subject not in self._shown_to:
            events = [run.events for run in self._runs(subject)]
            self._shown_to[subject] = bids.stimuli_of(events, self.columns)
        return self._shown_to[subject]

    def _find_subjects(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """The subjects asked for, or all that did the task."""
        there = [s for s, tasks in self._files.items() if self.task in (None, *tasks)]
        if not self._files:
            raise InputError(
                f"bids: expected recordings that end in {' or '.join(self._endings[:3])} in "
                f"sub-*/{self.datatype} or sub-*/ses-*/{self.datatype} of {self.folder}, found "
                "none; correct data.root, data.datatype or data.derivatives"
            )
        if not there:
            first = next(iter(self._files))
            bids.of_task(self._files[first], self.task, self.folder / first, self.datatype)
        named = [s if s.startswith("sub-") else f"sub-{s}" for s in map(str, wanted or there)]
        twice = [s for i, s in enumerate(named) if s in named[:i]]
        if twice:
            remedy = "leave one of them out"
            raise refusal("data.subjects", "each subject once", f"{twice[0]} twice", remedy)
        for subject in named:
            if subject in self._files and subject not in there:
                bids.of_task(self._files[subject], self.task, self.folder / subject, self.datatype)
            if subject not in self._files:
                raise refusal(
                    "data.subjects",
                    f"subjects with {self.datatype} recordings in {self.folder}",
                    f"{subject!r}",
                    f"choose from {', '.join(there)}",
                )
        return tuple(named)

    @property
    def _endings(self) -> list[str]:
        if self.datatype != "func":
            return [f"_{self.datatype}.{e}" for e in RAW_ENDINGS]
        return ["_bold.nii", "_bold.nii.gz"] if self.derivatives is None else [PREPROCESSED]

    def _runs(self, subject: str) -> list[Run]:
        tasks, where = self._files[subject], self.folder / subject
        files = with_entities(bids.of_task(tasks, self.task, where, self.datatype), self.chosen)
        if self.derivatives is not None:
            spaces = sorted({meant(p).get("space", "null") for p in files})
            files = [p for p in files if meant(p).get("space") == self.space]
            if not files:
                raise refusal(
                    where,
                    f"{PREPROCESSED} in space {self.space}",
                    f"it only in {', '.join(spaces)}",
                    "correct data.space",
                )
        needed = self.columns.stimulus is not None
        return bids.as_runs(self.root, self.folder, files, with_events=needed)

    def _bold(self, runs: Sequence[Run]) -> Iterator[Recording]:
        voxels = self._voxels(runs)
        channels = voxels.channels()
        for run in runs:
            raw = (
                None
                if self.derivatives is None
                else (bids.raw_of(run.path, self.root, self.folder), self.root)
            )
            recording = read_bold(
                run.path,
                voxels,
                bids.trials_of(run.events, self.columns),
                subject=run.subject,
                session=run.session,
                run=run.run,
                channels=channels,
                timing=volume_timing(run.path, self.folder, raw),
                scale=self.scale,
            )
            if self.confounds:
                table = confounds_of(run.path)
                with about(table):
                    recording = with_confounds(recording, read_confounds(table, self.confounds))
            yield recording

    def _voxels(self, runs: Sequence[Run]) -> Voxels:
        images = [run.path for run in runs]
        if self.mask is not None:
            drawn = read_mask(self.root / self.mask.format(subject=runs[0].subject))
            return usable(images, drawn, self.scale)
        if self.derivatives is None:
            return bright_voxels(images, self.scale)
        return usable(images, common_mask(images), self.scale)


def _listed(tasks: Mapping[str, str]) -> str:
    return ", ".join(f"{task} ({subject})" for task, subject in sorted(tasks.items()))


def common_mask(images: Sequence[Path]) -> Voxels:
    """The voxels inside fMRIPrep's brain mask of every run."""
    masks = []
    for image in images:
        path = sidecar(image, image.parent, "desc-brain_mask.nii.gz", ignore=["desc"])
        # A mask without a space is in the scanner's own and fits no other.
        same = path and meant(path).get("space") == meant(image).get("space")
        if path is None or not same:
            raise InputError(
                f"{image}: expected *_desc-brain_mask.nii.gz of its space beside it, found none; "
                "copy it there or set data.mask"
            )
        masks.append(read_mask(path))
    first = masks[0]
    inside = set(map(tuple, first.ijk.tolist()))
    for image, mask in zip(images[1:], masks[1:], strict=True):
        if mask.grid != first.grid:
            raise refusal(
                image,
                f"a mask on the grid of the first run's, {first.grid}",
                mask.grid,
                "set data.space to a space that all runs share",
            )
        inside &= set(map(tuple, mask.ijk.tolist()))
    return first.take(pd.Series(list(map(tuple, first.ijk.tolist()))).isin(inside).to_numpy(bool))


def confounds_of(image: Path) -> Path:
    """The table of confounds that fMRIPrep wrote beside an image."""
    endings = ("desc-confounds_timeseries.tsv", "desc-confounds_regressors.tsv")
    found = [sidecar(image, image.parent, e, ignore=["desc"]) for e in endings]
    path = next((p for p in found if p is not None), None)
    if path is None:
        raise InputError(
            f"{image}: expected *_{endings[0]} beside it, found none; copy it there or set "
            "data.confounds=[]"
        )
    return path


def read_confounds(path: Path, wanted: Sequence[str]) -> pd.DataFrame:
    """(volume, confound) columns of fMRIPrep's table that match the names or patterns."""
    table = read_words(path)
    names: list[str] = []
    for pattern in wanted:
        matching = [c for c in table.columns if fnmatch(c, pattern)]
        if not matching:
            raise InputError(
                f"{path}: expected a column {pattern!r} of data.confounds, got "
                f"{', '.join(table.columns[:12])}, ...; correct data.confounds"
            )
        names += [c for c in matching if c not in names]
    return pd.DataFrame({name: numbers(path, table, name) for name in names})
