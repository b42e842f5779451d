"""What repeats of a stimulus say of signal and noise."""

from __future__ import annotations

import numpy as np
import pandas as pd

from decode.scoring.ceiling import FromRepeats, noise_ceiling_from_groups, repeats
from decode.trials import Trials


def from_repeats(singles: Trials) -> dict[str, FromRepeats]:
    """Signal and noise of each channel and sample, per subject with two repeated stimuli or more.

    Features are in the order (channel, time); no more than one stimulus is read at a time.
    """
    found = {}
    stimulus = singles.table["stimulus"].to_numpy(dtype=str)
    for subject, rows in singles.table.groupby("subject", sort=False).indices.items():
        mine = np.asarray(rows)
        groups = repeats(stimulus[mine])
        if len(groups) > 1:
            windows = (singles.brain(mine[group]).reshape(len(group), -1) for group in groups)
            found[str(subject)] = noise_ceiling_from_groups(windows)
    return found


def response_ceilings(singles: Trials, rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Per subject (channel x time,): the correlation of a perfect model with the test `rows`, a table with
    subject and number of averaged `repeats`.

    From the variance between repeats of test stimuli; nan where fewer than two were repeated. The
    explainable share is estimated without bias, its root is a little low when stimuli are few (0.535
    for 0.554 with 80 stimuli of three repeats). No estimate is below 0, so a voxel without any signal
    is taken for one with some, the more so the fewer stimuli there are.
    """
    found, known = {}, from_repeats(singles)
    for subject in singles.table["subject"].unique():
        layout = singles.layouts[subject]
        share = np.full(layout.n_channels * layout.n_times, np.nan, np.float32)
        if subject in known:
            counts = rows.loc[rows["subject"] == subject, "repeats"].tolist()
            share[:] = known[subject].ceiling(counts)
        found[str(subject)] = np.sqrt(share)
    return found
