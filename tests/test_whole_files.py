"""Files are read to their ends: what is damaged or cut off is refused and gives no other numbers."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
import zlib
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat
from scipy.sparse import csr_matrix

from decode import hdf5, volumes
from decode.core import InputError
from decode.preprocessing.surfaces import read_flat
from decode.recordings import bold, masks, packed, samples
from decode.recordings.bdata import read_bdata
from decode.recordings.matlab import read_mat

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


def image_of(kind: str, path: Path) -> np.ndarray:
    """A compressed image of 4 x 3 x 2 voxels and 5 volumes that packs well; gives back its values."""
    values = np.repeat(np.arange(24, dtype=np.float32), 5).reshape(4, 3, 2, 5) + 100
    cls = nibabel.MGHImage if kind == "mgz" else nibabel.Nifti1Image
    nibabel.save(cls(values, AFFINE), path)
    return values


def unpacked(raw: bytes) -> bytes | None:
    """What Python's gzip makes of it, None where it finds a fault."""
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error):
        return None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nii.gz", "mgz"])
@pytest.mark.parametrize("parts", [False, True])
def test_every_flipped_byte_is_found_or_harmless(tmp_path: Path, kind: str, parts: bool) -> None:
    path = tmp_path / f"run.{kind}"
    values = image_of(kind, path)
    raw = path.read_bytes()
    whole = unpacked(raw)
    refused = 0
    for i in range(len(raw)):
        path.write_bytes(raw[:i] + bytes([raw[i] ^ 0x10]) + raw[i + 1 :])
        if unpacked(path.read_bytes()) == whole:
            assert np.array_equal(read(path, parts), values)
            continue
        with pytest.raises(InputError, match=rf"run\.{kind}: expected a whole .*, got .*copy it"):
            read(path, parts)
        refused += 1
    assert refused > len(raw) // 2


def read(path: Path, parts: bool) -> np.ndarray:
    with volumes.whole_image(path) as image:
        if parts:
            return np.stack([image.dataobj[..., t] for t in range(5)], axis=3)
        return volumes.stored_values(image)


def test_a_checksum_a_length_and_what_follows_are_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "run.nii.gz"
    image_of("nii.gz", path)
    raw = path.read_bytes()
    for wrong in (raw[:-8] + b"\1" + raw[-7:], raw[:-1] + b"\1", raw[:-4], raw + b"more"):
        path.write_bytes(wrong)
        with pytest.raises(InputError, match=r"run\.nii\.gz: expected a whole NIfTI image"):
            bold.read_volume(path)
    # Padding with zeros and a second gzip behind the first are no faults.
    path.write_bytes(raw + bytes(512))
    assert read(path, parts=False).shape == (4, 3, 2, 5)


def test_a_flat_surface_is_read_through_its_checksum(tmp_path: Path) -> None:
    arrays = [
        nibabel.gifti.GiftiDataArray(data, intent=intent)
        for data, intent in (
            (np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0]], np.float32), "NIFTI_INTENT_POINTSET"),
            (np.array([[0, 1, 2]], np.int32), "NIFTI_INTENT_TRIANGLE"),
        )
    ]
    path = tmp_path / "lh.flat.gii.gz"
    nibabel.save(nibabel.GiftiImage(darrays=arrays), path)
    assert len(read_flat(path).vertex) == 3
    raw = path.read_bytes()
    path.write_bytes(raw[:-6] + bytes([raw[-6] ^ 1]) + raw[-5:])
    with pytest.raises(InputError, match=r"lh\.flat\.gii\.gz: expected a GIFTI surface"):
        read_flat(path)


@pytest.mark.parametrize("shape", [(-3, 4, 2, 9), (30000, 30000, 30000, 2)])
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_headers_that_name_what_the_file_cannot_hold(
    tmp_path: Path, ending: str, shape: tuple[int, ...]
) -> None:
    image = nibabel.Nifti1Image(np.ones((3, 4, 2, 9), np.float32), AFFINE)
    raw = bytearray(image.to_bytes())
    raw[42:50] = np.array(shape, "<i2").tobytes()
    path = tmp_path / f"run.{ending}"
    path.write_bytes(gzip.compress(bytes(raw)) if ending == "nii.gz" else bytes(raw))
    with pytest.raises(InputError, match="expected a whole NIfTI image, got"):
        volumes.open_image(path)


def test_colours_and_complex_numbers_are_no_signal(tmp_path: Path) -> None:
    colour = np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name, values, got in (
        ("rgb.nii", colour, "colours"),
        ("phase.nii", np.ones((3, 3, 3), np.complex64), "complex numbers"),
    ):
        nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / name)
        with pytest.raises(InputError, match=rf"{name}: expected one real number .*, got {got}"):
            bold.read_mask(tmp_path / name)


def small_tar(path: Path, n: int = 3) -> None:
    with tarfile.open(path, "w") as tar:
        for i in range(n):
            member = tarfile.TarInfo(f"sample{i:03d}.behav.npy")
            member.size = 700
            tar.addfile(member, io.BytesIO(bytes([i + 1]) * 700))


@pytest.mark.slow
def test_every_cut_of_a_tar_is_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    small_tar(path)
    raw = path.read_bytes()
    whole = samples.tar_samples("here", path)
    # Three members of a header and two blocks each, and two blocks of zeros.
    end = 3 * (512 + 1024) + 1024
    for length in range(0, len(raw), 128):
        path.write_bytes(raw[:length])
        if length >= end:
            assert samples.tar_samples("here", path) == whole
            continue
        with pytest.raises(InputError, match=r"0\.tar: expected .*tar file"):
            samples.tar_samples("here", path)


def test_damage_between_the_members_of_a_tar_is_found(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    small_tar(path)
    raw = bytearray(path.read_bytes())
    for at in (1536 + 100, 3072 + 150):
        broken = raw.copy()
        broken[at] ^= 0xFF
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"two blocks of zeros end, got none at byte"):
            samples.tar_samples("here", path)
    path.write_bytes(raw + raw)
    with pytest.raises(InputError, match=r"got more behind its end at byte"):
        samples.tar_samples("here", path)


def test_a_series_of_files_has_no_holes(tmp_path: Path) -> None:
    names = [f"train_{i}.tar" for i in (0, 1, 2, 9, 10)]
    with pytest.raises(InputError, match=r"up to train_10\.tar, got none of train_3\.tar \(6 "):
        samples.numbered("here", [tmp_path / n for n in names])
    order = [tmp_path / f"train_{i}.tar" for i in range(12)]
    assert samples.numbered("here", sorted(order, key=str)) == order
    with pytest.raises(InputError, match=r"none of train_0\.tar"):
        samples.numbered("here", order[1:])


def npy(shape: object, kind: str = "<f4", values: int = 10) -> bytes:
    file = io.BytesIO()
    facts = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)
    return file.getvalue() + bytes(4 * values)


@pytest.mark.parametrize("shape", [(-1, 5), (-2, -5), (10**11, 5), (4, 3)])
def test_array_headers_that_cannot_be_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"here: a\.tar, x: expected a whole \.npy"):
        packed.parse_npy("here", "a.tar, x", npy(shape))
    (tmp_path / "a.npy").write_bytes(npy(shape))
    with pytest.raises(InputError, match=r"a\.npy: expected a whole \.npy file, got"):
        packed.open_npy("here", tmp_path / "a.npy", ndim=2)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("x.npy", npy(shape))
    found = packed.Npz("here", tmp_path / "a.npz")
    for use in (found.read, found.header, lambda key: list(found.rows(key))):
        with pytest.raises(InputError, match=r"a\.npz: expected a whole \.npz"):
            use("x")


def test_a_flipped_byte_in_an_npz_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(40.0).reshape(8, 5))
    raw = path.read_bytes()
    at = raw.index(np.float64(33.0).tobytes())
    path.write_bytes(raw[:at] + b"\7" + raw[at + 1 :])
    for use in (packed.Npz("here", path).read, lambda k: list(packed.Npz("here", path).rows(k))):
        with pytest.raises(InputError, match=r"a\.npz: expected .* got Bad CRC"):
            use("x")


def test_values_of_an_hdf5_file_lie_in_it(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as f:
        f["group/x"] = np.ones((3, 2))
    (tmp_path / "raw.bin").write_bytes(bytes(48))
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f["own"] = np.ones((3, 2))
        f["soft"] = h5py.SoftLink("/own")
        f["out"] = h5py.ExternalLink("other.h5", "/group/x")
        f["folder"] = h5py.ExternalLink("other.h5", "/group")
        f["round"] = h5py.SoftLink("/folder/x")
        f["gone"] = h5py.ExternalLink("gone.h5", "/x")
        f.create_dataset("raw", (3, 2), "f8", external=[(str(tmp_path / "raw.bin"), 0, 48)])
        layout = h5py.VirtualLayout((3, 2), "f8")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "group/x", (3, 2))
        f.create_virtual_dataset("virtual", layout)
        f.create_dataset("unwritten", (10**6, 10**6), "f8", chunks=(10, 10))
        half = f.create_dataset("half", (20, 10), "f8", chunks=(10, 10))
        half[:10] = 1.0
    for key in ("own", "soft"):
        assert hdf5.dataset(tmp_path / "a.h5", key)[:].sum() == 6
    for key in ("out", "folder/x", "round", "gone", "raw", "virtual"):
        with pytest.raises(OSError, match="such are not followed"):
            hdf5.dataset(tmp_path / "a.h5", key)
    for key, held in (("unwritten", 0), ("half", 800)):
        with pytest.raises(OSError, match=rf"bytes, of which {held} were written"):
            hdf5.dataset(tmp_path / "a.h5", key)
    with pytest.raises(InputError, match=r"here: .*a\.h5: expected a whole dataset 'out'"):
        packed.open_hdf5("here", tmp_path / "a.h5", "out", ndim=2)


def test_bdata_is_not_read_from_elsewhere(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "Subject1.h5", "w") as f:
        f["dataset"] = h5py.ExternalLink("other.h5", "/x")
        f["metadata/key"] = ["a"]
        f["metadata/value"] = np.ones((1, 2))
    with pytest.raises(InputError, match=r"Subject1\.h5.*"):
        read_bdata("here", tmp_path / "Subject1.h5")


NOT_NUMBERS = {
    "cells": np.array([[np.ones(2), "word"]], dtype=object),
    "a struct": {"field": 3.0},
    "text": "words",
    "a sparse matrix": csr_matrix(np.eye(3)),
    "complex numbers": np.ones((2, 2), complex),
}


@pytest.mark.parametrize("what", NOT_NUMBERS)
def test_matlab_variables_are_arrays_of_numbers(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"betas": NOT_NUMBERS[what], "x": np.eye(2)})
    assert read_mat(path, ["x"])["x"].shape == (2, 2)
    with pytest.raises(InputError, match=rf"a\.mat: expected an array of numbers .*, got {what};"):
        read_mat(path, ["betas"])


def test_matlab_files_of_version_73(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    with h5py.File(path, "w") as f:
        f["x"] = np.arange(6.0).reshape(3, 2)
        f["x"].attrs["MATLAB_class"] = np.bytes_("double")
        f["word"] = np.frombuffer("ab".encode("utf-16-le"), np.uint16)[:, None]
        f["word"].attrs["MATLAB_class"] = np.bytes_("char")
        f["many"] = np.array([[f["x"].ref]], h5py.ref_dtype)
        f["many"].attrs["MATLAB_class"] = np.bytes_("cell")
        f.create_group("sparse").attrs["MATLAB_sparse"] = 3
        f.create_group("named").attrs["MATLAB_class"] = np.bytes_("struct")
        f["out"] = h5py.ExternalLink("other.h5", "/x")
    np.testing.assert_array_equal(read_mat(path, ["x"])["x"], np.arange(6.0).reshape(3, 2).T)
    for name, got in (
        ("word", "text"), ("many", "cells"), ("sparse", "a sparse matrix"), ("named", "a struct")
    ):  # fmt: skip
        with pytest.raises(InputError, match=rf"variable '{name}', got {got};"):
            read_mat(path, [name])
    with pytest.raises(InputError, match="such are not followed"):
        read_mat(path, ["out"])
    with pytest.raises(InputError, match=r"expected the variable 'y', got .*; look again"):
        read_mat(path, ["y"], remedy="look again")


@pytest.mark.slow
def test_every_flipped_byte_of_packed_matlab_variables_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    x = np.random.default_rng(0).integers(0, 9, (20, 30))
    savemat(path, {"x": x}, do_compression=True)
    raw = path.read_bytes()
    found = 0
    for i in range(128, len(raw)):
        path.write_bytes(raw[:i] + bytes([raw[i] ^ 0x10]) + raw[i + 1 :])
        try:
            assert np.array_equal(read_mat(path, ["x"])["x"], x)
        except InputError:
            found += 1
    assert found > 0.95 * (len(raw) - 128)


def test_runs_without_their_mean_are_recognised(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    raw = 800 + 40 * rng.standard_normal((5, 4, 3, 1)) + 6 * rng.standard_normal((5, 4, 3, 30))
    flat = raw - raw.mean(axis=3, keepdims=True)
    odd = {
        "residuals": flat,
        "z": flat / flat.std(axis=3, keepdims=True),
        "percent": 100 * flat / raw.mean(axis=3, keepdims=True),
        "exact": np.round(flat) - np.round(flat).mean(axis=3, keepdims=True),
    }
    mask = bold.Voxels(np.argwhere(np.ones((5, 4, 3))), (5, 4, 3), AFFINE, np.ones(60))
    for name, values in odd.items():
        path = tmp_path / f"{name}.nii"
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), AFFINE), path)
        for choose in (masks.bright_voxels, lambda paths: bold.usable(paths, mask)):
            with pytest.raises(
                InputError, match=rf"{name}\.nii: expected the scanner's values.*as_is"
            ):
                choose([path])
        assert len(masks.bright_voxels([path], "as_is").ijk) == 60
        assert len(bold.usable([path], mask, "as_is").ijk) == 60
    # Percent of a mean of 100 is what percent change makes of it anyway.
    path = tmp_path / "hundred.nii"
    nibabel.save(nibabel.Nifti1Image((odd["percent"] + 100).astype(np.float32), AFFINE), path)
    kept = masks.bright_voxels([path])
    made = bold.percent_change(bold.read_run(path, kept))
    np.testing.assert_allclose(made, odd["percent"].reshape(60, 30).T, atol=1e-3)


def test_noise_outside_of_the_brain_is_no_lack_of_a_mean(tmp_path: Path) -> None:
    """Air has Rayleigh noise, or zeros with a few ones, and may fill most of a volume."""
    rng = np.random.default_rng(1)
    values = rng.rayleigh(4, (8, 6, 4, 40)).astype(np.float32)
    values[4:] = rng.random((4, 6, 4, 40)) < 0.02
    values[:2, :3] += 900
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "run.nii")
    kept = masks.bright_voxels([tmp_path / "run.nii"])
    np.testing.assert_array_equal(kept.ijk, np.argwhere(values.mean(axis=3) > 100))


def test_voxels_that_are_not_finite_are_not_dark_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    values = (900 + rng.standard_normal((4, 3, 2, 20))).astype(np.float32)
    values[0] = np.nan
    values[1, 0, 0, 7] = np.inf
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "run.nii")
    kept = masks.bright_voxels([tmp_path / "run.nii"])
    np.testing.assert_array_equal(kept.ijk, np.argwhere(np.isfinite(values).all(axis=3)))
    values[..., 3] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "gap.nii")
    with pytest.raises(InputError, match=r"gap\.nii: expected voxels that are finite and vary"):
        masks.bright_voxels([tmp_path / "gap.nii"])


def test_missing_confounds_are_their_columns_mean() -> None:
    table = pd.DataFrame({"dvars": [np.nan, 30.0, 34.0, 32.0], "trans_x": [0.1, 0.2, 0.3, 0.4]})
    found = bold.confound_values(table)
    np.testing.assert_allclose(found[:, 0], [32, 30, 34, 32])
    np.testing.assert_allclose(found[:, 1], [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    with pytest.raises(InputError, match="'none': expected numbers, got none in 4 rows"):
        bold.confound_values(table.assign(none=np.nan))
