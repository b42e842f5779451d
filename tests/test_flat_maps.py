"""Flat maps against scipy's interpolator and triangle by triangle; planted faults are refused."""

from __future__ import annotations

import gzip
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import nilearn.datasets
import numpy as np
import pandas as pd
import pytest
from chains import flat
from nsd_twin import write_patch
from scipy.interpolate import LinearNDInterpolator

from decode.core import InputError, Recording
from decode.preprocessing.betas import beta_maps
from decode.preprocessing.surfaces import read_flat
from decode.preprocessing.windows import bold_windows
from decode.steps.flat_maps import (
    flat_maps,
    flat_weights,
    pixel_centres,
    triangle_weights,
)

SHIPPED = Path(nilearn.datasets.__file__).parent / "data" / "fsaverage5"
LEFT, RIGHT = SHIPPED / "flat_left.gii.gz", SHIPPED / "flat_right.gii.gz"


def sheet(n: int = 400, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-50, 50, (n, 2))


def recording(names: list[str], signal: np.ndarray, sfreq: float = 1.0) -> Recording:
    channels = pd.DataFrame({"name": names, "kind": "bold", "roi": ""})
    channels.loc[channels["name"].str.startswith("c"), "kind"] = "confound"
    channels = channels.assign(x=np.nan, y=np.nan, z=np.nan)
    n = len(signal) if sfreq == 1 else 1
    events = pd.DataFrame({"onset": np.arange(n, dtype=float), "duration": 1.0, "stimulus": "s"})
    return Recording("a", "1", "1", "fmri", signal.astype(np.float32), sfreq, channels, events)


def test_interpolation_is_that_of_scipy() -> None:
    points, rng = sheet(), np.random.default_rng(1)
    values, at = rng.normal(size=(3, len(points))), rng.uniform(-60, 60, (5000, 2))
    weights = triangle_weights(points, at, longest=np.inf)
    expected = LinearNDInterpolator(points, values.T)(at)
    outside = np.isnan(expected).any(1)
    assert 500 < outside.sum() < 4500
    np.testing.assert_array_equal(np.diff(weights.indptr) == 0, outside)
    np.testing.assert_allclose((weights @ values.T)[~outside], expected[~outside], atol=1e-9)


def test_a_plane_is_drawn_exactly_and_weights_are_shares() -> None:
    points = sheet()
    weights = flat_weights({"lh": points}, 32, longest=np.inf)
    at = pixel_centres(points - [points[:, 0].min(), points[:, 1].mean()], 32)
    inside = np.diff(weights.indptr) > 0
    np.testing.assert_allclose(weights.sum(1)[inside], 1)
    assert weights.data.min() > -1e-9
    plane = 2 * points[:, 0] - 3 * points[:, 1] + 1
    moved = 2 * (at[:, 0] + points[:, 0].min()) - 3 * (at[:, 1] + points[:, 1].mean()) + 1
    np.testing.assert_allclose((weights @ plane)[inside], moved[inside], atol=1e-8)


def test_rows_go_down_and_columns_to_the_right() -> None:
    points = sheet()
    weights = flat_weights({"lh": points}, 16, longest=np.inf)
    made = flat_maps(points.T, weights, 16)
    inside = (np.diff(weights.indptr) > 0).reshape(16, 16)
    right, down = np.diff(made[0], axis=1), np.diff(made[1], axis=0)
    assert (right[inside[:, 1:] & inside[:, :-1]] > 0).all()
    assert (down[inside[1:] & inside[:-1]] < 0).all()
    assert (made[0][~inside] == 0).all()


def test_a_hole_stays_open() -> None:
    points = sheet(3000)
    ring = points[np.linalg.norm(points, axis=1) > 20]
    at = np.array([[0.0, 0.0], [10.0, -5.0], [30.0, 30.0]])
    filled = np.diff(triangle_weights(ring, at, longest=np.inf).indptr)
    open_ = np.diff(triangle_weights(ring, at).indptr)
    assert list(filled) == [3, 3, 3]
    assert list(open_) == [0, 0, 3]


def test_hemispheres_stand_apart_left_on_the_left() -> None:
    lh, rh = sheet(seed=0), sheet(300, seed=1)
    weights = flat_weights({"rh": rh, "lh": lh}, 64, longest=np.inf)
    values = np.r_[np.full(len(lh), 1.0), np.full(len(rh), 2.0)][None]
    made = flat_maps(values, weights, 64)[0]
    columns = [np.flatnonzero((np.abs(made - v) < 1e-5).any(0)) for v in (1, 2)]
    assert columns[0].max() < columns[1].min()
    assert set(np.unique(made.round(4))) == {0.0, 1.0, 2.0}


def test_the_shipped_surface_is_drawn_from_its_own_vertices() -> None:
    left, right = read_flat(LEFT), read_flat(RIGHT)
    assert left.n_vertices == right.n_vertices == 10242
    n = 10242
    names = [f"lh-{i}" for i in range(n)] + [f"rh-{i}" for i in range(n)]
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(2, 2 * n))
    cut = np.setdiff1d(np.arange(n), left.vertex)
    signal[:, cut] = np.nan  # what the flat surface has cut away is not looked at
    make = flat(beta_maps, lh=str(LEFT), rh=str(RIGHT), side=64)
    made = make(recording(names, signal))
    assert 0.4 * 64**2 < made.layout.n_channels < 0.8 * 64**2
    weights = flat_weights({"lh": left.xy, "rh": right.xy}, 64)
    used = np.r_[left.vertex, n + right.vertex]
    whole = flat_maps(signal[:, used], weights, 64)
    row, column = np.array([name.split("-") for name in made.layout.names]).astype(int).T
    np.testing.assert_allclose(made.signal, whole[:, row, column], atol=1e-5)
    again = whole.copy()
    again[:, row, column] = 0
    assert not again.any()  # every pixel that is not 0 became a channel


def test_a_patch_and_a_gifti_surface_say_the_same(tmp_path: Path) -> None:
    gifti = read_flat(LEFT)
    xyz = np.column_stack([gifti.xy, np.zeros(len(gifti.xy))])
    patch = read_flat(write_patch(tmp_path / "lh.cortex.patch.flat", gifti.vertex, xyz, border=40))
    np.testing.assert_array_equal(patch.vertex, gifti.vertex)
    np.testing.assert_allclose(patch.xy, gifti.xy, atol=1e-4)
    assert patch.n_vertices is None


def world(tmp_path: Path, n: int = 500) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for seed, name in enumerate(("lh", "rh")):
        xyz = np.column_stack([sheet(n, seed), np.zeros(n)])
        paths[name] = str(write_patch(tmp_path / f"{name}.patch", np.arange(n), xyz))
    return paths


def test_masks_crop_the_picture_and_confounds_stay(tmp_path: Path) -> None:
    paths, rng = world(tmp_path), np.random.default_rng(3)
    xy = sheet(500, 0)
    inside = np.flatnonzero((xy > 0).all(1))
    names = [f"lh-{i}" for i in inside] + ["c1"]
    signal = rng.normal(size=(60, len(names)))
    inner = partial(bold_windows, start=0.0, n_trs=2)
    made = flat(inner, **paths, side=8, longest=100.0)(recording(names, signal, 0.5))
    assert made.signal.shape == (60, made.layout.n_channels)
    # One corner of the sheet now fills the picture: hardly a pixel is lost.
    assert made.layout.n_channels > 50
    confound = signal[:, -1]
    assert np.abs(np.corrcoef(made.signal.T, confound)[-1, :-1]).max() < 1e-3


def test_a_pixel_has_the_region_of_its_nearest_vertex(tmp_path: Path) -> None:
    xy = sheet(500, 0)
    given = recording(
        [f"lh-{i}" for i in range(500)], np.random.default_rng(0).normal(size=(4, 500))
    )
    given.channels["roi"] = np.where(xy[:, 0] < 0, "west", "east")
    made = flat(beta_maps, **world(tmp_path), side=16)(given)
    column = np.array([int(name.split("-")[1]) for name in made.layout.names])
    rois = np.array(made.layout.rois)
    assert set(rois[column < 6]) == {"west"}
    assert set(rois[column > 9]) == {"east"}


def test_another_surface_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal
    gifti = flat(beta_maps, lh=str(LEFT), rh=str(RIGHT), side=8)
    whole = [f"lh-{i}" for i in range(2562)]
    with pytest.raises(InputError, match=r"surface of 10242 vertices, got 2562 up to lh-2561"):
        gifti(recording(whole, noise(size=(2, 2562))))
    with pytest.raises(InputError, match=r"surface of 10242 vertices, got 2 up to rh-163841"):
        gifti(recording(["rh-5", "rh-163841"], noise(size=(2, 2))))
    patch = flat(beta_maps, **world(tmp_path), side=8)
    with pytest.raises(InputError, match=r"about 500 vertices, got 1 up to lh-10000"):
        patch(recording(["lh-10000"], noise(size=(2, 1))))
    with pytest.raises(
        InputError, match=r"expected channels lh-VERTEX and rh-VERTEX .* got '3-4-5'"
    ):
        patch(recording(["3-4-5"], noise(size=(2, 1))))
    with pytest.raises(InputError, match="expected values of 500 vertices, got 499"):
        flat_maps(np.zeros((1, 499)), flat_weights({"lh": sheet(500)}, 8), 8)
    with pytest.raises(InputError, match="span an area, got 4"):
        flat_weights({"lh": np.outer(np.arange(4.0), [1, 1])}, 8)


def test_broken_and_curved_surfaces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no such file"):
        read_flat(tmp_path / "lh.flat.patch.3d")
    path = Path(world(tmp_path)["lh"])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"patch of 8008 bytes, got 8005 bytes"):
        read_flat(path)
    with pytest.raises(InputError, match=r"expected a flat surface .z the same everywhere"):
        read_flat(SHIPPED / "pial_left.gii.gz")
    (tmp_path / "a.gii.gz").write_bytes(gzip.compress(b"<GIFTI>"))
    with pytest.raises(InputError, match=r"a\.gii\.gz: expected a GIFTI surface"):
        read_flat(tmp_path / "a.gii.gz")
    only_points = nibabel.GiftiImage()
    only_points.add_gifti_data_array(
        nibabel.gifti.GiftiDataArray(np.zeros((4, 3), np.float32), "NIFTI_INTENT_POINTSET")
    )
    nibabel.save(only_points, tmp_path / "b.gii")
    with pytest.raises(InputError, match=r"b\.gii: expected"):
        read_flat(tmp_path / "b.gii")
