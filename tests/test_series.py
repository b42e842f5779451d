"""Targets that run in time: computed once for each block, cut for each window, never across blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.io import wavfile
from worlds import config

from decode.core import Facts, InputError, Recording, Stimulus, Truth
from decode.features.sound import FLOOR, envelope, from_mel, mel_bands, to_mel
from decode.pipeline import execute
from decode.series import stretches_of
from decode.stages import features
from decode.stages.features import open_store
from decode.stages.preprocess import describe_stimuli
from decode.targets.audio_envelope import AudioEnvelope
from decode.targets.mel import Mel
from decode.workshop import Run

SFREQ = 8000


def _time(seconds: float, rate: int = SFREQ) -> np.ndarray:
    return np.arange(round(seconds * rate)) / rate


@pytest.mark.parametrize("frequency", [180, 440, 1000, 2500, 3600])
def test_a_tone_lies_in_its_band(frequency: float) -> None:
    made = mel_bands(
        np.sin(2 * np.pi * frequency * _time(1)),
        SFREQ,
        rate=50,
        bands=30,
        low=60,
        high=3900,
        frame=0.032,
    )
    middles = 700 * (
        10 ** (np.linspace(*(2595 * np.log10(1 + np.array([60, 3900]) / 700)), 32)[1:-1] / 2595) - 1
    )
    assert made.shape == (50, 30)
    assert made[5:-5].argmax(1).tolist() == [np.abs(middles - frequency).argmin()] * 40
    assert made[5:-5].min(1).max() < -3


def test_bands_hold_the_power_of_a_spectrum_by_another_way() -> None:
    """White noise has in each band the power of its triangle; spectra are scipy's."""
    from scipy.signal import welch

    noise = np.random.default_rng(0).normal(size=SFREQ * 20) * 0.1
    made = 10 ** mel_bands(noise, SFREQ, rate=50, bands=12, low=100, high=3800, frame=0.064)
    frequency, density = welch(noise, SFREQ, nperseg=4096)
    edges = from_mel(np.linspace(to_mel(100), to_mel(3800), 14))
    for band in range(12):
        weight = np.interp(frequency, edges[band : band + 3], [0, 1, 0])
        # A tone of amplitude 1 counts 1, and has half of that as power.
        expected = 2 * float((density * weight).sum() * frequency[1])
        assert made[10:-10, band].mean() == pytest.approx(expected, rel=0.05)


def test_silence_and_full_scale_are_the_ends_of_the_scale() -> None:
    edge = 1000.0
    low, high = from_mel(to_mel(edge) - 200), from_mel(to_mel(edge) + 200)
    knobs: dict[str, Any] = {
        "rate": 20,
        "bands": 1,
        "low": float(low),
        "high": float(high),
        "frame": 0.1,
    }
    assert mel_bands(np.zeros(SFREQ), SFREQ, **knobs).max() == pytest.approx(np.log10(FLOOR))
    tone = mel_bands(np.sin(2 * np.pi * edge * _time(1)), SFREQ, **knobs)
    assert tone[5:-5].mean() == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("power", [1.0, 0.6])
def test_a_modulated_tone_has_its_modulation(power: float) -> None:
    t = _time(3)
    loud = 0.5 + 0.4 * np.sin(2 * np.pi * 3 * t)
    made = envelope(loud * np.sin(2 * np.pi * 700 * t), SFREQ, rate=100, power=power)
    assert made.shape == (300,)
    assert np.abs(made - loud[:: SFREQ // 100] ** power)[3:-3].max() < 0.01


def test_a_long_sound_has_the_envelope_of_its_pieces() -> None:
    t = _time(80)
    loud = 0.5 + 0.3 * np.sin(2 * np.pi * 0.5 * t)
    made = envelope(loud * np.sin(2 * np.pi * 300 * t), SFREQ, rate=20, power=1.0)
    assert np.abs(made - loud[:: SFREQ // 20])[2:-2].max() < 0.01


class Ramp:
    """The seconds since the file began, 10 times a second: says which moment was cut."""

    accepts: ClassVar[frozenset[Any]] = frozenset({"audio"})
    reads: ClassVar[frozenset[Any]] = frozenset({"file"})
    rate, rest = 10.0, -1.0

    def __init__(self, lag: float = 0.0) -> None:
        self.lag = lag
        self.asked: list[Stimulus] = []

    def series(self, stretch: Stimulus) -> torch.Tensor:
        self.asked.append(stretch)
        seconds = stretch.look().seconds
        assert seconds is not None
        return stretch.start + torch.arange(round(seconds * 10))[:, None] / 10


@pytest.fixture
def story(tmp_path: Path) -> dict[str, Stimulus]:
    """Two stories in one file of 12 s, of which words are clips."""
    path = tmp_path / "stories.wav"
    wavfile.write(path, SFREQ, np.zeros(12 * SFREQ, np.int16))
    words = {}
    for block, begin in (("first", 0.0), ("second", 6.0)):
        for i in range(5):
            start = begin + 0.5 + i
            words[f"{block}{i}"] = Stimulus(
                f"{block}{i}", "audio", str(path), start=start, duration=0.5, block=block
            )
    return words


def _cut(
    folder: Path, known: dict[str, Stimulus], target: Ramp, window: tuple[float, float]
) -> Any:
    table = describe_stimuli(pd.Series(list(known)), known)
    n = features.run(folder, target=target, stimuli=known, table=table, name="ramp")
    return n, open_store(folder, table, window), table


def test_a_window_is_cut_from_its_block_alone(tmp_path: Path, story: dict[str, Stimulus]) -> None:
    target = Ramp(lag=0.2)
    n, store, table = _cut(tmp_path / "f", story, target, (-0.5, 2.0))
    assert n == 2
    assert [(s.start, s.duration) for s in target.asked] == [(0.5, 4.5), (6.5, 4.5)]
    assert store.shape == (20, 1)
    assert store.missing(table["digest"].tolist()) == []
    values = store.rows(table["digest"].tolist())[:, :, 0].numpy()
    for uid, cut in zip(table["uid"], values, strict=True):
        begin = 0.5 if uid.startswith("first") else 6.5
        moments = story[uid].start - 0.5 - 0.2 + np.arange(20) / 10
        expected = np.where((moments > begin - 0.05) & (moments < begin + 4.45), moments, -1.0)
        assert cut == pytest.approx(expected, abs=1e-5)
    assert torch.equal(store.columns(table["digest"].tolist(), slice(3, 7)), store.rows(
        table["digest"].tolist()).flatten(1)[:, 3:7])  # fmt: skip


def test_windows_that_overlap_take_no_room(tmp_path: Path, story: dict[str, Stimulus]) -> None:
    word = story["first0"]
    many = {
        f"w{i}": Stimulus(f"w{i}", "audio", word.path, start=i / 50, duration=0.1, block="all")
        for i in range(500)
    }
    n, store, table = _cut(tmp_path / "f", many, Ramp(), (0.0, 3.0))
    assert n == 1
    held = sum(p.stat().st_size for p in (tmp_path / "f").glob("*.npy"))
    assert held < 150 * 4 + 200
    assert store.rows(table["digest"].tolist()).shape == (500, 30, 1)
    more = many | {
        "late": Stimulus("late", "audio", word.path, start=11.0, duration=0.5, block="end")
    }
    assert _cut(tmp_path / "f", more, Ramp(), (0.0, 3.0))[0] == 1


def test_a_block_may_be_a_stimulus_itself(story: dict[str, Stimulus]) -> None:
    path = story["first0"].path
    whole = {"first": Stimulus("first", "audio", path, start=0.0, duration=6.0)}
    found = stretches_of(story, whole)
    assert (found["first2"].start, found["first2"].duration) == (0.0, 6.0)
    assert (found["second2"].start, found["second2"].duration) == (6.5, 4.5)
    alone = Stimulus("x", "audio", path, start=2.0, duration=1.0)
    assert stretches_of({"x": alone}, {}) == {"x": alone}
    assert stretches_of({"e": Stimulus("e", "event")}, {}) == {}
    other = {"y": Stimulus("y", "audio", "other.wav", duration=1.0, block="first")}
    found = stretches_of({**story, **other}, {})
    assert (found["y"].path, found["y"].duration) == ("other.wav", 1.0)
    assert (found["first0"].start, found["first0"].duration) == (0.5, 4.5)


def test_pictures_have_no_series(tmp_path: Path) -> None:
    from decode.core import Media

    Media("image", torch.rand(3, 4, 4)).write(tmp_path / "a.png")
    known = {"a": Stimulus("a", "image", str(tmp_path / "a.png"))}
    with pytest.raises(InputError, match=r"targets\.ramp: expected stimuli of kind \['audio'\]"):
        _cut(tmp_path / "f", known, Ramp(), (0.0, 1.0))


def test_a_sound_too_slow_for_the_bands_is_refused(story: dict[str, Stimulus]) -> None:
    with pytest.raises(InputError, match="high: expected at most half the rate"):
        Mel(high=5000.0).series(story["first0"])
    assert Mel(high=4000.0, rate=50.0).series(story["first0"]).shape == (25, 40)
    assert AudioEnvelope(rate=20.0).series(story["first0"]).shape == (10, 1)


class Listener:
    """One person hears four stories of 40 s; sensors follow the loudness 0.2 s later."""

    facts: ClassVar[Facts] = Facts("none", "none", "eeg", simulated=True)
    subjects = ("a",)

    def __init__(self, root: str) -> None:
        self.root = Path(root)

    def _loud(self, story: int, t: np.ndarray) -> np.ndarray:
        heights = np.random.default_rng(story).uniform(0.1, 0.9, 200)
        return np.interp(t, np.arange(200) / 4, heights)

    def stimuli(self) -> Mapping[str, Stimulus]:
        self.root.mkdir(parents=True, exist_ok=True)
        made = {}
        for story in range(4):
            path, t = self.root / f"{story}.wav", _time(40)
            if not path.is_file():
                sound = self._loud(story, t) * np.sin(2 * np.pi * 500 * t)
                wavfile.write(path, SFREQ, (sound * 32767).astype(np.int16))
            for word in range(74):
                uid = f"{story}/{word}"
                made[uid] = Stimulus(
                    uid,
                    "audio",
                    str(path),
                    start=1 + word / 2,
                    duration=0.5,
                    block=f"story {story}",
                )
        return made

    def recordings(self, subject: str) -> Iterator[Recording]:
        for story in range(4):
            t = np.arange(40 * 50) / 50
            signal = self._loud(story, t - 0.2)[:, None] * np.array([1.0, -0.5, 0.3])
            signal = 1e-6 * (signal + 0.05 * np.random.default_rng(story).normal(size=signal.shape))
            names = pd.DataFrame({"name": ["x", "y", "z"], "kind": "eeg", "x": 0.0, "y": 0.0, "z": 0.0,
                                  "roi": ""})  # fmt: skip
            words = [f"{story}/{word}" for word in range(74)]
            events = pd.DataFrame(
                {"onset": 1 + np.arange(74) / 2, "duration": 0.5, "stimulus": words}
            )
            events["split"] = "test" if story == 3 else "train"
            yield Recording(
                subject, "", str(story), "eeg", signal.astype(np.float32), 50.0, names, events
            )

    def files(self, subject: str) -> list[Path]:
        return [self.root]

    def truth(self, subject: str) -> Truth | None:
        return None


def _listening(folder: Path, lag: float) -> dict[str, Any]:
    return config(
        folder,
        data={"_target_": "test_series.Listener", "root": str(folder / "world")},
        preprocess={
            "_target_": "decode.steps.epoch.Epoch", "window": [0.0, 1.0], "baseline": None
        },
        splits={
            "s": {"_target_": "decode.splits.published.published", "_partial_": True, "by": "block",
                  "validation": 0.0}
        },
        targets={
            "loud": {"_target_": "decode.targets.audio_envelope.AudioEnvelope", "rate": 25.0,
                     "power": 1.0, "lag": lag}
        },
        encoder={"_target_": "decode.encoders.ridge.Ridge", "_partial_": True},
        objectives={}, trainer={"_target_": "decode.training.Trainer", "epochs": 0}, generator=None,
        metrics={
            "retrieval": {"_target_": "decode.metrics.retrieval.Retrieval", "target": "loud"},
            "r": {"_target_": "decode.metrics.vector_correlation.VectorCorrelation", "target": "loud"},
        },
    )  # fmt: skip


@pytest.mark.slow
def test_what_was_heard_is_found_by_its_loudness(tmp_path: Path) -> None:
    means = {}
    for lag in (0.2, 0.9):
        run = Run(_listening(tmp_path, lag))
        page = execute(run, until="report", force=(), say=lambda _: None)
        scores = pd.read_parquet(page / "scores.parquet")
        assert scores["stimulus"].nunique() == 74
        own = scores[scores["source"] == "decoder"]
        means[lag] = own.groupby("metric")["value"].mean()["vector_correlation"]
        (store,) = run.of("features")
        assert len(list(store.folder.glob("*.npy"))) == 4
    assert means[0.2] > 0.9
    assert means[0.2] > means[0.9] + 0.2
