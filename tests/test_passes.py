"""What an epoch shows: counted, and weighed against numbers worked out by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from decode.core import InputError, Layout
from decode.passes import Pass, Plan, drawn, padded, units
from decode.training import Trainer
from decode.trials import Loader, SubjectSignal, Trials
from decode.vectors import FeatureStore

SIZES = {"a": 30, "b": 20, "c": 45}
SUBJECT = torch.cat([torch.full((n,), i) for i, n in enumerate(SIZES.values())])


def plan(size: int, **knobs: object) -> Plan:
    return Plan(SUBJECT, size, Pass(**knobs), known=tuple(SIZES))  # type: ignore[arg-type]


def passes(made: Plan, n: int = 1) -> list[list[torch.Tensor]]:
    draws = torch.Generator().manual_seed(3)
    found = [made.batches(draws) for _ in range(n)]
    assert {len(batches) for batches in found} == {len(made)}
    return found


def test_a_pass_shows_every_row_once() -> None:
    (batches,) = passes(plan(16))
    assert sorted(torch.cat(batches).tolist()) == list(range(95))
    assert [len(b) for b in batches] == [16] * 5 + [15]


def test_a_pass_of_so_many_rows_shows_none_again_before_all() -> None:
    (batches,) = passes(plan(20, rows=200))
    shown = Counter(torch.cat(batches).tolist())
    assert sum(shown.values()) == 200
    assert set(shown.values()) == {2, 3}


def test_every_batch_has_as_many_rows_of_each_subject() -> None:
    """A pass ends with the 20 rows of the smallest: batches of 8, 8 and 4 of it."""
    (batches,) = passes(plan(8, per_subject=True))
    counts = [torch.bincount(SUBJECT[b], minlength=3).tolist() for b in batches]
    assert counts == [[8, 8, 8], [8, 8, 8], [8, 4, 8]]
    assert len(torch.cat(batches).unique()) == len(torch.cat(batches))


def test_thirty_thousand_rows_of_seven_subjects_are_714_steps() -> None:
    """Seven people with 22,500 to 30,000 trials less the shared pictures', 6 rows of each a step."""
    trials = torch.tensor([27000, 21600, 20250, 27000, 21600, 27000, 20250])
    subject = torch.arange(7).repeat_interleave(trials)
    way = Pass(rows=30000, per_subject=True)
    made = Plan(subject, 6, way, known=tuple("2345678"))
    assert len(made) == 30000 // 42 == 714
    batches = made.batches(torch.Generator().manual_seed(0))
    assert all(torch.bincount(subject[b]).tolist() == [6] * 7 for b in batches)
    assert sum(map(len, batches)) == 714 * 42


def test_two_of_the_subjects_are_drawn_for_a_pass() -> None:
    seen: Counter[tuple[int, ...]] = Counter()
    for batches in passes(plan(10, per_subject=True, subjects=2), n=60):
        pairs = {tuple(SUBJECT[b].unique().tolist()) for b in batches}
        assert len(pairs) == 1
        assert {len(b) for b in batches} == {20}
        seen.update(pairs)
    assert set(seen) == {(0, 1), (0, 2), (1, 2)}
    assert min(seen.values()) > 10
    assert len(plan(10, per_subject=True, subjects=9)) == 2


def test_the_new_subject_is_in_every_batch_beside_one_of_the_others_in_turn() -> None:
    (batches,) = passes(plan(10, per_subject=True, always="c"))
    counts = [torch.bincount(SUBJECT[b], minlength=3).tolist() for b in batches]
    assert counts == [[10, 0, 10], [0, 10, 10], [10, 0, 10], [0, 10, 10], [10, 0, 5]]
    shown = torch.cat(batches)
    assert sorted(shown[SUBJECT[shown] == 2].tolist()) == list(range(50, 95))
    with pytest.raises(InputError, match=r"always: expected one of the training subjects"):
        plan(10, per_subject=True, always="d")


def test_knobs_that_need_each_other() -> None:
    with pytest.raises(InputError, match=r"trainer.subjects: expected null where per_subject"):
        Trainer(subjects=2)
    with pytest.raises(InputError, match=r"trainer.always: expected null beside rows"):
        Trainer(per_subject=True, always="a", rows=10)
    with pytest.raises(InputError, match=r"trainer.rows: expected 1 or more"):
        Trainer(rows=0)


def test_one_of_three_repeats_is_drawn_each_as_often() -> None:
    members, count = padded([[4, 5, 6], [7], [8, 9]])
    draws = torch.Generator().manual_seed(0)
    shown = [drawn(members, count, "one", draws) for _ in range(3000)]
    assert all(weights is None for _, weights in shown)
    rows = torch.cat([picked for picked, _ in shown], 1)
    for row, group in zip(rows, ([4, 5, 6], [7], [8, 9]), strict=True):
        found = Counter(row.tolist())
        assert set(found) == set(group)
        for n in found.values():
            assert abs(n / 3000 - 1 / len(group)) < 0.04


def test_mixtures_are_random_means_half_the_time_and_means_a_third() -> None:
    members, count = padded([[0, 1, 2], [3, 4]])
    draws = torch.Generator().manual_seed(0)
    kinds: Counter[str] = Counter()
    for _ in range(2000):
        _, weights = drawn(members, count, "mixed", draws)
        if weights is None:
            kinds["one"] += 1
            continue
        assert torch.allclose(weights.sum(1), torch.ones(2))
        assert float(weights[1, 2]) == 0
        even = torch.tensor([[1 / 3] * 3, [0.5, 0.5, 0]])
        kinds["mean" if torch.allclose(weights, even) else "random"] += 1
    shares = {k: n / 2000 for k, n in kinds.items()}
    assert shares == pytest.approx({"random": 0.5, "mean": 0.3, "one": 0.2}, abs=0.04)


@pytest.fixture
def trials() -> Trials:
    """Two subjects, 4 pictures, shown thrice, thrice, twice and once; channel 0 numbers the trial."""
    signals, rows = {}, []
    for subject in ("s1", "s2"):
        signal = np.arange(9, dtype=np.float32)[:, None] + np.array([0, 100], np.float32)
        layout = Layout("fmri", ("a", "b"), np.full((2, 3), np.nan), ("", ""), 1.0, 1)
        signals[subject] = SubjectSignal(signal, layout, None)
        for i, picture in enumerate("pppqqqrrs"):
            rows.append({"subject": subject, "stimulus": picture, "start": i, "session": "1"})
    return Trials.of(pd.DataFrame(rows), signals)


def loader(trials: Trials, folder: Path, **knobs: int) -> Loader:
    store = FeatureStore(folder)
    if store.missing(list("pqrs")):
        store.append(list("pqrs"), np.arange(4, dtype=np.float32)[:, None])
    digests = dict(zip("pqrs", "pqrs", strict=True))
    return trials.loader({"z": store}, digests, batch_size=3, shuffle=True, **knobs)


@pytest.mark.parametrize("resident", [0, 2**20], ids=["streaming", "resident"])
def test_an_epoch_has_one_row_per_picture_and_other_repeats_the_next(
    trials: Trials, tmp_path: Path, resident: int
) -> None:
    whole = loader(trials, tmp_path / "z", resident_bytes=resident)
    made = whole.showing(Pass("one"))
    assert made.resident == bool(resident)
    assert (len(whole), len(made)) == (6, 3)
    seen = set()
    for epoch in range(20):
        batches = list(made.epoch(epoch))
        rows = torch.cat([b.trial for b in batches])
        brain = torch.cat([b.brain for b in batches])[:, 0, 0]
        target = torch.cat([b.targets["z"] for b in batches])[:, 0]
        table = trials.table.iloc[rows.tolist()]
        assert len(table.drop_duplicates(["subject", "stimulus"])) == len(table) == 8
        np.testing.assert_array_equal(brain, table["start"])
        np.testing.assert_array_equal(target, ["pqrs".index(s) for s in table["stimulus"]])
        seen.add(tuple(sorted(rows.tolist())))
    assert len(seen) > 5


@pytest.mark.parametrize("resident", [0, 2**20], ids=["streaming", "resident"])
def test_mixed_rows_are_means_within_a_picture(
    trials: Trials, tmp_path: Path, resident: int
) -> None:
    made = loader(trials, tmp_path / "z", resident_bytes=resident).showing(Pass("mixed"))
    ranges = {0: (0, 2), 1: (3, 5), 2: (6, 7), 3: (8, 8)}
    mixed = 0
    for epoch in range(12):
        for batch in made.epoch(epoch):
            for value, picture, trial in zip(
                batch.brain[:, :, 0], batch.targets["z"][:, 0], batch.trial, strict=True
            ):
                low, high = ranges[int(picture)]
                assert low - 1e-4 <= float(value[0]) <= high + 1e-4
                assert float(value[1] - value[0]) == pytest.approx(100, abs=1e-3)
                assert (int(trial) < 0) <= (int(picture) != 3)
                mixed += int(trial) < 0
    assert mixed > 40


def test_units_stay_within_a_subject() -> None:
    assert units([0, 0, 1, 0], [5, 6, 5, 5], "one") == [[0, 3], [1], [2]]
    assert units([0, 0, 1], [5, 5, 5], "each") == [[0], [1], [2]]


@pytest.mark.parametrize("resident", [0, 2**20], ids=["streaming", "resident"])
def test_a_target_is_drawn_from_others_row_by_row(
    trials: Trials, tmp_path: Path, resident: int
) -> None:
    """Stores that say 10 and 20 more than the target's own, each for half of the rows."""
    whole = loader(trials, tmp_path / "z", resident_bytes=resident)
    others = []
    for more in (10, 20):
        others.append(FeatureStore(tmp_path / f"z{more}"))
        others[-1].append(list("pqrs"), np.arange(4, dtype=np.float32)[:, None] + more)
    made = whole.showing(Pass(), {"z": others})
    added: Counter[int] = Counter()
    for epoch in range(30):
        for batch in made.epoch(epoch):
            own = batch.stimulus.float()
            added.update((batch.targets["z"][:, 0] - own).int().tolist())
        assert sum(added.values()) == 18 * (epoch + 1)
    assert set(added) == {10, 20}
    assert abs(added[10] / 540 - 0.5) < 0.08
    assert {float(v) for b in whole for v in b.targets["z"][:, 0]} == {0.0, 1.0, 2.0, 3.0}
