"""The Natural Scenes Dataset as time series: preprocessed BOLD at 7 T, one recording per run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from decode.core import Facts, InputError, Recording, Stimulus, Truth, refusal
from decode.recordings import nsd, nsd_pictures
from decode.recordings.bold import check_mean, percent_change, read_run

SHOWN_S = 3.0
_WITH_REST = 14


class NSDTimeseries:
    """BOLD of people who look at COCO pictures for three seconds each, in percent of each run's mean.

    `root` has the layout of the published bucket (docs/data_nsd.md):
    `timeseries_sessionSS_runRR.nii.gz` and, beside their folder, `design/design_sessionSS_runRR.tsv`
    with one number per volume: 0, or the picture (from 1) whose presentation begins there. Runs at
    rest are left out: those whose design is empty, and runs 1 and 14 without a design in
    sessions of 14 runs.

    `tr` is in s; files of 1.8 mm have 4/3 s. `volumes` keeps the first so many of each run (null:
    all, which then must be as many as the design has rows). `sessions` keeps training trials of the
    first so many sessions, `last_session` reads no further. Test trials are those of pictures that
    all subjects share ("shared1000" as far as sessions go). `mask`, `rois`, `captions` and `outside` are
    those of the betas; voxels keep the C order of the mask's array as nibabel gives it.

    Raises InputError for missing, broken or contradictory files. Allen et al. 2022,
    doi:10.1038/s41593-021-00962-x.
    """

    facts: ClassVar[Facts] = Facts(
        citation="Allen et al. (2022), Nature Neuroscience 25:116-126",
        licence="NSD terms of use (access form)",
        modality="fmri",
        n_subjects=8,
        sfreq=0.75,
        n_stimuli=73000,
        n_trials=213000,
    )

    def __init__(
        self,
        root: str,
        *,
        tr: float = 4 / 3,
        volumes: int | None = 225,
        mask: str = "nsdgeneral",
        rois: Sequence[str] = (),
        sessions: int | None = None,
        last_session: int | None = None,
        captions: str | Sequence[str] | None = None,
        outside: bool = False,
    ) -> None:
        self.root, self.outside = Path(root), outside
        if not 0.05 < tr < 60:
            raise InputError(
                f"data.tr: expected a repetition time in s, got {tr:g}; write 1.3333333333333333 for the "
                "1.8 mm files"
            )
        for key, number in (
            ("volumes", volumes), ("sessions", sessions), ("last_session", last_session)
        ):  # fmt: skip
            if number is not None and number < 1:
                raise InputError(f"data.{key}: expected at least 1, got {number}; raise it")
        self.tr, self.volumes, self.mask, self.rois = float(tr), volumes, mask, tuple(rois)
        self.sessions, self.last_session = sessions, last_session
        given = [captions] if isinstance(captions, str) else list(captions or ())
        self.captions = [self.root / c for c in given]
        self.subjects: tuple[str, ...] = tuple(s for s in nsd.SUBJECTS if self._folder(s).is_dir())
        if not self.subjects:
            raise InputError(
                f"nsd: expected nsddata_timeseries/ppdata/subj01/{nsd.SPACE}/timeseries or that of "
                f"another subject in {self.root}, found none; set paths.data to the folder that "
                "contains nsd"
            )

    @cached_property
    def design(self) -> nsd.Design:
        return nsd.read_design(self.root, outside=self.outside)

    def recordings(self, subject: str) -> Iterator[Recording]:
        """One recording per run: (time, voxel) in percent signal change, an event per picture."""
        if subject not in self.subjects:
            raise InputError(
                f"nsd: expected a subject out of {list(self.subjects)}, which have time series in "
                f"{self.root}, got {subject!r}; correct subjects or fetch the time series"
            )
        voxels, channels = nsd.read_voxels(self.root, subject, mask=self.mask, rois=self.rois)
        n = nsd_pictures.count_pictures(self.root, outside=self.outside)
        for session, runs in self._runs(subject).items():
            trials = self.design.trials(subject, session)
            nsd_pictures.check_images(trials["image"].to_numpy(), n, self.root, self.design.path)
            self._check_whole(subject, session, runs, len(trials))
            shown: dict[int, int] = {}
            for run, (path, design) in runs.items():
                events = self._events(design, path, trials, shown, session)
                signal = read_run(path, voxels)
                self._check_length(path, len(signal), len(design))
                check_mean(path, signal)
                signal = percent_change(signal[: self.volumes])
                names = f"{session:02d}", f"{run:02d}"
                yield Recording(
                    subject, *names, "fmri", signal, 1 / self.tr, channels, events, source=path
                )

    def stimuli(self) -> Mapping[str, Stimulus]:
        """All pictures of the stimulus file, made when asked for."""
        return self._pictures

    def files(self, subject: str) -> Iterable[Path]:
        images = sorted(self._folder(subject).glob("timeseries_session*_run*.nii.gz"))
        regions = [nsd.roi_path(self.root, subject, n) for n in (self.mask, *self.rois)]
        shared = nsd_pictures.files_of(self.root, self.captions)
        return [*images, *map(_design_of, images), *regions, *shared]

    def truth(self, subject: str) -> Truth | None:
        return None

    @cached_property
    def _pictures(self) -> nsd_pictures.Pictures:
        return nsd_pictures.read_pictures(
            self.root, self.design, self.captions, outside=self.outside
        )

    def _folder(self, subject: str) -> Path:
        return self.root / "nsddata_timeseries/ppdata" / subject / nsd.SPACE / "timeseries"

    def _runs(self, subject: str) -> dict[int, dict[int, tuple[Path, np.ndarray]]]:
        """Session -> run -> its image and its design, without runs at rest."""
        found: dict[int, dict[int, Path]] = {}
        for path in sorted(self._folder(subject).glob("timeseries_session*_run*.nii.gz")):
            match = re.fullmatch(r"timeseries_session(\d+)_run(\d+)\.nii\.gz", path.name)
            if match:
                found.setdefault(int(match[1]), {})[int(match[2])] = path
        last = self.last_session or max(found, default=0)
        missing = [s for s in range(1, last + 1) if s not in found]
        if missing or not found:
            raise InputError(
                f"{self._folder(subject)}: expected timeseries_session{(missing or [1])[0]:02d}_"
                "run01.nii.gz and so on, found none of that session; fetch it or set "
                "data.last_session"
            )
        kept: dict[int, dict[int, tuple[Path, np.ndarray]]] = {}
        for session in range(1, last + 1):
            for run, path in found[session].items():
                file = _design_of(path)
                rest = _WITH_REST in found[session] and run in (1, _WITH_REST)
                if rest and not file.is_file():
                    continue
                design = read_run_design(file)
                if design.any():
                    kept.setdefault(session, {})[run] = path, design
        return kept

    def _events(
        self,
        design: np.ndarray,
        path: Path,
        trials: pd.DataFrame,
        shown: dict[int, int],
        session: int,
    ) -> pd.DataFrame:
        """One row per picture that begins within the run; `shown` counts pictures in the session."""
        volumes = np.flatnonzero(design)
        if self.volumes is not None:
            volumes = volumes[volumes < self.volumes]
        rows = []
        for volume in volumes:
            image = int(design[volume]) - 1
            known = trials[trials["image"] == image]
            number = shown.get(image, 0)
            if number >= len(known):
                raise refusal(
                    path.name,
                    f"pictures as often as {self.design.path.name} names them, {len(known)} times in session "
                    f"{session} of this subject",
                    f"picture {image} (from 0) once more at volume {volume} of its design",
                    "fetch both files again",
                )
            shown[image] = number + 1
            rows.append(known.iloc[number])
        used = self.sessions is None or session <= self.sessions
        table = pd.DataFrame(rows).reset_index(drop=True)
        return pd.DataFrame(
            {
                "onset": volumes * self.tr,
                "duration": SHOWN_S,
                "stimulus": [nsd_pictures.uid(int(i)) for i in table["image"]],
                "split": np.where(table["shared"], "test", "train" if used else ""),
                "trial": table["trial"].astype(int),
                "repeat": table["repeat"].astype(int),
            }
        )

    def _check_whole(
        self, subject: str, session: int, runs: Mapping[int, tuple[Path, np.ndarray]], n: int
    ) -> None:
        """InputError where runs are missing, whose trials nobody would miss."""
        shown = sum(np.count_nonzero(design) for _, design in runs.values())
        if shown < n:
            raise InputError(
                f"{self._folder(subject)}: expected runs with the {n} trials of session {session}, got "
                f"{shown} in the runs {sorted(runs)}; fetch the others or set data.last_session"
            )

    def _check_length(self, path: Path, n: int, rows: int) -> None:
        short = self.volumes is not None and min(n, rows) < self.volumes
        if short or (self.volumes is None and n != rows):
            expected = self.volumes if self.volumes is not None else rows
            raise InputError(
                f"{path}: expected {expected} volumes and as many rows in its design, got {n} "
                f"volumes and {rows} rows; fetch both again or set data.volumes"
            )


def _design_of(image: Path) -> Path:
    name = image.name.replace("timeseries_", "design_").replace(".nii.gz", ".tsv")
    return image.parents[1] / "design" / name


def read_run_design(path: Path) -> np.ndarray:
    """Picture (from 1) that begins at each volume (volume,), 0 for none."""
    try:
        values: np.ndarray = np.loadtxt(path, ndmin=1)
    except FileNotFoundError as e:
        raise InputError(
            f"{path}: expected the run's design, found no such file; put it there"
        ) from e
    except (OSError, ValueError) as e:
        raise refusal(path, "one number per volume", e, "fetch the design file again") from e
    if values.ndim != 1 or (values < 0).any() or (values % 1 != 0).any():
        raise InputError(
            f"{path}: expected one column of picture numbers from 0, got shape {values.shape}; "
            "fetch the file again"
        )
    return values.astype(np.int64)
