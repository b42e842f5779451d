"""A study of simulated EEG or MEG participants on disk: raw FIF runs in BIDS layout.

A participant's folder appears under its final name only when it is complete, so a killed simulation
starts that participant again; the same design gives the same signals.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import pandas as pd

from decode.core import Facts, InputError, Recording, Stimulus, Truth
from decode.progress import progress
from decode.recordings.meeg import read_meeg
from decode.simulation.meeg import LINE_HZ, image_features, simulate_run, whitened_response
from decode.simulation.meeg_participant import RESPONSE_S, Participant, participant
from decode.simulation.scenes import Scene, as_stimulus, test_scenes, training_scenes

Sensors = Literal["eeg", "meg"]

VERSION = 5
TASK = "scenes"
TRIALS_PER_RUN = 300
ONSET_ASYNCHRONY_S = (0.62, 0.68)
PICTURE_S = 0.2
TRIGGER = "STI 014"
TRIGGER_S = 0.02
FIRST_TEST_CODE = 1_000_000
APPROXIMATION = (
    "the observer knows the spectrum of the Gaussian noise and every neighbouring response; blinks "
    "and line noise are left out, so this is an upper bound"
)


@dataclass(frozen=True, slots=True)
class Design:
    """Everything that decides the content of a study."""

    modality: Sensors
    n_subjects: int
    n_train: int
    train_repeats: int
    n_test: int
    test_repeats: int
    noise: float
    sfreq: float
    seed: int

    def __post_init__(self) -> None:
        for name in ("n_subjects", "n_train", "train_repeats", "n_test", "test_repeats"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"data.{name}: expected at least 1, got {getattr(self, name)}; raise it"
                )
        if self.noise < 0:
            raise InputError(f"data.noise: expected 0 or more, got {self.noise:g}; raise it")
        if self.sfreq <= 2.2 * LINE_HZ:
            raise InputError(
                f"data.sfreq: expected more than {2.2 * LINE_HZ:g} Hz, so that line noise can be "
                f"recorded, got {self.sfreq:g}"
                "; raise it"
            )

    def digest(self) -> str:
        content = json.dumps([VERSION, asdict(self)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:8]


class Study:
    """Simulated once per participant, when its recordings or truth are first asked for.

    Subclasses say in `facts` what the sensors are. `noise` multiplies everything that is not the
    response; `sfreq` is in Hz. Raises InputError for a design that cannot be recorded.
    """

    facts: ClassVar[Facts]

    def __init__(
        self,
        root: str | Path,
        *,
        n_subjects: int = 2,
        n_train: int = 1500,
        train_repeats: int = 2,
        n_test: int = 100,
        test_repeats: int = 8,
        noise: float = 1.0,
        sfreq: float = 200.0,
        seed: int = 0,
    ) -> None:
        self.design = Design(
            modality=cast(Sensors, self.facts.modality),
            n_subjects=n_subjects,
            n_train=n_train,
            train_repeats=train_repeats,
            n_test=n_test,
            test_repeats=test_repeats,
            noise=noise,
            sfreq=sfreq,
            seed=seed,
        )
        self.folder = Path(root) / f"simulated_{self.design.modality}-{self.design.digest()}"
        self.subjects = tuple(f"sub-{i + 1:02d}" for i in range(n_subjects))

    def recordings(self, subject: str) -> Iterator[Recording]:
        """Runs in order, training runs first."""
        self._simulate(subject)
        uids = {Path(str(s.path)).name: uid for uid, s in self._stimuli.items()}
        folder = self.folder / subject / self.design.modality
        for path in sorted(folder.glob(f"*_{self.design.modality}.fif")):
            stem = path.name.removesuffix(f"_{self.design.modality}.fif")
            yield read_meeg(
                path,
                path.with_name(f"{stem}_events.tsv"),
                subject=subject,
                session="",
                run=stem.rpartition("run-")[2],
                modality=self.design.modality,
                uid_of=uids.__getitem__,
            )

    def stimuli(self) -> Mapping[str, Stimulus]:
        return self._stimuli

    @cached_property
    def _stimuli(self) -> dict[str, Stimulus]:
        """The pictures, drawn into `stimuli/` where they are not there yet."""
        folder = self.folder / "stimuli"
        folder.mkdir(parents=True, exist_ok=True)
        found = [
            as_stimulus(scene, part=part, seed=self.design.seed, index=i, folder=folder)
            for part, i, scene in progress(self._scenes, "drawing pictures")
        ]
        return {s.uid: s for s in found}

    def files(self, subject: str) -> Iterable[Path]:
        return [self.folder]

    def truth(self, subject: str) -> Truth:
        self._simulate(subject)
        with np.load(self._truth_path(subject), allow_pickle=False) as saved:
            return Truth(
                stimuli=tuple(saved["stimuli"].tolist()),
                response=saved["response"],
                noise=saved["noise"],
                approximation=APPROXIMATION,
            )

    @cached_property
    def _scenes(self) -> list[tuple[Literal["train", "test"], int, Scene]]:
        d = self.design
        train = training_scenes(d.n_train, seed=d.seed)
        test = test_scenes(d.n_test, seed=d.seed)
        return [
            *(("train", i, scene) for i, scene in enumerate(train)),
            *(("test", i, scene) for i, scene in enumerate(test)),
        ]

    @cached_property
    def _features(self) -> np.ndarray:
        return image_features([scene for _, _, scene in self._scenes])

    def _truth_path(self, subject: str) -> Path:
        return self.folder / "derivatives" / "truth" / f"{subject}.npz"

    def _simulate(self, subject: str) -> None:
        from filelock import FileLock

        if subject not in self.subjects:
            raise InputError(
                f"subjects: expected some of {', '.join(self.subjects)}, got {subject!r}"
                "; choose from these"
            )
        final = self.folder / subject
        if final.is_dir():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f".{subject}.lock"):
            if final.is_dir():
                return
            partial = self.folder / f"{subject}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            (partial / self.design.modality).mkdir(parents=True)
            self._write_study()
            self._write_subject(subject, partial / self.design.modality)
            partial.rename(final)

    def _write_subject(self, subject: str, folder: Path) -> None:
        d = self.design
        number = self.subjects.index(subject)
        who = participant(d.modality, sfreq=d.sfreq, seed=(d.seed, number, _KEYS[d.modality]))
        self._write_truth(subject, who)
        rng = np.random.default_rng((d.seed, number, _KEYS[d.modality], 1))
        for i, rows in enumerate(progress(self._runs(rng), f"simulating {subject}")):
            seed = (d.seed, number, _KEYS[d.modality], 2, i)
            name = f"{subject}_task-{TASK}_run-{i + 1:02d}"
            self._write_run(folder, name, who, rows, np.random.default_rng(seed))

    def _runs(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Rows of the stimuli per run, shuffled: every picture once before any is repeated."""
        d = self.design
        parts = ((0, d.n_train, d.train_repeats), (d.n_train, d.n_test, d.test_repeats))
        runs: list[np.ndarray] = []
        for first, n, repeats in parts:
            rows = np.concatenate([first + rng.permutation(n) for _ in range(repeats)])
            runs += np.array_split(rows, -(-len(rows) // TRIALS_PER_RUN))
        return runs

    def _write_run(
        self, folder: Path, name: str, who: Participant, rows: np.ndarray, rng: np.random.Generator
    ) -> None:
        d = self.design
        gaps = np.round(rng.uniform(*ONSET_ASYNCHRONY_S, len(rows)) * d.sfreq).astype(np.int64)
        onsets = round(1.0 * d.sfreq) + np.cumsum(gaps) - gaps[0]
        n_samples = int(onsets[-1]) + round((RESPONSE_S + 1.0) * d.sfreq)
        signal = simulate_run(who, self._features[rows], onsets, n_samples, noise=d.noise, rng=rng)
        parts = [self._scenes[row] for row in rows]
        codes = np.array([i + 1 + (FIRST_TEST_CODE if p == "test" else 0) for p, i, _ in parts])
        _write_fif(folder / f"{name}_{d.modality}.fif", who, signal, onsets, codes)
        files = [Path(str(self._stimulus(row).path)).name for row in rows]
        events = pd.DataFrame(
            {
                "onset": onsets / d.sfreq,
                "duration": PICTURE_S,
                "trial_type": "scene",
                "stim_file": files,
                "split": [p for p, _, _ in parts],
                "value": codes,
            }
        )
        events.to_csv(folder / f"{name}_events.tsv", sep="\t", index=False)
        _write_sidecars(folder, name, d.modality, who)

    def _stimulus(self, row: int) -> Stimulus:
        part, index, _ = self._scenes[row]
        return self._stimuli[f"scene/{part}/{self.design.seed}/{index:05d}"]

    def _write_truth(self, subject: str, who: Participant) -> None:
        response = whitened_response(who, self._features).astype(np.float32)
        path = self._truth_path(subject)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                stimuli=np.array(list(self._stimuli)),
                response=response,
                noise=np.full(response.shape[1], self.design.noise**2, np.float32),
            )
        partial.replace(path)

    def _write_study(self) -> None:
        description = {
            "Name": f"Simulated {self.design.modality.upper()} of people looking at drawn scenes",
            "BIDSVersion": "1.10.0",
            "DatasetType": "raw",
            "GeneratedBy": [{"Name": "decode"}],
            "Parameters": asdict(self.design),
        }
        _write_atomically(self.folder / "dataset_description.json", _json(description))
        people = "participant_id\n" + "".join(f"{s}\n" for s in self.subjects)
        _write_atomically(self.folder / "participants.tsv", people)


_KEYS = {"eeg": 1, "meg": 2}


def _write_fif(
    path: Path, who: Participant, signal: np.ndarray, onsets: np.ndarray, codes: np.ndarray
) -> None:
    """Float32 FIF with a trigger channel whose pulses carry the picture's code."""
    import mne

    triggers = np.zeros((1, signal.shape[1]))
    for offset in range(max(1, round(TRIGGER_S * who.info["sfreq"]))):
        triggers[0, onsets + offset] = codes
    with mne.utils.use_log_level("error"):
        raw = mne.io.RawArray(signal, who.info, copy=None)
        stim = mne.create_info([TRIGGER], who.info["sfreq"], "stim")
        with stim._unlock():
            stim["dev_head_t"] = who.info["dev_head_t"]
        raw.add_channels([mne.io.RawArray(triggers, stim)], force_update_info=True)
        raw.info["line_freq"] = LINE_HZ
        raw.save(path, fmt="single", overwrite=True)


def _write_sidecars(folder: Path, name: str, modality: str, who: Participant) -> None:
    label = modality.upper()
    sidecar = {
        "TaskName": TASK,
        "SamplingFrequency": float(who.info["sfreq"]),
        "PowerLineFrequency": LINE_HZ,
        "SoftwareFilters": "n/a",
        "RecordingType": "continuous",
        **({"EEGReference": "Fz"} if modality == "eeg" else {"DewarPosition": "upright"}),
    }
    (folder / f"{name}_{modality}.json").write_text(_json(sidecar))
    kind, unit = ("EEG", "V") if label == "EEG" else ("MEGMAG", "T")
    lines = [f"{ch}\t{kind}\t{unit}\tgood\n" for ch in who.info.ch_names]
    header = "name\ttype\tunits\tstatus\n"
    (folder / f"{name}_channels.tsv").write_text(
        header + "".join(lines) + f"{TRIGGER}\tTRIG\tV\tgood\n"
    )


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _write_atomically(path: Path, text: str) -> None:
    if path.exists():
        return
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)
