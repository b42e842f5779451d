"""The Natural Scenes Dataset readers against a miniature in the published layout."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from nsd_twin import (
    AFFINE,
    FIRST_VOLUME,
    Twin,
    _save,
    write_captions,
    write_nsd,
    write_session,
    write_timeseries,
)
from scipy.io import loadmat, savemat
from scored import means
from worlds import config

from decode.core import InputError
from decode.data.nsd import NSD
from decode.data.nsd_timeseries import NSDTimeseries
from decode.pictures import read_image
from decode.pipeline import execute
from decode.preprocessing.betas import beta_maps
from decode.preprocessing.windows import bold_windows
from decode.recordings.nsd_pictures import read_coco
from decode.store import read_json
from decode.workshop import Run


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    """subj01 with 40 sessions in NIfTI, subj03 with 32 in HDF5; never written to by a test."""
    made = write_nsd(tmp_path_factory.mktemp("nsd") / "nsd")
    write_captions(made)
    write_timeseries(made, "subj01")
    return made


@pytest.fixture
def copy(twin: Twin, tmp_path: Path) -> Path:
    """A copy of the twin that a test may break."""
    shutil.copytree(twin.root, tmp_path / "nsd")
    return tmp_path / "nsd"


@pytest.mark.parametrize("subject", ["subj01", "subj03"])
def test_betas_equal_the_truth_to_the_precision_of_int16(twin: Twin, subject: str) -> None:
    recordings = list(NSD(str(twin.root)).recordings(subject))
    assert [r.session for r in recordings] == [f"{s + 1:02d}" for s in range(len(recordings))]
    assert len(recordings) == {"subj01": 40, "subj03": 32}[subject]
    got = np.concatenate([r.signal for r in recordings])
    expected = twin.betas[subject][:, twin.masks[subject]]
    np.testing.assert_allclose(got, expected, atol=0.5 / 300 + 1e-5)
    assert got.dtype == np.float32
    ijk = np.argwhere(twin.masks[subject])
    channels = recordings[0].channels
    assert list(channels["name"]) == ["-".join(map(str, v)) for v in ijk]
    mm = nibabel.affines.apply_affine(AFFINE, ijk)
    np.testing.assert_allclose(channels[["x", "y", "z"]], mm / 1000, atol=1e-6)


def test_pictures_of_trials_follow_the_design(twin: Twin) -> None:
    events = pd.concat([r.events for r in NSD(str(twin.root)).recordings("subj03")])
    expected = twin.ids("subj03")[: len(events)]
    assert list(events["stimulus"]) == [f"nsd/{i:05d}" for i in expected]
    shared = set(
        loadmat(twin.root / "nsddata/experiments/nsd/nsd_expdesign.mat")["sharedix"][0] - 1
    )
    assert list(events["split"] == "test") == [i in shared for i in expected]
    seen: Counter[int] = Counter()
    for image, repeat, number in zip(expected, events["repeat"], events["trial"], strict=True):
        seen[image] += 1
        assert repeat == seen[image]
        assert number == sum(seen.values()) - 1
    # The published table counts trials from 1 and must say the same.
    info = pd.read_csv(twin.root / "nsddata/experiments/nsd/nsd_stim_info_merged.csv")
    row = info[info["nsdId"] == expected[7]].iloc[0]
    assert 8 in [row[f"subject3_rep{k}"] for k in range(3)]


def test_the_two_test_splits(twin: Twin) -> None:
    shown = {}
    for test in ("shared1000", "shared982"):
        recordings = list(NSD(str(twin.root), test=test).recordings("subj01"))
        events = pd.concat([r.events for r in recordings])
        shown[test] = events[events["split"] == "test"]
        assert len(recordings) == {"shared1000": 40, "shared982": 37}[test]
    assert shown["shared1000"]["stimulus"].nunique() == twin.n_shared
    assert (shown["shared1000"].groupby("stimulus").size() == 3).all()
    assert shown["shared982"]["stimulus"].nunique() == twin.n_shared - 1
    assert set(shown["shared982"]["stimulus"]) < set(shown["shared1000"]["stimulus"])


def test_hours_are_first_sessions_and_leave_the_test_set_alone(twin: Twin) -> None:
    whole = pd.concat([r.events for r in NSD(str(twin.root)).recordings("subj01")])
    some = pd.concat([r.events for r in NSD(str(twin.root), sessions=2).recordings("subj01")])
    train = some[some["split"] == "train"]
    assert set(train["session"]) == {"01", "02"}
    assert len(train) == ((whole["split"] == "train") & (whole["session"] <= "02")).sum()
    assert ((some["split"] == "test") == (whole["split"] == "test")).all()
    few = list(NSD(str(twin.root), last_session=3).recordings("subj01"))
    assert len(few) == 3


def test_ncsnr_and_regions_choose_and_name_voxels(twin: Twin) -> None:
    data = NSD(str(twin.root), ncsnr_above=0.15, rois=["prf-visualrois", "floc-faces", "streams"])
    recording = next(data.recordings("subj01"))
    keep = twin.masks["subj01"] & (twin.ncsnr["subj01"] > 0.15)
    assert 0 < keep.sum() < twin.masks["subj01"].sum()
    assert recording.signal.shape[1] == keep.sum()
    rois = twin.rois["subj01"]
    names = {
        "prf-visualrois": ["", "V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"],
        "floc-faces": ["", "OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces", ""],
        "streams": ["", "early", "midventral", "midlateral", "midparietal", "ventral", "lateral",
                    "parietal"],
    }  # fmt: skip
    for voxel, region in zip(np.argwhere(keep), recording.channels["roi"], strict=True):
        said = [names[n][rois[n][tuple(voxel)]] for n in names]
        assert region == next((s for s in said if s), "")


@pytest.mark.parametrize("as_table", [False, True], ids=["json", "npy"])
def test_stimuli_are_rows_with_captions(twin: Twin, tmp_path: Path, as_table: bool) -> None:
    captions: list[str] = ["captions_train2017.json", "captions_val2017.json"]
    if as_table:
        np.save(tmp_path / "captions.npy", np.array(twin.captions))
        captions = [str(tmp_path / "captions.npy")]
    stimuli = NSD(str(twin.root), captions=captions).stimuli()
    image = twin.ids("subj01")[5]
    stimulus = stimuli[f"nsd/{image:05d}"]
    pixels = torch.from_numpy(twin.pictures[image]).permute(2, 0, 1) / 255
    torch.testing.assert_close(read_image(stimulus), pixels)
    texts = tuple(t.strip() for t in twin.captions[image])
    assert (stimulus.text, stimulus.texts) == (texts[0], texts)
    assert stimulus.labels["coco_id"] == twin.coco[image]
    blank = next(s for s in stimuli.values() if s.text and s.text.startswith("picture"))
    assert blank.texts == (blank.text,)
    assert len(stimuli) == len(twin.pictures)
    assert "nsd/99999" not in stimuli
    assert "nsd/7" not in stimuli
    assert NSD(str(twin.root)).stimuli()[stimulus.uid].text == ""


@pytest.mark.parametrize("chunks", ["voxels", None, (1, 4, 5, 6), (2, 2, 5, 6)])
def test_hdf5_is_read_alike_however_it_is_chunked(copy: Path, twin: Twin, chunks: object) -> None:
    stored = np.round(300 * twin.betas["subj03"][: twin.per_session]).astype(np.int16)
    path = twin.beta_folder("subj03").relative_to(twin.root) / "betas_session01.hdf5"
    write_session(copy / path, stored, chunks=chunks)
    got = next(NSD(str(copy), last_session=1).recordings("subj03")).signal
    np.testing.assert_array_equal(
        got, stored[:, twin.masks["subj03"]].astype(np.float32) / np.float32(300)
    )


BETAS = "nsddata_betas/ppdata/{}/func1pt8mm/betas_fithrf_GLMdenoise_RR/"
Break = Callable[[Path, Twin], object]


def _hdf5(path: Path, **datasets: np.ndarray) -> None:
    path.unlink(missing_ok=True)
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            file[key] = value


def _no_key(root: Path, twin: Twin) -> None:
    path = root / BETAS.format("subj03") / "betas_session02.hdf5"
    _hdf5(path, beta=np.zeros((6, 4, 5, 6), np.int16))


def _wrong_count(root: Path, twin: Twin) -> None:
    path = root / BETAS.format("subj01") / "betas_session03.nii.gz"
    write_session(path, np.ones((5, 6, 5, 4), np.int16))


def _floats(root: Path, twin: Twin) -> None:
    path = root / BETAS.format("subj01") / "betas_session01.nii.gz"
    _save(path, np.ones((6, 5, 4, 6), np.float32))


def _truncated(root: Path, twin: Twin) -> None:
    path = root / BETAS.format("subj01") / "betas_session01.nii.gz"
    path.write_bytes(path.read_bytes()[:-300])


def _truncated_hdf5(root: Path, twin: Twin) -> None:
    path = root / BETAS.format("subj03") / "betas_session01.hdf5"
    path.write_bytes(path.read_bytes()[:-300])


def _other_grid(root: Path, twin: Twin) -> None:
    _save(
        root / "nsddata/ppdata/subj01/func1pt8mm/roi/streams.nii.gz", np.ones((6, 5, 5), np.int16)
    )


def _mask_elsewhere(subject: str, name: str = "nsdgeneral", shape: bool = False) -> Break:
    """The mask mirrored in x and 20 mm away, on the same grid; or of another shape."""

    def change(root: Path, twin: Twin) -> None:
        affine = AFFINE.copy()
        affine[0, 0], affine[:3, 3] = -AFFINE[0, 0], AFFINE[:3, 3] + 20
        mask = np.pad(twin.masks[subject], (0, 1)) if shape else twin.masks[subject]
        place = root / f"nsddata/ppdata/{subject}/func1pt8mm/roi/{name}.nii.gz"
        _save(place, mask.astype(np.int16), AFFINE if shape else affine)

    return change


def _without_ncsnr(root: Path, twin: Twin) -> None:
    """Of HDF5 betas nothing but other masks then says in which space they lie."""
    (root / BETAS.format("subj03") / "ncsnr.nii.gz").unlink()
    _mask_elsewhere("subj03", "mine")(root, twin)


def _short_pictures(root: Path, twin: Twin) -> None:
    path = root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
    _hdf5(path, imgBrick=twin.pictures[: max(twin.ids("subj01"))])


def _design(**changes: object) -> Break:
    def change(root: Path, twin: Twin) -> None:
        path = root / "nsddata/experiments/nsd/nsd_expdesign.mat"
        kept = {k: v for k, v in loadmat(path).items() if not k.startswith("_")} | changes
        savemat(path, {k: v for k, v in kept.items() if v is not None})

    return change


def _gone(path: str) -> Break:
    return lambda root, twin: (root / path).unlink()


FAULTS: list[tuple[str, Break, dict[str, object], str, str]] = [
    ("session", _gone(BETAS.format("subj01") + "betas_session05.nii.gz"), {}, "subj01",
     "got no betas_session05 .1 missing.*last_session=4"),
    ("count", _wrong_count, {}, "subj01", "session03.nii.gz: expected 6 trials.*got 5"),
    ("key", _no_key, {}, "subj03", r"session02.hdf5: expected the dataset 'betas'.*\['beta'\]"),
    ("floats", _floats, {}, "subj01", "expected betas stored as int16.*float32"),
    ("truncated", _truncated, {}, "subj01", "session01.nii.gz: expected a whole"),
    ("truncated5", _truncated_hdf5, {}, "subj03", "session01.hdf5: expected"),
    ("grid", _other_grid, {"rois": ["streams"]}, "subj01",
     r"streams.nii.gz: expected the grid of the mask .*nsdgeneral.nii.gz, \(6, 5, 4\), got \(6, 5, 5\)"),
    ("elsewhere", _mask_elsewhere("subj01"), {}, "subj01",
     r"betas_session01.nii.gz: expected the affine of the mask .*roi/nsdgeneral.nii.gz.* 15.0.*-5.0"),
    ("elsewhere5", _mask_elsewhere("subj03"), {}, "subj03",
     r"ncsnr.nii.gz: expected the affine of the mask .*roi/nsdgeneral.nii.gz"),
    ("elsewhere6", _without_ncsnr, {"mask": "mine"}, "subj03",
     r"nsdgeneral.nii.gz: expected the affine of the mask .*roi/mine.nii.gz"),
    ("other shape", _mask_elsewhere("subj01", shape=True), {}, "subj01",
     r"session01.nii.gz: expected betas on the grid of the mask .*nsdgeneral.nii.gz, \(7, 6, 5\)"),
    ("other shape5", _mask_elsewhere("subj03", shape=True), {}, "subj03",
     r"session01.hdf5: expected betas on the grid of the mask .*nsdgeneral.nii.gz, \(5, 6, 7\)"),
    ("roi", lambda r, t: None, {"rois": ["floc-cars"]}, "subj01", "floc-cars.nii.gz.*no such file"),
    ("pictures", _short_pictures, {}, "subj01", "nsd_stimuli.hdf5, which has the rows .* got picture 583"),
    ("no pictures", _gone("nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"), {}, "subj01",
     "expected the pictures at .*nsd_stimuli.hdf5"),
    ("design", _gone("nsddata/experiments/nsd/nsd_expdesign.mat"), {}, "subj01", "expdesign.mat"),
    ("design key", _design(sharedix=None), {}, "subj01", "expected the variable 'sharedix'"),
    ("order", _design(masterordering=np.array([[1, 2, 99]])), {}, "subj01", "columns 1 to 80"),
    ("sessions", _design(stimpattern=np.ones((40, 6, 2))), {}, "subj01",
     r"masterordering \(240\), got 480 in 40 sessions"),
    ("shared", _design(sharedix=np.array([[1, 2]])), {}, "subj01", "pictures of sharedix"),
    ("absent", lambda r, t: None, {}, "subj02", "expected a subject out of .*got 'subj02'"),
    ("too many hours", lambda r, t: None, {"sessions": 33}, "subj03", "at most 32 sessions"),
    ("ncsnr", lambda r, t: None, {"ncsnr_above": 99.0}, "subj01", "above 99, got none"),
    ("no ncsnr", _gone(BETAS.format("subj01") + "ncsnr.nii.gz"), {"ncsnr_above": 0.1}, "subj01",
     "ncsnr.nii.gz.*no such file"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "knobs", "subject", "message"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_bad_input_is_one_line(
    copy: Path, twin: Twin, fault: Break, knobs: dict, subject: str, message: str
) -> None:
    fault(copy, twin)
    with pytest.raises(InputError, match=message) as e:
        list(NSD(str(copy), **knobs).recordings(subject))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (
            "captions_train2017.json",
            r"captions_train2017\.json: expected a caption of picture .*COCO",
        ),
        ("absent.json", "found no such file"),
        ("objects.npy", "allow_pickle=True"),
        ("short.npy", r"expected text of shape \(584, captions\), got \(3, 2\)"),
        ("nsddata/experiments/nsd/nsd_stim_info_merged.csv", "expected COCO captions"),
    ],
)
def test_bad_captions_are_one_line(copy: Path, captions: str, message: str) -> None:
    np.save(copy / "objects.npy", np.array([["a"], [None]], dtype=object), allow_pickle=True)
    np.save(copy / "short.npy", np.array([["a", "b"]] * 3))
    with pytest.raises(InputError, match=message):
        list(NSD(str(copy), captions=captions).stimuli().values())


@pytest.mark.parametrize(
    ("row", "message"),
    [("", None), ("nsdId=7,cocoId=no", "row 585: .* column cocoId, got 'no'"),
     ("nsdId=7.5,cocoId=1", r"row 585: expected a whole number in the column nsdId, got '7\.5'")],
)  # fmt: skip
def test_rows_of_the_table_of_pictures_are_looked_at(
    copy: Path, row: str, message: str | None
) -> None:
    path = copy / "nsddata/experiments/nsd/nsd_stim_info_merged.csv"
    known = read_coco(copy, 584)
    names = path.read_text().splitlines()[0].split(",")
    cells = dict(cell.split("=") for cell in row.split(",") if cell)
    with path.open("a") as file:
        file.write(",".join(cells.get(name, "") for name in names) + "\n")
    if message is None:
        assert read_coco(copy, 584).tolist() == known.tolist()
        return
    with pytest.raises(InputError, match=message):
        read_coco(copy, 584)


def test_knobs_and_roots_are_checked_early(twin: Twin, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nsddata_betas.*found none"):
        NSD(str(tmp_path))
    with pytest.raises(InputError, match=r"found none.*data.betas"):
        NSD(str(twin.root), betas="betas_fithrf")
    with pytest.raises(InputError, match=r"data.test: expected one of"):
        NSD(str(twin.root), test="old")
    with pytest.raises(InputError, match=r"data.sessions"):
        NSD(str(twin.root), sessions=0)


def test_timeseries_are_runs_with_events_at_onsets(twin: Twin) -> None:
    data = NSDTimeseries(str(twin.root), volumes=None)
    runs = list(data.recordings("subj01"))
    assert [(r.session, r.run) for r in runs] == [
        *(("01", f"{i:02d}") for i in range(1, 7)),
        *(("02", f"{i:02d}") for i in range(8, 14)),
    ]
    assert [r.events["stimulus"][0] for r in runs] == [
        f"nsd/{i:05d}" for i in twin.ids("subj01")[:12]
    ]
    assert list(pd.concat([r.events for r in runs])["trial"]) == list(range(12))
    assert runs[0].sfreq == pytest.approx(0.75)
    assert runs[0].events["onset"][0] == pytest.approx(FIRST_VOLUME * 4 / 3)
    shared = set(twin.subjectim[0, : twin.n_shared] - 1)
    tests = [i in shared for i in twin.ids("subj01")[:12]]
    assert [r.events["split"][0] == "test" for r in runs] == tests
    short = next(NSDTimeseries(str(twin.root), volumes=20).recordings("subj01"))
    assert len(short.signal) == 20


def test_windows_hold_the_response(twin: Twin) -> None:
    """Three volumes from three TRs after the onset vary with the picture as the truth does."""
    windows, truth = [], []
    for run in NSDTimeseries(str(twin.root), volumes=None).recordings("subj01"):
        made = bold_windows(run, start=4.0, n_trs=3, standardise=False)
        start = int(made.table["start"][0])
        assert start == FIRST_VOLUME + 3
        windows.append(made.signal[start : start + 3].mean(0))
        image = int(run.events["stimulus"][0].split("/")[1])
        truth.append(twin.response["subj01"][image][twin.masks["subj01"]])
    r = np.corrcoef(np.ravel(windows), np.ravel(truth))[0, 1]
    assert r > 0.95
    assert made.layout.n_times == 3
    assert made.layout.start == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "design_session01_run02.tsv: expected the run's design"),
        ("foreign", "names them, 0 times in session 1 .* got picture"),
        ("rows", "expected 20 volumes and as many rows.*got 24 volumes and 20 rows|24.*20"),
        ("words", "expected one number per volume"),
        ("run", r"timeseries: expected runs with the \d+ trials of session 1, got \d+ in the runs"),
    ],
)
def test_bad_designs_are_one_line(copy: Path, twin: Twin, change: str, message: str) -> None:
    path = copy / "nsddata_timeseries/ppdata/subj01/func1pt8mm/design/design_session01_run02.tsv"
    if change == "missing":
        path.unlink()
    elif change == "run":
        (path.parents[1] / "timeseries/timeseries_session01_run02.nii.gz").unlink()
    elif change == "foreign":
        later = next(i for i in twin.ids("subj01") if i not in twin.ids("subj01")[:6])
        path.write_text(f"0\n0\n{later + 1}\n" + "0\n" * 21)
    elif change == "rows":
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:20]))
    else:
        path.write_text("image\n0\n")
    with pytest.raises(InputError, match=message):
        list(NSDTimeseries(str(copy), volumes=None).recordings("subj01"))


def test_a_session_flows_through_preprocessing(twin: Twin) -> None:
    recording = next(NSD(str(twin.root)).recordings("subj01"))
    prepared = beta_maps(recording)
    np.testing.assert_array_equal(prepared.signal, recording.signal)
    assert list(prepared.table["session"]) == ["01"] * twin.per_session


@pytest.mark.slow
@pytest.mark.parametrize("scaler", ["session", "averaged", "with_test"])
def test_decoding_the_twin_works_and_shuffled_pairs_do_not(tmp_path: Path, scaler: str) -> None:
    write_nsd(tmp_path / "nsd", n_images=320, n_shared=24, size=8, noise=0.3)
    node = {
        "session": {"_target_": "decode.scalers.zscore.ZScore", "by": "session"},
        "averaged": {"_target_": "decode.scalers.averaged_images.ZScoreOfImages"},
        "with_test": {"_target_": "decode.scalers.zscore.ZScoreWithTest"},
    }[scaler]
    repeats = "before" if scaler == "averaged" else "single"
    settings = config(
        tmp_path,
        data={"_target_": "decode.data.nsd.NSD", "root": str(tmp_path / "nsd")},
        scaler=node,
        splits={"shared1000": {"_target_": "decode.splits.published.published", "_partial_": True,
                               "validation": 0.0}},
        encoder={"_target_": "decode.encoders.ridge.Ridge", "_partial_": True},
        baselines={},
        objectives={},
        trainer={"_target_": "decode.training.Trainer", "epochs": 0},
        protocol={"train_repeats": repeats, "test_repeats": "before", "rescale": "none"},
    )  # fmt: skip
    run = Run(settings)
    execute(run, until="report", force=(), say=lambda s: None)
    folder = run.folder("evaluate")
    assert folder is not None
    scores = means(pd.read_parquet(folder / "scores.parquet"))
    assert scores["decoder"]["retrieval_top1"] > 0.9
    assert abs(scores["shuffled"]["retrieval_top1"] - 1 / 24) < 0.05
    assert scores["decoder"]["pixcorr"] > scores["shuffled"]["pixcorr"] + 0.2
    summary = read_json(folder / "summary.json")
    assert {row["split"] for row in summary} == {"shared1000"}
    assert all(row["test_conditioned"] == (scaler == "with_test") for row in summary)
    report = run.folder("report")
    assert report is not None
    page = (report / "report.html").read_text()
    assert ("TEST-CONDITIONED" in page) == (scaler == "with_test")
    shown = read_json(report / "manifest.json")["facts"]["pictures"]["shown"]
    assert shown.startswith(str(tmp_path / "nsd"))
