"""EEG, MEG and intracranial runs on disk: a raw file and a BIDS events table -> Recording."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from decode import scratch
from decode.core import InputError, Modality, Recording, refusal
from decode.notices import heard
from decode.recordings import tables

if TYPE_CHECKING:
    import mne

KINDS = ("eeg", "mag", "grad", "seeg", "ecog", "dbs", "eog", "ecg", "emg")
CHUNK_BYTES = 32 * 2**20
WHOLE = "a complete raw recording"
# Warnings of MNE after which the numbers are not those that were recorded.
WRONG = "truncat|corrupt|invalid tag|edge artifact|split raw file|set to zero"


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
    """A raw recording whose samples are not read yet; InputError when MNE cannot open it or warns."""
    import mne

    if not path.exists():
        raise InputError(f"{path}: expected a raw recording, found no such file; put it there")
    try:
        # A file that MNE can only guess at, such as a truncated one, is no recording.
        with heard(path, wrong="^(?!.*naming conventions)", expected=WHOLE):
            return mne.io.read_raw(path, preload=False, verbose="warning")
    except InputError:
        raise
    except Exception as e:
        raise unreadable(path, e) from e


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
    only: Sequence[str] | None = None,
    gains: Mapping[str, float] | None = None,
    whole: bool = False,
) -> Recording:
    """The Recording of an open raw file: its sensors and electrophysiology channels, in V and T.

    `only` names those to read, in their order (None: all). `gains` maps names of channels that are
    not in volts yet to what makes them so. With `whole` a channel is read in one piece, as one that
    MNE resamples has to be.
    """
    types = raw.get_channel_types()
    picks = [i for i, kind in enumerate(types) if kind in KINDS]
    if only is not None:
        picks = [raw.ch_names.index(name) for name in only]
    if not picks:
        raise refusal(
            raw.filenames[0],
            "EEG, MEG or intracranial channels",
            f"only {', '.join(sorted(set(types)))}",
            "correct the types of its channels in channels.tsv or leave the recording out",
        )
    if not 0 < (rate := float(raw.info["sfreq"])) < np.inf:
        remedy = "correct its header or fetch the file again"
        raise refusal(raw.filenames[0], "samples per second above 0", f"{rate:g}", remedy)
    names = [raw.ch_names[i] for i in picks]
    channels = pd.DataFrame({"name": names, "kind": [types[i] for i in picks]})
    positions = np.array([raw.info["chs"][i]["loc"][:3] for i in picks], np.float64)
    positions[~positions.any(1)] = np.nan
    channels[["x", "y", "z"]] = positions
    channels["roi"] = ""
    channels["bad"] = [name in raw.info["bads"] for name in names]
    path = Path(raw.filenames[0])
    signal = _samples(raw, picks, whole=whole)
    for i, name in enumerate(names):
        signal[:, i] *= (gains or {}).get(name, 1.0)
    return Recording(
        subject=subject,
        session=session,
        run=run,
        modality=modality,
        signal=signal,
        sfreq=float(raw.info["sfreq"]),
        channels=channels,
        events=events,
        source=path,
    )


def _samples(raw: mne.io.BaseRaw, picks: list[int], *, whole: bool) -> np.ndarray:
    """(time, channel) float32, read a piece at a time because MNE reads float64: a stretch of time of
    all channels, or the whole of a few channels.
    """
    signal = scratch.empty((len(picks), raw.n_times)).T
    path = Path(raw.filenames[0])
    many = max(1, CHUNK_BYTES // (8 * raw.n_times)) if whole else len(picks)
    step = raw.n_times if whole else max(1, CHUNK_BYTES // (8 * len(raw.ch_names)))
    try:
        with heard(path, wrong=WRONG, expected=WHOLE):
            for first in range(0, len(picks), many):
                some = slice(first, first + many)
                for start in range(0, raw.n_times, step):
                    stop = min(start + step, raw.n_times)
                    x = raw.get_data(picks[some], start, stop, verbose="warning")
                    signal[start:stop, some] = x.T
    except InputError:
        raise
    except Exception as e:
        raise unreadable(path, e) from e
    return signal


def unreadable(path: Path, e: Exception) -> InputError:
    """The refusal of a recording that MNE fails to read."""
    reason = " ".join(str(e).split()) or type(e).__name__
    if "read_epochs" in reason or "number of trials" in reason:
        return refusal(
            path,
            "a continuous recording",
            f"epochs ({reason[:80]})",
            "export the continuous recording they were cut from; windows are cut here",
        )
    return InputError(
        f"{path}: expected {WHOLE}, got one that MNE cannot read "
        f"({reason[:200]}); fetch the file again or correct its sidecars"
    )
