"""Means over parcels against a loop over labels; atlases of another grid are refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from diffusion_twins import save_versatile
from nsd_twin import AFFINE, shrink_sampling, write_nsd, write_timeseries
from test_configs import composed

from decode.core import InputError, Recording
from decode.pipeline import execute
from decode.plan import Run
from decode.preprocessing.betas import beta_maps
from decode.preprocessing.parcels import Parcels, mean_weights, parcel_means
from decode.preprocessing.windows import bold_windows
from decode.recordings.bold import Voxels
from decode.store import read_json

GRID = (5, 4, 3)
NUMBERS = np.array([2, 5, 6, 9])


def labels(seed: int = 0, grid: tuple[int, ...] = GRID) -> np.ndarray:
    return np.random.default_rng(seed).choice([0, *NUMBERS], grid).astype(np.int16)


def write_atlas(path: Path, volume: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    nibabel.save(nibabel.Nifti1Image(volume, affine), path)
    return str(path)


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
    make = Parcels(atlas=atlas, inner=beta_maps, expected=4)
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
    made = Parcels(atlas=atlas, inner=inner)(given)
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
    expected = Parcels(atlas=write_atlas(tmp_path / "a.nii.gz", volume), inner=beta_maps)(given)
    for name in ("shifted", "finer"):
        with pytest.raises(
            InputError, match=rf"{name}\.nii\.gz .*60 of 60 voxels do not lie on it"
        ):
            Parcels(atlas=atlases[name], inner=beta_maps)(given)
        made = Parcels(atlas=atlases[name], inner=beta_maps, grid="nearest")(given)
        np.testing.assert_array_equal(made.signal, expected.signal)
    with pytest.raises(InputError, match=r"12 of 60 voxels do not lie on it"):
        Parcels(atlas=atlases["cut"], inner=beta_maps)(given)


def test_missing_parcels_are_refused_or_zero(tmp_path: Path) -> None:
    volume, signal = labels(), np.random.default_rng(5).normal(size=(5, 60))
    ijk = everywhere()
    kept = volume.ravel() != 5
    given = recording(signal[:, kept], ijk[kept])
    atlas = write_atlas(tmp_path / "atlas.nii.gz", volume)
    with pytest.raises(InputError, match=r"all 4 parcels of .*, 1 have none \(5\)"):
        Parcels(atlas=atlas, inner=beta_maps)(given)
    made = Parcels(atlas=atlas, inner=beta_maps, missing="zero")(given)
    whole = Parcels(atlas=atlas, inner=beta_maps)(recording(signal, ijk))
    assert made.layout.names == whole.layout.names
    np.testing.assert_array_equal(made.signal[:, 1], 0)
    np.testing.assert_array_equal(made.signal[:, [0, 2, 3]], whole.signal[:, [0, 2, 3]])
    assert np.isnan(made.layout.positions[1]).all()


def test_atlases_and_channels_of_another_kind_are_refused(tmp_path: Path) -> None:
    given = recording(np.random.default_rng(6).normal(size=(5, 60)), everywhere())
    smooth = write_atlas(tmp_path / "smooth.nii.gz", labels().astype(np.float32) + 0.4)
    with pytest.raises(InputError, match="expected whole numbers of parcels"):
        Parcels(atlas=smooth, inner=beta_maps)(given)
    atlas = write_atlas(tmp_path / "atlas.nii.gz", labels())
    with pytest.raises(InputError, match=r"expected 1024 parcels .* got 4"):
        Parcels(atlas=atlas, inner=beta_maps, expected=1024)(given)
    maps = write_atlas(tmp_path / "maps.nii.gz", np.ones((*GRID, 2), np.float32))
    with pytest.raises(InputError, match="not one of weighted maps"):
        Parcels(atlas=maps, inner=beta_maps)(given)
    with pytest.raises(InputError, match=r"[Nn]o such file"):
        Parcels(atlas=str(tmp_path / "none.nii"), inner=beta_maps)(given)
    with pytest.raises(InputError, match=r"preprocess\.grid"):
        Parcels(atlas=atlas, inner=beta_maps, grid="any")  # type: ignore[arg-type]
    given.channels["x"] = np.nan
    with pytest.raises(InputError, match="60 have none; parcels need volumes"):
        Parcels(atlas=atlas, inner=beta_maps)(given)


def small(place: Path, atlas: str, models: Path) -> dict[str, Any]:
    """nsd/wave as it ships, with the twin's networks and few weights."""
    config = composed(
        "experiment=nsd/wave", f"paths.outputs={place}/outputs", f"preprocess.atlas={atlas}"
    )
    config["data"] |= {"root": str(place / "nsd"), "volumes": None, "captions": None}
    config["data"]["mask"] = "nsdgeneral"
    config["preprocess"] |= {"expected": 8}
    config["preprocess"]["inner"] |= {"n_trs": 4}
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
    assert {"retrieval_top1", "pixcorr", "oracle/pixcorr", "prior/pixcorr"} <= set(scores["metric"])
