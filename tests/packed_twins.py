"""Miniatures of packed fMRI data sets, in their exact layout on disk.

A simulated person looks at drawn scenes: each voxel is a random linear map of the picture's coarse
pixels, plus noise per trial. Every writer returns what a reader must give back.
"""

from __future__ import annotations

import csv
import pickle
import tarfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from PIL import Image

from decode.simulation.scenes import draw, test_scenes, training_scenes

SIZE = 32
SIDE = 4
N_VOXELS = 70


@dataclass
class Expected:
    """Trials in the order in which they are read, and the pictures by uid."""

    uids: list[str] = field(default_factory=list)
    signal: list[np.ndarray] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    session: list[str] = field(default_factory=list)
    run: list[str] = field(default_factory=list)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, uid: str, response: np.ndarray, split: str, session: str = "", run: str = ""):
        self.uids.append(uid)
        self.signal.append(np.asarray(response, np.float32))
        self.split.append(split)
        self.session.append(session)
        self.run.append(run)


def coarse(pictures: np.ndarray) -> np.ndarray:
    """(picture, h, w, 3) bytes -> (picture, SIDE * SIDE * 3), each block's mean from -2 to 2."""
    n, h, w, _ = pictures.shape
    blocks = pictures.reshape(n, SIDE, h // SIDE, SIDE, w // SIDE, 3).astype(np.float64)
    return (blocks.mean(axis=(2, 4)).reshape(n, -1) / 255 - 0.5) * 4


class Person:
    """Sees pictures with linear voxels; every look has its own noise."""

    def __init__(self, seed: int, *, noise: float = 0.8) -> None:
        self.rng = np.random.default_rng(seed)
        self.weights = self.rng.normal(size=(SIDE * SIDE * 3, N_VOXELS)) / 4
        self.noise = noise

    def see(self, pictures: np.ndarray) -> np.ndarray:
        clean = coarse(pictures) @ self.weights
        return clean + self.noise * self.rng.normal(size=clean.shape)


def pictures(n_train: int, n_test: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    train = [draw(s, SIZE) for s in training_scenes(n_train, seed=seed)]
    test = [draw(s, SIZE) for s in test_scenes(n_test, seed=seed)]
    return np.stack(train), np.stack(test)


def npy(value: Any) -> bytes:
    f = BytesIO()
    np.save(f, np.asarray(value), allow_pickle=False)
    return f.getvalue()


def jpeg(picture: np.ndarray) -> bytes:
    f = BytesIO()
    Image.fromarray(picture).save(f, format="JPEG", quality=95)
    return f.getvalue()


def lossy(picture: np.ndarray) -> np.ndarray:
    """What is left of a picture after `jpeg`."""
    return np.asarray(Image.open(BytesIO(jpeg(picture))))


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))


def mindeye1_samples(
    seed: int = 0, half: int = 50
) -> tuple[dict[str, list[dict[str, bytes]]], Expected]:
    """Samples of the files, in order, and what they hold; one picture has two trials only."""
    n = 2 * half
    train, test = pictures(n + 10, 16, seed)
    person, expected = Person(seed), Expected()
    samples: dict[str, list[dict[str, bytes]]] = {}
    numbers = np.random.default_rng(seed).permutation(73_000)
    plan = [("train/train_subj01_0", train[:half], 0)]
    plan += [("train/train_subj01_1", train[half:n], half)]
    plan += [("val/val_subj01_0", train[n:], n), ("test/test_subj01_0", test, n + 10)]
    for file, shown, offset in plan:
        for i, picture in enumerate(shown):
            rows = person.see(np.repeat(picture[None], 3, axis=0)).astype(np.float16)
            n = 3
            if i == 1:
                rows[2], n = rows[0], 2
            if i == 2:
                rows[2], n = rows[:2].mean(axis=0), 2
            number = int(numbers[offset + i])
            uid = f"nsd/{number:05d}"
            samples.setdefault(file, []).append(
                {
                    "coco73k.npy": npy([number]),
                    "jpg": jpeg(picture),
                    "nsdgeneral.npy": npy(rows),
                    "num_uniques.npy": npy([n]),
                    "trial.npy": npy([3 * i, 3 * i + 1, 3 * i + 2]),
                    "wholebrain_3d.npy": npy(np.zeros((3, 1, 1, 1), np.float16)),
                }
            )
            for row in rows[:n]:
                expected.add(uid, row, "test" if file.startswith("test") else "train")
            expected.pictures[uid] = lossy(picture)
    return samples, expected


def write_mindeye1(
    root: Path, seed: int = 0, *, extracted: bool = False, half: int = 50
) -> Expected:
    samples, expected = mindeye1_samples(seed, half)
    count = 0
    for file, members in samples.items():
        files = {}
        for sample in members:
            files.update({f"sample{count:09d}.{k}": v for k, v in sample.items()})
            count += 1
        if extracted:
            folder = root / file.split("/")[0] / "subj01"
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                (folder / name).write_bytes(data)
        else:
            write_tar(root / f"{file}.tar", files)
    return expected


def behaviour(image: int, session: int, run: int, row: int, shared: bool) -> np.ndarray:
    line = np.full((1, 17), -1.0)
    line[0, [0, 1, 2, 3, 4, 5, 16]] = image, 1, session, run, row % 10, row, float(shared)
    return line


def write_mindeye2(root: Path, seed: int = 0, *, own: int = 30) -> Expected:
    """Four sessions: `own` training pictures, 10 of them twice, and 15 of the 60 test trials."""
    n = 4 * own
    train, test = pictures(n, 20, seed)
    rng, person, expected = np.random.default_rng(seed), Person(seed), Expected()
    numbers = rng.permutation(n + 60)[: n + 20]
    shown = np.concatenate([train, test])
    tested = n + np.concatenate([rng.permutation(20) for _ in range(3)])
    betas, new_test = [], []
    for session in range(4):
        new = np.arange(own * session, own * session + own)
        new = np.concatenate([new, new[:10]])
        here = rng.permutation(np.concatenate([new, tested[15 * session : 15 * session + 15]]))
        responses = person.see(shown[here]).astype(np.float32)
        files = {}
        for i, response in zip(here, responses, strict=True):
            row, picture = len(betas), int(numbers[i])
            betas.append(response)
            line = behaviour(picture, session + 1, row % 3 + 1, row, i >= n)
            if i >= n:
                new_test.append(line)
            else:
                files[f"{row:06d}.behav.npy"] = npy(line)
                files[f"{row:06d}.past_behav.npy"] = npy(np.zeros((15, 17)))
            split = "test" if i >= n else "train"
            expected.add(f"nsd/{picture:05d}", response, split, f"{session + 1:02d}")
        write_tar(root / f"wds/subj01/train/{session}.tar", files)
    order = [int(i) for i in rng.permutation(len(new_test))]
    # A trial that is listed twice fills up for a repeat that was never measured.
    listed = {f"{k:06d}.behav.npy": npy(new_test[i]) for k, i in enumerate([*order, order[0]])}
    write_tar(root / "wds/subj01/new_test/0.tar", listed)
    write_tar(root / "wds/subj01/test/0.tar", dict(list(listed.items())[:30]))
    with h5py.File(root / "betas_all_subj01_fp32_renorm.hdf5", "w") as f:
        f["betas"] = np.stack(betas)
    images = np.zeros((n + 60, 3, SIZE, SIZE), np.float16)
    images[numbers] = shown.transpose(0, 3, 1, 2) / 255
    with h5py.File(root / "coco_images_224_float16.hdf5", "w") as f:
        f["images"] = images
    expected.pictures = {f"nsd/{n:05d}": p for n, p in zip(numbers, shown, strict=True)}
    return expected


def write_brain_diffuser(root: Path, seed: int = 0) -> Expected:
    person, expected = Person(seed, noise=0.5), Expected()
    folder = root / "subj01"
    folder.mkdir(parents=True)
    for split, shown in zip(("train", "test"), pictures(120, 16, seed), strict=True):
        betas = person.see(shown)
        captions = np.array([["", f"{split} {i}", "x", "", "y"] for i in range(len(shown))])
        np.save(folder / f"nsd_{split}_fmriavg_nsdgeneral_sub1.npy", betas)
        np.save(folder / f"nsd_{split}_stim_sub1.npy", shown.astype(np.float64))
        np.save(folder / f"nsd_{split}_cap_sub1.npy", captions)
        for i, response in enumerate(betas):
            uid = f"brain_diffuser/subj01/{split}/{i:05d}"
            expected.add(uid, response, split)
            expected.pictures[uid] = shown[i]
    return expected


def bdata(matrix: dict[str, np.ndarray], marks: dict[str, np.ndarray]) -> tuple[Any, ...]:
    """(dataset, keys, values) of BData: a column block and a flag per name, then keys of voxels."""
    dataset = np.concatenate(list(matrix.values()), axis=1)
    keys, values, first = [], [], 0
    for name, block in matrix.items():
        flag = np.full(dataset.shape[1], np.nan)
        flag[first : first + block.shape[1]] = 1
        keys.append(name)
        values.append(flag)
        first += block.shape[1]
    for name, mark in marks.items():
        flag = np.full(dataset.shape[1], np.nan)
        flag[-len(mark) :] = mark
        keys.append(name)
        values.append(flag)
    return dataset, keys, np.stack(values)


def god_label(i: int) -> tuple[float, str]:
    synset, number = 1518878 + 7 * i, 40 + 13 * i
    return synset + number / 1e6, f"n{synset:08d}_{number}"


def write_god_bdpy(
    root: Path, seed: int = 0, *, imagery: bool = False, per_run: int = 30
) -> Expected:
    """Four training runs, six test runs of 12 pictures, one run of imagery; 8 voxels outside VC."""
    n = 4 * per_run
    train, test = pictures(n, 12, seed)
    person, expected = Person(seed), Expected()
    shown = np.concatenate([train, test])
    names = [god_label(i)[1] for i in range(len(shown))]
    rng = np.random.default_rng(seed)
    runs = [(1, r, per_run * (r - 1) + rng.permutation(per_run)) for r in range(1, 5)]
    runs += [(2, r, n + rng.permutation(12)) for r in range(1, 7)]
    runs += [(3, 1, n + rng.permutation(12))]
    rows, inside = [], np.arange(N_VOXELS) >= 8
    for kind, run, items in runs:
        condition = {1: "train", 2: "test", 3: "imagery"}[kind]
        for item, response in zip(items, person.see(shown[items]), strict=True):
            rows.append([kind, run, god_label(item)[0], *response])
            if kind < 3 or imagery:
                uid, split = f"god/{names[item]}", condition if kind < 3 else ""
                expected.add(uid, response[inside], split, run=f"{condition}-{run:02d}")
    table = np.array(rows)
    blocks = {
        k: table[:, i : i + 1] for i, k in enumerate(("DataType", "Run", "Label"))
    } | {"VoxelData": table[:, 3:]}  # fmt: skip
    nan = np.where(inside, 1.0, np.nan)
    early = np.where(np.arange(N_VOXELS) < 30, nan, np.nan)
    marks = {"voxel_x": np.arange(N_VOXELS) * 3.0, "ROI_VC": nan, "ROI_V1": early}
    dataset, keys, values = bdata(blocks, marks)
    with h5py.File(root / "Subject1.h5", "w") as f:
        f["dataset"] = dataset
        f["metadata/key"] = keys
        f["metadata/description"] = ["" for _ in keys]
        f["metadata/value"] = values
    for i, (name, picture) in enumerate(zip(names, shown, strict=True)):
        folder = root / "images" / ("training" if i < n else "test")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.JPEG").write_bytes(jpeg(picture))
        expected.pictures[f"god/{name}"] = lossy(picture)
    return expected


def write_god_npz(root: Path, seed: int = 0, *, by_round: bool = False) -> Expected:
    train, test = pictures(120, 12, seed)
    rng, person, expected = np.random.default_rng(seed), Person(seed), Expected()
    shown = rng.permutation(120)
    inside = np.arange(N_VOXELS) >= 8
    first = person.see(train[shown])
    tested = np.tile(np.arange(12), 6) if by_round else np.repeat(np.arange(12), 6)
    single = person.see(test[tested])
    means = np.stack([single[tested == i].mean(axis=0) for i in range(12)])
    regions = {"VC": inside, "V1": np.arange(N_VOXELS) < 30}
    np.savez(root / "sbj_1.npz", first, single, means, shown, **regions)
    np.savez_compressed(root / "images_256.npz", train_images=train / 255.0, test_images=test)
    for word, n, start in (("training", 120, 0), ("testing", 12, 120)):
        with (root / f"imagenet_{word}_label.csv").open("w", newline="") as f:
            for i in range(start, start + n):
                label, name = god_label(i)
                csv.writer(f).writerow([f"{label:.6f}", f"{name}.JPEG"])
    for split, items, responses in (("train", shown, first), ("test", tested, single)):
        for item, response in zip(items, responses, strict=True):
            expected.add(f"god/{split}/{item:04d}", response[inside], split)
    for split, some in (("train", train), ("test", test)):
        expected.pictures.update({f"god/{split}/{i:04d}": p for i, p in enumerate(some)})
    return expected


def write_bold5000(root: Path, seed: int = 0, *, runs: int = 4) -> Expected:
    """Runs of 37 trials: 12 pictures four times, all others once; with four runs 100."""
    n = 37 * runs - 48
    train, test = pictures(n, 12, seed)
    rng, person, expected = np.random.default_rng(seed), Person(seed), Expected()
    shown = np.concatenate([train, test])
    names = [f"COCO_train2014_{i:012d}.jpg" for i in range(60)]
    names += [f"n{i:08d}_{i}.JPEG" for i in range(60, n)] + [f"place{i}.jpg" for i in range(12)]
    order = rng.permutation(np.concatenate([np.arange(n), np.tile(np.arange(n, n + 12), 4)]))
    responses = person.see(shown[order]).astype(np.float32)
    betas = root / "BOLD5000_GLMsingle_ROI_betas" / "py"
    lists = root / "BOLD5000_Stimuli" / "Stimuli_Presentation_Lists" / "CSI1"
    for folder in (betas, lists):
        folder.mkdir(parents=True)
    version, column = "GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses", 0
    for region in ("EarlyVis", "LOC", "OPA", "PPA", "RSC"):
        for side in ("LH", "RH"):
            part = responses[:, column : column + 7]
            np.save(betas / f"CSI1_{version}_{side}{region}.npy", part)
            column += 7
    lines = [("rep_" if i >= n else "") + names[i] for i in order]
    (lists / "CSI1_imgnames.txt").write_text("\n".join(lines) + "\n")
    presented = root / "BOLD5000_Stimuli" / "Scene_Stimuli" / "Presented_Stimuli"
    for i, (name, picture) in enumerate(zip(names, shown, strict=True)):
        folder = presented / ("COCO" if i < 60 else "ImageNet" if i < n else "Scene")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(picture))
        expected.pictures[f"bold5000/{name}"] = lossy(picture)
    for k, (i, response) in enumerate(zip(order, responses, strict=True)):
        split = "test" if i >= n else "train"
        expected.add(f"bold5000/{names[i]}", response, split, run=f"{k // 37 + 1:03d}")
    return expected


class _Trap:
    """Unpickling this fails the test run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_sprung, ())


def _sprung() -> None:
    raise AssertionError("a pickle was read")


def write_things(root: Path, seed: int = 0, *, own: int = 36) -> Expected:
    """Three sessions of runs of 24: `own` training pictures and 12 test pictures in each session."""
    n = 3 * own
    train, test = pictures(n, 12, seed)
    rng, person, expected = np.random.default_rng(seed), Person(seed), Expected()
    shown = np.concatenate([train, test])
    concepts = [f"thing{i // 3:03d}" for i in range(n)] + [f"kept{i:03d}" for i in range(12)]
    names = [f"{c}_{i:02d}s.jpg" for i, c in enumerate(concepts)]
    inside = np.arange(N_VOXELS) >= 8
    rows, betas = [], []
    for session in range(3):
        items = np.concatenate([own * session + np.arange(own), n + np.arange(12)])
        items = rng.permutation(items)
        for k, (item, response) in enumerate(zip(items, person.see(shown[items]), strict=True)):
            kind, run = "test" if item >= n else "train", k // 24 + 1
            rows.append((kind, session + 1, run, 1, len(betas), names[item], concepts[item]))
            uid = f"things_fmri/{names[item][:-4]}"
            expected.add(uid, response[inside], kind, f"{session + 1:02d}", f"{run:02d}")
            betas.append(response)
    columns = ["trial_type", "session", "run", "subject_id", "trial_id", "stimulus", "concept"]
    table = pd.DataFrame(rows, columns=columns)
    table.sample(frac=1, random_state=seed).to_csv(
        root / "sub-01_StimulusMetadata.csv", index=False
    )
    with h5py.File(root / "sub-01_ResponseData.h5", "w") as f:
        f["ResponseData/block0_values"] = np.stack(betas, axis=1)
        f["ResponseData/block1_values"] = np.arange(N_VOXELS)[:, None]
        trap = np.frombuffer(pickle.dumps(_Trap()), np.uint8)
        items = f.create_dataset("ResponseData/block0_items", (1,), h5py.vlen_dtype(np.uint8))
        items[0] = trap
    voxels = {"voxel_id": np.arange(N_VOXELS), "subject_id": 1}
    voxels |= {f"voxel_{a}": np.arange(N_VOXELS) + k for k, a in enumerate("xyz")}
    voxels |= {"nc_testset": np.linspace(0, 60, N_VOXELS)}
    voxels |= {"V1": (inside & (np.arange(N_VOXELS) < 30)).astype(int), "IT": inside.astype(int)}
    pd.DataFrame(voxels).to_csv(root / "sub-01_VoxelMetadata.csv", index=False)
    for name, concept, picture in zip(names, concepts, shown, strict=True):
        folder = root / "images" / concept
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(picture))
        expected.pictures[f"things_fmri/{name[:-4]}"] = lossy(picture)
    return expected
