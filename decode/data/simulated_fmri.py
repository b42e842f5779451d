"""Simulated participants who look at drawn scenes in a scanner: raw BOLD runs in BIDS layout."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from decode.core import Facts, InputError, Recording, Stimulus, Truth, refusal
from decode.preprocessing.bold import Method
from decode.progress import progress
from decode.recordings import bold
from decode.recordings.tables import read_events
from decode.simulation import fmri
from decode.simulation.scenes import Scene, as_stimulus, test_scenes, training_scenes
from decode.simulation.visual_cortex import REGIONS, Cortex, Responses, make_cortex
from decode.store import fill_folder, is_finished, write_json

VERSION = 1
TASK = "scenes"
CHUNK = 128
LEAST = {
    **dict.fromkeys(("n_subjects", "train_repeats", "test_repeats", "voxel_mm"), 1),
    **dict.fromkeys(("n_train", "n_test", "trials_per_run"), 2),
}


class SimulatedFMRI:
    """`n_subjects` people look at `n_train` training and `n_test` test scenes every four seconds.

    `shared` is the share of training scenes that everybody sees; the rest are a participant's own.
    `noise` multiplies a level at which the median responsive voxel's ceiling is 35 % of variance in
    three-repeat averages, as in the visual cortex of NSD (Allen et al. 2022,
    doi:10.1038/s41593-021-00962-x). Files are written below `root` when first asked for, once per
    set of parameters; participants differ in their voxels, tuning and gains.
    """

    facts: ClassVar[Facts] = Facts(
        citation="simulated by this project", licence="CC0-1.0", modality="fmri", simulated=True
    )

    def __init__(
        self,
        root: str | Path,
        *,
        n_subjects: int = 2,
        n_train: int = 1500,
        n_test: int = 80,
        train_repeats: int = 1,
        test_repeats: int = 3,
        shared: float = 1.0,
        noise: float = 1.0,
        n_voxels: int = 1500,
        voxel_mm: int = 4,
        tr: float = 2.0,
        trials_per_run: int = 80,
        seed: int = 0,
    ) -> None:
        self.root = Path(root)
        self.knobs = {
            "n_subjects": n_subjects,
            "n_train": n_train,
            "n_test": n_test,
            "train_repeats": train_repeats,
            "test_repeats": test_repeats,
            "shared": float(shared),
            "noise": float(noise),
            "n_voxels": n_voxels,
            "voxel_mm": voxel_mm,
            "tr": float(tr),
            "trials_per_run": trials_per_run,
            "seed": seed,
        }
        for name, least in LEAST.items():
            if self.knobs[name] < least:
                got = self.knobs[name]
                raise InputError(f"data.{name}: expected at least {least}, got {got}; raise it")
        if not 0 <= shared <= 1 or noise <= 0 or not 0.2 <= tr <= 4:
            raise refusal(
                "data",
                "0 <= shared <= 1, noise > 0 and 0.2 <= tr <= 4",
                f"shared={shared}, noise={noise}, tr={tr}",
                "bring them into these ranges",
            )
        self.n_train, self.n_test, self.seed, self.tr = n_train, n_test, seed, float(tr)
        self.n_shared = round(shared * n_train)
        self.subjects = tuple(f"sub-{i + 1:02d}" for i in range(n_subjects))
        text = json.dumps([VERSION, self.knobs], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:8]
        self.folder = self.root / f"simulated_fmri-{key}"

    def recordings(self, subject: str) -> Iterator[Recording]:
        """BOLD runs (time, voxel) in percent signal change, one at a time, read from disk."""
        folder = self._ready(subject) / subject / "func"
        voxels = bold.read_mask(self._region_image(self.folder, subject))
        channels = voxels.channels(dict(enumerate(REGIONS, start=1)))
        uids = {Path(s.path or "").name: uid for uid, s in self.stimuli().items()}
        for path in sorted(folder.glob("*_bold.nii.gz")):
            events = read_events(_beside(path, "events.tsv"))
            unknown = set(events["stim_file"]) - set(uids)
            if unknown:
                raise InputError(
                    f"{_beside(path, 'events.tsv')}: expected pictures of this data set, got "
                    f"{min(unknown)}; delete {self.folder} and run again"
                )
            events = events.assign(stimulus=events["stim_file"].map(uids))
            run = path.name.split("_run-")[1].split("_")[0]
            yield bold.read_bold(path, voxels, events, subject=subject, run=run, channels=channels)

    def stimuli(self) -> Mapping[str, Stimulus]:
        """Every scene that anybody sees, by uid."""
        return self._stimuli

    @cached_property
    def _stimuli(self) -> dict[str, Stimulus]:
        self._simulate()
        folder = self.folder / "stimuli"
        found = (self._stimulus(i, folder) for i in range(len(self._scenes)))
        return {s.uid: s for s in found}

    def files(self, subject: str) -> Iterable[Path]:
        return [self.folder]

    def truth(self, subject: str, *, method: Method = "lss") -> Truth:
        """Noiseless betas (stimulus, voxel) and the variance of a single test trial's beta, for the
        GLM of `preprocess=bold` with its defaults and this `method`.
        """
        folder = self._ready(subject) / "derivatives" / "truth"
        with np.load(folder / f"{subject}_truth.npz", allow_pickle=False) as known:
            noise, stimuli = known[f"noise_{method}"], known["stimuli"]
        return Truth(
            stimuli=tuple(stimuli.tolist()),
            response=np.load(folder / f"{subject}_response.npy", mmap_mode="r", allow_pickle=False),
            noise=noise,
            approximation=(
                f"betas of method {method}; neighbouring trials count as independent noise, "
                "and noise that voxels share (breathing, heart beat) as their own"
            ),
        )

    def _ready(self, subject: str) -> Path:
        if subject not in self.subjects:
            raise refusal(
                "subjects",
                "people of the simulation",
                f"{subject!r}",
                f"choose from {list(self.subjects)}",
            )
        self._simulate()
        return self.folder

    def _simulate(self) -> None:
        if not is_finished(self.folder):
            fill_folder(self.folder, self._fill, keep=True)

    @cached_property
    def _scenes(self) -> list[Scene]:
        """All training scenes (shared, then each participant's own), then all test scenes."""
        n = self.n_shared + len(self.subjects) * (self.n_train - self.n_shared)
        return training_scenes(n, seed=self.seed) + test_scenes(self.n_test, seed=self.seed)

    def _stimulus(self, i: int, folder: Path) -> Stimulus:
        n = len(self._scenes) - self.n_test
        scene, seed = self._scenes[i], self.seed
        if i < n:
            return as_stimulus(scene, part="train", seed=seed, index=i, folder=folder)
        return as_stimulus(scene, part="test", seed=seed, index=i - n, folder=folder)

    def _seen_by(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Which scenes participant `number` sees: indices of training and of test scenes."""
        own = self.n_train - self.n_shared
        first = self.n_shared + number * own
        n = len(self._scenes)
        train = np.concatenate([np.arange(self.n_shared), np.arange(first, first + own)])
        return train, np.arange(n - self.n_test, n)

    def _fill(self, folder: Path) -> dict[str, object]:
        pictures = folder / "stimuli"
        pictures.mkdir(exist_ok=True)
        everything = range(len(self._scenes))
        stimuli = [self._stimulus(i, pictures) for i in progress(everything, "drawing scenes")]
        rows = [
            {"stim_file": Path(s.path or "").name, "caption": s.text, **s.labels} for s in stimuli
        ]
        _write_tsv(pictures / "stimuli.tsv", pd.DataFrame(rows))
        _describe(folder, self.subjects)
        for number, subject in enumerate(self.subjects):
            if not (folder / subject).is_dir():
                self._simulate_subject(folder, number, stimuli)
        return {"version": VERSION, "parameters": self.knobs, "stimuli": len(stimuli)}

    def _simulate_subject(self, folder: Path, number: int, stimuli: list[Stimulus]) -> None:
        """Write one participant beside its place and rename it when it is whole."""
        subject = self.subjects[number]
        part = folder / f".{subject}.part"
        shutil.rmtree(part, ignore_errors=True)
        (part / "func").mkdir(parents=True)
        rng = np.random.default_rng([self.seed, number, 0])
        n_voxels = round(int(self.knobs["n_voxels"]) * rng.uniform(0.92, 1.0))
        cortex = make_cortex(n_voxels, voxel_mm=int(self.knobs["voxel_mm"]), rng=rng)
        baseline = 1000 * np.exp(0.1 * rng.standard_normal(n_voxels))
        train, test = self._seen_by(number)
        seen = np.concatenate([train, test])
        runs = self._plan(len(train), len(test), number)
        noise = self._truth_files(folder, subject, cortex, runs, seen, stimuli, rng)
        responses = np.load(_response_file(folder, subject), mmap_mode="r", allow_pickle=False)
        labels = self._region_image(folder, subject)
        labels.parent.mkdir(parents=True, exist_ok=True)
        fmri.write_regions(labels, list(REGIONS), cortex)
        names = [*REGIONS, "none"]
        lookup = pd.DataFrame({"index": range(1, len(names) + 1), "name": names})
        _write_tsv(labels.with_name(labels.name.replace(".nii.gz", ".tsv")), lookup)
        for i, run in enumerate(progress(runs, f"scanning {subject}")):
            stem = part / "func" / f"{subject}_task-{TASK}_run-{i + 1:02d}"
            draw = np.random.default_rng([self.seed, number, 1, i])
            change = fmri.run_signal(run, responses[run.rows], noise, tr=self.tr, rng=draw)
            path = Path(f"{stem}_bold.nii.gz")
            fmri.write_bold(path, baseline * (1 + change / 100), cortex, tr=self.tr)
            write_json(_beside(path, "bold.json"), {"RepetitionTime": self.tr, "TaskName": TASK})
            shown = [stimuli[seen[row]] for row in run.rows]
            _write_tsv(_beside(path, "events.tsv"), _events(run, shown))
        os.replace(part, folder / subject)

    def _plan(self, n_train: int, n_test: int, number: int) -> list[fmri.Run]:
        rng = np.random.default_rng([self.seed, number, 2])
        k = self.knobs
        train = fmri.repeat_in_rounds(np.arange(n_train), int(k["train_repeats"]), rng)
        rounds = n_train + np.arange(n_test)
        test = fmri.repeat_in_rounds(rounds, int(k["test_repeats"]), rng)
        order = [("train", train), ("test", test)]
        per_run = int(k["trials_per_run"])
        return fmri.plan_runs(order, trials_per_run=per_run, tr=self.tr, rng=rng)

    def _truth_files(
        self,
        folder: Path,
        subject: str,
        cortex: Cortex,
        runs: list[fmri.Run],
        seen: np.ndarray,
        stimuli: list[Stimulus],
        rng: np.random.Generator,
    ) -> fmri.Noise:
        """Write noiseless responses and the noise of a beta; give back the participant's noise."""
        respond = Responses(cortex)
        path = _response_file(folder, subject)
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (len(seen), len(cortex.ijk))
        out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        for part in progress(list(fmri.chunks(len(seen), CHUNK)), f"responses of {subject}"):
            scenes = [self._scenes[i] for i in seen[part]]
            out[part] = respond(scenes, np.stack([_picture(stimuli[i]) for i in seen[part]]))
        out.flush()
        test = [run for run in runs if run.split == "test"]
        factors = {m: fmri.beta_noise_factors(test, tr=self.tr, method=m) for m in ("lss", "lsa")}
        unit = fmri.make_noise(len(cortex.ijk), rng)
        noise = fmri.calibrate(cortex, unit, factors["lss"], float(self.knobs["noise"]))
        spread = out[-self.n_test :].var(axis=0, dtype=np.float64)
        known = {
            f"noise_{m}": (fmri.beta_noise(noise, f) + f[0] * spread).astype(np.float32)
            for m, f in factors.items()
        }
        uids = np.array([stimuli[i].uid for i in seen])
        np.savez(path.with_name(f"{subject}_truth.npz"), stimuli=uids, **known)
        return noise

    @staticmethod
    def _region_image(folder: Path, subject: str) -> Path:
        return folder / "derivatives" / "regions" / subject / f"{subject}_space-MNI_dseg.nii.gz"


def _response_file(folder: Path, subject: str) -> Path:
    return folder / "derivatives" / "truth" / f"{subject}_response.npy"


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name.replace("bold.nii.gz", ending))


def _picture(stimulus: Stimulus) -> np.ndarray:
    from PIL import Image

    with Image.open(stimulus.path or "") as image:
        return np.asarray(image.convert("RGB"))


def _events(run: fmri.Run, shown: list[Stimulus]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "onset": run.onsets,
            "duration": fmri.SHOWN_S,
            "trial_type": [s.labels["kind"] for s in shown],
            "stim_file": [Path(s.path or "").name for s in shown],
            "split": run.split,
        }
    )


def _describe(folder: Path, subjects: tuple[str, ...]) -> None:
    write_json(
        folder / "dataset_description.json",
        {"Name": "simulated fMRI of drawn scenes", "BIDSVersion": "1.10.0", "DatasetType": "raw"},
    )
    _write_tsv(folder / "participants.tsv", pd.DataFrame({"participant_id": subjects}))


def _write_tsv(path: Path, table: pd.DataFrame) -> None:
    table.to_csv(path, sep="\t", index=False)
