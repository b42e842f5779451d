"""Parcels against a loop over labels and against nilearn; atlases of another grid are refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import scipy.ndimage
from chains import parcels
from diffusion_twins import save_versatile
from nilearn.maskers import NiftiMapsMasker
from nsd_twin import AFFINE, shrink_sampling, write_atlas, write_nsd, write_timeseries
from scipy.sparse import csr_array
from scored import means
from test_configs import composed

from decode.core import Facts, InputError, Recording, Stimulus
from decode.division import Scaler
from decode.pipeline import execute
from decode.preprocessing.betas import beta_maps
from decode.preprocessing.windows import bold_windows
from decode.recordings.bold import Voxels
from decode.scalers.robust import Robust
from decode.scalers.whiten import Whiten
from decode.scalers.zscore import ZScore
from decode.stages import preprocess
from decode.steps.parcels import map_signals, mean_weights, parcel_means
from decode.store import read_json
from decode.trials import open_trials
from decode.workshop import Run

GRID = (5, 4, 3)
NUMBERS = np.array([2, 5, 6, 9])


def labels(seed: int = 0, grid: tuple[int, ...] = GRID) -> np.ndarray:
    return np.random.default_rng(seed).choice([0, *NUMBERS], grid).astype(np.int16)


def recording(
    signal: np.ndarray, ijk: np.ndarray, *, sfreq: float = 1.0, confounds: int = 0
) -> Recording:
    channels = Voxels(ijk, GRID, AFFINE, np.ones(len(ijk))).channels()
    extra = pd.DataFrame({"name": ["motion"] * confounds, "kind": "confound", "roi": ""})
    channels = pd.concat([channels, extra], ignore_index=True)
    n = len(signal) if sfreq == 1 else 1
    events = pd.DataFrame({"onset": np.arange(n, dtype=float), "duration": 1.0, "stimulus": "s"})
    return Recording("a", "1", "1", "fmri", signal.astype(np.float32), sfreq, channels, events)


def everywhere() -> np.ndarray:
    return np.argwhere(np.ones(GRID, bool))


def test_means_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    values, where = rng.normal(size=(7, 60)), labels().ravel()
    made = parcel_means(values, where, np.array([1, *NUMBERS, 12]))
    for k, number in enumerate(NUMBERS):
        brute = np.mean([values[:, v] for v in range(60) if where[v] == number], axis=0)
        np.testing.assert_allclose(made[:, k + 1], brute)
    assert np.isnan(made[:, [0, -1]]).all()
    with pytest.raises(InputError, match="a label for each of 60 voxels, got 59"):
        parcel_means(values, where[1:], NUMBERS)
    np.testing.assert_allclose(mean_weights(where, NUMBERS).sum(1), 1)


def test_channels_are_the_parcels_whatever_the_voxels(tmp_path: Path) -> None:
    volume, rng = labels(), np.random.default_rng(2)
    atlas = write_atlas(tmp_path / "atlas.nii.gz", volume)
    make = parcels(beta_maps, atlas=atlas, expected=4)
    whole = everywhere()
    some = whole[rng.permutation(60)[:45]]
    for ijk in (whole, some):
        signal = rng.normal(size=(6, len(ijk)))
        made = make(recording(signal, ijk))
        assert made.layout.names == ("2", "5", "6", "9")
        for k, number in enumerate(NUMBERS):
            mine = volume[tuple(ijk.T)] == number
            np.testing.assert_allclose(made.signal[:, k], signal[:, mine].mean(1), atol=1e-5)
            place = (ijk[mine] @ AFFINE[:3, :3].T + AFFINE[:3, 3]).mean(0) / 1000
            np.testing.assert_allclose(made.layout.positions[k], place)


def test_windows_are_standardised_by_parcel_and_confounds_stay(tmp_path: Path) -> None:
    volume, rng = labels(), np.random.default_rng(3)
    ijk = everywhere()
    noise = rng.normal(size=(50, 60))
    motion = rng.normal(size=(50, 1))
    atlas = write_atlas(tmp_path / "atlas.nii.gz", volume)
    inner = partial(bold_windows, start=0.0, n_trs=3)
    given = recording(np.hstack([noise + motion, motion]), ijk, sfreq=0.5, confounds=1)
    made = parcels(inner, atlas=atlas)(given)
    assert made.signal.shape == (50, 4)
    np.testing.assert_allclose(made.signal.std(0, ddof=1), 1, atol=1e-4)
    assert np.abs(np.corrcoef(made.signal.T, motion[:, 0])[-1, :-1]).max() < 1e-4


def test_another_grid_is_refused_or_looked_up(tmp_path: Path) -> None:
    volume, signal = labels(), np.random.default_rng(4).normal(size=(5, 60))
    given = recording(signal, everywhere())
    shifted, finer = AFFINE.copy(), AFFINE.copy()
    shifted[0, 3] += 0.6  # a third of a voxel
    finer[:3, :3] /= 2
    finer[:3, 3] -= 0.45  # the eight small voxels lie around the centre of the large one
    twice = volume.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    atlases = {
        "shifted": write_atlas(tmp_path / "shifted.nii.gz", volume, shifted),
        "finer": write_atlas(tmp_path / "finer.nii.gz", twice, finer),
        "cut": write_atlas(tmp_path / "cut.nii.gz", volume[:-1]),
    }
    expected = parcels(beta_maps, atlas=write_atlas(tmp_path / "a.nii.gz", volume))(given)
    for name in ("shifted", "finer"):
        with pytest.raises(InputError, match=rf"{name}\.nii\.gz .*60 of 60 that do not lie on it"):
            parcels(beta_maps, atlas=atlases[name])(given)
        made = parcels(beta_maps, atlas=atlases[name], grid="nearest")(given)
        np.testing.assert_array_equal(made.signal, expected.signal)
    with pytest.raises(InputError, match=r"12 of 60 that do not lie on it"):
        parcels(beta_maps, atlas=atlases["cut"])(given)


def test_missing_parcels_are_refused_or_zero(tmp_path: Path) -> None:
    volume, signal = labels(), np.random.default_rng(5).normal(size=(5, 60))
    ijk = everywhere()
    kept = volume.ravel() != 5
    given = recording(signal[:, kept], ijk[kept])
    atlas = write_atlas(tmp_path / "atlas.nii.gz", volume)
    with pytest.raises(InputError, match=r"all 4 parcels of .*, got none of 1 \(5\)"):
        parcels(beta_maps, atlas=atlas)(given)
    made = parcels(beta_maps, atlas=atlas, missing="zero")(given)
    whole = parcels(beta_maps, atlas=atlas)(recording(signal, ijk))
    assert made.layout.names == whole.layout.names
    np.testing.assert_array_equal(made.signal[:, 1], 0)
    np.testing.assert_array_equal(made.signal[:, [0, 2, 3]], whole.signal[:, [0, 2, 3]])
    assert np.isnan(made.layout.positions[1]).all()


def weighted(n: int = 6, seed: int = 7) -> np.ndarray:
    """(x, y, z, map) overlapping maps, each 0 in two thirds of the grid; the last has both signs."""
    rng = np.random.default_rng(seed)
    made = rng.uniform(0, 1, (*GRID, n)) * (rng.random((*GRID, n)) < 1 / 3)
    made[..., -1] -= 0.5 * (made[..., -1] > 0)
    return (made * np.geomspace(0.01, 10, n)).astype(np.float32)


def nilearn_signals(maps: np.ndarray, signal: np.ndarray, ijk: np.ndarray) -> np.ndarray:
    """(time, map) of the voxels `ijk` of a run, by nilearn in its own space of images."""
    volumes, mask = np.zeros((*GRID, len(signal))), np.zeros(GRID, np.uint8)
    volumes[tuple(ijk.T)], mask[tuple(ijk.T)] = signal.T, 1
    images = [nibabel.Nifti1Image(v, AFFINE) for v in (maps.astype(np.float64), mask, volumes)]
    masker = NiftiMapsMasker(
        images[0], mask_img=images[1], standardize=None, keep_masked_maps=False, dtype=None
    )
    return np.asarray(masker.fit_transform(images[2]))


def test_weighted_maps_are_fitted_as_nilearn_does(tmp_path: Path) -> None:
    maps, rng = weighted(), np.random.default_rng(8)
    make = parcels(beta_maps, atlas=write_atlas(tmp_path / "a.nii.gz", maps), expected=6)
    whole = everywhere()
    for ijk in (whole, whole[rng.permutation(60)[:40]]):
        signal = (100 + rng.normal(size=(9, len(ijk)))).astype(np.float32)
        made = make(recording(signal, ijk))
        want = nilearn_signals(maps, signal, ijk)
        assert want.std(0).min() > 1e-3
        np.testing.assert_allclose(made.signal, want, rtol=1e-5, atol=1e-5 * want.std())
        brute = np.linalg.lstsq(maps[tuple(ijk.T)].astype(float), signal.T.astype(float))[0].T
        np.testing.assert_allclose(made.signal, brute, rtol=1e-5, atol=1e-5 * brute.std())
        assert made.layout.names == ("1", "2", "3", "4", "5", "6")


def test_maps_lie_at_their_centre_of_mass(tmp_path: Path) -> None:
    maps, ijk = weighted(), everywhere()
    signal = np.random.default_rng(9).normal(size=(4, 60))
    made = parcels(beta_maps, atlas=write_atlas(tmp_path / "a.nii.gz", maps))(
        recording(signal, ijk)
    )
    for k in range(6):
        centre = np.array(scipy.ndimage.center_of_mass(np.abs(maps[..., k])))
        want = (AFFINE[:3, :3] @ centre + AFFINE[:3, 3]) / 1000
        np.testing.assert_allclose(made.layout.positions[k], want, atol=1e-9)


def test_maps_that_are_one_inside_are_labels(tmp_path: Path) -> None:
    volume, ijk = labels(), everywhere()
    one_each = np.stack([(volume == n) for n in NUMBERS], -1).astype(np.float32)
    one_each[0, 0, 0] = np.where(
        one_each[0, 0, 0] > 0, 1, np.nan
    )  # as after resampling, at an edge
    given = recording(np.random.default_rng(10).normal(size=(5, 60)), ijk)
    by_label, by_map = (
        parcels(beta_maps, atlas=write_atlas(tmp_path / f"{k}.nii.gz", atlas))(given)
        for k, atlas in enumerate((volume, one_each))
    )
    np.testing.assert_allclose(by_map.signal, by_label.signal, atol=1e-6)
    np.testing.assert_allclose(by_map.layout.positions, by_label.layout.positions, atol=1e-9)


def test_maps_keep_confounds_and_are_standardised_by_map(tmp_path: Path) -> None:
    maps, rng, ijk = weighted(), np.random.default_rng(11), everywhere()
    noise, motion = rng.normal(size=(50, 60)), rng.normal(size=(50, 1))
    given = recording(np.hstack([noise + motion, motion]), ijk, sfreq=0.5, confounds=1)
    inner = partial(bold_windows, start=0.0, n_trs=3)
    made = parcels(inner, atlas=write_atlas(tmp_path / "a.nii.gz", maps))(given)
    assert made.signal.shape == (50, 6)
    np.testing.assert_allclose(made.signal.std(0, ddof=1), 1, atol=1e-4)
    assert np.abs(np.corrcoef(made.signal.T, motion[:, 0])[-1, :-1]).max() < 1e-4


def test_maps_are_read_in_parts_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = csr_array(weighted().reshape(60, 6))
    values = np.random.default_rng(12).normal(size=(23, 60)).astype(np.float32)
    whole = map_signals(values, maps)
    monkeypatch.setattr("decode.steps.parcels.CHUNK_BYTES", 5 * 8 * 60)
    np.testing.assert_allclose(map_signals(values, maps), whole, rtol=1e-12, atol=1e-12)
    with pytest.raises(InputError, match="a weight for each of 59 voxels, got 60"):
        map_signals(values[:, 1:], maps)


def test_maps_that_were_not_recorded_or_are_alike(tmp_path: Path) -> None:
    maps, ijk = weighted(), everywhere()
    signal = np.random.default_rng(13).normal(size=(5, 60)).astype(np.float32)
    kept = maps[..., 1].ravel() == 0
    given = recording(signal[:, kept], ijk[kept])
    atlas = write_atlas(tmp_path / "a.nii.gz", maps)
    with pytest.raises(InputError, match=r"all 6 parcels of .*, got none of 1 \(2\)"):
        parcels(beta_maps, atlas=atlas)(given)
    made = parcels(beta_maps, atlas=atlas, missing="zero")(given)
    with pytest.warns(UserWarning, match="maps with the following indices were removed: {1}"):
        want = nilearn_signals(maps, signal[:, kept], ijk[kept])
    there = [0, 2, 3, 4, 5]
    np.testing.assert_allclose(made.signal[:, there], want, rtol=1e-5, atol=1e-5 * want.std())
    np.testing.assert_array_equal(made.signal[:, 1], 0)
    assert np.isnan(made.layout.positions[1]).all()
    assert set(made.table["missing_channels"]) == {"1"}
    # Twice the same map, in other units; and more maps than voxels.
    maps[..., 3] = 5 * maps[..., 0]
    same = parcels(beta_maps, atlas=write_atlas(tmp_path / "b.nii.gz", maps))
    with pytest.raises(InputError, match=r"subject a, .*got 1 and 4 alike \(cosine 1\.000000"):
        same(recording(signal, ijk))
    filled = np.random.default_rng(0).uniform(size=(*GRID, 6))
    many = parcels(beta_maps, atlas=write_atlas(tmp_path / "c.nii.gz", filled))
    with pytest.raises(InputError, match="expected maps that differ over the recorded voxels"):
        many(recording(signal[:, :5], ijk[:5]))


def test_maps_of_another_number_or_grid(tmp_path: Path) -> None:
    maps, ijk = weighted(), everywhere()
    given = recording(np.random.default_rng(14).normal(size=(5, 60)), ijk)
    atlas = write_atlas(tmp_path / "a.nii.gz", maps)
    with pytest.raises(InputError, match=r"expected 1024 parcels .* got 6"):
        parcels(beta_maps, atlas=atlas, expected=1024)(given)
    finer = AFFINE.copy()
    finer[:3, :3] /= 2
    finer[:3, 3] -= 0.45
    twice = maps.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    fine = write_atlas(tmp_path / "fine.nii.gz", twice, finer)
    with pytest.raises(InputError, match="60 of 60 that do not lie on it"):
        parcels(beta_maps, atlas=fine)(given)
    made = parcels(beta_maps, atlas=fine, grid="nearest")(given)
    np.testing.assert_array_equal(made.signal, parcels(beta_maps, atlas=atlas)(given).signal)
    # Voxels beyond a smaller atlas belong to no map, nor to that of its last voxel.
    maps[GRID[0] - 2, -1, -1] = np.arange(1, 7)
    small = write_atlas(tmp_path / "cut.nii.gz", maps[:-1])
    cut = parcels(beta_maps, atlas=small, grid="nearest")(given)
    inside = ijk[:, 0] < GRID[0] - 1
    want = nilearn_signals(maps, np.asarray(given.signal)[:, inside], ijk[inside])
    np.testing.assert_allclose(cut.signal, want, rtol=1e-5, atol=1e-5 * want.std())
    volume = labels()
    volume[GRID[0] - 2, -1, -1] = 9
    small = write_atlas(tmp_path / "few.nii.gz", volume[:-1])
    by_label = parcels(beta_maps, atlas=small, grid="nearest")(given)
    mine = (volume.ravel() == 9) & inside
    np.testing.assert_allclose(by_label.signal[:, 3], given.signal[:, mine].mean(1), atol=1e-6)


@pytest.mark.parametrize("scaler", [ZScore(by="session"), Robust(), Whiten(over="time")])
def test_parcels_that_were_not_recorded_stay_zero_through_scaling(
    tmp_path: Path, scaler: Scaler
) -> None:
    """From recordings to windows, as the stages do it."""
    volume, rng = labels(), np.random.default_rng(15)
    ijk = everywhere()[volume.ravel() != 5]
    runs = []
    for k in range(2):
        one = recording(3 + k + rng.normal(size=(40, len(ijk))), ijk)
        shown = one.events.assign(stimulus=[f"s{i % 10}" for i in range(40)])
        runs.append(replace(one, events=shown, session=str(k)))
    atlas = write_atlas(tmp_path / "atlas.nii.gz", volume)
    make = parcels(beta_maps, atlas=atlas, missing="zero")
    data = Given(runs)
    preprocess.run(tmp_path, dataset=data, preprocess=make, subject="a")
    trials = open_trials({"a": tmp_path})
    states = trials.fit_scaler(scaler)
    scaled = trials.scale(scaler, states).brain(np.arange(80))[..., 0]
    np.testing.assert_array_equal(scaled[:, 1], 0)
    live = [0, 2, 3]
    alone = trials.signals["a"].windows(np.arange(80))[:, live]
    table = trials.singles.drop(columns="missing_channels")
    want = scaler.apply(alone, table, scaler.fit(alone, table))[..., 0]
    np.testing.assert_allclose(scaled[:, live], want, rtol=1e-5, atol=1e-6)
    # The same zeros, of a channel that nobody calls missing, are refused.
    with pytest.raises(InputError, match=r"1 of 4 that .* from 0: 1\)"):
        replace(trials, singles=table).fit_scaler(scaler)


class Given:
    """A data set of the recordings that it is given."""

    facts = Facts("", "", "fmri")
    subjects = ("a",)

    def __init__(self, runs: list[Recording]) -> None:
        self.runs = runs

    def recordings(self, subject: str) -> Iterator[Recording]:
        return iter(self.runs)

    def stimuli(self) -> dict[str, Stimulus]:
        return {f"s{i}": Stimulus(f"s{i}", "event", labels={"i": i}) for i in range(10)}

    def files(self, subject: str) -> list[Path]:
        return []

    def truth(self, subject: str) -> None:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["labels", "maps"])
def test_betas_of_parcels_are_z_scored_where_one_is_missing(tmp_path: Path, kind: str) -> None:
    """A ridge from parcels of the miniature, whose mask leaves one of them out."""
    twin = write_nsd(tmp_path / "nsd", n_images=160, n_shared=24, size=8)
    mask = twin.masks["subj01"]
    volume = np.zeros(mask.shape, np.int16)
    volume[mask] = np.arange(mask.sum()) // 3 + 1
    n = int(volume.max())
    volume[tuple(np.argwhere(~mask)[0])] = n + 1
    if kind == "maps":
        one_each = (volume[..., None] == np.arange(1, n + 2)).astype(np.float32)
        volume = scipy.ndimage.gaussian_filter(one_each, 0.3, axes=(0, 1, 2)) * (one_each > 0)
    config = composed("experiment=nsd/takagi", f"paths.outputs={tmp_path}/outputs")
    config["data"] |= {"root": str(tmp_path / "nsd"), "captions": None, "rois": []}
    config["subjects"], config["published"], config["generator"] = ["subj01"], None, None
    config["targets"] = {"text": {"_target_": "decode.targets.pixels.Pixels", "size": 8}}
    config["encoder"] = {"_target_": "decode.encoders.ridge.Ridge", "_partial_": True}
    config["metrics"] = {"retrieval": {**config["metrics"]["retrieval"], "n_way": [2]}}
    node = composed("preprocess=parcels")["preprocess"]
    atlas = write_atlas(tmp_path / "atlas.nii.gz", volume)
    node["steps"]["parcels"] |= {"atlas": atlas, "missing": "zero"}
    node["trials"] = {"_target_": "decode.preprocessing.betas.beta_maps", "_partial_": True}
    config["preprocess"] = node
    config["scaler"] = {"_target_": "decode.scalers.zscore.ZScore", "by": "session"}
    run = Run(config)
    execute(run, until="evaluate", force=(), say=lambda s: None)
    folder = run.folder("preprocess") or tmp_path
    assert read_json(folder / "layout.json")["names"] == [str(k) for k in range(1, n + 2)]
    scores = pd.read_parquet((run.folder("evaluate") or tmp_path) / "scores.parquet")
    value = means(scores)
    assert value["decoder"]["retrieval_top1"] > 0.5
    assert value["shuffled"]["retrieval_top1"] < 0.15


def test_atlases_and_channels_of_another_kind_are_refused(tmp_path: Path) -> None:
    given = recording(np.random.default_rng(6).normal(size=(5, 60)), everywhere())
    smooth = write_atlas(tmp_path / "smooth.nii.gz", labels().astype(np.float32) + 0.4)
    with pytest.raises(InputError, match="expected whole numbers of parcels"):
        parcels(beta_maps, atlas=smooth)(given)
    atlas = write_atlas(tmp_path / "atlas.nii.gz", labels())
    with pytest.raises(InputError, match=r"expected 1024 parcels .* got 4"):
        parcels(beta_maps, atlas=atlas, expected=1024)(given)
    deep = write_atlas(tmp_path / "deep.nii.gz", np.ones((*GRID, 2, 2), np.float32))
    with pytest.raises(
        InputError, match=r"or several of weighted maps, got shape \(5, 4, 3, 2, 2\)"
    ):
        parcels(beta_maps, atlas=deep)(given)
    with pytest.raises(InputError, match=r"[Nn]o such file"):
        parcels(beta_maps, atlas=str(tmp_path / "none.nii"))(given)
    with pytest.raises(InputError, match="grid: expected one of"):
        parcels(beta_maps, atlas=atlas, grid="any")
    given.channels["x"] = np.nan
    with pytest.raises(InputError, match="got 60 without; parcels need volumes"):
        parcels(beta_maps, atlas=atlas)(given)


def small(place: Path, atlas: str, models: Path) -> dict[str, Any]:
    """nsd/wave as it ships, with the twin's networks and few weights."""
    config = composed(
        "experiment=nsd/wave",
        f"paths.outputs={place}/outputs",
        f"preprocess.steps.parcels.atlas={atlas}",
    )
    config["data"] |= {"root": str(place / "nsd"), "volumes": None, "captions": None}
    config["data"]["mask"] = "nsdgeneral"
    config["preprocess"]["steps"]["parcels"] |= {"expected": 8}
    config["preprocess"]["trials"] |= {"n_trs": 4}
    config["published"] = None
    pixels = {"_target_": "decode.targets.pixels.Pixels", "size": 8}
    parts = {"tower": "image_encoder", "prepared": "image_feature_extractor"}
    config["targets"]["image"] |= {"model": str(models), "device": "cpu", **parts}
    config["targets"] |= {"retrieval": pixels, "text": pixels}
    config["encoder"] |= {"heads": 2, "head_width": 4, "depth": 1, "sample_steps": 3}
    config["encoder"]["inner"]["network"] |= {"width": 32, "depth": 1, "heads": 2, "longest": 8}
    config["trainer"] |= {"epochs": 2, "precision": "float32"}
    shrink_sampling(config, models)
    return config


@pytest.mark.slow
def test_wave_runs_on_the_twin_from_runs_to_scores(tmp_path: Path) -> None:
    models = save_versatile(tmp_path / "versatile")
    twin = write_nsd(tmp_path / "nsd", n_images=160, n_shared=24, size=16)
    write_timeseries(twin, "subj01", sessions=4)
    shape = twin.masks["subj01"].shape
    volume = (np.arange(np.prod(shape)).reshape(shape) % 8 + 1).astype(np.int16)
    run = Run(small(tmp_path, write_atlas(tmp_path / "atlas.nii.gz", volume), models))
    execute(run, until="evaluate", force=(), say=lambda s: None)
    layout = read_json((run.folder("preprocess") or tmp_path) / "layout.json")
    assert layout["names"] == [str(k) for k in range(1, 9)]
    assert layout["n_times"] == 4
    scores = pd.read_parquet((run.folder("evaluate") or tmp_path) / "scores.parquet")
    assert {"retrieval_top1", "pixcorr"} <= set(scores["metric"])
    assert {"decoder", "oracle", "prior"} <= set(scores[scores["metric"] == "pixcorr"]["source"])
