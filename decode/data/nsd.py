"""The Natural Scenes Dataset as published: single-trial betas at 7 T, one recording per session."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from decode.core import Facts, InputError, Recording, Stimulus, Truth, refusal
from decode.recordings import nsd, nsd_betas, nsd_pictures, nsd_surface

BETAS = ("betas_fithrf_GLMdenoise_RR", "betas_fithrf")
SPACES = (nsd.SPACE, nsd_surface.SPACE)


class NSD:
    """Up to 30,000 single-trial betas of each of eight people who look at COCO pictures.

    `root` has the layout of the published bucket (docs/data_nsd.md). `betas` names the version; a
    session is read from `betas_sessionNN.hdf5` or `.nii.gz`, whichever is there. `mask` and `rois` are
    files of the subject's `roi` folder; voxels keep the C order of the mask's (x, y, z) array as
    nibabel gives it, and the first of `rois` that has a voxel names its region. `ncsnr_above` keeps
    voxels by the published map, which NSD computed from all repeats, those of test pictures included.

    `space` "fsaverage" reads vertices of that surface instead, named `lh-17` or `rh-4`, from
    `lh.betas_sessionNN.mgh` and `rh.`; `mask` and `rois` are then its label files.

    `test` names the split. "shared1000": every trial of the pictures that all subjects share is a
    test trial, in all sessions. "shared982": the same within the first 37 sessions, the only ones
    that are read; subjects with 40 sessions saw 982 of the pictures there. Some test pictures were
    shown less than three times, more so to subjects with fewer sessions: averages are over what exists.

    `sessions` keeps training trials of the first so many scanning sessions ("hours"); later training
    trials belong to no part. Test trials come from all sessions up to `last_session` (null: all that
    were released), each of which must be there. `captions` is one file or several, absolute or below
    `root`: COCO's captions_*.json, or an .npy table of text with a row per picture. HDF5 files with
    values in other files are followed with `outside` only.

    Events: trial (of the experiment, from 0), repeat (1 = first time), session. Raises InputError for
    missing, broken or contradictory files. Allen et al. 2022, doi:10.1038/s41593-021-00962-x.
    """

    facts: ClassVar[Facts] = Facts(
        citation="Allen et al. (2022), Nature Neuroscience 25:116-126",
        licence="NSD terms of use (access form)",
        modality="fmri",
        n_subjects=8,
        sfreq=1.0,
        n_stimuli=73000,
        n_trials=213000,
    )

    def __init__(
        self,
        root: str,
        *,
        betas: str = BETAS[0],
        test: str = "shared1000",
        space: str = nsd.SPACE,
        mask: str = "nsdgeneral",
        rois: Sequence[str] = (),
        ncsnr_above: float | None = None,
        sessions: int | None = None,
        last_session: int | None = None,
        captions: str | Sequence[str] | None = None,
        outside: bool = False,
    ) -> None:
        self.root, self.outside = Path(root), outside
        for key, value, allowed in (
            ("betas", betas, BETAS),
            ("test", test, tuple(nsd.LAST_SESSION)),
            ("space", space, SPACES),
        ):
            if value not in allowed:
                raise InputError(
                    f"data.{key}: expected one of {list(allowed)}, got {value!r}; choose one of these"
                )
        for key, number in (("sessions", sessions), ("last_session", last_session)):
            if number is not None and number < 1:
                raise InputError(f"data.{key}: expected at least 1 session, got {number}; raise it")
        self.betas, self.test, self.space = betas, test, space
        self.mask, self.rois = mask, tuple(rois)
        self.ncsnr_above, self.sessions, self.last_session = ncsnr_above, sessions, last_session
        given = [captions] if isinstance(captions, str) else list(captions or ())
        self.captions = [self.root / c for c in given]
        self.subjects: tuple[str, ...] = tuple(
            s for s in nsd.SUBJECTS if nsd.beta_folder(self.root, s, betas, space).is_dir()
        )
        if not self.subjects:
            raise InputError(
                f"nsd: expected {nsd.beta_folder(Path(), 'subj01', betas, space)} or that of another subject "
                f"in {self.root}, found none; set paths.data to the folder that contains nsd, or "
                "data.betas to the version that is there"
            )

    @cached_property
    def design(self) -> nsd.Design:
        return nsd.read_design(self.root, outside=self.outside)

    def check_subject(self, subject: str) -> None:
        """InputError for a subject without betas."""
        if subject not in self.subjects:
            where = nsd.beta_folder(self.root, subject, self.betas, self.space)
            raise InputError(
                f"subjects: expected a subject out of {list(self.subjects)}, which have {self.betas} in "
                f"{self.root}, got {subject!r}; correct subjects"
                + (f" or fetch the betas into {where}" if subject in nsd.SUBJECTS else "")
            )

    def recordings(self, subject: str) -> Iterator[Recording]:
        """One recording per session: (trial, voxel) in percent signal change."""
        self.check_subject(subject)
        files = self._files(subject)
        read, channels = self._reader(subject)
        n = nsd_pictures.count_pictures(self.root, outside=self.outside)
        trials = {s: self.design.trials(subject, s) for s in files}
        for table in trials.values():
            nsd_pictures.check_images(table["image"].to_numpy(), n, self.root, self.design.path)
        for session, path in files.items():
            table = trials[session]
            signal = read(session, path, len(table))
            name = f"{session:02d}"
            events = self._events(table, session)
            yield Recording(subject, name, "", "fmri", signal, 1.0, channels, events, source=path)

    def _folder(self, subject: str) -> Path:
        return nsd.beta_folder(self.root, subject, self.betas, self.space)

    def _reader(self, subject: str) -> tuple[Callable[[int, Path, int], np.ndarray], pd.DataFrame]:
        """(session, file, trials) -> (trial, channel), and the channels."""
        folder = self._folder(subject)
        bound = self.ncsnr_above
        if self.space == nsd_surface.SPACE:
            vertices, channels, sizes = nsd_surface.read_vertices(
                self.root, mask=self.mask, rois=self.rois, ncsnr=folder, ncsnr_above=bound
            )

            def on_surface(session: int, path: Path, n: int) -> np.ndarray:
                return nsd_surface.read_surface_betas(folder, session, vertices, sizes, n)

            return on_surface, channels
        voxels, channels = nsd.read_voxels(
            self.root,
            subject,
            mask=self.mask,
            rois=self.rois,
            ncsnr=folder / "ncsnr.nii.gz",
            ncsnr_above=bound,
        )

        def in_volume(session: int, path: Path, n: int) -> np.ndarray:
            return nsd_betas.read_betas(path, voxels, n, outside=self.outside)

        return in_volume, channels

    def stimuli(self) -> Mapping[str, Stimulus]:
        """All pictures of the stimulus file, made when asked for."""
        return self._pictures

    def files(self, subject: str) -> Iterable[Path]:
        # How many sessions there have to be is known from the design, which is opened with the betas.
        last = self._last(nsd.RELEASED[subject])
        files = [path for session, path in self._there(subject).items() if session <= last]
        shared = nsd_pictures.files_of(self.root, self.captions)
        bound = self._folder(subject) if self.ncsnr_above is not None else None
        if self.space == nsd_surface.SPACE:
            return [*nsd_surface.files_of(self.root, files, self.mask, self.rois, bound), *shared]
        # The affine of the betas is found in a volume beside them.
        beside = [nsd.roi_path(self.root, subject, n) for n in nsd_betas.IN_SPACE]
        regions = [nsd.roi_path(self.root, subject, n) for n in (self.mask, *self.rois)]
        return [*files, self._folder(subject) / "ncsnr.nii.gz", *beside, *regions, *shared]

    def truth(self, subject: str) -> Truth | None:
        return None

    @cached_property
    def _pictures(self) -> nsd_pictures.Pictures:
        return nsd_pictures.read_pictures(
            self.root, self.design, self.captions, outside=self.outside
        )

    def _last(self, released: int) -> int:
        return min(released, nsd.LAST_SESSION[self.test], self.last_session or released)

    def _there(self, subject: str) -> dict[int, Path]:
        """File of each session that is there."""
        reader = nsd_surface if self.space == nsd_surface.SPACE else nsd_betas
        return reader.session_files(self._folder(subject))

    def _files(self, subject: str) -> dict[int, Path]:
        """The session files to read; InputError for the first that is missing."""
        folder, found = self._folder(subject), self._there(subject)
        kind = "lh. and rh., .mgh" if self.space == nsd_surface.SPACE else ".hdf5 or .nii.gz"
        last = self._last(min(nsd.RELEASED[subject], self.design.n_sessions))
        if self.sessions is not None and self.sessions > last:
            raise InputError(
                f"data.sessions: expected at most {last} sessions of {subject} with test="
                f"{self.test}, got {self.sessions}; lower it"
            )
        missing = [s for s in range(1, last + 1) if s not in found]
        if missing:
            before = missing[0] - 1
            # Sessions are counted from the first: without it there is nothing to go on with.
            without = (
                f", or set data.last_session={before} to go without, which makes another test set"
            )
            raise refusal(
                folder,
                f"betas_session01 to betas_session{last:02d} ({kind})",
                f"no betas_session{missing[0]:02d} ({len(missing)} missing)",
                "fetch it" + (without if before else ""),
            )
        return {s: found[s] for s in range(1, last + 1)}

    def _events(self, table: pd.DataFrame, session: int) -> pd.DataFrame:
        used = self.sessions is None or session <= self.sessions
        return pd.DataFrame(
            {
                "onset": np.arange(len(table), dtype=float),
                "duration": 1.0,
                "stimulus": [nsd_pictures.uid(i) for i in table["image"]],
                "split": np.where(table["shared"], "test", "train" if used else ""),
                "trial": table["trial"].to_numpy(),
                "repeat": table["repeat"].to_numpy(),
                "session": f"{session:02d}",
            }
        )
