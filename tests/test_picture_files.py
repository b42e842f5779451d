"""Pictures as files have them: transparent, turned by EXIF data, huge, of many sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from worlds import config

from decode.core import InputError, Stimulus
from decode.media.image import FRAMES, TRANSPARENT, TURNED
from decode.metrics.image import ImageSuite
from decode.metrics.lpips import Lpips
from decode.pictures import look_at, open_image
from decode.report.pictures import view
from decode.scoring.picture_scores import Resize
from decode.stages.preprocess import describe_stimuli
from decode.workshop import Run


def _stimulus(path: Path) -> Stimulus:
    return Stimulus(path.name, "image", path=str(path))


def _shape() -> np.ndarray:
    """(4, 6, 4) RGBA bytes: colours and every second pixel of another transparency."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 6, 4), np.uint8)
    pixels[0, :, 3], pixels[1, :, 3] = 0, 255
    return pixels


@pytest.mark.parametrize("ending", ["png", "webp", "tiff"])
def test_transparent_parts_are_laid_on_grey(ending: str, tmp_path: Path) -> None:
    pixels, path = _shape(), tmp_path / f"a.{ending}"
    Image.fromarray(pixels).save(
        path, **({"lossless": True, "exact": True} if ending == "webp" else {})
    )
    colour, alpha = pixels[..., :3].astype(float), pixels[..., 3:] / 255
    right = colour * alpha + 128 * (1 - alpha)
    got = np.asarray(open_image(_stimulus(path)), float)
    assert np.abs(got - right).max() <= 1
    assert (got[0] == 128).all()
    assert (got[1] == pixels[1, :, :3]).all()
    assert look_at(_stimulus(path))[1] == [TRANSPARENT]


@pytest.mark.parametrize("mode", ["LA", "P", "L", "RGB"])
def test_every_way_to_say_transparent_is_known(mode: str, tmp_path: Path) -> None:
    """A black square beside a see-through one, in each of PNG's ways."""
    path = tmp_path / "a.png"
    if mode == "LA":
        Image.fromarray(np.array([[[0, 255], [0, 0]]], np.uint8)).save(path)
    else:
        image = Image.new(mode, (2, 1))
        image.putpixel((1, 0), (9, 9, 9) if mode == "RGB" else 1)
        if mode == "P":
            image.putpalette([0, 0, 0, 0, 0, 0])
        image.save(path, transparency=(9, 9, 9) if mode == "RGB" else 1)
    got = np.asarray(open_image(_stimulus(path)))
    assert got.tolist() == [[[0, 0, 0], [128, 128, 128]]]


def test_opaque_pictures_stay_as_they_are(tmp_path: Path) -> None:
    pixels = _shape()
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (np.asarray(open_image(_stimulus(tmp_path / "a.png"))) == pixels[..., :3]).all()
    assert look_at(_stimulus(tmp_path / "a.png"))[1] == []


# Where row 0 and column 0 of the stored picture belong, by the EXIF standard, and how to see it so.
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", [*UPRIGHT, 0, 9, "broken"])
@pytest.mark.parametrize("ending", ["png", "jpg", "tiff"])
def test_pictures_are_turned_upright(orientation: Any, ending: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    path, exif = tmp_path / f"a.{ending}", Image.Exif()
    exif[0x0112] = orientation if isinstance(orientation, int) else 1
    if orientation == "broken" and ending == "tiff":
        pytest.skip("in TIFF, EXIF data are the picture's own")
    said = b"Exif\0\0MM\0*\0\0\xff\xff" if orientation == "broken" else exif
    Image.fromarray(pixels).save(path, exif=said)
    plain = pixels
    if ending == "jpg":
        with Image.open(path) as stored:
            plain = np.asarray(stored.convert("RGB"))
    turn = UPRIGHT.get(orientation, UPRIGHT[1])
    assert (np.asarray(open_image(_stimulus(path))) == turn(plain)).all()
    turned = orientation in UPRIGHT and orientation != 1
    found = look_at(_stimulus(path))[1]
    if orientation == "broken":
        assert len(found) == 1
        assert "Corrupt EXIF data" in found[0]
    else:
        assert found == [TURNED] * turned


def test_what_was_changed_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = {}
    for i in range(3):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.full((4, 4, 4), 40 * i, np.uint8)).save(path)
        known[path.name] = _stimulus(path)
    table = describe_stimuli(pd.Series(list(known)), known)
    said = capsys.readouterr().err.splitlines()
    assert said == [f"note: stimuli: 3 of 3 pictures have {TRANSPARENT}"]
    assert table[["height", "width"]].to_numpy().tolist() == [[4, 4]] * 3


def test_the_report_shows_what_was_seen(tmp_path: Path) -> None:
    import base64
    import io

    Image.fromarray(_shape()).save(tmp_path / "a.png")
    code = view(tmp_path / "a.png").partition("base64,")[2].partition('"')[0]
    shown = Image.open(io.BytesIO(base64.b64decode(code)))
    assert (np.asarray(shown) == np.asarray(open_image(_stimulus(tmp_path / "a.png")))).all()


@pytest.mark.parametrize("side", [9_460, 14_000])
def test_huge_pictures_are_one_line(side: int, tmp_path: Path, recwarn: Any) -> None:
    """Some that PIL would only warn of, and some that it refuses itself."""
    Image.new("1", (side, side)).save(tmp_path / "a.png")
    with pytest.raises(
        InputError, match=r"a\.png: expected a picture of at most 89 million pixels"
    ):
        open_image(_stimulus(tmp_path / "a.png"))
    assert not list(recwarn)


SMALL, LARGE = (8, 8), (20, 30)


def test_metrics_say_what_sizes_they_cannot_compare() -> None:
    plain = ImageSuite(pairs=["mse"])
    plain.check_sizes({SMALL}, SMALL)
    plain.check_sizes({SMALL}, None)
    with pytest.raises(
        InputError, match="shown pictures differ in size, got none, and sizes 8x8, 20x30"
    ):
        plain.check_sizes({SMALL, LARGE}, None)
    with pytest.raises(InputError, match="made and shown pictures differ in size"):
        plain.check_sizes({SMALL}, LARGE)
    ImageSuite(pairs=["mse"], first=Resize(8)).check_sizes({SMALL, LARGE}, LARGE)
    ImageSuite(pairs=["mse"], pixels=Resize(8)).check_sizes({SMALL}, LARGE)
    with pytest.raises(InputError, match="11 pixels or more, got pictures of 8x8"):
        ImageSuite(pairs=["ssim"]).check_sizes({SMALL}, SMALL)
    with pytest.raises(InputError, match="64 pixels or more, got pictures of 32x32"):
        Lpips(first=Resize(32)).check_sizes({LARGE}, None)


def test_sizes_are_checked_before_training(tmp_path: Path) -> None:
    """Pictures of 8 x 8, of which the generator makes pictures of 16 x 16."""
    from decode.pipeline import execute

    generator = {"_target_": "decode.generators.pixels.PixelGenerator", "size": 16}
    run = Run(config(tmp_path, generator=generator))
    with pytest.raises(InputError, match=r"metrics\.image: .*16x16"):
        execute(run, until="report", force=(), say=lambda s: None)
    assert not list((tmp_path / "outputs").glob("train/*/published*"))


def test_a_png_whose_checksum_is_wrong_is_no_picture(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    first = whole.index(b"IDAT") + 6
    for at in range(first, len(whole) - 12, 97):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(bytes(damaged))
        with pytest.raises(InputError, match="expected a readable image"):
            open_image(_stimulus(path))
    path.write_bytes(whole)
    assert np.array_equal(np.asarray(open_image(_stimulus(path))), pixels)


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tiff"])
def test_the_first_of_several_frames_is_taken_and_said(ending: str, tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), shade) for shade in (200, 20)]
    path = tmp_path / f"a.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    picture, said = look_at(_stimulus(path))
    assert said == [FRAMES]
    assert np.abs(np.asarray(picture).astype(int) - 200).max() <= 3
