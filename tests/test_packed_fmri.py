"""Packed fMRI data sets: what was written is read, brain and pictures belong together, faults are named."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import packed_twins as twins
import pandas as pd
import pytest

from decode.core import InputError
from decode.data.bold5000 import BOLD5000
from decode.data.brain_diffuser import BrainDiffuser
from decode.data.god import GOD
from decode.data.mindeye1 import MindEye1
from decode.data.mindeye2 import MindEye2
from decode.data.things_fmri import ThingsFMRI
from decode.pictures import open_image, to_bytes
from decode.preprocessing.betas import beta_maps
from decode.recordings.packed import files_below
from decode.stages import preprocess


@dataclass(frozen=True)
class Kind:
    """How a twin is written and opened."""

    write: Callable[..., twins.Expected]
    open: Callable[..., Any]
    subject: str


def _cached(plugin: Callable[..., Any]) -> Callable[..., Any]:
    return lambda root, **knobs: plugin(str(root), cache=f"{root}_cache", **knobs)


def _things(root: Path, **knobs: Any) -> ThingsFMRI:
    return ThingsFMRI(str(root), images=str(root / "images"), **{"rois": ["V1", "IT"], **knobs})


KINDS = {
    "mindeye1": Kind(twins.write_mindeye1, _cached(MindEye1), "subj01"),
    "mindeye1_extracted": Kind(
        lambda root: twins.write_mindeye1(root, extracted=True), _cached(MindEye1), "subj01"
    ),
    "mindeye2": Kind(twins.write_mindeye2, _cached(MindEye2), "subj01"),
    "brain_diffuser": Kind(twins.write_brain_diffuser, _cached(BrainDiffuser), "subj01"),
    "god_bdpy": Kind(twins.write_god_bdpy, _cached(GOD), "Subject1"),
    "god_npz": Kind(twins.write_god_npz, _cached(GOD), "sbj_1"),
    "bold5000": Kind(twins.write_bold5000, lambda root: BOLD5000(str(root)), "CSI1"),
    "things_fmri": Kind(twins.write_things, _things, "sub-01"),
}


PICTURE_FOLDERS = ("images", "Scene_Stimuli")


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, twins.Expected]]:
    """Every twin, written once; who breaks one copies it first."""
    made = {}
    for name, kind in KINDS.items():
        root = tmp_path_factory.mktemp(name)
        made[name] = root, kind.write(root)
    return made


@pytest.fixture
def spoil(written: dict[str, tuple[Path, twins.Expected]], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a twin to be broken."""

    def copy(name: str) -> Path:
        source, copied = written[name][0], tmp_path / name
        shutil.copytree(source, copied, ignore=shutil.ignore_patterns(*PICTURE_FOLDERS))
        for folder in PICTURE_FOLDERS:
            for found in source.rglob(folder):
                (copied / found.relative_to(source)).symlink_to(found)
        return copied

    return copy


def _read(data: Any, subject: str) -> tuple[np.ndarray, pd.DataFrame]:
    signals, tables = [], []
    for recording in data.recordings(subject):
        prepared = beta_maps(recording)
        signals.append(prepared.signal)
        tables.append(prepared.table)
    return np.concatenate(signals), pd.concat(tables, ignore_index=True)


def _use(data: Any, subject: str) -> None:
    """Everything that a run reads of a data set."""
    stimuli = data.stimuli()
    for recording in data.recordings(subject):
        stimuli[recording.events["stimulus"].iloc[0]].digest()


@pytest.mark.parametrize("name", KINDS)
def test_what_was_written_is_read_in_order(name: str, written: dict[str, Any]) -> None:
    kind, (root, expected) = KINDS[name], written[name]
    data = kind.open(root)
    assert data.subjects == (kind.subject,)
    signal, table = _read(data, kind.subject)
    assert table["stimulus"].tolist() == expected.uids
    np.testing.assert_allclose(signal, np.stack(expected.signal), rtol=1e-6)
    assert signal.dtype == np.float32
    for column in ("split", "session", "run"):
        assert table[column].tolist() == getattr(expected, column), column
    seen: Counter[str] = Counter()
    for uid, repeat in zip(expected.uids, table["repeat"], strict=True):
        seen[uid] += 1
        assert repeat == seen[uid]
    assert data.truth(kind.subject) is None
    assert data.facts.modality == "fmri"
    assert data.facts.sfreq == 1.0


@pytest.mark.parametrize("name", KINDS)
def test_pictures_are_those_that_were_stored(name: str, written: dict[str, Any]) -> None:
    kind, (root, expected) = KINDS[name], written[name]
    stimuli = kind.open(root).stimuli()
    assert set(expected.pictures) <= set(stimuli)
    for uid, picture in expected.pictures.items():
        assert stimuli[uid].uid == uid
        np.testing.assert_array_equal(np.asarray(open_image(stimuli[uid])), picture)


# What tells the files of the subject from those of another one.
OTHERS = {
    "mindeye1": {"subj01": "subj02"},
    "mindeye1_extracted": {"subj01": "subj02"},
    "brain_diffuser": {"subj01": "subj02", "sub1": "sub2"},
    "god_bdpy": {"Subject1": "Subject2"},
    "bold5000": {"CSI1": "CSI2"},
    "things_fmri": {"sub-01": "sub-02"},
}


@pytest.mark.parametrize("name", OTHERS)
def test_damaged_files_of_another_subject_stop_nothing(
    name: str, written: dict[str, Any], spoil: Callable[[str], Path]
) -> None:
    kind, root = KINDS[name], spoil(name)
    for path in [p for p in root.rglob("*") if p.is_file()]:
        other = str(path.relative_to(root))
        for mine, theirs in OTHERS[name].items():
            other = other.replace(mine, theirs)
        if not (root / other).exists():
            (root / other).parent.mkdir(parents=True, exist_ok=True)
            (root / other).write_bytes(b"\xffdamaged")
    both = kind.open(root)
    assert len(both.subjects) == 2
    with pytest.raises(InputError):
        both.stimuli()
    alone, sound = both.only([kind.subject]), kind.open(written[name][0])
    assert alone.subjects == sound.subjects
    assert set(alone.stimuli()) == set(sound.stimuli())
    np.testing.assert_array_equal(_read(alone, kind.subject)[0], _read(sound, kind.subject)[0])


def _retrieval(data: Any, subject: str, *, shuffle: bool) -> tuple[float, float]:
    """Share of test pictures that are nearest to the pixels decoded from their trials, and chance."""
    signal, table = _read(data, subject)
    stimuli = data.stimuli()
    uids = list(dict.fromkeys(table["stimulus"]))
    shown = np.stack([np.asarray(open_image(stimuli[u])) for u in uids])
    pixels = twins.coarse(shown)
    row = table["stimulus"].map({u: i for i, u in enumerate(uids)}).to_numpy()
    train, test = (np.flatnonzero(table["split"] == s) for s in ("train", "test"))
    brain = (signal - signal[train].mean(0)) / signal[train].std(0)
    mean = pixels[row[train]].mean(0)
    learnt = brain[np.random.default_rng(0).permutation(train) if shuffle else train]
    gram = learnt.T @ learnt + 20 * np.eye(brain.shape[1])
    weights = np.linalg.solve(gram, learnt.T @ (pixels[row[train]] - mean))
    gallery = np.unique(row[test])
    predicted = np.stack([(brain[test[row[test] == g]] @ weights).mean(0) for g in gallery])
    truth = pixels[gallery] - mean
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (predicted, truth)]
    return float(((unit[0] @ unit[1].T).argmax(1) == np.arange(len(gallery))).mean()), 1 / len(
        gallery
    )


@pytest.mark.parametrize("name", KINDS)
def test_pictures_are_decoded_from_the_brain_and_not_from_shuffled_trials(
    name: str, written: dict[str, Any]
) -> None:
    kind, (root, _) = KINDS[name], written[name]
    data = kind.open(root)
    score, chance = _retrieval(data, kind.subject, shuffle=False)
    assert score > 0.7 > 5 * chance
    score, _ = _retrieval(data, kind.subject, shuffle=True)
    assert score < 0.35


@pytest.mark.parametrize("name", KINDS)
def test_a_run_goes_through_the_preprocess_stage(
    name: str, written: dict[str, Any], tmp_path: Path
) -> None:
    kind, (root, expected) = KINDS[name], written[name]
    data = kind.open(root)
    facts = preprocess.run(tmp_path, dataset=data, preprocess=beta_maps, subject=kind.subject)
    assert facts["n_trials"] == len(expected.uids)


@pytest.mark.parametrize("name", KINDS)
def test_an_empty_folder_and_an_absent_subject_are_named(
    name: str, written: dict[str, Any], tmp_path: Path
) -> None:
    kind = KINDS[name]
    with pytest.raises(InputError, match=r"expected .* found"):
        kind.open(tmp_path)
    with pytest.raises(InputError, match="nobody"):
        next(kind.open(written[name][0]).recordings("nobody"))


def test_only_the_pictures_that_are_asked_for_are_unpacked(spoil: Callable[[str], Path]) -> None:
    for name in ("mindeye1", "mindeye2", "brain_diffuser"):
        root = spoil(name)
        stimuli = KINDS[name].open(root).stimuli()
        uid = next(iter(stimuli))
        path = Path(str(stimuli[uid].path))
        files = [p for p in Path(f"{root}_cache").rglob("*") if p.is_file()]
        assert files == [path]
        written = path.stat().st_mtime_ns
        assert KINDS[name].open(root).stimuli()[uid] == stimuli[uid]
        assert path.stat().st_mtime_ns == written


def test_first_sessions_limit_training_trials_alone(written: dict[str, Any]) -> None:
    root, expected = written["mindeye2"]
    signal, table = _read(_cached(MindEye2)(root, sessions=2), "subj01")
    keep = [
        i
        for i, (split, session) in enumerate(zip(expected.split, expected.session, strict=True))
        if split == "test" or session <= "02"
    ]
    assert table["stimulus"].tolist() == [expected.uids[i] for i in keep]
    np.testing.assert_array_equal(signal, np.stack(expected.signal)[keep])
    _, full = _read(_cached(MindEye2)(root), "subj01")
    assert table["repeat"].tolist() == full["repeat"].iloc[keep].tolist()
    _, old = _read(_cached(MindEye2)(root, test="shared982"), "subj01")
    assert (old["split"] == "test").sum() == 30
    for knobs, words in (
        ({"sessions": 5}, "at most 4, the sessions of subj01"),
        ({"sessions": 0}, "1 or more"),
        ({"test": "both"}, "shared982"),
    ):
        with pytest.raises(InputError, match=words):
            _read(_cached(MindEye2)(root, **knobs), "subj01")


def test_captions_become_the_text(written: dict[str, Any], tmp_path: Path) -> None:
    stimuli = _cached(BrainDiffuser)(written["brain_diffuser"][0]).stimuli()
    found = stimuli["brain_diffuser/subj01/test/00003"]
    assert found.text == "test 3"
    assert found.texts == ("test 3", "x", "y")
    said = np.array([["", f"picture {i}"] for i in range(180)])
    said[7] = ""
    np.save(tmp_path / "said.npy", said)
    captions = {"captions": str(tmp_path / "said.npy")}
    stimuli = _cached(MindEye2)(written["mindeye2"][0], **captions).stimuli()
    assert stimuli["nsd/00041"].text == "picture 41"
    with pytest.raises(InputError, match=r"row 7: expected a caption, got 2 empty"):
        stimuli["nsd/00007"]
    np.save(tmp_path / "said.npy", said[:20])
    with pytest.raises(InputError, match="text for 180 stimuli"):
        _cached(MindEye2)(written["mindeye2"][0], **captions).stimuli()


def test_god_single_trials_are_ordered_by_comparison_with_their_means(tmp_path: Path) -> None:
    expected = twins.write_god_npz(tmp_path, by_round=True)
    _, table = _read(_cached(GOD)(tmp_path), "sbj_1")
    assert table["stimulus"].tolist() == expected.uids
    _, table = _read(_cached(GOD)(tmp_path, test="averaged"), "sbj_1")
    assert (table["split"] == "test").sum() == 12
    npz = dict(np.load(tmp_path / "sbj_1.npz"))
    npz["arr_1"] = np.random.default_rng(0).permutation(npz["arr_1"])
    np.savez(tmp_path / "sbj_1.npz", **npz)
    with pytest.raises(InputError, match=r"test=averaged"):
        _read(_cached(GOD)(tmp_path), "sbj_1")


def test_god_regions_imagery_and_labels(written: dict[str, Any], tmp_path: Path) -> None:
    expected = twins.write_god_bdpy(tmp_path, imagery=True)
    data = _cached(GOD)(tmp_path, imagery=True)
    signal, table = _read(data, "Subject1")
    assert table["stimulus"].tolist() == expected.uids
    np.testing.assert_allclose(signal, np.stack(expected.signal), rtol=1e-6)
    imagined = table[table["condition"] == "imagery"]
    assert (imagined["split"] == "").all()
    assert sorted(imagined["repeat"]) == [1] * 12
    channels = next(data.recordings("Subject1")).channels
    assert channels["roi"].tolist() == ["V1"] * 22 + [""] * 40
    assert channels["x"].iloc[0] == pytest.approx(0.024)
    early = next(_cached(GOD)(tmp_path, roi="V1").recordings("Subject1"))
    assert early.signal.shape[1] == 22
    assert data.stimuli()[expected.uids[0]].labels["synset"] == expected.uids[0][4:13]
    packed = _cached(GOD)(written["god_npz"][0]).stimuli()
    assert packed["god/test/0000"].labels["synset"] == f"n{1518878 + 7 * 120:08d}"


def test_things_voxels_are_chosen_by_region_and_ceiling(written: dict[str, Any]) -> None:
    root, _ = written["things_fmri"]
    channels = next(_things(root).recordings("sub-01")).channels
    assert channels["roi"].tolist() == ["V1"] * 22 + ["IT"] * 40
    assert channels["j"].tolist() == list(range(9, 71))
    assert len(next(_things(root, rois=None).recordings("sub-01")).channels) == 70
    chosen = next(_things(root, min_ceiling=30.0).recordings("sub-01")).channels
    assert chosen["name"].tolist() == [f"voxel{i:06d}" for i in range(35, 70)]


def test_bold5000_keeps_regions_and_may_ignore_runs(written: dict[str, Any]) -> None:
    root, expected = written["bold5000"]
    (whole,) = BOLD5000(str(root), trials_per_run=None).recordings("CSI1")
    assert whole.events["stimulus"].tolist() == expected.uids
    assert whole.channels["roi"].tolist()[:14] == ["LHEarlyVis"] * 7 + ["RHEarlyVis"] * 7
    test = whole.events[whole.events["split"] == "test"]
    assert test.groupby("stimulus").size().tolist() == [4] * 12
    stimulus = BOLD5000(str(root)).stimuli()["bold5000/place0.jpg"]
    assert stimulus.labels["source"] == "Scene"


def _tar(root: Path, path: str, change: Callable[[dict[str, bytes]], None]) -> None:
    import tarfile

    with tarfile.open(root / path) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    change(files)
    twins.write_tar(root / path, files)


def _set(path: Path, key: str, change: Callable[[np.ndarray], np.ndarray | None]) -> None:
    with h5py.File(path, "a") as f:
        value = change(f[key][:])
        del f[key]
        if value is not None:
            f[key] = value


def _array(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(path, change(np.load(path)))


def _npz(path: Path, **change: np.ndarray | None) -> None:
    content = {**np.load(path), **change}
    np.savez(path, **{k: v for k, v in content.items() if v is not None})


def _table(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(path)).to_csv(path, index=False)


ME1 = "train/train_subj01_0.tar"
FIRST = "sample000000000"
BETAS = "betas_all_subj01_fp32_renorm.hdf5"
IMAGES = "coco_images_224_float16.hdf5"
STIM = "subj01/nsd_train_stim_sub1.npy"
CAP = "subj01/nsd_train_cap_sub1.npy"
ROI = "BOLD5000_GLMsingle_ROI_betas/py/CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_RHPPA.npy"
LIST = "BOLD5000_Stimuli/Stimuli_Presentation_Lists/CSI1/CSI1_imgnames.txt"
RESPONSES = "sub-01_ResponseData.h5"
TRIALS = "sub-01_StimulusMetadata.csv"
VOXELS = "sub-01_VoxelMetadata.csv"
FAULTS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("mindeye1", lambda r: shutil.rmtree(r / "test"), r"test_subj01_0\.tar"),
    ("mindeye1", lambda r: (r / ME1).write_bytes((r / ME1).read_bytes()[:50_000]), "whole tar"),
    ("mindeye1", lambda r: _tar(r, ME1, lambda f: f.pop(f"{FIRST}.nsdgeneral.npy")), "found"),
    ("mindeye1", lambda r: _tar(r, ME1, lambda f: f.pop(f"{FIRST}.jpg")), r"jpg or .*png"),
    (
        "mindeye1",
        lambda r: _tar(r, ME1, lambda f: f.update({f"{FIRST}.coco73k.npy": twins.npy([73_000])})),
        "0 to 72999",
    ),
    (
        "mindeye1",
        lambda r: _tar(r, ME1, lambda f: f.update({f"{FIRST}.num_uniques.npy": twins.npy([4])})),
        "1 to 3",
    ),
    (
        "mindeye1",
        lambda r: _tar(
            r, ME1, lambda f: f.update({f"{FIRST}.nsdgeneral.npy": twins.npy(np.ones((3, 9)))})
        ),
        "same voxels",
    ),
    (
        "mindeye1",
        lambda r: _tar(r, ME1, lambda f: f.update({f"{FIRST}.nsdgeneral.npy": b"no array"})),
        "whole .npy",
    ),
    ("mindeye2", lambda r: (r / BETAS).unlink(), "betas_all_subj01"),
    ("mindeye2", lambda r: (r / IMAGES).unlink(), "coco_images"),
    ("mindeye2", lambda r: (r / "wds/subj01/new_test/0.tar").unlink(), "new_test"),
    ("mindeye2", lambda r: shutil.rmtree(r / "wds/subj01/train"), "0.tar, 1.tar"),
    ("mindeye2", lambda r: _set(r / BETAS, "betas", lambda a: None), "dataset 'betas'"),
    ("mindeye2", lambda r: _set(r / BETAS, "betas", lambda a: a[:, 0]), "2 dimensions"),
    ("mindeye2", lambda r: _set(r / BETAS, "betas", lambda a: a[:100]), "rows from 0 to 99"),
    ("mindeye2", lambda r: _set(r / IMAGES, "images", lambda a: a[:50]), "pictures from 0 to 49"),
    ("mindeye2", lambda r: _set(r / IMAGES, "images", lambda a: 300 * a), "pictures of one or"),
    ("mindeye2", lambda r: (r / IMAGES).write_bytes(b"half"), "damaged"),
    (
        "mindeye2",
        lambda r: _tar(
            r, "wds/subj01/train/0.tar",
            lambda f: f.update({next(k for k in f): twins.npy(np.zeros((1, 16)))}),
        ),
        "17 values",
    ),
    (
        "mindeye2",
        lambda r: shutil.copy(r / "wds/subj01/train/0.tar", r / "wds/subj01/new_test/0.tar"),
        "either in train or in .*both",
    ),
    ("brain_diffuser", lambda r: (r / STIM).unlink(), "nsd_train_stim_sub1"),
    ("brain_diffuser", lambda r: (r / CAP).unlink(), "data.captions off"),
    ("brain_diffuser", lambda r: _array(r / STIM, lambda a: a[:-1]), "expected 120 pictures"),
    ("brain_diffuser", lambda r: _array(r / STIM, lambda a: a * 2), "from 0 to 255"),
    ("brain_diffuser", lambda r: _array(r / STIM, lambda a: a[..., 0]), "4 dimensions"),
    (
        "brain_diffuser",
        lambda r: np.save(r / CAP, np.array([["a"] * 5] * 120, object), allow_pickle=True),
        r"pickled Python objects.*astype\(str\)",
    ),
    (
        "brain_diffuser",
        lambda r: (r / STIM).write_bytes((r / STIM).read_bytes()[:9000]),
        "whole .npy",
    ),
    ("god_bdpy", lambda r: _set(r / "Subject1.h5", "metadata/key", _relabelled), "'Run'"),
    ("god_bdpy", lambda r: _set(r / "Subject1.h5", "dataset", lambda a: None), "'dataset'"),
    ("god_bdpy", lambda r: _set(r / "Subject1.h5", "dataset", lambda a: a[:, 1:]), "per key"),
    ("god_bdpy", lambda r: _set(r / "Subject1.h5", "dataset", lambda a: a + 9), "DataType"),
    ("god_bdpy", lambda r: (r / "images").unlink(), r"n0151.*\.JPEG"),
    ("god_bdpy", lambda r: (r / "Subject1.h5").write_bytes(b"half"), "whole HDF5"),
    ("god_npz", lambda r: (r / "images_256.npz").unlink(), "images_256.npz"),
    ("god_npz", lambda r: (r / "sbj_1.npz").write_bytes(b"half"), "whole .npz"),
    ("god_npz", lambda r: _npz(r / "sbj_1.npz", arr_3=None), "'arr_3'"),
    ("god_npz", lambda r: _npz(r / "sbj_1.npz", VC=None), "'VC'"),
    ("god_npz", lambda r: _npz(r / "sbj_1.npz", arr_3=np.arange(120) + 1), "0 to 119"),
    ("god_npz", lambda r: _npz(r / "sbj_1.npz", arr_3=np.arange(119)), "each of the 120"),
    ("god_npz", lambda r: _npz(r / "sbj_1.npz", arr_1=np.ones((72, 9))), "70 voxels"),
    ("god_npz", lambda r: _npz(r / "sbj_1.npz", arr_1=np.ones((70, 70))), "multiple of 12"),
    ("god_npz", lambda r: _npz(r / "images_256.npz", test_images=None), "'test_images'"),
    ("god_npz", lambda r: (r / "imagenet_testing_label.csv").write_text("1.1,a\n"), "12 lines"),
    ("god_npz", lambda r: (r / "imagenet_testing_label.csv").write_text("n/a\n"), "picture's number"),
    ("god_npz", lambda r: (r / "imagenet_testing_label.csv").write_bytes(b"\xff"), "picture's number"),
    ("bold5000", lambda r: (r / ROI).unlink(), "RHPPA"),
    ("bold5000", lambda r: (r / LIST).unlink(), "CSI1_imgnames"),
    ("bold5000", lambda r: _array(r / ROI, lambda a: a[:-1]), "expected 148 trials"),
    ("bold5000", lambda r: (r / LIST).write_text("a.jpg\n"), "expected 148 lines"),
    ("bold5000", lambda r: (r / LIST).write_bytes(b"\xff.jpg\n"), "a line of text per trial"),
    ("bold5000", lambda r: (r / "BOLD5000_Stimuli/Scene_Stimuli").unlink(), "BOLD5000_Stimuli there"),
    ("things_fmri", lambda r: (r / TRIALS).unlink(), "StimulusMetadata"),
    ("things_fmri", lambda r: _set(r / RESPONSES, "ResponseData/block0_values", lambda a: None),
     "block0_values"),
    ("things_fmri", lambda r: _set(r / RESPONSES, "ResponseData/block0_values", lambda a: a[:-1]),
     "expected the 69 voxels"),
    ("things_fmri", lambda r: _set(r / RESPONSES, "ResponseData/block0_values", lambda a: a[:, 1:]),
     "trial_id from 0 to 142"),
    ("things_fmri", lambda r: _table(r / TRIALS, lambda t: t.iloc[1:]), "expected 144 trials"),
    ("things_fmri", lambda r: _table(r / TRIALS, lambda t: t.drop(columns="session")), "session"),
    ("things_fmri", lambda r: _table(r / VOXELS, lambda t: t.drop(columns="V1")), "'V1'"),
    ("things_fmri", lambda r: _table(r / VOXELS, lambda t: t.iloc[::-1]), "numbered from 0"),
    ("things_fmri", lambda r: _table(r / TRIALS, lambda t: t.assign(run="1,5")), "row 1: .* run"),
    ("things_fmri", lambda r: _table(r / VOXELS, lambda t: t.assign(V1="yes")), "row 1: .* V1"),
    ("things_fmri", lambda r: (r / VOXELS).write_bytes(b"voxel_id,V1\n\xfc,1\n"), "row 1: .* UTF-8"),
    ("things_fmri", lambda r: _table(r / VOXELS, lambda t: t.assign(V1=0, IT=0)), "regions with voxels"),
    ("things_fmri", lambda r: (r / "images").unlink(), "the picture"),
]  # fmt: skip


def _relabelled(keys: np.ndarray) -> np.ndarray:
    return np.array([b"Ran" if k == b"Run" else k for k in keys], object)


@pytest.mark.parametrize(
    ("name", "spoiled", "words"), FAULTS, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(FAULTS)]
)
def test_a_fault_is_named_in_one_line(
    name: str, spoiled: Callable[[Path], Any], words: str, spoil: Callable[[str], Path]
) -> None:
    root = spoil(name)
    spoiled(root)
    with pytest.raises(InputError, match=words) as caught:
        _use(KINDS[name].open(root), KINDS[name].subject)
    assert "\n" not in str(caught.value)


def test_knobs_that_contradict_the_files_are_refused(written: dict[str, Any]) -> None:
    bdpy, npz = written["god_bdpy"][0], written["god_npz"][0]
    for root, knobs, words in (
        (bdpy, {"layout": "mind-vis"}, "'bdpy'"),
        (bdpy, {"layout": "matlab"}, "'bdpy', 'mind-vis' or null, got 'matlab'"),
        (bdpy, {"test": "averaged"}, "expected 'single'"),
        (npz, {"imagery": True}, "no imagery"),
        (npz, {"test": "first"}, "'single' or 'averaged'"),
    ):
        with pytest.raises(InputError, match=words):
            _cached(GOD)(root, **knobs)
    with pytest.raises(InputError, match="expected 'ROI_V9'"):
        next(_cached(GOD)(bdpy, roi="V9").recordings("Subject1"))
    root = written["bold5000"][0]
    with pytest.raises(InputError, match="a divisor of the 148 trials of CSI1, got 36"):
        next(BOLD5000(str(root), trials_per_run=36).recordings("CSI1"))
    with pytest.raises(InputError, match="1 or more"):
        BOLD5000(str(root), trials_per_run=0)
    with pytest.raises(
        InputError, match=r"a column 'V9', got voxel_id, .*V1.*; correct data\.rois"
    ):
        next(_things(written["things_fmri"][0], rois=["V9"]).recordings("sub-01"))


def test_two_god_layouts_in_one_folder_need_a_choice(spoil: Callable[[str], Path]) -> None:
    root = spoil("god_bdpy")
    twins.write_god_npz(root)
    with pytest.raises(InputError, match="expected one layout, got files of both"):
        _cached(GOD)(root)
    assert _cached(GOD)(root, layout="mind-vis").subjects == ("sbj_1",)


def test_files_are_found_through_links_and_the_least_nested_wins(tmp_path: Path) -> None:
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for path in ("root/a/one", "elsewhere/one", "elsewhere/two"):
        (tmp_path / path).write_text("")
    (tmp_path / "root" / "a" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "root")
    found = files_below(tmp_path / "root")
    assert found == {
        "one": tmp_path / "root/a/one",
        "two": tmp_path / "root/a/link/two",
    }
    assert files_below(tmp_path / "nowhere") == {}


def test_stored_pictures_become_bytes() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (4, 5, 3), np.uint8)
    for stored, white in (
        (picture, 255.0),
        (picture / 255.0, 1.0),
        ((picture / 255.0).astype(np.float16), 1.0),
        (picture.astype(np.float64), 255.0),
        (picture.astype(np.int64), 1.0),
        (picture.transpose(2, 0, 1), 255.0),
    ):
        np.testing.assert_array_equal(to_bytes(stored, white=white), picture)
    grey = to_bytes(picture[:, :, 0], white=255.0)
    np.testing.assert_array_equal(grey, np.repeat(picture[:, :, :1], 3, axis=2))
    for wrong in (picture[:, :, :2], picture / 1.0 - 9, np.full((4, 4, 3), np.nan)):
        with pytest.raises(ValueError, match=r"shape|values"):
            to_bytes(wrong, white=255.0)
