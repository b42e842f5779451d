"""Stimuli that are rows of an HDF5 file."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from decode import content
from decode.core import InputError, Stimulus
from decode.pictures import open_image, read_image
from decode.report.pictures import view


@pytest.fixture
def brick(tmp_path: Path) -> tuple[Path, np.ndarray]:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    with h5py.File(tmp_path / "a#b.hdf5", "w") as file:
        file["group/imgBrick"] = pictures
        file["floats"] = pictures / 255
        file["number"] = 3
    return tmp_path / "a#b.hdf5", pictures


def _stimulus(file: Path, key: str, row: int) -> Stimulus:
    return Stimulus("s", "image", path=content.address(file, key, row))


def test_a_row_is_a_picture(brick: tuple[Path, np.ndarray]) -> None:
    file, pictures = brick
    stimulus = _stimulus(file, "group/imgBrick", 4)
    assert stimulus.path is not None
    np.testing.assert_array_equal(np.asarray(open_image(stimulus)), pictures[4])
    np.testing.assert_allclose(read_image(stimulus).permute(1, 2, 0), pictures[4] / 255, atol=1e-6)
    assert view(stimulus.path) == view(pictures[4])
    assert content.is_there(stimulus.path)


def test_the_digest_is_that_of_the_row(brick: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    file, pictures = brick
    digests = [_stimulus(file, "group/imgBrick", i).digest() for i in range(5)]
    assert len(set(digests)) == 5
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as f:
        f["x"] = pictures[::-1]
    assert [_stimulus(other, "x", 4 - i).digest() for i in range(5)] == digests
    Image.fromarray(pictures[0]).save(tmp_path / "a.png")
    plain = Stimulus("s", "image", path=str(tmp_path / "a.png"))
    assert plain.digest() != digests[0]


def test_a_rewritten_file_is_read_anew(brick: tuple[Path, np.ndarray]) -> None:
    file, pictures = brick
    stimulus = _stimulus(file, "group/imgBrick", 0)
    before = stimulus.digest()
    file.unlink()
    with h5py.File(file, "w") as f:
        f["group/imgBrick"] = pictures[1:]
    assert stimulus.digest() == Stimulus("t", "image", path=stimulus.path).digest() != before


def test_processes_read_for_themselves(brick: tuple[Path, np.ndarray]) -> None:
    file, _ = brick
    paths = [content.address(file, "group/imgBrick", i % 5) for i in range(40)]
    here = [content.identity(p) for p in paths]
    for how in ("fork", "spawn"):
        with multiprocessing.get_context(how).Pool(2) as pool:
            assert pool.map(content.identity, paths, chunksize=3) == here


@pytest.mark.parametrize(
    ("key", "row", "found"),
    [
        ("group/imgBrick", 5, "rows 0 to 4"),
        ("imgBrick", 0, "no dataset 'imgBrick', only"),
        ("number", 0, "no dataset 'number'"),
        ("group", 0, "no dataset 'group'"),
    ],
)
def test_what_is_not_there_is_named(
    brick: tuple[Path, np.ndarray], key: str, row: int, found: str
) -> None:
    stimulus = _stimulus(brick[0], key, row)
    for use in (stimulus.digest, lambda: open_image(stimulus)):
        with pytest.raises(InputError, match=found) as e:
            use()
        assert "a#b.hdf5" in str(e.value)
        assert "\n" not in str(e.value)
    assert not content.is_there(str(stimulus.path))


def test_files_that_are_missing_or_broken(brick: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        _stimulus(tmp_path / "none.hdf5", "x", 0).digest()
    with pytest.raises(InputError, match="expected a picture, got no such file"):
        open_image(_stimulus(tmp_path / "none.hdf5", "x", 0))
    (tmp_path / "bad.hdf5").write_bytes(b"not hdf5 at all")
    with pytest.raises(InputError, match="a damaged HDF5 file"):
        _stimulus(tmp_path / "bad.hdf5", "x", 0).digest()
    with pytest.raises(InputError, match="no picture of 8 bits"):
        open_image(_stimulus(brick[0], "floats", 0))
