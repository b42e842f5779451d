"""Targets that differ from trial to trial of one stimulus: an answer, a reaction time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from reader_worlds import write_p300
from test_bids import eeg, eeg_set, eeg_template, write_events
from test_trials import _features, trials
from worlds import PixelWorld, config

from decode.artefacts.predictions import pooled
from decode.core import InputError, Recording
from decode.data.p300_speller import P300Speller
from decode.events import contents_of, events_of, trial_keys
from decode.pipeline import execute
from decode.targets.labels import Labels
from decode.targets.number import Number
from decode.trials import Trials
from decode.use.opened import OpenedRun
from decode.vectors import FeatureStore
from decode.workshop import Run

__all__ = ["eeg", "eeg_template", "trials"]  # fixtures


class AnswerWorld(PixelWorld):
    """People answer yes or no to every picture, at random, and a second voxel pattern says which; `seconds`
    is how long it took.
    """

    def recordings(self, subject: str) -> Iterator[Recording]:
        rng = np.random.default_rng(5 + self.subjects.index(subject))
        for recording in super().recordings(subject):
            n, voxels = recording.signal.shape
            yes = rng.integers(0, 2, n).astype(bool)
            pattern = np.random.default_rng(9).normal(size=voxels)
            signal = recording.signal + 0.1 * np.where(yes, 1, -1)[:, None] * pattern
            seconds = rng.uniform(0.3, 0.9, n).round(3)
            said = recording.events.assign(answer=np.where(yes, "yes", "no"), seconds=seconds)
            yield replace(recording, signal=signal.astype(np.float32), events=said)


def answers(folder: Path, **changes: Any) -> dict[str, Any]:
    """A config that decodes the answers, and the pixels beside them."""
    targets = {
        "label": {
            "_target_": "decode.targets.labels.Labels", "column": "answer", "classes": ["no", "yes"],
            "of": "trial",
        },
        "seconds": {"_target_": "decode.targets.number.Number", "column": "seconds"},
        "pixels": {"_target_": "decode.targets.pixels.Pixels", "size": 8},
    }  # fmt: skip
    return config(
        folder,
        data={"_target_": "test_trial_targets.AnswerWorld", "root": str(folder / "world")},
        targets=targets,
        protocol={"train_repeats": "single", "test_repeats": "single", "rescale": "none"},
        encoder={"_target_": "decode.encoders.ridge.Ridge", "_partial_": True},
        baselines={},
        objectives={},
        trainer={"_target_": "decode.training.Trainer", "epochs": 0},
        generator=None,
        metrics={
            "accuracy": {"_target_": "decode.metrics.accuracy.Accuracy", "target": "label"},
            "auc": {"_target_": "decode.metrics.auc.Auc", "target": "label"},
            "retrieval": {"_target_": "decode.metrics.retrieval.Retrieval", "target": "pixels"},
        },
        until="evaluate",
        **changes,
    )


@pytest.mark.slow
def test_answers_are_decoded_beside_what_was_shown(tmp_path: Path) -> None:
    run = Run(answers(tmp_path))
    execute(run, until="evaluate", force=(), say=lambda s: None)
    summary = pd.read_json((run.folder("evaluate") or tmp_path) / "summary.json")
    score = {
        (r.metric, r.source): r.value for r in summary[summary["subject"] == "all"].itertuples()
    }
    assert score["auc", "decoder"] > 0.85
    assert score["retrieval_top1", "decoder"] > 0.5
    # 48 trials of two people: three standard errors around .5.
    assert abs(score["auc", "shuffled"] - 0.5) < 0.2
    # The truth is the column of the very trial, though each picture was answered both ways.
    frame = pooled(run.folder("predict") or tmp_path, "published")
    truth, table = frame.tensors("truth/decoder"), frame.table
    assert (np.array(["no", "yes"])[truth["label"].argmax(1)] == table["answer"].to_numpy()).all()
    np.testing.assert_allclose(truth["seconds"][:, 0], table["seconds"], rtol=1e-6)
    assert (table.groupby("stimulus")["answer"].nunique() > 1).any()
    # What was shown is known by itself: no stimulus has an answer among its facts.
    assert run.stimuli_table["digest"].nunique() == 52
    assert Run(answers(tmp_path)).is_done(run.of("features")[0])


@pytest.mark.slow
def test_an_applied_decoder_finds_the_answer_of_each_trial(tmp_path: Path) -> None:
    run = Run(answers(tmp_path) | {"until": "report"})
    opened = OpenedRun(execute(run, until="report", force=(), say=lambda s: None), run)
    applied = opened.apply(trials="split == 'test'", target="label")
    table, named = applied.trials, np.array(["no", "yes"])[applied.predicted["label"].argmax(1)]
    right = named == table["answer"].to_numpy()
    assert 0.6 < right.mean() < 1
    assert table["found_at"].tolist() == np.where(right, 1.0, 2.0).tolist()


def test_means_over_repeats_and_ranks_of_stimuli_are_refused(tmp_path: Path) -> None:
    made = answers(tmp_path)
    for key, value in (("train_repeats", "before"), ("test_repeats", "after")):
        changed = answers(tmp_path) | {"protocol": {**made["protocol"], key: value}}
        with pytest.raises(
            InputError, match=rf"protocol\.{key}: expected single, since targets\.label"
        ):
            execute(Run(changed), until="train", force=(), say=lambda s: None)
    made["metrics"]["retrieval"]["target"] = "label"
    with pytest.raises(
        InputError, match=r"metrics\.retrieval\.target: .* got label, which reads trials"
    ):
        execute(Run(made), until="train", force=(), say=lambda s: None)


@pytest.mark.parametrize("resident_bytes", [0, 2**30])
def test_a_batch_has_the_targets_of_its_trials(
    trials: Trials, tmp_path: Path, resident_bytes: int
) -> None:
    """By hand: the number of the row beside the features of its stimulus, whatever the order."""
    shown, digests = _features(tmp_path / "shown")
    own = FeatureStore(tmp_path / "own", of_trials=True)
    keys = trial_keys(trials.table)
    assert len(set(keys)) == len(keys)
    own.append(keys, np.arange(len(keys), dtype=np.float32)[:, None])
    part = trials.take(np.arange(5, 33))
    loader = part.loader(
        {"shown": shown, "own": own},
        digests,
        batch_size=6,
        shuffle=True,
        resident_bytes=resident_bytes,
    )
    seen = []
    for batch in loader.epoch(3):
        rows = batch.trial + 5
        assert torch.equal(batch.targets["own"][:, 0], rows.float())
        number = torch.tensor([int(u[1:]) for u in trials.table["stimulus"].iloc[rows.tolist()]])
        assert torch.equal(
            batch.targets["shown"], torch.stack([2 * number, 2 * number + 1], 1).float()
        )
        same = batch.stimulus[:, None] == batch.stimulus[None]
        assert torch.equal(
            same, number[:, None] == number[None]
        )  # positives are those of the stimulus
        seen += rows.tolist()
    assert sorted(seen) == list(range(5, 33))
    columns = loader.columns(["own", "shown"], torch.tensor([3, 0]))[:, 0:3]
    number = [int(trials.table["stimulus"].iloc[i][1:]) for i in (8, 5)]
    assert columns.tolist() == [
        [8.0, 2.0 * number[0], 2.0 * number[0] + 1],
        [5.0, 2.0 * number[1], 2.0 * number[1] + 1],
    ]


def test_a_trial_is_known_by_all_of_its_row_and_nothing_else() -> None:
    table = pd.DataFrame(
        {"subject": "a", "run": "1", "start": [0, 5], "stimulus": "s", "answer": ["yes", None]}
    )
    keys = trial_keys(table)
    assert keys == trial_keys(table[table.columns[::-1]].assign(repeats=1))
    assert keys[0] != trial_keys(table.assign(answer="no"))[0]
    events = events_of(table)
    assert list(events) == keys
    assert dict(events[keys[0]].labels)["answer"] == "yes"
    assert "answer" not in events[keys[1]].labels
    digests = {"s": "d"}
    assert contents_of(table, digests, by_trial=False) == ["d", "d"]
    assert contents_of(table, digests, by_trial=True) == [f"d {keys[0]}", f"d {keys[1]}"]


def test_labels_and_numbers_of_trials() -> None:
    table = pd.DataFrame({"subject": "a", "run": "1", "onset": [0.5, 2.0], "start": [0, 5],
                          "stimulus": "s", "answer": ["yes", "no"], "seconds": ["0.41", "soon"]})  # fmt: skip
    events = list(events_of(table).values())
    assert Labels("answer", ["no", "yes"], of="trial")(events).tolist() == [[0, 1], [1, 0]]
    assert Labels("answer", ["no", "yes"], of="trial").reads == {"trial"}
    assert Labels("answer", ["no", "yes"]).reads == {"labels"}
    assert Number("seconds")(events[:1]).tolist() == [[pytest.approx(0.41)]]
    with pytest.raises(
        InputError, match=r"'seconds' of subject a, run 1, onset 2\.0 s: .* got 'soon'"
    ):
        Number("seconds")(events)
    with pytest.raises(InputError, match=r"'second' of .* got nothing; correct it, or `column`"):
        Number("second")(events)


def test_columns_of_events_may_be_of_the_trial_alone(eeg: Path) -> None:
    rows = [
        {"onset": onset, "duration": 0.5, "stim_file": "a/one.png", "part": part, "answer": answer}
        for onset, part, answer in (
            (1.0, "train", "yes"),
            (2.0, "train", "no"),
            (3.0, "test", "yes"),
        )
    ]
    for run in ("01", "02"):
        write_events(eeg / f"sub-01/eeg/sub-01_task-look_run-{run}_events.tsv", rows)
    with pytest.raises(InputError, match="facts about the stimulus"):
        eeg_set(eeg, label_columns=["answer"]).stimuli()["a/one.png"]
    data = eeg_set(eeg, label_columns=[], trial_columns=["answer"])
    events = next(data.recordings("sub-01")).events
    assert events["answer"].tolist() == ["yes", "no", "yes"]
    assert not data.stimuli()["a/one.png"].labels
    with pytest.raises(InputError, match="column 'mood'"):
        list(eeg_set(eeg, label_columns=[], trial_columns=["mood"]).recordings("sub-01"))


def test_a_speller_shows_the_same_whether_attended_or_not(tmp_path: Path) -> None:
    write_p300(tmp_path)
    data = P300Speller(str(tmp_path))
    for recording in data.recordings("S1"):
        assert recording.events["stimulus"].nunique() == 1
        assert recording.events["class"].tolist() == [
            "target", "nontarget", "nontarget", "target", "nontarget", "nontarget",
        ]  # fmt: skip
    (flash,) = data.stimuli().values()
    assert not {"target", "nontarget"} & set(map(str, flash.labels.values()))
    assert "target" not in flash.uid
