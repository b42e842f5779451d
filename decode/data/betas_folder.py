"""Single-trial betas of one's own scanner: a folder per subject with arrays and a table of trials."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from decode.core import Facts, InputError, Kind, Recording, Stimulus, Truth, refusal
from decode.media.medium import kind_of
from decode.recordings import beta_files
from decode.recordings.places import check_place
from decode.recordings.stimuli import check_kind, from_file, from_name, needs_file
from decode.recordings.tables import check_columns, read_words

TABLE, VOXELS = "trials.tsv", "voxels.tsv"
PARTS = ("train", "test", "")


class BetasFolder:
    """`root/<subject>/` holds files of betas and `trials.tsv`; every folder with that table is a subject.

    The files that match `files`, in the order of their names (numbers count as numbers), hold one
    row per row of the table: .npy and .mat (the variable `variable`) are (trial, voxel), NIfTI is
    (x, y, z, trial) with the voxels of `mask`, a NIfTI file in the subject's folder, in C order of
    its array. Betas are taken as they are, in whatever unit.

    `trials.tsv` has a column `stimulus`, a file's path below `pictures`, whose kind follows from its
    ending (a picture where it says none) or is `kind`; with `kind` "text" or "event" it is itself the
    word or the class, also as the label `stimulus`, and no file is needed. It may have session, run,
    split (train, test or n/a), caption, and anything else; `label_columns` names those that are facts
    about the stimulus. Trials of one session and run are one recording. `voxels.tsv`, if there, has a
    row per voxel and any of name, roi, x, y, z (m). `pictures` lies in `root` or is absolute; a table
    that names a file above both, and .mat files with values in other files, are followed with `outside`
    only.

    Raises InputError where files are missing or disagree, for missing pictures, and for NaN.
    """

    facts: ClassVar[Facts] = Facts(
        citation="your own", licence="your own", modality="fmri", sfreq=1.0
    )

    def __init__(
        self,
        root: str,
        *,
        files: str = "betas*",
        pictures: str = "pictures",
        variable: str = "betas",
        mask: str = "mask.nii.gz",
        label_columns: Sequence[str] = (),
        outside: bool = False,
        kind: Kind | None = None,
    ) -> None:
        check_kind(kind)
        self.outside, self.kind = outside, kind
        self.root, self.files_named, self.variable, self.mask = Path(root), files, variable, mask
        self.pictures, self.label_columns = self.root / pictures, tuple(label_columns)
        self.subjects: tuple[str, ...] = tuple(
            sorted(p.parent.name for p in self.root.glob(f"*/{TABLE}"))
        )
        if not self.subjects:
            raise InputError(
                f"betas_folder: expected <subject>/{TABLE} in {self.root}, found none; write a table "
                "of trials per subject or set data.root"
            )

    def recordings(self, subject: str) -> Iterator[Recording]:
        """One recording per session and run, in the order of the table."""
        if subject not in self.subjects:
            raise InputError(
                f"betas_folder: expected a subject out of {list(self.subjects)}, got {subject!r}; "
                f"put {TABLE} into {self.root / subject}"
            )
        trials = self._tables[subject]
        folder = self.root / subject
        self._check_pictures(folder / TABLE, trials)
        betas = beta_files.open_betas(
            folder, self.files_named, self.variable, self.mask, outside=self.outside
        )
        if len(betas) != len(trials):
            raise InputError(
                f"{folder / TABLE}: expected a row per beta map, got {len(trials)} rows and "
                f"{len(betas)} maps in {betas.names}; correct the table or data.files"
            )
        channels = beta_files.read_channels(folder / VOXELS, betas)
        place = trials["session"] + "\0" + trials["run"]
        for rows in place.groupby(place, sort=False).indices.values():
            rows = np.sort(rows)
            session, run = (str(trials[c].iloc[rows[0]]) for c in ("session", "run"))
            signal = betas.rows(rows)
            bad = np.flatnonzero(~np.isfinite(signal).all(axis=1))
            if len(bad):
                voxel = int(np.flatnonzero(~np.isfinite(signal[bad[0]]))[0])
                raise InputError(
                    f"{folder}: expected finite betas, got NaN or infinity in row "
                    f"{rows[bad[0]] + 1} of {TABLE}, voxel {voxel} ({len(bad)} such rows); "
                    "leave the voxel out or the trial"
                )
            events = _events(trials.iloc[rows].reset_index(drop=True))
            yield Recording(
                subject, session, run, "fmri", signal, 1.0, channels, events, source=folder / TABLE
            )

    def stimuli(self) -> Mapping[str, Stimulus]:
        """What the subjects saw, with captions of all of them, by the value of the column `stimulus`."""
        return self._stimuli

    def files(self, subject: str) -> Iterable[Path]:
        folder, trials = self.root / subject, self._tables[subject]
        # Captions of a picture are those of all subjects together.
        said = [s for s, table in self._tables.items() if s == subject or "caption" in table]
        shown = () if not needs_file(self.kind) else trials["stimulus"].unique()
        pictures = [self.pictures / name for name in shown]
        betas = beta_files.beta_paths(folder, self.files_named, self.mask)
        return [
            *betas, *pictures, folder / VOXELS, folder / self.mask,
            *(self.root / s / TABLE for s in said),
        ]  # fmt: skip

    def truth(self, subject: str) -> Truth | None:
        return None

    def only(self, subjects: Sequence[str]) -> BetasFolder:
        """Without the other subjects, whose tables may say something else about a stimulus."""
        other = copy(self)
        other.subjects = tuple(subjects)
        for kept in ("_tables", "_stimuli"):
            vars(other).pop(kept, None)
        return other

    @cached_property
    def _tables(self) -> dict[str, pd.DataFrame]:
        return {s: self._table(self.root / s / TABLE) for s in self.subjects}

    def _table(self, path: Path) -> pd.DataFrame:
        table = read_words(path)
        remedy = "add it, or correct data.label_columns"
        check_columns(path, table, ["stimulus", *self.label_columns], remedy)
        if table["stimulus"].isna().any():
            row = table.index[table["stimulus"].isna()][0]
            raise InputError(f"{path}: expected a picture in row {row}, got none; name it")
        for column in ("session", "run", "split"):
            table[column] = table[column].fillna("") if column in table else ""
        wrong = sorted(set(table["split"]) - set(PARTS))
        if wrong:
            raise InputError(
                f"{path}: expected train, test or n/a in the column split, got {wrong[0]!r}; write one of "
                "these in the column split"
            )
        return table.reset_index(drop=True)

    def _check_pictures(self, path: Path, trials: pd.DataFrame) -> None:
        if not needs_file(self.kind):
            return
        shown = trials["stimulus"].unique()
        if not self.outside:
            for name in shown:
                check_place(path, self.pictures / name, (self.root, self.pictures))
        gone = [s for s in shown if not (self.pictures / s).is_file()]
        if gone:
            row = int(np.flatnonzero((trials["stimulus"] == gone[0]).to_numpy())[0])
            raise refusal(
                f"{path}, row {row + 1}",
                f"pictures that lie in {self.pictures}",
                f"{gone[0]!r}, which does not ({len(gone)} such pictures)",
                "put it there or set data.pictures",
            )

    @cached_property
    def _stimuli(self) -> dict[str, Stimulus]:
        rows = pd.concat(self._tables.values(), ignore_index=True)
        return {str(name): self._stimulus(str(name), r) for name, r in rows.groupby("stimulus")}

    def _stimulus(self, name: str, rows: pd.DataFrame) -> Stimulus:
        labels: dict[str, object] = {}
        for column in self.label_columns:
            values = rows[column].dropna().unique().tolist()
            if len(values) > 1:
                raise InputError(
                    f"{TABLE}: expected one {column!r} for the picture {name!r}, got {values[:3]}; "
                    "make the rows agree, or leave the column out of data.label_columns"
                )
            labels[column] = values[0] if values else None
        captions = tuple(rows["caption"].dropna().unique().tolist()) if "caption" in rows else ()
        if self.kind is not None and not needs_file(self.kind):
            return from_name(name, self.kind, "stimulus", captions, labels)
        path = self.pictures / name
        return from_file(name, self.kind or kind_of(path) or "image", path, captions, labels)


def _events(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(onset=np.arange(len(rows), dtype=float), duration=1.0)
