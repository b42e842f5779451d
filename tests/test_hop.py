"""Windows wherever a recording goes on, whatever its events are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from worlds import PixelWorld, config

from decode.core import InputError, Recording
from decode.pipeline import execute
from decode.recordings.bids import Columns, as_runs, stimuli_of, trials_of
from decode.steps.epoch import Epoch
from decode.stimuli import NOTHING
from decode.store import read_table
from decode.trials import open_trials
from decode.workshop import Run

RATE = 50.0


def _run(seconds: float, subject: str = "a", run: str = "1") -> Recording:
    n = round(seconds * RATE)
    channels = pd.DataFrame(
        {"name": ["x", "y"], "kind": "eeg", "x": 0.0, "y": 0.0, "z": 0.0, "roi": ""}
    )
    events = pd.DataFrame({"onset": [0.0], "duration": 0.0, "stimulus": "", "split": ""})[:0]
    signal = np.arange(2.0 * n).reshape(n, 2).astype(np.float32)
    return Recording(subject, "", run, "eeg", signal, RATE, channels, events)


@pytest.mark.parametrize("window", [(0.0, 1.0), (-0.2, 0.6), (0.5, 1.5)])
@pytest.mark.parametrize("baseline", [None, (-0.4, -0.2)])
@pytest.mark.parametrize("hop", [0.5, 0.7137, 4.0])
def test_every_whole_window_is_there(
    window: tuple[float, float], baseline: tuple[float, float] | None, hop: float
) -> None:
    prepared = Epoch(window=window, baseline=baseline, hop=hop)(_run(10.0))
    reads = [round(edge * RATE) for edge in (*window, *(baseline or window))]
    # By hand: the earliest event whose samples are all there, then every hop until they are not.
    moment, starts = max(0.0, -min(reads) / RATE), []
    while moment < 10.0 - 1e-9 and np.floor(moment * RATE + 0.5) + max(reads) <= 500:
        starts.append(int(np.floor(moment * RATE + 0.5)) + reads[0])
        moment += hop
    assert prepared.table["start"].tolist() == starts
    assert len(starts) > 1
    assert set(prepared.table["stimulus"]) == {NOTHING.uid}


def test_a_run_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(InputError, match="window: expected at most what"):
        Epoch(window=(0.0, 1.0), baseline=None, hop=1.0)(_run(0.5))


class Rest(PixelWorld):
    """Two people at rest, who see nothing."""

    def recordings(self, subject: str) -> Iterator[Recording]:
        for run in ("1", "2", "3"):
            yield _run(20.0, subject, run)


@pytest.mark.slow
def test_rest_comes_to_batches_without_targets(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "data": {"_target_": "test_hop.Rest", "root": str(tmp_path / "world")},
        "preprocess": {
            "_target_": "decode.steps.epoch.Epoch", "window": [0.0, 2.0], "baseline": None, "hop": 1.0
        },
        "splits": {
            "runs": {"_target_": "decode.splits.leave_one_out.leave_one_out", "_partial_": True,
                     "by": "run", "validation": 0.0}
        },
    }  # fmt: skip
    run = Run(config(tmp_path, **changes))
    folder = execute(run, until="split", force=(), say=lambda _: None)
    assert len(read_table(folder / "manifest.parquet")) == 3 * 2 * 3 * 19
    trials = open_trials({str(t.item): t.folder for t in run.of("preprocess")})
    (batch,) = trials.loader({}, run.digests, batch_size=200)
    assert batch.brain.shape == (114, 2, 100)
    assert batch.targets == {}
    assert batch.brain[1, 0, 0] == 100.0
    assert run.stimuli[NOTHING.uid] is NOTHING
    assert run.stimuli["train/3"].kind == "image"


def test_recordings_of_rest_need_no_events(tmp_path: Path) -> None:
    folder = tmp_path / "sub-01" / "eeg"
    folder.mkdir(parents=True)
    path = folder / "sub-01_task-rest_eeg.fif"
    path.touch()
    columns = Columns(None, tmp_path, None, (), None)
    (run,) = as_runs(tmp_path, tmp_path, [path], with_events=False)
    assert run.events is None
    assert trials_of(run.events, columns).empty
    assert stimuli_of([run.events], columns) == {}
    with pytest.raises(InputError, match="expected events beside"):
        as_runs(tmp_path, tmp_path, [path])
