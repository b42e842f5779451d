"""What repeats of a stimulus say of signal and noise."""

from __future__ import annotations

import numpy as np

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
