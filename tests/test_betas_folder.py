"""One's own betas: three formats, and every way in which files and table can disagree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import savemat
from scored import means
from test_configs import composed

from decode.core import InputError
from decode.data.betas_folder import BetasFolder
from decode.pipeline import execute
from decode.preprocessing.betas import beta_maps
from decode.workshop import Run

N, VOXELS = 12, 6


def _table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "stimulus": [f"{i % 4}.png" for i in range(N)],
            "session": np.repeat(["01", "02"], N // 2),
            "run": np.tile(["1", "1", "1", "2", "2", "2"], 2),
            "split": ["test" if i % 4 == 3 else "train" for i in range(N)],
            "caption": [f"picture {i % 4}" if i < 8 else f"again {i % 4}" for i in range(N)],
            "category": [["cat", "dog"][i % 2] for i in range(N)],
            "button": np.arange(N),
        }
    )


def _betas() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, VOXELS))


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / "pictures" / f"{i}.png")
    (tmp_path / "s1").mkdir()
    _table().to_csv(tmp_path / "s1/trials.tsv", sep="\t", index=False)
    return tmp_path


def _npy(folder: Path, betas: np.ndarray) -> None:
    # In the order of numbers, not of letters: part 10 comes after part 9.
    np.save(folder / "betas_9.npy", betas[:7].astype(np.float32))
    np.save(folder / "betas_10.npy", betas[7:])


def _mat(folder: Path, betas: np.ndarray) -> None:
    savemat(folder / "betas.mat", {"betas": betas, "other": 1})


def _mat73(folder: Path, betas: np.ndarray) -> None:
    with h5py.File(folder / "betas.mat", "w") as file:
        file["betas"] = betas.T


def _nifti(folder: Path, betas: np.ndarray) -> None:
    mask = np.zeros((2, 2, 3), np.uint8)
    mask.reshape(-1)[[0, 2, 3, 7, 8, 11]] = 1
    volumes = np.zeros((*mask.shape, N), np.float32)
    volumes[mask > 0] = betas.T
    nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), folder / "mask.nii.gz")
    nibabel.save(nibabel.Nifti1Image(volumes, np.eye(4)), folder / "betas.nii.gz")


@pytest.mark.parametrize("write", [_npy, _mat, _mat73, _nifti])
def test_every_format_gives_the_same_recordings(lab: Path, write: Callable) -> None:
    write(lab / "s1", _betas())
    data = BetasFolder(str(lab), label_columns=["category"])
    recordings = list(data.recordings("s1"))
    assert [(r.session, r.run) for r in recordings] == [
        ("01", "1"), ("01", "2"), ("02", "1"), ("02", "2")
    ]  # fmt: skip
    got = np.concatenate([beta_maps(r).signal for r in recordings])
    np.testing.assert_allclose(got, _betas(), rtol=1e-6)
    events = pd.concat([r.events for r in recordings])
    assert list(events["stimulus"]) == list(_table()["stimulus"])
    assert list(events["split"]) == list(_table()["split"])
    assert list(events["button"]) == [str(i) for i in range(N)]
    assert list(recordings[0].events["onset"]) == [0, 1, 2]
    stimulus = data.stimuli()["1.png"]
    assert stimulus.text == "picture 1"
    assert stimulus.labels == {"category": "dog"}
    assert stimulus.texts == ("picture 1", "again 1")
    assert len(stimulus.digest()) == 20


def test_sessions_that_alternate_keep_their_rows(lab: Path) -> None:
    _npy(lab / "s1", _betas())
    table = _table().assign(session=["01", "02"] * 6, run="")
    table.drop(columns="split").to_csv(lab / "s1/trials.tsv", sep="\t", index=False)
    first, second = BetasFolder(str(lab)).recordings("s1")
    np.testing.assert_allclose(first.signal, _betas()[::2], rtol=1e-6)
    np.testing.assert_allclose(second.signal, _betas()[1::2], rtol=1e-6)
    assert set(first.events["split"]) == {""}


def test_a_table_of_voxels_names_regions(lab: Path) -> None:
    _npy(lab / "s1", _betas())
    table = pd.DataFrame({"roi": ["V1", "V1", "V2", "n/a", "", "V4"], "x": 0.01})
    table.to_csv(lab / "s1/voxels.tsv", sep="\t", index=False)
    channels = next(BetasFolder(str(lab)).recordings("s1")).channels
    assert list(channels["roi"]) == ["V1", "V1", "V2", "", "", "V4"]
    assert (channels["x"] == 0.01).all()
    table[:5].to_csv(lab / "s1/voxels.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match=r"a row for each of 6 voxels.*got 5 rows"):
        next(BetasFolder(str(lab)).recordings("s1"))


def _voxels(**columns: object) -> str:
    table = pd.DataFrame({"name": [f"v{i}" for i in range(VOXELS)], "roi": "V1", "x": 0.5})
    return table.assign(**columns).to_csv(sep="\t", index=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_voxels(roi="V1ü").encode("latin-1"), "row 1: expected text in UTF-8"),
        (_voxels(x="0,5").encode(), "row 1: expected a number in the column x, got '0,5'"),
        (_voxels(x=np.inf).encode(), "row 1: expected a number in the column x, got 'inf'"),
        ((_voxels() + "v9\tV1\n").encode(), "row 7: expected 3 cells"),
        (b"", "an empty file"),
        (b"name\n" * VOXELS, "got 5 rows"),
        (b"a\n" * (VOXELS + 1), "some of name, roi, x, y, z"),
        (np.arange(9).tobytes(), "zero bytes"),
    ],
)
def test_a_damaged_table_of_voxels_is_one_line(lab: Path, content: bytes, message: str) -> None:
    _npy(lab / "s1", _betas())
    (lab / "s1/voxels.tsv").write_bytes(content)
    with pytest.raises(InputError, match=rf"voxels\.tsv.*{message}") as e:
        next(BetasFolder(str(lab)).recordings("s1"))
    assert "\n" not in str(e.value)


def test_words_of_trials_stay_words(lab: Path) -> None:
    _npy(lab / "s1", _betas())
    words = ["None", "NA", "007", "1.0"] * 3
    codes = ["n/a", "1", "2", "3"] * 3
    table = _table().assign(category=words, caption="null", session="01", code=codes)
    table.to_csv(lab / "s1/trials.tsv", sep="\t", index=False)
    data = BetasFolder(str(lab), label_columns=["category", "code"])
    found = {u: (s.text, s.labels["category"], s.labels["code"]) for u, s in data.stimuli().items()}
    assert found == {
        "0.png": ("null", "None", None), "1.png": ("null", "NA", "1"),
        "2.png": ("null", "007", "2"), "3.png": ("null", "1.0", "3"),
    }  # fmt: skip
    assert {r.session for r in data.recordings("s1")} == {"01"}


def _rewrite(**columns: object) -> Callable[[Path], None]:
    def change(lab: Path) -> None:
        table = _table().assign(**columns)
        table = table.drop(columns=[c for c, v in columns.items() if v is None])
        table.to_csv(lab / "s1/trials.tsv", sep="\t", index=False)

    return change


def _save(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda lab: np.save(lab / "s1" / name, array, allow_pickle=True)


def _with_nan() -> np.ndarray:
    betas = _betas()[7:]
    betas[2, 4] = np.nan
    return betas


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_save("betas_10.npy", _betas()[8:]), "a row per beta map, got 12 rows and 11 maps"),
        (_save("betas_10.npy", _betas()[7:].T), "expected 6 voxels.*got 5.*transpose"),
        (_save("betas_10.npy", _with_nan()), "NaN or infinity in row 10 of trials.tsv, voxel 4"),
        (_save("betas_10.npy", np.array([{}])), "betas_10.npy: expected a whole .npy array"),
        (_save("betas_10.npy", np.zeros(5)), r"expected numbers \(trial, voxel\)"),
        (_rewrite(stimulus=None), "expected a column 'stimulus'"),
        (_rewrite(category=None), "expected a column 'category'.*label_columns"),
        (
            _rewrite(stimulus=["9.png"] * N),
            "row 1: expected pictures that lie in .*, got '9.png'.*data.pictures",
        ),
        (_rewrite(stimulus=[""] + ["1.png"] * 11), "expected a picture in row 1"),
        (_rewrite(split="validation"), "expected train, test or n/a"),
        (lambda lab: [p.unlink() for p in lab.glob("s1/*.npy")], "expected betas in files 'betas"),
    ],
)
def test_bad_input_is_one_line(lab: Path, fault: Callable, message: str) -> None:
    _npy(lab / "s1", _betas())
    fault(lab)
    with pytest.raises(InputError, match=message) as e:
        list(BetasFolder(str(lab), label_columns=["category"]).recordings("s1"))
    assert "\n" not in str(e.value)


def test_other_bad_input(lab: Path, tmp_path: Path) -> None:
    _mat(lab / "s1", _betas())
    with pytest.raises(InputError, match=r"expected the variable 'b', got \['betas', 'other'\]"):
        next(BetasFolder(str(lab), variable="b").recordings("s1"))
    with pytest.raises(InputError, match="got 's2'"):
        next(BetasFolder(str(lab)).recordings("s2"))
    with pytest.raises(InputError, match=r"expected <subject>/trials.tsv"):
        BetasFolder(str(lab / "pictures"))
    with pytest.raises(InputError, match="expected one 'button' for the picture"):
        BetasFolder(str(lab), label_columns=["button"]).stimuli()


def test_tables_of_subjects_that_are_left_out_say_nothing(lab: Path) -> None:
    table = _table()
    for name, content in (("s2", table.assign(category="other", caption="of s2")), ("s3", table)):
        (lab / name).mkdir()
        content.to_csv(lab / name / "trials.tsv", sep="\t", index=False)
    (lab / "s3/trials.tsv").write_text("stimulus\n1\t2\t3\n")
    data = BetasFolder(str(lab), label_columns=["category"])
    with pytest.raises(InputError, match="s3"):
        data.stimuli()
    with pytest.raises(InputError, match="expected one 'category'"):
        data.only(["s1", "s2"]).stimuli()
    mine, theirs = data.only(["s1"]).stimuli(), data.only(["s2"]).stimuli()
    shown = dict(zip(table["stimulus"], table["category"], strict=True))
    assert {uid: s.labels["category"] for uid, s in mine.items()} == shown
    assert {s.labels["category"] for s in theirs.values()} == {"other"}
    assert not any("of s2" in s.texts for s in mine.values())


def test_classes_and_words_need_no_file(lab: Path) -> None:
    np.save(lab / "s1/betas.npy", _betas())
    table = _table().assign(stimulus=_table()["category"])
    table.to_csv(lab / "s1/trials.tsv", sep="\t", index=False)
    for kind, text in (("event", "picture 0"), ("text", "cat")):
        data = BetasFolder(str(lab), kind=kind, pictures="nowhere")
        assert list(data.stimuli()) == ["cat", "dog"]
        cat = data.stimuli()["cat"]
        assert (cat.kind, cat.path, cat.text) == (kind, None, text)
        assert cat.labels["stimulus"] == "cat"
        events = pd.concat([r.events for r in data.recordings("s1")])
        assert events["stimulus"].tolist() == ["cat", "dog"] * 6
        assert not any("nowhere" in str(p) for p in data.files("s1"))
    with pytest.raises(InputError, match=r"data\.kind: expected null or one of"):
        BetasFolder(str(lab), kind="smell")  # type: ignore[arg-type]


def test_kinds_follow_from_endings(lab: Path) -> None:
    np.save(lab / "s1/betas.npy", _betas())
    names = ["0.png", "tone.wav", "story.txt", "scan"]
    (lab / "pictures/tone.wav").write_bytes(b"RIFF")
    (lab / "pictures/story.txt").write_text("Once upon a time\n")
    Image.new("RGB", (4, 4)).save(lab / "pictures/scan", format="PNG")
    table = _table().drop(columns="caption").assign(stimulus=names * 3)
    table.to_csv(lab / "s1/trials.tsv", sep="\t", index=False)
    found = BetasFolder(str(lab)).stimuli()
    kinds = {name: found[name].kind for name in names}
    assert kinds == {"0.png": "image", "tone.wav": "audio", "story.txt": "text", "scan": "image"}
    assert found["story.txt"].text == "Once upon a time"
    assert BetasFolder(str(lab), kind="video").stimuli()["0.png"].kind == "video"


@pytest.mark.slow
def test_classes_of_betas_are_decoded_without_a_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    classes = ["cat", "dog", "house"]
    seen = np.concatenate([rng.permutation(classes * 4) for _ in range(5)])
    patterns = {c: rng.normal(size=40) for c in classes}
    (tmp_path / "study/s1").mkdir(parents=True)
    betas = np.stack([patterns[c] for c in seen]) + rng.normal(size=(60, 40))
    np.save(tmp_path / "study/s1/betas.npy", betas)
    table = pd.DataFrame({"stimulus": seen, "run": np.repeat(np.arange(1, 6), 12)})
    table.to_csv(tmp_path / "study/s1/trials.tsv", sep="\t", index=False)
    config = composed(
        "experiment=own_betas_classes",
        f"paths.data={tmp_path / 'study'}",
        f"paths.outputs={tmp_path / 'outputs'}",
        f"targets.label.classes=[{','.join(classes)}]",
    )
    run = Run(config)
    execute(run, until="evaluate", force=(), say=lambda line: None)
    scores = pd.read_parquet(run.folder("evaluate") / "scores.parquet")
    assert means(scores)["decoder"]["accuracy"] > 0.9
