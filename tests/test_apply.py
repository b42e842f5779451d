"""A finished run's decoder on new recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.signal import resample
from sklearn.metrics.pairwise import cosine_similarity
from worlds import PixelWorld, config

from decode import open_run
from decode.artefacts.media import read_media
from decode.building import build
from decode.core import Dataset, Facts, InputError, Recording, Stimulus, Truth
from decode.pictures import read_image
from decode.pipeline import execute
from decode.use.opened import OpenedRun
from decode.workshop import Run

TESTED = "split == 'test'"
NUMBERS = 12


class Changed:
    """A data set whose recordings, and stimuli, another lab has made in its own way."""

    facts: ClassVar[Facts] = Facts("none", "none", "fmri", simulated=True)

    def __init__(
        self,
        inner: Dataset,
        change: Callable[[Recording], Recording] = lambda r: r,
        *,
        known: bool = True,
        called: Mapping[str, str] | None = None,
    ) -> None:
        self.inner, self.change, self.known = inner, change, known
        self.called = dict(called or {s: s for s in inner.subjects})
        self.subjects = tuple(self.called)

    def recordings(self, subject: str) -> Iterator[Recording]:
        for recording in self.inner.recordings(self.called[subject]):
            yield self.change(replace(recording, subject=subject))

    def stimuli(self) -> Mapping[str, Stimulus]:
        return self.inner.stimuli() if self.known else {}

    def files(self, subject: str) -> Iterable[Path]:
        return self.inner.files(self.called[subject])

    def truth(self, subject: str) -> Truth | None:
        return None


def finished(settings: dict[str, Any]) -> OpenedRun:
    """A run over a world of tests, executed and opened."""
    run = Run(settings)
    return OpenedRun(execute(run, until="report", force=[], say=lambda _: None), run)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> OpenedRun:
    settings = config(tmp_path_factory.mktemp("pixels"), baselines={})
    settings["data"]["n"] = 24
    settings["trainer"]["epochs"] = 2
    settings["metrics"].pop("image")
    return finished(settings)


def world(run: OpenedRun) -> PixelWorld:
    made: PixelWorld = build(run.config["data"], "data")
    return made


def own(run: OpenedRun, target: str) -> np.ndarray:
    return run.predicted(target)


def permuted(recording: Recording) -> Recording:
    """Channels in another order and case, and one more of their kind among them."""
    n = len(recording.channels)
    order = np.random.default_rng(3).permutation(n)
    extra = pd.DataFrame([{**recording.channels.iloc[0], "name": "another"}])
    channels = pd.concat(
        [recording.channels.iloc[order[:5]], extra, recording.channels.iloc[order[5:]]]
    )
    channels = channels.assign(name=channels["name"].str.upper()).reset_index(drop=True)
    signal = np.insert(recording.signal[:, order], 5, 1.0, axis=1)
    return replace(recording, channels=channels, signal=signal)


def without_a_channel(recording: Recording) -> Recording:
    kept = recording.channels["name"] != "v7"
    channels = recording.channels[kept].reset_index(drop=True)
    return replace(recording, channels=channels, signal=recording.signal[:, kept.to_numpy()])


def larger(recording: Recording) -> Recording:
    return replace(recording, signal=recording.signal * np.float32(1e6))


@pytest.mark.slow
def test_its_own_recordings_give_its_own_predictions_and_pictures(pixels: OpenedRun) -> None:
    applied = pixels.apply(trials=TESTED)
    assert np.array_equal(applied.predicted["pixels"], own(pixels, "pixels"))
    columns = ["subject", "stimulus", "repeats"]
    assert applied.trials[columns].equals(pixels.trials()[columns])
    folder = pixels.run.of("reconstruct")[0].folder / "published-00" / "decoder"
    kept = read_media(folder, len(applied.trials))
    assert applied.media is not None
    for made, known in zip(applied.media, kept, strict=True):
        assert isinstance(made.data, torch.Tensor)
        assert torch.equal((made.data * 255).round(), (known.data * 255).round())
    assert applied.told == []


@pytest.mark.slow
def test_channels_are_found_by_name(pixels: OpenedRun) -> None:
    applied = pixels.apply(Changed(world(pixels), permuted), trials=TESTED)
    assert np.array_equal(applied.predicted["pixels"], own(pixels, "pixels"))
    assert any("another left out" in l or "left out (ANOTHER)" in l for l in applied.told)
    with pytest.raises(InputError, match=r"30 voxels that the decoder reads, got 29 without v7"):
        pixels.apply(Changed(world(pixels), without_a_channel))


@pytest.mark.slow
def test_another_unit_is_refused(pixels: OpenedRun) -> None:
    with pytest.raises(InputError, match=r"subject a: expected a signal about as large.*10\^6"):
        pixels.apply(Changed(world(pixels), larger))
    applied = pixels.apply(Changed(world(pixels), larger), scale_within=None, generate=False)
    assert any("times as large" in line for line in applied.told)


@pytest.mark.slow
def test_somebody_else_is_refused_unless_it_is_said_who_it_is(pixels: OpenedRun) -> None:
    other = Changed(world(pixels), called={"guest": "b"})
    with pytest.raises(InputError, match=r"guest.*known_as=\{guest: a\}"):
        pixels.apply(other)
    applied = pixels.apply(other, known_as={"guest": "b"}, trials=TESTED)
    rows = (pixels.trials()["subject"] == "b").to_numpy()
    assert np.allclose(applied.predicted["pixels"], own(pixels, "pixels")[rows], atol=1e-6)
    for wrong in ({"guest": "c"}, {"b": "b"}):
        with pytest.raises(InputError, match="known_as"):
            pixels.apply(other, known_as=wrong)
    with pytest.raises(InputError, match="one new subject for each"):
        pixels.apply(world(pixels), known_as={"a": "b"})


@pytest.mark.slow
def test_stimuli_need_not_be_known(pixels: OpenedRun) -> None:
    known = pixels.apply(trials=TESTED, repeats="single", generate=False)
    unknown = pixels.apply(Changed(world(pixels), known=False), trials=TESTED)
    assert np.array_equal(unknown.predicted["pixels"], known.predicted["pixels"])
    assert len(unknown.trials) == 2 * 2 * NUMBERS
    assert set(unknown.shown) == {None}
    assert unknown.gallery is None
    assert unknown.matches is None
    assert any("nothing is ranked" in line for line in unknown.told)
    assert unknown.media is not None
    assert len(unknown.media) == len(unknown.trials)


@pytest.mark.slow
def test_a_trial_is_read_without_a_look_at_the_others(pixels: OpenedRun) -> None:
    every = pixels.apply(repeats="single", generate=False, gallery="none")
    few = pixels.apply(
        repeats="single", generate=False, gallery="none", trials=f"{TESTED} and run == '1'"
    )
    rows = every.trials.query(f"{TESTED} and run == '1'").index
    assert len(rows) == 2 * NUMBERS
    assert np.allclose(few.predicted["pixels"], every.predicted["pixels"][rows], atol=1e-6)


@pytest.mark.slow
def test_a_gallery_is_ranked_by_cosine(pixels: OpenedRun, tmp_path: Path) -> None:
    stimuli = world(pixels).stimuli()
    wanted = [u for u in stimuli if u.startswith("test/")][:7]
    for number, uid in enumerate(wanted):
        (tmp_path / f"{number}.png").write_bytes(Path(str(stimuli[uid].path)).read_bytes())
    applied = pixels.apply(trials=TESTED, gallery=str(tmp_path), top_k=3)
    vectors = np.stack([read_image(stimuli[u]).numpy().ravel() for u in wanted])
    expected = cosine_similarity(own(pixels, "pixels").reshape(2 * NUMBERS, -1), vectors)
    order = np.argsort(-expected, axis=1)[:, :3]
    assert applied.matches is not None
    items = applied.matches["item"].to_numpy().reshape(-1, 3)
    assert (items == np.array([f"{i}.png" for i in range(7)])[order]).all()
    assert np.allclose(
        applied.matches["similarity"].to_numpy().reshape(-1, 3),
        np.take_along_axis(expected, order, 1),
    )
    place = {u: i for i, u in enumerate(wanted)}
    for row, uid in enumerate(applied.trials["stimulus"]):
        found = applied.trials["found_at"][row]
        if uid in place:
            assert found == 1 + (expected[row] > expected[row, place[uid]]).sum()
        else:
            assert np.isnan(found)
    scores = applied.scores().set_index("score")
    assert scores.loc["top1", "n"] == 2 * len(wanted)
    assert scores.loc["top3", "chance"] == 3 / 7


class Tones:
    """EEG of two people who hear one of two tones: each answers at its own sensors."""

    facts: ClassVar[Facts] = Facts("none", "none", "eeg", simulated=True)
    subjects: ClassVar[tuple[str, ...]] = ("a", "b")
    rate = 100.0

    def stimuli(self) -> Mapping[str, Stimulus]:
        names = [f"{tone}/{i}" for tone in ("high", "low") for i in range(40)]
        return {n: Stimulus(n, "event", labels={"tone": n.split("/")[0]}) for n in names}

    def recordings(self, subject: str) -> Iterator[Recording]:
        """A run of 30 tones to train on and one of 10 to test."""
        rng = np.random.default_rng(["a", "b", "c"].index(subject))
        tones = rng.permutation(["high", "low"] * 20)
        named = [f"{tone}/{i}" for i, tone in enumerate(tones)]
        for run, part, rows in (("1", "train", slice(0, 30)), ("2", "test", slice(30, None))):
            onset = 1.0 + np.arange(len(tones[rows]))
            t = np.arange(round((len(onset) + 2) * self.rate)) / self.rate
            signal = 2e-6 * rng.normal(size=(len(t), 6))
            for tone, start in zip(tones[rows], onset, strict=True):
                bump = 2e-5 * np.exp(-0.5 * ((t - start - 0.2) / 0.05) ** 2)
                signal[:, 0 if tone == "high" else 3] += bump
            channels = pd.DataFrame(
                {"name": [f"E{i}" for i in range(6)], "kind": "eeg", "x": 0.0, "y": 0.0, "z": 0.0, "roi": ""}
            )  # fmt: skip
            events = pd.DataFrame(
                {"onset": onset, "duration": 0.1, "stimulus": named[rows], "split": part}
            )
            signal = signal.astype(np.float32)
            yield Recording(subject, "1", run, "eeg", signal, self.rate, channels, events)

    def files(self, subject: str) -> Iterable[Path]:
        return []

    def truth(self, subject: str) -> Truth | None:
        return None


class MoreTones(Tones):
    """A third person."""

    subjects: ClassVar[tuple[str, ...]] = ("c",)


def steps(
    sfreq: float | None = 50.0,
    window: tuple[float, float] = (0.0, 0.5),
    baseline: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """A chain of steps from the recording to trials, without resampling where `sfreq` is None."""
    named = {
        "pick": {"_target_": "decode.steps.pick.Pick", "kinds": ["eeg"]},
        "filter": {"_target_": "decode.steps.filter.Filter", "low": 1.0, "high": 20.0},
        "resample": {"_target_": "decode.steps.resample.Resample", "sfreq": sfreq},
    }
    cut = {"window": list(window), "baseline": None if baseline is None else list(baseline)}
    return {
        "_target_": "decode.preprocessing.chain.Chain",
        "steps": {**named, "resample": named["resample"] if sfreq else None},
        "trials": {"_target_": "decode.steps.epoch.Epoch", **cut},
    }


def tones(folder: Path, **protocol: str) -> OpenedRun:
    labels = {
        "_target_": "decode.targets.labels.Labels",
        "column": "tone",
        "classes": ["low", "high"],
    }
    other = {**labels, "classes": ["high", "low", "none"]}
    settings = config(
        folder,
        data={"_target_": "test_apply.Tones"},
        preprocess=steps(),
        targets={"tone": labels, "again": other},
        encoder={"_target_": "decode.encoders.ridge.Ridge", "_partial_": True},
        baselines={}, objectives={}, generator=None,
        trainer={"_target_": "decode.training.Trainer", "epochs": 0},
        metrics={"accuracy": {"_target_": "decode.metrics.accuracy.Accuracy", "target": "tone"}},
        protocol={"train_repeats": "single", "test_repeats": "single", "rescale": "none", **protocol},
    )  # fmt: skip
    return finished(settings)


def twice_as_fast(recording: Recording) -> Recording:
    signal = resample(recording.signal.astype(float), 2 * len(recording.signal)).astype(np.float32)
    return replace(recording, signal=signal, sfreq=2 * recording.sfreq)


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> OpenedRun:
    return tones(tmp_path_factory.mktemp("tones"), unseen="mean")


@pytest.mark.slow
def test_another_sampling_rate_is_resampled_or_refused(heard: OpenedRun) -> None:
    applied = heard.apply(Changed(Tones(), twice_as_fast), trials=TESTED)
    assert np.allclose(applied.predicted["tone"], heard.predicted("tone"), atol=0.02)
    assert any("recorded at 200 Hz, read at 50 Hz" in f.said for f in applied.fits)
    with pytest.raises(InputError, match="expected 50 samples a second, got 200"):
        heard.apply(Changed(Tones(), twice_as_fast), preprocess=steps(sfreq=None))
    with pytest.raises(InputError, match="expected windows of 25 samples from 0 s, got 20"):
        heard.apply(preprocess=steps(window=(0.0, 0.4)))
    with pytest.raises(InputError, match="baseline"):
        heard.apply(preprocess=steps(baseline=(0.0, 0.1)))


@pytest.mark.slow
def test_classes_are_named(heard: OpenedRun) -> None:
    applied = heard.apply(trials=TESTED)
    assert np.array_equal(applied.predicted["tone"], heard.predicted("tone"))
    assert applied.matches is not None
    named = applied.matches.query("rank == 1")["item"].tolist()
    assert named == [["low", "high"][i] for i in applied.predicted["tone"].argmax(1)]
    accuracy = float(np.mean(np.array(named) == applied.trials["stimulus"].str.split("/").str[0]))
    assert accuracy > 0.9
    assert applied.scores()["value"].tolist() == [accuracy]


@pytest.mark.slow
def test_people_who_were_not_trained_on_are_read_as_the_run_says(
    heard: OpenedRun, tmp_path: Path
) -> None:
    """The mean of the answers through the layers of both, scaled by both: three ways to the same."""
    new = heard.apply(MoreTones(), generate=False)
    assert any("averaged" in f.said for f in new.fits)
    both = heard.decoder().decoder
    pooled = both.pooled()
    parts = []
    for who in ("a", "b"):
        lent = replace(both, states={**both.states, who: pooled})
        usable = replace(heard.decoder(), decoder=lent)
        parts.append(usable.apply(MoreTones(), known_as={"c": who}).predicted["tone"])
    assert np.allclose(new.predicted["tone"], np.mean(parts, axis=0), atol=1e-5)
    shared = tones(tmp_path, unseen="shared").apply(MoreTones())
    assert any("one layer for all" in f.said for f in shared.fits)
    assert len(shared.predicted["tone"]) == 40


@pytest.mark.slow
def test_a_model_of_the_brain_decodes_nothing(tmp_path: Path) -> None:
    settings = config(tmp_path, baselines={}, objectives={}, generator=None)
    settings["data"]["n"] = 24
    settings["encoder"] = {
        "_target_": "decode.encoders.encoding_ridge.EncodingRidge",
        "_partial_": True,
    }
    settings["trainer"]["epochs"] = 0
    correlation = "decode.metrics.voxel_correlation.VoxelCorrelation"
    settings["metrics"] = {"correlation": {"_target_": correlation}}
    run = finished(settings)
    assert run.targets == ["brain"]
    assert run.predicted().shape == run.truth().shape
    assert run.predicted().shape[:2] == (2 * NUMBERS, 35)
    with pytest.raises(InputError, match="a run that decodes the brain"):
        run.apply()


@pytest.mark.slow
def test_the_data_of_the_run_need_not_be_at_hand(
    pixels: OpenedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = world(pixels)
    again = open_run(pixels.folder, packages=["worlds"])

    def gone(*_: object, **__: object) -> None:
        raise InputError("the data are not there any more")

    monkeypatch.setattr(PixelWorld, "__init__", gone)
    applied = again.apply(there, trials=TESTED, generate=False)
    assert np.array_equal(applied.predicted["pixels"], own(pixels, "pixels"))
    assert applied.decoder.facts["simulated"] is True
    with pytest.raises(InputError, match="not there any more"):
        again.apply(trials=TESTED)
