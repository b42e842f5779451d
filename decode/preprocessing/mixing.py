"""Channels made of other channels: the same linear map for every sample of a recording."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from decode import scratch
from decode.core import Recording
from decode.preprocessing.bold import CONFOUND
from decode.preprocessing.streams import stretches


def split_channels(recording: Recording) -> tuple[np.ndarray, pd.DataFrame]:
    """(channel,) boolean, which channels are brain and no confound, and the rows of those."""
    brain = (recording.channels["kind"] != CONFOUND).to_numpy()
    return brain, recording.channels[brain].reset_index(drop=True)


def mixed(recording: Recording, weights: Any, channels: pd.DataFrame) -> Recording:
    """The recording with `channels`, whose signal is `weights` (new channel, brain channel; sparse)
    times that of the brain channels. Confounds stay as they are, behind the others.
    """
    brain, _ = split_channels(recording)
    weights = weights.astype(np.float32)
    made = scratch.empty((len(recording.signal), len(channels)))
    for piece in stretches(recording.signal):
        signal = np.asarray(recording.signal[piece], np.float32)
        made[piece] = (weights @ signal[:, brain].T).T
    return with_brain(recording, made, channels)


def with_brain(recording: Recording, made: np.ndarray, channels: pd.DataFrame) -> Recording:
    """The recording with `made` (time, channel) for its brain, and its confounds behind."""
    brain, _ = split_channels(recording)
    table = pd.concat([channels, recording.channels[~brain]], ignore_index=True)
    if not brain.all():
        made = np.hstack([made, np.asarray(recording.signal)[:, ~brain]])
    return replace(recording, signal=made, channels=table)
