"""EEG, MEG and intracranial runs on disk: a raw file and a BIDS events table -> Recording."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from decode.core import InputError, Modality, Recording
from decode.recordings import tables

if TYPE_CHECKING:
    import mne

KINDS = ("eeg", "mag", "grad", "seeg", "ecog", "dbs", "eog", "ecg", "emg")
CHUNK_BYTES = 32 * 2**20


def read_meeg(
    path: Path,
    events: Path,
    *,
    subject: str,
    session: str,
    run: str,
    modality: Modality,
    uid_of: Callable[[str], str] = str,
) -> Recording:
    """A run from its raw file and its events.tsv; `uid_of` turns a stim_file into a stimulus uid.

    Raises InputError, naming the file, when either is missing, truncated or lacks a column.
    """
    return as_recording(
        open_raw(path),
        read_events(events, uid_of),
        subject=subject,
        session=session,
        run=run,
        modality=modality,
    )


def open_raw(path: Path) -> mne.io.BaseRaw:
    """A raw recording whose samples are not read yet; InputError when MNE cannot open it."""
    import mne

    if not path.exists():
        raise InputError(f"{path}: expected a raw recording, found no such file; put it there")
    try:
        with warnings.catch_warnings():
            # A file that MNE can only guess at, such as a truncated one, is no recording.
            warnings.simplefilter("error", RuntimeWarning)
            warnings.filterwarnings("ignore", message=".*naming conventions")
            return mne.io.read_raw(path, preload=False, verbose="warning")
    except Exception as e:
        raise _unreadable(path, e) from e


def read_events(path: Path, uid_of: Callable[[str], str] = str) -> pd.DataFrame:
    """Rows of an events.tsv that show a stimulus: onset, duration, stimulus, split and others."""
    table = tables.read_events(path, shows="stim_file").reset_index(drop=True)
    table["stimulus"] = [uid_of(name) for name in table["stim_file"]]
    table["split"] = table["split"].fillna("") if "split" in table else ""
    return table.drop(columns="stim_file")


def as_recording(
    raw: mne.io.BaseRaw,
    events: pd.DataFrame,
    *,
    subject: str,
    session: str,
    run: str,
    modality: Modality,
) -> Recording:
    """The Recording of an open raw file: its sensors and electrophysiology channels, in V and T."""
    types = raw.get_channel_types()
    picks = [i for i, kind in enumerate(types) if kind in KINDS]
    if not picks:
        raise InputError(
            f"{raw.filenames[0]}: expected EEG, MEG or intracranial channels, got only "
            f"{', '.join(sorted(set(types)))}"
        )
    names = [raw.ch_names[i] for i in picks]
    channels = pd.DataFrame({"name": names, "kind": [types[i] for i in picks]})
    positions = np.array([raw.info["chs"][i]["loc"][:3] for i in picks], np.float64)
    positions[~positions.any(1)] = np.nan
    channels[["x", "y", "z"]] = positions
    channels["roi"] = ""
    channels["bad"] = [name in raw.info["bads"] for name in names]
    return Recording(
        subject=subject,
        session=session,
        run=run,
        modality=modality,
        signal=_samples(raw, picks),
        sfreq=float(raw.info["sfreq"]),
        channels=channels,
        events=events,
    )


def _samples(raw: mne.io.BaseRaw, picks: list[int]) -> np.ndarray:
    """(time, channel) float32, read a piece at a time because MNE reads float64."""
    signal = np.empty((raw.n_times, len(picks)), np.float32)
    step = max(1, CHUNK_BYTES // (8 * len(raw.ch_names)))
    for start in range(0, raw.n_times, step):
        stop = min(start + step, raw.n_times)
        try:
            signal[start:stop] = raw.get_data(picks, start, stop, verbose="error").T
        except Exception as e:
            raise _unreadable(Path(raw.filenames[0]), e) from e
    return signal


def _unreadable(path: Path, e: Exception) -> InputError:
    reason = " ".join(str(e).split()) or type(e).__name__
    return InputError(
        f"{path}: expected a complete raw recording, got one that MNE cannot read "
        f"({reason[:200]}); fetch the file again"
    )
