"""Windows, averages and batches over continuous signals."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from decode.batches import one_ahead
from decode.core import InputError, Layout
from decode.scalers.zscore import ZScore
from decode.trials import SubjectSignal, Trials
from decode.vectors import FeatureStore


def _layout(channels: int, n_times: int) -> Layout:
    names = tuple(f"c{i}" for i in range(channels))
    return Layout("eeg", names, np.full((channels, 3), np.nan), ("",) * channels, 100.0, n_times)


@pytest.fixture
def trials() -> Trials:
    rng = np.random.default_rng(0)
    signals, rows = {}, []
    for subject, channels in (("s1", 3), ("s2", 5)):
        signal = rng.normal(size=(400, channels)).astype(np.float32)
        signals[subject] = SubjectSignal(signal, _layout(channels, 10), (-5, 0))
        for i in range(20):
            rows.append(
                {"subject": subject, "stimulus": f"u{i % 8}", "start": 10 + 18 * i, "session": "1"}
            )
    return Trials.of(pd.DataFrame(rows), signals)


def _features(folder: Path, precision: type = float) -> tuple[FeatureStore, dict[str, str]]:
    store = FeatureStore(folder)
    store.append([f"d{i}" for i in range(8)], np.arange(16, dtype=precision).reshape(8, 2))
    return store, {f"u{i}": f"d{i}" for i in range(8)}


def test_a_window_is_the_signal_minus_its_baseline(trials: Trials) -> None:
    signal = trials.signals["s2"].signal
    start = int(trials.table["start"][23])
    before = signal[start - 5 : start].astype(np.float64).mean(0)
    expected = (signal[start : start + 10] - before).T
    np.testing.assert_allclose(trials[23], expected, atol=1e-6)


def test_average_is_the_mean_of_single_windows(trials: Trials) -> None:
    averaged = trials.average("stimulus")
    assert len(averaged) == 16
    table = averaged.table
    row = int(np.flatnonzero((table["subject"] == "s1") & (table["stimulus"] == "u3"))[0])
    singles = trials.where("subject == 's1' and stimulus == 'u3'")
    assert table["repeats"][row] == len(singles) == 3
    expected = np.mean([singles[i] for i in range(3)], axis=0)
    np.testing.assert_allclose(averaged[row], expected, atol=1e-6)


def test_the_scaler_sees_the_rows_it_is_given_and_no_others(trials: Trials) -> None:
    part = trials.take(range(10))
    states = part.fit_scaler(ZScore())
    signal = trials.signals["s1"].signal
    far = int(trials.table["start"][15])
    signal[far : far + 10] += 1000  # planted fault: a row outside the part changes
    again = part.fit_scaler(ZScore())
    for name, value in states["s1"].items():
        np.testing.assert_array_equal(value, again["s1"][name])
    changed = trials.fit_scaler(ZScore())
    assert any(not np.array_equal(states["s1"][k], changed["s1"][k]) for k in states["s1"])


def test_scaling_happens_before_averaging(trials: Trials) -> None:
    scaler = ZScore()
    scaled = trials.scale(scaler, trials.fit_scaler(scaler))
    every = np.concatenate([scaled.brain(range(20)).transpose(0, 2, 1).reshape(-1, 3)])
    np.testing.assert_allclose(every.mean(0), 0, atol=1e-5)
    averaged = scaled.average("stimulus")
    mine = scaled.where("subject == 's1' and stimulus == 'u0'")
    np.testing.assert_allclose(
        averaged[0], np.mean([mine[i] for i in range(len(mine))], 0), atol=1e-5
    )


@pytest.mark.parametrize("precision", [np.float16, np.float32])
@pytest.mark.parametrize("shuffle", [False, True])
def test_resident_and_streaming_batches_are_the_same(
    trials: Trials, tmp_path: Path, shuffle: bool, precision: type
) -> None:
    store, digests = _features(tmp_path / "a", precision)
    more, _ = _features(tmp_path / "b", precision)
    features = {"image": store, "retrieval": FeatureStore(store.folder), "more": more}

    def batches(budget: int) -> list[torch.Tensor]:
        loader = trials.loader(
            features, digests, batch_size=7, shuffle=shuffle, seed=3, resident_bytes=budget
        )
        assert loader.resident == (budget > 0)
        made = []
        for epoch in range(2):
            for b in loader.epoch(epoch):
                assert all(t.dtype == torch.float32 for t in b.targets.values())
                made += [b.brain, *(b.targets[n] for n in features), b.subject, b.stimulus, b.trial]
        return made

    one, two = batches(2**30), batches(0)
    assert len(one) == len(two) == 2 * 6 * 7
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("precision", [np.float16, np.float32])
def test_targets_count_for_what_is_resident(
    trials: Trials, tmp_path: Path, precision: type
) -> None:
    store, digests = _features(tmp_path / "a", precision)
    other, _ = _features(tmp_path / "b", precision)

    def resident(features: dict[str, FeatureStore], budget: int) -> bool:
        return trials.loader(features, digests, batch_size=7, resident_bytes=budget).resident

    windows = next(b for b in range(8, 2**20, 8) if resident({}, b))
    seen = trials.table["stimulus"].nunique()
    assert seen < len(trials)
    targets = np.dtype(precision).itemsize * seen * store.shape[0]
    assert not resident({"image": store}, windows + targets - 1)
    assert resident({"image": store}, windows + targets)
    assert not resident({"image": store, "more": other}, windows + targets)
    # Two names of one store: it is read and kept once.
    same = FeatureStore(store.folder)
    assert resident({"image": store, "retrieval": same}, windows + targets)


def test_one_batch_is_read_ahead_in_order_and_a_fault_arrives_where_it_happened() -> None:
    asked: list[int] = []

    def read(n: int) -> int:
        asked.append(n)
        if n == 3:
            raise InputError("the disk is gone")
        return 10 * n

    coming = one_ahead(read, range(6))
    assert next(coming) == 0
    deadline = time.monotonic() + 5
    while len(asked) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert asked == [0, 1]  # the next one is there, nothing beyond it
    assert [next(coming), next(coming)] == [10, 20]
    with pytest.raises(InputError, match="gone"):
        next(coming)


def test_batches_pad_channels_and_align_targets(trials: Trials, tmp_path: Path) -> None:
    store, digests = _features(tmp_path)
    loader = trials.loader({"image": store}, digests, batch_size=40)
    (batch,) = loader
    assert batch.brain.shape == (40, 5, 10)
    assert not batch.brain[batch.subject == 0, 3:].any()
    table = trials.table
    for i, row in enumerate(batch.trial.tolist()):
        expected = 2.0 * int(table["stimulus"][row][1:])
        assert batch.targets["image"][i, 0] == expected
    same = batch.stimulus[:, None] == batch.stimulus[None]
    names = table["stimulus"].to_numpy()[batch.trial.numpy()]
    np.testing.assert_array_equal(same.numpy(), names[:, None] == names[None])


def test_epochs_differ_and_repeat(trials: Trials, tmp_path: Path) -> None:
    store, digests = _features(tmp_path)
    loader = trials.loader({"image": store}, digests, batch_size=40, shuffle=True, seed=1)
    order = [next(iter(loader.epoch(e))).trial.tolist() for e in (0, 1, 0)]
    assert order[0] == order[2] != order[1]
    assert sorted(order[0]) == list(range(40))
