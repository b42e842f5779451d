"""What is shown and made, kind by kind: written and read back, checked, cut, seen; a run of sounds."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.io import wavfile
from sounds import RATE, SoundWorld
from torch import Tensor
from worlds import config

from decode.core import InputError, Media, Stimulus
from decode.media.medium import KINDS, MEDIA, kind_of
from decode.pipeline import execute
from decode.stages.preprocess import describe_stimuli
from decode.workshop import Run


def _sine(frequency: float = 440.0, n: int = 8000, rate: int = 16000) -> Tensor:
    return 0.8 * torch.sin(2 * torch.pi * frequency * torch.arange(n) / rate)


def _examples() -> dict[str, Media]:
    made = torch.Generator().manual_seed(0)
    return {
        "image": Media("image", torch.rand(3, 12, 9, generator=made)),
        "text": Media("text", " a dog\nbarks "),
        "audio": Media("audio", torch.stack([_sine(), _sine(330)]), 16000),
        "video": Media("video", torch.rand(7, 3, 12, 10, generator=made), 12.5),
        "mesh": Media("mesh", torch.rand(40, 6, generator=made)),
    }


# Of half a step of 8 or 16 bits; what FFV1 and PLY keep is exact but for the colours' 8 bits.
STEPS = {"image": 0.5 / 255, "text": 0, "audio": 0.5 / 32768, "video": 0.5 / 255, "mesh": 0.5 / 255}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_again(tmp_path: Path, kind: Any) -> None:
    media = _examples()[kind]
    path = tmp_path / f"a{MEDIA[kind].ENDING}"
    media.write(path)
    assert kind_of(path) == kind
    back = Media(kind, *MEDIA[kind].read(str(path), 0.0, None))
    assert back.rate == media.rate
    if isinstance(media.data, str):
        assert back.data == media.data
        return
    assert isinstance(back.data, Tensor)
    assert back.data.shape == media.data.shape
    assert float((back.data - media.data).abs().max()) <= STEPS[kind] + 1e-6
    if kind == "mesh":
        assert torch.equal(back.data[:, :3], media.data[:, :3])


def test_a_sine_is_written_as_another_library_writes_it(tmp_path: Path) -> None:
    wave = _sine()
    Media("audio", wave[None], 16000).write(tmp_path / "a.wav")
    rate, values = wavfile.read(tmp_path / "a.wav")
    assert rate == 16000
    assert np.array_equal(values.ravel(), np.round(wave.double().numpy() * 32768).astype(int))
    loud = Media("audio", torch.tensor([[-1.0, 1.0]]), 8000)
    loud.write(tmp_path / "b.wav")
    assert wavfile.read(tmp_path / "b.wav")[1].ravel().tolist() == [-32768, 32767]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 128, 255], np.uint8), [-1, 0, 127 / 128]),
        (np.array([-(2**31), 0, 2**30], np.int32), [-1, 0, 0.5]),
        (np.array([-0.25, 0, 1], np.float32), [-0.25, 0, 1]),
        (np.array([-0.25, 0, 1], np.float64), [-0.25, 0, 1]),
    ],
)
def test_every_width_of_wav_is_read(
    tmp_path: Path, values: np.ndarray, expected: list[float]
) -> None:
    wavfile.write(tmp_path / "a.wav", 8000, values)
    data, rate = MEDIA["audio"].read(str(tmp_path / "a.wav"), 0.0, None)
    assert rate == 8000
    assert data.tolist() == [pytest.approx(expected)]


def _flac(path: Path, wave: Tensor, rate: int) -> None:
    import av

    with av.open(str(path), "w", format="flac") as file:
        stream: Any = file.add_stream("flac", rate)
        stream.layout = "mono"
        values = (wave.double().numpy() * 32768).round().astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(values, "s16", "mono")
        frame.sample_rate = rate
        for part in (frame, None):
            file.mux(stream.encode(part))


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_a_clip_is_cut_at_its_samples(tmp_path: Path, ending: str) -> None:
    wave, path = _sine(), tmp_path / f"a.{ending}"
    if ending == "wav":
        Media("audio", wave[None], 16000).write(path)
    else:
        _flac(path, wave, 16000)
    clip = Stimulus("x", "audio", path=str(path), start=0.1, duration=0.25)
    data = clip.read().data
    assert isinstance(data, Tensor)
    assert data.shape == (1, 4000)
    assert torch.allclose(data[0], wave[1600:5600], atol=0.5001 / 32768)
    assert clip.look().seconds == pytest.approx(0.25)
    late = Stimulus("x", "audio", path=str(path), start=0.4, duration=0.2)
    says = r"stimulus 'x': .*expected a clip inside its 0\.5 s, got 0\.4 s to 0\.6 s"
    for of in (late.look, late.read):
        with pytest.raises(InputError, match=says):
            of()


def test_a_film_is_cut_at_its_frames(tmp_path: Path) -> None:
    film = _examples()["video"]
    film.write(tmp_path / "a.mkv")
    clip = Stimulus("x", "video", path=str(tmp_path / "a.mkv"), start=0.16, duration=0.24)
    data = clip.read().data
    assert isinstance(data, Tensor)
    assert isinstance(film.data, Tensor)
    assert torch.allclose(data, film.data[2:5], atol=0.51 / 255)
    seen = clip.look()
    assert (seen.height, seen.width, seen.seconds) == (12, 10, pytest.approx(0.24))


@pytest.mark.parametrize("ending", [".wav", ".flac", ".mkv", ".ply", ".png"])
@pytest.mark.parametrize("how", ["cut", "other", "gone"])
def test_a_damaged_file_is_refused_before_it_is_used(tmp_path: Path, ending: str, how: str) -> None:
    path = tmp_path / f"a{ending}"
    kind = kind_of(path)
    assert kind is not None
    if ending == ".flac":
        _flac(path, _sine(n=64000), 16000)
    else:
        _examples()[kind].write(path)
    if how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "other":
        path.write_bytes(b"<html>Not found</html>" * 40)
    else:
        path.unlink()
    with pytest.raises(InputError, match="stimulus 'x'"):
        Stimulus("x", kind, path=str(path)).look()


@pytest.mark.parametrize(
    ("kind", "data", "rate"),
    [
        ("image", torch.rand(1, 4, 4), None),
        ("image", torch.rand(3, 4, 4) + 1, None),
        ("image", torch.rand(3, 4, 4), 2.0),
        ("image", "a dog", None),
        ("text", torch.rand(3), None),
        ("audio", torch.rand(9), 8000),
        ("audio", torch.rand(1, 9) * 3, 8000),
        ("audio", torch.rand(1, 9), None),
        ("audio", torch.rand(1, 9), 44.1),
        ("audio", torch.tensor([[float("nan")]]), 8000),
        ("video", torch.rand(2, 1, 4, 4), 25),
        ("video", torch.rand(2, 3, 4, 4), 0),
        ("video", torch.rand(2, 3, 4, 4) - 1, 25),
        ("mesh", torch.rand(5, 4), None),
        ("mesh", torch.rand(5, 6) + 1, None),
        ("mesh", torch.tensor([[0, float("inf"), 0]]), None),
        ("event", "x", None),
    ],
)
def test_nothing_is_made_beyond_its_range(kind: Any, data: Any, rate: Any) -> None:
    with pytest.raises(ValueError, match=r"a|an|something"):
        Media(kind, data, rate)


def test_floats_of_sixteen_bits_are_no_sound(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "a.wav", 8000, np.array([0, 300.0, -7], np.float32))
    with pytest.raises(InputError, match=r"samples in \[-1, 1\], got up to 300"):
        Stimulus("x", "audio", path=str(tmp_path / "a.wav")).look()


def test_means_are_those_of_numbers() -> None:
    pictures = [torch.rand(3, 4, 5) for _ in range(3)]
    of_images, of_films = MEDIA["image"].mean, MEDIA["video"].mean
    assert of_images is not None
    assert of_films is not None
    assert torch.allclose(of_images((p, None) for p in pictures)[0], torch.stack(pictures).mean(0))
    films = [torch.rand(n, 3, 4, 4) for n in (3, 2, 4)]
    data, rate = of_films((f, 10.0) for f in films)
    assert rate == 10
    assert torch.allclose(data, torch.stack([f[:2] for f in films]).mean(0))


def _inlined(html: str) -> bytes:
    return base64.b64decode(html.partition(";base64,")[2].partition('"')[0])


def test_views_need_no_other_file() -> None:
    import av

    found = {kind: media.view("<label>") for kind, media in _examples().items()}
    assert "a dog" in found["text"]
    assert "<label>" not in "".join(found.values())
    with av.open(io.BytesIO(_inlined(found["audio"]))) as file:
        heard = np.concatenate([f.to_ndarray() for f in file.decode(audio=0)], 1)
    power = np.abs(np.fft.rfft(heard[0, :8000]))
    assert abs(np.fft.rfftfreq(8000, 1 / 16000)[power.argmax()] - 440) < 4
    with av.open(io.BytesIO(_inlined(found["video"]))) as file:
        assert len(list(file.decode(video=0))) == 7
    assert found["mesh"].startswith("<img")


def test_a_sound_of_many_clips_is_hashed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    Media("audio", _sine(n=16000)[None], 16000).write(tmp_path / "a.wav")
    clips = {
        f"w{i}": Stimulus(
            f"w{i}", "audio", path=str(tmp_path / "a.wav"), start=i / 40, duration=0.02
        )
        for i in range(39)
    }
    hashed: list[Any] = []
    whole = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda f, how: hashed.append(f) or whole(f, how))
    table = describe_stimuli(pd.Series(list(clips)), clips)
    assert len(hashed) == 1
    assert table["digest"].nunique() == 39
    Media("audio", _sine(500, n=16000)[None], 16000).write(tmp_path / "a.wav")
    assert not set(describe_stimuli(pd.Series(list(clips)), clips)["digest"]) & set(table["digest"])


def _sounds(folder: Path, **changes: Any) -> dict[str, Any]:
    node = config(
        folder,
        data={"_target_": "sounds.SoundWorld", "root": str(folder / "world")},
        targets={"loudness": {"_target_": "sounds.Loudness"}},
        encoder={"_target_": "decode.encoders.ridge.Ridge", "_partial_": True},
        objectives={},
        trainer={"_target_": "decode.training.Trainer", "epochs": 0},
        generator={
            "_target_": "decode.generators.nearest.Nearest", "target": "loudness", "makes": "audio"
        },
        metrics={"sound": {"_target_": "decode.metrics.sound.Sound"}},
    )  # fmt: skip
    return {**node, **changes}


@pytest.mark.slow
def test_a_run_makes_sounds_and_a_report_plays_them(tmp_path: Path) -> None:
    run = Run(_sounds(tmp_path))
    page = execute(run, until="report", force=(), say=lambda line: None) / "report.html"
    text = page.read_text()
    assert text.count("<audio") == 30
    assert "mel_correlation" in text
    scores = pd.read_parquet(page.parent / "scores.parquet")
    two_way = scores[scores["metric"] == "two_way_mel"].groupby("source")["value"].mean()
    assert two_way["decoder"] > 0.85
    assert abs(two_way["shuffled"] - 0.5) < 0.15
    assert two_way["oracle"] >= two_way["decoder"] - 0.05
    made = next(Path(run.of("reconstruct")[0].folder).glob("published-00/decoder/00000.wav"))
    rate, values = wavfile.read(made)
    assert rate == RATE
    known = [
        wavfile.read(str(s.path))[1] for s in SoundWorld(str(tmp_path / "world")).stimuli().values()
    ]
    assert any(np.array_equal(values.ravel(), k) for k in known)


IMAGES: dict[str, Any] = {"_target_": "decode.metrics.image.ImageSuite", "pairs": ["mse"]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"metrics": {"image": IMAGES}}, "metrics.image: expected a generator of image.*one of audio"),
        ({"generator": {"_target_": "decode.generators.nearest.Nearest", "target": "loudness",
                        "makes": "smell"}}, "generator.makes: expected one of"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused_in_the_plan(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        Run(_sounds(tmp_path, **changes))


@pytest.mark.slow
def test_pictures_of_sounds_are_refused_before_training(tmp_path: Path) -> None:
    generator = {"_target_": "decode.generators.nearest.Nearest", "target": "loudness"}
    run = Run(_sounds(tmp_path, generator=generator, metrics={"image": IMAGES}))
    done: list[str] = []
    with pytest.raises(InputError, match=r"generator\.makes: expected audio, as all stimuli are"):
        execute(run, until="report", force=(), say=lambda line: done.append(line.split()[0]))
    assert "train" not in done


@pytest.mark.slow
def test_captions_do_not_touch_what_only_reads_the_picture(tmp_path: Path) -> None:
    from decode.stages import features
    from decode.stages.features import open_store
    from decode.targets.pixels import Pixels

    path = tmp_path / "a.png"
    Media("image", torch.rand(3, 8, 8)).write(path)
    plain = {"u": Stimulus("u", "image", path=str(path), labels={"row": 1})}
    told = {"v": Stimulus("v", "image", path=str(path), texts=("a dog",), labels={"row": 7})}
    made: Callable[[Any], int] = lambda known: features.run(  # noqa: E731
        tmp_path / "pixels",
        target=Pixels(4),
        stimuli=known,
        table=describe_stimuli(pd.Series(list(known)), known),
        name="pixels",
    )
    assert (made(plain), made(told)) == (1, 0)
    tables = [describe_stimuli(pd.Series(list(k)), k) for k in (plain, told)]
    rows = [open_store(tmp_path / "pixels", t).rows(t["digest"].tolist()) for t in tables]
    assert torch.equal(rows[0], rows[1])
    assert tables[0]["digest"][0] != tables[1]["digest"][0]
