"""Preprocessing as a list of steps: each makes a recording of a recording, the last one trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from decode.core import Recording, about, refusal
from decode.preprocessing.prepared import ABSENT, Cut, Prepared, Step
from decode.preprocessing.streams import taken
from decode.scaling import MISSING


class Chain:
    """Each of `steps` in its order, then `trials`, which cuts what is left into trials.

    Steps have names, so that a config or a command changes one by its name, adds one behind the others
    or drops one (null). What one refuses names it. Channels that a step marks in the column `absent` go
    round the last step: they are 0 throughout, and the trials name them in the column `missing_channels`,
    so that scalers leave them alone.
    """

    def __init__(self, *, steps: Mapping[str, Step | None], trials: Cut) -> None:
        self.steps = {name: step for name, step in steps.items() if step is not None}
        self.trials = trials

    def __call__(self, recording: Recording) -> Prepared:
        for name, step in self.steps.items():
            where = f"preprocess.steps.{name}"
            with about(where):
                made = step(recording)
            if not isinstance(made, Recording):
                raise refusal(
                    where, "a step that makes a recording", f"one that makes {type(made).__name__}",
                    "name what cuts trials in preprocess.trials",
                )  # fmt: skip
            recording = made
        there = _there(recording)
        with about("preprocess.trials"):
            if there.all():
                return self.trials(recording)
            return _with_zeros(
                self.trials(taken(recording, np.flatnonzero(there))), recording, there
            )


def _there(recording: Recording) -> np.ndarray:
    """(channel,) boolean, which channels were recorded."""
    if ABSENT not in recording.channels:
        return np.ones(len(recording.channels), bool)
    return ~recording.channels[ABSENT].fillna(False).to_numpy(bool)


def _with_zeros(prepared: Prepared, recording: Recording, there: np.ndarray) -> Prepared:
    """All channels that the last step kept and the absent ones, in the order of the recording."""
    kept = set(prepared.layout.names)
    names = recording.channels["name"].astype(str).to_numpy()
    mine = np.flatnonzero(~there | np.isin(names, list(kept)))
    table, present = recording.channels.iloc[mine], there[mine]
    signal = np.zeros((len(prepared.signal), len(mine)), np.float32)
    signal[:, present] = prepared.signal
    layout = replace(
        prepared.layout,
        names=tuple(names[mine]),
        positions=table[["x", "y", "z"]].to_numpy(float),
        rois=tuple(table["roi"].fillna("")),
    )
    absent = " ".join(map(str, np.flatnonzero(~present)))
    return replace(
        prepared, signal=signal, layout=layout, table=prepared.table.assign(**{MISSING: absent})
    )
