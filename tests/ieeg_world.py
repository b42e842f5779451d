"""A simulated intracranial data set in BIDS: high gamma that answers to one of two classes, in one region."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mne
import mne_bids
import numpy as np
import pandas as pd
from brainvision import FLOATS, write_brainvision
from scipy.signal import firwin, oaconvolve

SFREQ = 500.0
CONTACTS = [f"{shaft}{i}" for shaft in ("LA", "LB") for i in range(1, 7)]
REGIONS = ["fusiform"] * 6 + ["hippocampus"] * 5 + ["n/a"]
ANSWERING = slice(0, 6)
SPACING = 3.5  # mm
BAND = firwin(201, [70, 150], fs=SFREQ, pass_zero=False)


def write_ieeg(
    root: Path,
    *,
    subject: str = "01",
    trials: int = 40,
    runs: int = 2,
    seed: int = 0,
    gain: float = 3.0,
) -> np.ndarray:
    """Writes the folder; returns the onsets (s) in the last run.

    Simulated: noise falling with frequency, a tone of 50 Hz and noise common to all contacts, and from 0.1
    to 0.5 s after a face 70 to 150 Hz `gain` times as large in the contacts called fusiform. Contact LB6
    records nothing but noise of 2 mV and is marked bad.
    """
    rng = np.random.default_rng(seed)
    onsets = 1.0 + 1.3 * np.arange(trials)
    for run in range(1, runs + 1):
        kinds = rng.permutation(["face", "house"] * (trials // 2))
        volts = _volts(onsets, kinds, rng, gain)
        raw = mne.io.read_raw(
            write_brainvision(root / "source", volts, CONTACTS, SFREQ, FLOATS), verbose="error"
        )
        raw.set_channel_types(dict.fromkeys(CONTACTS, "seeg"), verbose="error")
        raw.info["line_freq"] = 50
        path = mne_bids.BIDSPath(subject, task="look", run=f"{run:02d}", root=root, datatype="ieeg")
        mne_bids.write_raw_bids(raw, path, overwrite=True, verbose="error")
        events = pd.DataFrame({"onset": onsets, "duration": 0.5, "trial_type": kinds})
        events.to_csv(
            path.copy().update(suffix="events", extension=".tsv").fpath, sep="\t", index=False
        )
    shutil.rmtree(root / "source")
    folder = root / f"sub-{subject}" / "ieeg"
    for file in folder.glob("*channels.tsv"):
        table = pd.read_csv(file, sep="\t", keep_default_na=False)
        table.loc[table["name"] == "LB6", "status"] = "bad"
        table.to_csv(file, sep="\t", index=False)
    write_electrodes(folder, subject)
    return onsets


def _volts(
    onsets: np.ndarray, kinds: np.ndarray, rng: np.random.Generator, gain: float
) -> np.ndarray:
    n = round((onsets[-1] + 2.0) * SFREQ)
    t = np.arange(n) / SFREQ
    slow = np.cumsum(rng.normal(size=(len(CONTACTS), n)), axis=1)
    x = 1e-6 * (slow - slow.mean(1, keepdims=True)) / 10 + 2e-6 * rng.normal(
        size=(len(CONTACTS), n)
    )
    band = oaconvolve(rng.normal(size=(len(CONTACTS), n)), BAND[None], "same", 1)
    size = np.ones((len(CONTACTS), n))
    for onset, kind in zip(onsets, kinds, strict=True):
        if kind == "face":
            size[ANSWERING, (t >= onset + 0.1) & (t < onset + 0.5)] = gain
    x += 2e-6 * size * band
    x[CONTACTS.index("LB6")] += 2e-3 * rng.normal(size=n)
    return x + 20e-6 * np.sin(2 * np.pi * 50 * t) + 5e-6 * rng.normal(size=n)


def positions() -> np.ndarray:
    """(contact, 3) in mm."""
    shaft, number = np.divmod(np.arange(len(CONTACTS)), 6)
    return np.column_stack(
        [-30 - SPACING * number, -50 + 20 * shaft, np.full(len(CONTACTS), -12.0)]
    )


def write_electrodes(
    folder: Path, subject: str = "01", *, unit: str = "mm", factor: float = 1.0, space: str = ""
) -> Path:
    """electrodes.tsv and coordsystem.json, with two columns of regions; the finer says more."""
    name = f"sub-{subject}{f'_space-{space}' if space else ''}"
    xyz = positions() * factor
    table = pd.DataFrame({"name": CONTACTS, **dict(zip("xyz", xyz.T, strict=True)), "size": 5})
    fine = ["FFA", *["n/a"] * (len(CONTACTS) - 1)]
    table = table.assign(hemisphere="L", region=REGIONS, finer=fine)
    table.to_csv(folder / f"{name}_electrodes.tsv", sep="\t", index=False)
    said = {"iEEGCoordinateSystem": space or "Other", "iEEGCoordinateUnits": unit}
    if not space:
        said["iEEGCoordinateSystemDescription"] = "simulated"
    (folder / f"{name}_coordsystem.json").write_text(json.dumps(said))
    return folder / f"{name}_electrodes.tsv"
