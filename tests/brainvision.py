"""Recordings in the format of BrainVision, as an amplifier writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Types of number: their name in a header, as numpy has them, and the size of 1 in volts.
INTEGERS, FLOATS = ("INT_16", "<i2", 1e-7), ("IEEE_FLOAT_32", "<f4", 1e-6)


def write_brainvision(
    folder: Path,
    volts: np.ndarray,
    names: Sequence[str],
    sfreq: float,
    kind: tuple[str, str, float] = INTEGERS,
) -> Path:
    """`volts` (channel, time) as a BrainVision triple."""
    called, dtype, step = kind
    folder.mkdir(parents=True, exist_ok=True)
    header = [
        "Brain Vision Data Exchange Header File Version 1.0",
        "[Common Infos]",
        "Codepage=UTF-8",
        "DataFile=raw.eeg",
        "MarkerFile=raw.vmrk",
        "DataFormat=BINARY",
        "DataOrientation=MULTIPLEXED",
        f"NumberOfChannels={len(volts)}",
        f"SamplingInterval={1e6 / sfreq:g}",
        "[Binary Infos]",
        f"BinaryFormat={called}",
        "[Channel Infos]",
        *[f"Ch{i + 1}={name},,{step / 1e-6:g},µV" for i, name in enumerate(names)],
    ]
    (folder / "raw.vhdr").write_text("\n".join(header) + "\n", encoding="utf-8")
    markers = [
        "Brain Vision Data Exchange Marker File, Version 1.0",
        "[Common Infos]",
        "Codepage=UTF-8",
        "DataFile=raw.eeg",
        "[Marker Infos]",
        "Mk1=New Segment,,1,1,0",
    ]
    (folder / "raw.vmrk").write_text("\n".join(markers) + "\n", encoding="utf-8")
    units = volts.T / step
    if kind == INTEGERS:
        units = np.round(units)
    (folder / "raw.eeg").write_bytes(units.astype(dtype).tobytes())
    return folder / "raw.vhdr"
