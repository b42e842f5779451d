"""Channels made of other channels: the same linear map for every sample of a recording."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from decode.core import Recording
from decode.preprocessing.bold import CONFOUND


def split_channels(recording: Recording) -> tuple[np.ndarray, pd.DataFrame]:
    """(channel,) boolean, which channels are brain and no confound, and the rows of those."""
    brain = (recording.channels["kind"] != CONFOUND).to_numpy()
    return brain, recording.channels[brain].reset_index(drop=True)


def mixed(recording: Recording, weights: Any, channels: pd.DataFrame) -> Recording:
    """The recording with `channels`, whose signal is `weights` (new channel, brain channel; sparse)
    times that of the brain channels. Confounds stay as they are, behind the others.
    """
    brain, _ = split_channels(recording)
    signal = np.asarray(recording.signal, np.float32)
    made = np.ascontiguousarray((weights.astype(np.float32) @ signal[:, brain].T).T)
    table = pd.concat([channels, recording.channels[~brain]], ignore_index=True)
    return replace(recording, signal=np.hstack([made, signal[:, ~brain]]), channels=table)
