"""The preprocess stage: what it leaves out and what does not fit together is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chains import meeg

from decode.core import InputError, Recording, Stimulus
from decode.stages import preprocess

PLAIN = {"l_freq": None, "h_freq": None, "sfreq": None, "baseline": None, "window": (0.0, 1.0)}


class Study:
    """One person, a run of ten seconds for each list of onsets."""

    subjects = ("sub-01",)

    def __init__(self, *onsets: list[float], names: tuple[tuple[str, ...], ...] = ()) -> None:
        self.onsets, self.names = onsets, names or (("Fz", "Cz"),) * len(onsets)

    def stimuli(self) -> dict[str, Stimulus]:
        return {"a": Stimulus("a", "event")}

    def recordings(self, subject: str):
        for run, (onsets, names) in enumerate(zip(self.onsets, self.names, strict=True)):
            channels = pd.DataFrame({"name": list(names), "kind": "eeg", "roi": ""})
            channels[["x", "y", "z"]] = np.nan
            events = pd.DataFrame({"onset": onsets, "duration": 0.0, "stimulus": "a", "split": ""})
            signal = np.random.default_rng(run).normal(size=(1000, len(names))).astype(np.float32)
            yield Recording(subject, "", f"{run + 1:02d}", "eeg", signal, 100.0, channels, events)


def run(study: Study, out: Path, **knobs) -> dict:
    step = lambda recording: meeg(recording, **{**PLAIN, **knobs})  # noqa: E731
    return preprocess.run(out, dataset=study, preprocess=step, subject="sub-01")


def test_dropped_trials_are_counted_and_said_of_whom(tmp_path: Path, capsys) -> None:
    study = Study([1.0, 2.0], [3.0, 9.5], [0.0, 9.2, 9.9])
    assert run(study, tmp_path, incomplete="drop")["n_trials"] == 4
    said = capsys.readouterr().err
    assert "subject sub-01: 3 of 7 trials dropped" in said
    assert "in 2 runs, first subject sub-01, session -, run 02" in said
    run(Study([1.0]), tmp_path, incomplete="drop")
    assert "dropped" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("second", "message"),
    [(("Fz", "Oz"), "got Oz, no Cz; leave"), (("Cz", "Fz"), "got another order of them; leave")],
)
def test_runs_of_other_channels_are_refused_by_name(
    tmp_path: Path, second: tuple[str, str], message: str
) -> None:
    study = Study([1.0], [1.0], names=(("Fz", "Cz"), second))
    with pytest.raises(InputError, match=message):
        run(study, tmp_path)
