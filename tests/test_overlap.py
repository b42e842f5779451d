"""No window of training reads a sample that a window of the test reads, filters included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from worlds import PixelWorld, config

from decode.core import InputError, Layout, Recording, Stimulus
from decode.division import Fold
from decode.notices import collected
from decode.pipeline import execute
from decode.splits.kfold import kfold
from decode.splits.leave_one_out import leave_one_out
from decode.splits.published import published
from decode.splitting import TEST, TRAIN, VALIDATION, Spans, groups_of, manifest
from decode.stages.preprocess import with_blocks
from decode.steps.band_power import BandPower
from decode.steps.epoch import Epoch
from decode.steps.filter import Filter
from decode.steps.notch import Notch
from decode.store import read_table
from decode.trials import SubjectSignal, Trials
from decode.workshop import Run

RATE, RUN = 10.0, 400


def _trials(reach: float = 0.0, baseline: tuple[int, int] | None = None, n: int = 60) -> Trials:
    """Two subjects with three runs of 400 samples each and windows of 8 samples anywhere."""
    rng = np.random.default_rng(5)
    tables, signals = [], {}
    for subject in ("a", "b"):
        run = np.sort(rng.integers(0, 3, n))
        start = RUN * run + rng.integers(20, RUN - 30, n)
        tables.append(
            pd.DataFrame(
                {"subject": subject, "session": "1", "run": run.astype(str), "start": start,
                 "onset": (start - RUN * run) / RATE,
                 "stimulus": [f"u{i}" for i in rng.integers(0, 20, n)],
                 "trial": [f"{subject}{i}" for i in range(n)],
                 "split": rng.choice(["train", "test"], n, p=[0.8, 0.2])}
            )
        )  # fmt: skip
        layout = Layout("eeg", ("c",), np.zeros((1, 3)), ("",), RATE, 8)
        signals[subject] = SubjectSignal(
            np.zeros((3 * RUN, 1), np.float32), layout, baseline, reach, True, (0, RUN, 2 * RUN)
        )
    return Trials.of(pd.concat(tables), signals)


def _by_hand(trials: Trials, part: np.ndarray, gap: float | None) -> np.ndarray:
    """Every pair of trials, as sets of samples."""
    table, read = trials.singles, []
    for subject, run, start in table[["subject", "run", "start"]].itertuples(index=False):
        signal = trials.signals[subject]
        first, stop = signal.baseline or (0, 0)
        window = range(int(start) + min(0, first), int(start) + max(8, stop))
        read.append((subject, run, window, signal.reach if gap is None else gap / 2))
    near = np.zeros(len(table), bool)
    for i, (subject, run, mine, reach) in enumerate(read):
        for j, (other, where, theirs, _) in enumerate(read):
            if (
                part[i] in (TRAIN, VALIDATION)
                and part[j] == TEST
                and (subject, run) == (other, where)
            ):
                between = max(theirs.start - mine.stop, mine.start - theirs.stop)
                near[i] |= between < 2 * reach * RATE - 1e-6 or bool(set(mine) & set(theirs))
    return near


@pytest.mark.parametrize("gap", [None, 0.0, 0.35, 2.0])
@pytest.mark.parametrize("baseline", [None, (-5, 0), (6, 12)])
@pytest.mark.parametrize("reach", [0.0, 0.5])
def test_windows_that_share_samples_are_those_of_brute_force(
    gap: float | None, baseline: tuple[int, int] | None, reach: float
) -> None:
    trials = _trials(reach, baseline)
    part = np.random.default_rng(1).choice(
        ["", TRAIN, VALIDATION, TEST], 120, p=[0.1, 0.6, 0.1, 0.2]
    )
    found = trials.spans().near(part, gap)
    assert np.array_equal(found, _by_hand(trials, part, gap))
    assert found.any()
    assert not found[~np.isin(part, (TRAIN, VALIDATION))].any()


WAYS: dict[str, Any] = {
    "kfold": lambda t, **k: kfold(t, folds=4, **k),
    "contiguous": lambda t, **k: kfold(t, folds=4, by="onset", contiguous=True, **k),
    "published": lambda t, **k: published(t, by="trial", **k),
    "one stimulus": lambda t, **k: leave_one_out(t, by="stimulus", **k),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_split_refuses_leaves_out_or_tells(way: str) -> None:
    trials, split = _trials(0.2), WAYS[way]
    table = trials.singles.reset_index(drop=True)
    folds: list[Fold] = split(table, validation=0.0)
    every = [_by_hand(trials, fold.part, None) for fold in folds]
    n, of = sum(map(int, map(sum, every))), sum(int((f.part == TRAIN).sum()) for f in folds)
    assert n > 0
    first = next(i for i, near in enumerate(every) if near.any())
    bare = int(_by_hand(trials, folds[first].part, 0.0).sum())
    says = rf"fold {first}: expected windows .*, got {every[first].sum()} of .* \({bare} of them by window"
    with pytest.raises(InputError, match=says):
        manifest(table, {"s": folds}, trials.spans())
    with collected() as told:
        rows = manifest(table, {"s": split(table, validation=0.0, overlap="drop")}, trials.spans())
    assert f"{n} of {of} windows of training" in told[0]
    assert "left out" in told[0]
    for number, near in enumerate(every):
        part = rows.loc[rows["fold"] == number, "part"].to_numpy()
        assert np.array_equal(part == "", near | (folds[number].part == ""))
        assert not _by_hand(trials, part, None).any()
    with collected() as told:
        kept = manifest(table, {"s": split(table, validation=0.0, overlap="keep")}, trials.spans())
    assert f"{n} of {of} windows of training" in told[0]
    assert "kept" in told[0]
    assert kept["part"].tolist() == [str(p) for fold in folds for p in fold.part]


def test_other_runs_share_nothing() -> None:
    trials = _trials(5.0)
    folds = leave_one_out(trials.singles, by="run", validation=0)
    assert set(manifest(trials.singles, {"s": folds}, trials.spans())["part"]) == {TRAIN, TEST}


def test_responses_to_whole_trials_share_nothing() -> None:
    trials = _trials(1.0)
    signals = {k: replace(s, timed=False) for k, s in trials.signals.items()}
    spans = replace(trials, signals=signals).spans()
    part = np.random.default_rng(1).choice([TRAIN, TEST], 120)
    assert not spans.near(part, None).any()


def _recording(n: int, rate: float) -> Recording:
    channels = pd.DataFrame({"name": ["c"], "kind": "eeg", "x": 0.0, "y": 0.0, "z": 0.0, "roi": ""})
    events = pd.DataFrame({"onset": [n / rate / 2], "duration": [0.1], "stimulus": ["u"]})
    signal = np.random.default_rng(0).normal(size=(n, 1)).astype(np.float32)
    return Recording("s", "", "1", "eeg", signal, rate, channels, events)


@pytest.mark.parametrize(
    "step",
    [Filter(low=1.0, high=40.0), Filter(low=None, high=20.0), Notch(frequencies=(50.0,)),
     Notch(frequencies=(16.0, 50.0))],
)  # fmt: skip
def test_a_filter_reaches_as_far_as_it_says(step: Any) -> None:
    rate, n = 200.0, 6000
    given = _recording(n, rate)
    made = step(given)
    at = round(made.reach * rate)
    assert 5 < at < n // 2
    touched = given.signal.copy()
    touched[n // 2] += 1e4
    change = np.abs(step(replace(given, signal=touched)).signal - made.signal)[:, 0]
    # float32 sees one part in ten million of a change; the ends of a filter are small.
    there = np.flatnonzero(change > 1e-4)
    assert np.abs(there - n // 2).max() <= at
    assert change[n // 2 - at - 1 :: -1].max() < 1e-4
    assert np.abs(there - n // 2).max() > 0.8 * at


def test_reaches_add_up_and_come_to_the_trials() -> None:
    given = _recording(4000, 500.0)
    first = Filter(low=1.0, high=None)(given)
    second = BandPower(low=70.0, high=150.0)(first)
    assert 0 < first.reach < second.reach
    assert Epoch(window=(0.0, 0.2), baseline=None)(second).reach == second.reach


class Told(PixelWorld):
    """Pictures in blocks of four."""

    def stimuli(self) -> Mapping[str, Stimulus]:
        made = super().stimuli()
        names = {u: f"{u.split('/')[0]} {int(u.split('/')[1]) // 4}" for u in made}
        return {u: replace(s, block=names[u]) for u, s in made.items()}


def _told(folder: Path, by: str) -> dict[str, Any]:
    split = {"_target_": "decode.splits.kfold.kfold", "_partial_": True, "folds": 4, "by": by}
    return config(
        folder, data={"_target_": "test_overlap.Told", "root": str(folder / "world")},
        splits={"s": split | {"validation": 0.2}},
    )  # fmt: skip


@pytest.mark.slow
def test_blocks_reach_the_trials_and_stay_on_one_side(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected each block in one part"):
        execute(Run(_told(tmp_path, "stimulus")), until="split", force=(), say=lambda _: None)
    run = Run(_told(tmp_path, "block"))
    folder = execute(run, until="split", force=(), say=lambda _: None)
    rows = read_table(folder / "manifest.parquet")
    trials = read_table(run.of("preprocess")[0].folder / "trials.parquet")
    assert trials["block"].nunique() == 13
    block = {u: s.block for u, s in Told(str(tmp_path / "world")).stimuli().items()}
    sides = rows.assign(block=rows["stimulus"].map(block)).groupby(["fold", "block"])["part"]
    assert (sides.nunique() == 1).all()


def test_what_events_say_of_blocks_stands() -> None:
    known = {"u": Stimulus("u", "event", block="film"), "v": Stimulus("v", "event")}
    trials = pd.DataFrame({"stimulus": ["u", "v", "u"], "block": ["mine", None, None]})
    assert with_blocks(trials, known)["block"].fillna("").tolist() == ["mine", "", "film"]
    assert with_blocks(trials[["stimulus"]], known)["block"].fillna("").tolist() == [
        "film",
        "",
        "film",
    ]
    assert "block" not in with_blocks(trials[["stimulus"]], {"u": known["v"], "v": known["v"]})
    groups = groups_of(with_blocks(trials[["stimulus"]], known), "block")
    assert groups.tolist() == ["film", "v", "film"]


def test_spans_know_nothing_of_a_run_without_trials() -> None:
    empty = np.array([], np.int64)
    spans = Spans(empty, empty, empty, empty.astype(float), empty.astype(float), empty.astype(bool))
    assert spans.near(np.array([], object), None).tolist() == []
