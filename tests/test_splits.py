"""Nothing named by a split is on two of its sides."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from decode.core import InputError
from decode.division import Fold
from decode.splits.kfold import kfold
from decode.splits.leave_one_out import leave_one_out
from decode.splits.published import published
from decode.splitting import check, digest, manifest


@pytest.fixture
def table() -> pd.DataFrame:
    rows = [
        {
            "subject": s,
            "session": "1",
            "run": str(r),
            "stimulus": f"u{(7 * r + i) % 30}",
            "split": "test" if (7 * r + i) % 30 < 6 else "train",
            "block": f"{s}-{r}-{i // 4}",
            "onset": float(i),
        }
        for s in ("a", "b")
        for r in range(5)
        for i in range(12)
    ]
    return pd.DataFrame(rows)


def _disjoint(table: pd.DataFrame, fold: Fold, by: str) -> bool:
    sides = [set(table[by][fold.part == p]) for p in ("train", "validation", "test")]
    return not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


def test_published_takes_validation_out_of_training(table: pd.DataFrame) -> None:
    (fold,) = published(table, validation=0.25)
    assert set(table["stimulus"][fold.part == "test"]) == {f"u{i}" for i in range(6)}
    assert len(set(table["stimulus"][fold.part == "validation"])) == 6
    assert _disjoint(table, fold, "stimulus")


def test_the_first_sessions_are_those_of_the_table_and_leave_the_test_part_alone(
    table: pd.DataFrame,
) -> None:
    table = table.assign(session="s" + table["run"].map({str(i): str(9 - i) for i in range(5)}))
    (whole,) = published(table, validation=0)
    (some,) = published(table, validation=0, sessions=2)
    (other,) = published(table, validation=0, sessions=2, of="b")
    first = table["session"].isin(["s9", "s8"])
    train = whole.part == "train"
    assert ((some.part == "train") == (train & first)).all()
    assert ((other.part == "train") == (train & (first | (table["subject"] == "a")))).all()
    for fold in (some, other):
        assert ((fold.part == "test") == (whole.part == "test")).all()
    for wrong in ({"sessions": 6}, {"sessions": 0}, {"sessions": 1, "of": "c"}):
        with pytest.raises(InputError, match="expect"):
            published(table, **wrong)  # type: ignore[arg-type]


def test_kfold_tests_every_group_once(table: pd.DataFrame) -> None:
    folds = kfold(table, folds=4, by="stimulus", validation=0.1)
    tested = np.sum([f.part == "test" for f in folds], axis=0)
    assert (tested == 1).all()
    assert all(_disjoint(table, f, "stimulus") for f in folds)


def test_contiguous_folds_keep_the_order_within_subjects(table: pd.DataFrame) -> None:
    folds = kfold(table, folds=3, by="block", within="subject", contiguous=True, validation=0)
    for fold in folds:
        for subject in ("a", "b"):
            mine = np.flatnonzero((fold.part == "test") & (table["subject"] == subject))
            assert len(mine) == 20
            assert np.ptp(mine) == len(mine) - 1


def test_leave_one_run_out(table: pd.DataFrame) -> None:
    folds = leave_one_out(table, by="run", validation=0)
    assert [set(table["run"][f.part == "test"]) for f in folds] == [{str(r)} for r in range(5)]


def test_seeds_change_the_split_and_its_hash(table: pd.DataFrame) -> None:
    table = table.drop(columns="block")

    def name(seed: int) -> str:
        return digest(manifest(table, {"k": kfold(table, folds=4, seed=seed)}), table)

    assert name(0) == name(0) != name(1)


def test_a_leaking_fold_is_refused(table: pd.DataFrame) -> None:
    part = np.where(np.arange(len(table)) % 2, "train", "test").astype(object)
    with pytest.raises(InputError, match="in train and in test"):
        manifest(table, {"bad": [Fold(part, "stimulus")]})


def test_a_block_never_crosses_a_split(table: pd.DataFrame) -> None:
    part = np.where(table["run"] == "0", "test", "train").astype(object)
    check(table, Fold(part, "run"), name="ok")
    shared = table.assign(block="one film")
    with pytest.raises(InputError, match="expected each block in one part, got 'one film'"):
        check(shared, Fold(part, "run"), name="film")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: published(t.assign(split="")), "expected 'train' and 'test'"),
        (
            lambda t: kfold(t, folds=31),
            "expected 31 groups of 'stimulus', .* got 30; lower folds, or",
        ),
        (
            lambda t: kfold(
                t[(t["subject"] == "a") | (t["run"] == "1")], by="run", folds=3, within="subject"
            ),
            "expected 3 groups of 'run' of subject b, one for each fold or more, got 1; .* by=onset",
        ),
        (lambda t: kfold(t, by="concept"), r"split\.by: expected a column of the trials"),
        (
            lambda t: leave_one_out(t.assign(run="1")),
            "3 groups or more, .* got 1; choose split=kfold, or .* with by=onset",
        ),
    ],
)
def test_impossible_splits_say_what_to_do(table: pd.DataFrame, make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(table)  # type: ignore[operator]


def test_one_run_is_cut_into_stretches_of_time(table: pd.DataFrame) -> None:
    """Onsets of different people are different moments, though they are the same numbers."""
    single = table.query("run == '1' and (subject == 'a' or onset > 2)").drop(columns="block")
    single = single.reset_index(drop=True)
    folds = kfold(single, by="onset", folds=3, within="subject", contiguous=True, validation=0)
    for number, fold in enumerate(folds):
        check(single, fold, name=f"time {number}")
        for _, rows in single.groupby("subject").indices.items():
            tested = np.flatnonzero(fold.part[rows] == "test")
            assert (np.diff(tested) == 1).all()
            assert len(rows) // 3 <= len(tested) <= len(rows) // 3 + 1


def test_the_first_runs_of_two_sessions_are_two_groups(table: pd.DataFrame) -> None:
    both = pd.concat([table.assign(session="1"), table.assign(session="2")], ignore_index=True)
    folds = leave_one_out(both, by="run", validation=0)
    tested = [
        set(map(tuple, both[f.part == "test"][["session", "run"]].to_numpy().tolist()))
        for f in folds
    ]
    assert tested == [{(s, str(r))} for s in "12" for r in range(5)]
    for fold in folds:  # everyone is tested in every fold
        assert set(both["subject"][fold.part == "test"]) == {"a", "b"}
        check(both.drop(columns="block"), fold, name="ok")
