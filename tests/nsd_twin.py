"""A miniature of the Natural Scenes Dataset on disk, in the published layout, with known truth.

Names, keys, types, scaling and counting from 1 are those of the bucket; only sizes are smaller. The
participants are linear: a voxel's response is a random map of the coarse pixels of a drawn scene.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pandas as pd
from scipy.io import savemat
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from decode.core import Stimulus
from decode.simulation.scenes import ATTRIBUTES, attributes, draw, test_scenes, training_scenes
from decode.targets.pixels import Pixels

AFFINE = np.diag([1.8, 1.8, 1.8, 1.0])
AFFINE[:3, 3] = -5, -4, -3
FIRST_VOLUME, N_VOLUMES, TR = 4, 24, 4 / 3
APART, GAIN = 3, 50  # volumes between onsets; scanner units per unit of response
RELEASED = {"subj01": 40, "subj02": 40, "subj03": 32, "subj04": 30}


@dataclass
class Twin:
    """What was written: `betas[subject]` is (trial, x, y, z) percent change before rounding."""

    root: Path
    subjectim: np.ndarray
    order: np.ndarray
    n_shared: int
    per_session: int
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    ncsnr: dict[str, np.ndarray] = field(default_factory=dict)
    rois: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    betas: dict[str, np.ndarray] = field(default_factory=dict)
    pictures: np.ndarray = field(default_factory=lambda: np.zeros(0))
    captions: list[list[str]] = field(default_factory=list)
    meaning: np.ndarray = field(default_factory=lambda: np.zeros(0))
    coco: np.ndarray = field(default_factory=lambda: np.zeros(0))
    response: dict[str, np.ndarray] = field(default_factory=dict)
    surface: dict[str, np.ndarray] = field(default_factory=dict)

    def ids(self, subject: str) -> list[int]:
        """Picture (from 0) of each trial, one by one."""
        row = self.subjectim[int(subject[-1]) - 1]
        return [int(row[int(m) - 1]) - 1 for m in self.order]

    def shared(self, subject: str) -> np.ndarray:
        """The pictures (from 0) that all subjects see, in the order of the subject's columns."""
        return self.subjectim[int(subject[-1]) - 1][: self.n_shared] - 1

    def beta_folder(self, subject: str, betas: str = "betas_fithrf_GLMdenoise_RR") -> Path:
        return self.root / "nsddata_betas/ppdata" / subject / "func1pt8mm" / betas


class Patches(Pixels):
    """Pixels as a network would read them: (patch, value) tokens on both sides of 0, grey at 0."""

    def __init__(self, size: int, patch: int) -> None:
        super().__init__(size)
        self.patch = patch

    def __call__(self, stimuli: Sequence[Stimulus]) -> Tensor:
        pixels = 4 * (super().__call__(stimuli) - 0.5)
        return pixel_unshuffle(pixels, self.patch).flatten(2).mT


def shrink_sampling(config: dict[str, Any], model: Path) -> None:
    """Give a composed experiment the pipeline folder `model`, two steps and two quick metrics."""
    config["generator"] |= {
        "model": str(model), "size": None, "width": None, "steps": 2, "precision": "float32",
        "device": "cpu",
    }  # fmt: skip
    config["metrics"] = {
        "retrieval": {**config["metrics"]["retrieval"], "n_way": [2]},
        "image": {"_target_": "decode.metrics.image.ImageSuite", "pairs": ["pixcorr"]},
    }
    config["compute"] = {"device": "cpu"}


def write_nsd(
    root: Path,
    *,
    subjects: dict[str, str] | None = None,
    n_images: int = 80,
    n_shared: int = 8,
    grid: tuple[int, int, int] = (6, 5, 4),
    size: int = 16,
    noise: float = 0.5,
    seed: int = 0,
) -> Twin:
    """`subjects` maps a name to "nii.gz" or "hdf5"; 40 sessions of `n_images` x 3 / 40 trials.

    One shared picture is first shown after session 37; subjects have the published sessions.
    """
    subjects = subjects or {"subj01": "nii.gz", "subj03": "hdf5"}
    rng = np.random.default_rng(seed)
    per_session = 3 * n_images // 40
    own = n_images - n_shared
    subjectim = np.array([np.r_[:n_shared, n_shared + i * own + np.arange(own)] for i in range(8)])
    # Pictures are numbered at random, as COCO's are: a shared one may have any number.
    numbers = rng.permutation(n_shared + 8 * own) + 1
    subjectim = numbers[subjectim]
    twin = Twin(
        root, subjectim, _ordering(n_images, n_shared, per_session, rng), n_shared, per_session
    )
    _write_design(twin)
    _write_pictures(twin, [int(s[-1]) - 1 for s in subjects], len(numbers), size, seed)
    for name, kind in subjects.items():
        _write_subject(twin, name, kind, grid, noise, rng)
    return twin


def _ordering(n: int, n_shared: int, per_session: int, rng: np.random.Generator) -> np.ndarray:
    order = rng.permutation(np.repeat(np.arange(1, n + 1), 3))
    # The last shared picture is shown after session 37 only.
    late = np.arange(37 * per_session, 40 * per_session)
    for wrong in np.flatnonzero(order[: late[0]] == n_shared):
        free = late[order[late] > n_shared]
        order[[wrong, free[0]]] = order[[free[0], wrong]]
    return order


def _write_design(twin: Twin) -> None:
    folder = twin.root / "nsddata/experiments/nsd"
    folder.mkdir(parents=True)
    pattern = np.zeros((40, twin.per_session, 3), np.uint8)  # a trial per run, in its second slot
    pattern[:, :, 1] = 1
    savemat(
        folder / "nsd_expdesign.mat",
        {
            "subjectim": twin.subjectim.astype(np.uint32),
            "masterordering": twin.order[None].astype(np.uint16),
            "sharedix": np.sort(twin.subjectim[0, : twin.n_shared])[None].astype(np.uint32),
            "basiccnt": np.zeros((3, 10), np.uint8),
            "stimpattern": pattern,
        },
    )


def _write_pictures(twin: Twin, who: list[int], n: int, size: int, seed: int) -> None:
    twin.pictures = np.zeros((n, size, size, 3), np.uint8)
    twin.captions = [["", f"picture {i}"] for i in range(n)]
    twin.meaning = np.zeros((n, len(ATTRIBUTES)))
    shared = twin.subjectim[0, : twin.n_shared] - 1
    mine = np.concatenate([twin.subjectim[i, twin.n_shared :] - 1 for i in who])
    for ids, scenes in (
        (shared, test_scenes(len(shared), seed=seed)),
        (mine, training_scenes(len(mine), seed=seed)),
    ):
        for i, scene in zip(ids, scenes, strict=True):
            twin.pictures[i] = draw(scene, size)
            twin.captions[i] = [scene.caption, f"{scene.colour} {scene.kind}\n"]
            twin.meaning[i] = attributes(scene)
    folder = twin.root / "nsddata_stimuli/stimuli/nsd"
    folder.mkdir(parents=True)
    with h5py.File(folder / "nsd_stimuli.hdf5", "w") as file:
        file.create_dataset("imgBrick", data=twin.pictures)
    twin.coco = np.random.default_rng(1).permutation(10 * n)[:n] + 1000
    info = {"cocoId": twin.coco, "cocoSplit": np.where(twin.coco % 2, "train2017", "val2017")}
    info |= {"cropBox": "(0, 0, 0.1, 0.1)", "loss": 0.1, "nsdId": np.arange(n), "flagged": False}
    info |= {"BOLD5000": False, "shared1000": np.isin(np.arange(n), shared)}
    for i in range(8):
        when = {int(m): np.flatnonzero(twin.order == m) + 1 for m in np.unique(twin.order)}
        column = {int(image) - 1: m for m, image in enumerate(twin.subjectim[i], 1)}
        info[f"subject{i + 1}"] = np.isin(np.arange(n), list(column)).astype(int)
        for k in range(3):
            info[f"subject{i + 1}_rep{k}"] = [
                int(when[column[j]][k]) if j in column else 0 for j in range(n)
            ]
    pd.DataFrame(info).to_csv(twin.root / "nsddata/experiments/nsd/nsd_stim_info_merged.csv")


def write_captions(twin: Twin) -> list[str]:
    """COCO's two annotation files; the paths, below the root."""
    names = []
    for split, odd in (("train2017", 1), ("val2017", 0)):
        rows = [
            {"image_id": int(c), "id": 10 * int(c) + k, "caption": text}
            for c, texts in zip(twin.coco, twin.captions, strict=True)
            for k, text in enumerate(texts)
            if c % 2 == odd
        ]
        name = f"captions_{split}.json"
        (twin.root / name).write_text(json.dumps({"info": {}, "annotations": rows}))
        names.append(name)
    return names


def ideal_top1(response: np.ndarray, noise: np.ndarray | float) -> float:
    """How often an observer who knows the noiseless response (picture, channel) to every picture names
    the one that was seen, given a measurement with normal noise of that standard deviation, alike or
    (channel,); 200 simulated sittings.
    """
    rng = np.random.default_rng(0)
    known = response / noise
    right = []
    for _ in range(200):
        seen = known + rng.normal(size=known.shape)
        apart = ((seen[:, None] - known[None]) ** 2).sum(-1)
        right.append((apart.argmin(1) == np.arange(len(known))).mean())
    return float(np.mean(right))


def coarse(pictures: np.ndarray) -> np.ndarray:
    """(picture, 48) mean colours of a 4 x 4 grid, centred."""
    n, size = pictures.shape[:2]
    blocks = pictures.reshape(n, 4, size // 4, 4, size // 4, 3).mean((2, 4)) / 255
    return blocks.reshape(n, -1) - 0.5


def _save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_slope_inter(1, 0)
    nibabel.save(image, path)


def _write_subject(
    twin: Twin, name: str, kind: str, grid: tuple[int, ...], noise: float, rng: np.random.Generator
) -> None:
    features = coarse(twin.pictures)
    weights = rng.normal(size=(features.shape[1], *grid))
    seen = rng.random(grid) < 0.6  # the other voxels do not respond
    weights *= seen
    response = np.tensordot(features, weights, 1)
    twin.response[name] = response
    shown = np.array(twin.ids(name))
    betas = 2 + response[shown] + noise * rng.normal(size=(len(shown), *grid))
    twin.betas[name] = betas[: RELEASED[name] * twin.per_session]
    twin.ncsnr[name] = (response.std(0) / noise).astype(np.float32)
    mask = np.where(rng.random(grid) < 0.7, 1, -1).astype(np.int16)
    twin.masks[name] = mask > 0
    rois = {
        "streams": rng.integers(0, 8, grid).astype(np.int16),
        "prf-visualrois": rng.integers(0, 8, grid).astype(np.int16),
        "floc-faces": rng.integers(-1, 6, grid).astype(np.int16),
    }
    twin.rois[name] = rois
    folder = twin.root / "nsddata/ppdata" / name / "func1pt8mm/roi"
    everywhere = np.arange(1, mask.size + 1, dtype=np.int16).reshape(grid)
    for roi, values in {"nsdgeneral": mask, "HCP_MMP1": everywhere, **rois}.items():
        _save(folder / f"{roi}.nii.gz", values)
    _save(twin.beta_folder(name) / "ncsnr.nii.gz", twin.ncsnr[name])
    for session in range(RELEASED[name]):
        rows = slice(session * twin.per_session, (session + 1) * twin.per_session)
        stored = np.round(300 * betas[rows]).astype(np.int16)
        write_session(twin.beta_folder(name) / f"betas_session{session + 1:02d}.{kind}", stored)


def write_session(path: Path, stored: np.ndarray, *, chunks: object = "voxels") -> None:
    """`stored` is (trial, x, y, z) int16; HDF5 gets MATLAB's reversed axes."""
    if path.suffix == ".hdf5":
        turned = stored.transpose(0, 3, 2, 1)
        layout = (len(stored), 1, 1, 1) if chunks == "voxels" else chunks
        with h5py.File(path, "w") as file:
            file.create_dataset("betas", data=turned, chunks=layout)
    else:
        _save(path, stored.transpose(1, 2, 3, 0))


def write_timeseries(
    twin: Twin, subject: str, *, sessions: int = 2, per_run: int = 1, noise: float = 1.0
) -> None:
    """Runs of `per_run` trials, 4 s apart as in NSD; the last session begins and ends at rest.

    The response, times `GAIN`, stands in the three volumes from 3 TRs after the onset, on a mean of 1000
    and a slow line, with noise of that standard deviation in each volume of a voxel.
    """
    base = twin.root / "nsddata_timeseries/ppdata" / subject / "func1pt8mm"
    (base / "design").mkdir(parents=True)
    shown, rng = np.array(twin.ids(subject)), np.random.default_rng(5)
    grid = twin.masks[subject].shape
    n, n_volumes = -(-twin.per_session // per_run), N_VOLUMES + APART * (per_run - 1)
    for session in range(1, sessions + 1):
        rest = [1, 14] if session == sessions else []
        runs = [r for r in range(1, 15) if r not in rest][:n]
        if rest:
            runs = list(range(14 - n, 14))
        mine = shown[(session - 1) * twin.per_session :][: twin.per_session]
        for k, run in enumerate([*runs, *rest]):
            design = np.zeros(n_volumes, int)
            signal = (
                1000
                + 2 * np.arange(n_volumes)[:, None, None, None]
                + noise * rng.normal(size=(n_volumes, *grid))
            )
            # The list has ended when the runs at rest come.
            for i, image in enumerate(mine[k * per_run : (k + 1) * per_run]):
                onset = FIRST_VOLUME + APART * i
                design[onset] = image + 1
                signal[onset + 3 : onset + 6] += GAIN * twin.response[subject][image]
            tag = f"session{session:02d}_run{run:02d}"
            if run not in rest:
                np.savetxt(base / "design" / f"design_{tag}.tsv", design, fmt="%d")
            _save(
                base / "timeseries" / f"timeseries_{tag}.nii.gz",
                np.round(signal).astype(np.int16).transpose(1, 2, 3, 0),
            )


def write_atlas(path: Path, labels: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    """Numbers of parcels on a grid (x, y, z); the path."""
    nibabel.save(nibabel.Nifti1Image(labels, affine), path)
    return str(path)


def write_surface(twin: Twin, subject: str, *, n: int = 200, noise: float = 0.3) -> np.ndarray:
    """Betas of a subject on a template of `n` vertices per hemisphere, its labels and flat patches.

    Returns the betas (trial, vertex) in percent change, left hemisphere first; every vertex responds, to
    the coarse pixels and to what the scene is, which captions say.
    `twin.surface` has the responses (picture, vertex) of those that the mask keeps.
    """
    rng = np.random.default_rng(9)
    features = np.hstack([coarse(twin.pictures), twin.meaning])
    response = features @ rng.normal(size=(features.shape[1], 2 * n))
    twin.surface[subject] = response[:, np.tile(np.arange(n) % 5 > 0, 2)]
    shown = np.array(twin.ids(subject))[: RELEASED[subject] * twin.per_session]
    betas = (response[shown] + noise * rng.normal(size=(len(shown), 2 * n))).astype(np.float32)
    folder = twin.root / "nsddata_betas/ppdata" / subject / "fsaverage/betas_fithrf_GLMdenoise_RR"
    surf = twin.root.parent / "fsaverage/surf"
    surf.mkdir(parents=True)
    for k, name in enumerate(("lh", "rh")):
        mine = betas[:, k * n : (k + 1) * n]
        for session in range(RELEASED[subject]):
            rows = slice(session * twin.per_session, (session + 1) * twin.per_session)
            path = folder / f"{name}.betas_session{session + 1:02d}.mgh"
            save_mgh(path, mine[rows].T[:, None, None])
        save_mgh(
            folder / f"{name}.ncsnr.mgh", np.linspace(0, 1, n, dtype=np.float32)[:, None, None]
        )
        labels = twin.root / "nsddata/freesurfer/fsaverage/label"
        masked = np.where(np.arange(n) % 5, 1, 0).astype(np.int32)
        save_mgh(labels / f"{name}.nsdgeneral.mgz", masked[:, None, None])
        streams = (np.arange(n) % 8).astype(np.int32)
        save_mgh(labels / f"{name}.streams.mgz", streams[:, None, None])
        xyz = np.column_stack([rng.uniform(-50, 50, (n, 2)), np.zeros(n)])
        write_patch(surf / f"{name}.cortex.patch.flat", np.arange(n), xyz)
    return betas


def save_mgh(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.MGHImage(np.ascontiguousarray(data), np.eye(4)), path)


def write_patch(path: Path, vertex: np.ndarray, xyz: np.ndarray, border: int = 0) -> Path:
    """FreeSurfer's binary patch; the first `border` vertices are marked as lying on the border."""
    rows = np.zeros(len(vertex), [("vertex", ">i4"), ("xyz", ">f4", 3)])
    rows["vertex"] = np.where(np.arange(len(vertex)) < border, -1, 1) * (vertex + 1)
    rows["xyz"] = xyz
    path.write_bytes(np.array([-1, len(vertex)], ">i4").tobytes() + rows.tobytes())
    return path
