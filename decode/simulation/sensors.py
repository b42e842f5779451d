"""Sensors around a spherical head, and how strongly each sees a current dipole inside it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import mne

HEAD_CENTRE = np.array([0.0, 0.01, 0.045])
HEAD_RADIUS = 0.095
HELMET_RADIUS = 0.12
N_MAGNETOMETERS = 102
REFERENCE = "Fz"
# The order in which THINGS-EEG2 (Gifford et al. 2022) names its electrodes.
# fmt: off
ELECTRODES = (
    "Fp1", "Fp2", "AF7", "AF3", "AFz", "AF4", "AF8", "F7", "F5", "F3", "F1", "F2", "F4",
    "F6", "F8", "FT9", "FT7", "FC5", "FC3", "FC1", "FCz", "FC2", "FC4", "FC6", "FT8",
    "FT10", "T7", "C5", "C3", "C1", "Cz", "C2", "C4", "C6", "T8", "TP9", "TP7", "CP5",
    "CP3", "CP1", "CPz", "CP2", "CP4", "CP6", "TP8", "TP10", "P7", "P5", "P3", "P1", "Pz",
    "P2", "P4", "P6", "P8", "PO7", "PO3", "POz", "PO4", "PO8", "O1", "Oz", "O2",
)
# fmt: on


def sensor_info(modality: Literal["eeg", "meg"], sfreq: float) -> mne.Info:
    """63 electrodes of the standard 10-05 montage, or a whole-head helmet of magnetometers."""
    return {"eeg": _electrodes, "meg": _helmet}[modality](sfreq)


def gain(info: mne.Info, positions: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """(sensor, dipole) V or T at each sensor for 1 A m at each of `positions` (dipole, 3) in metres
    along the unit vectors `moments`; electrodes are referenced to Fz.

    The head is MNE's four-shell sphere for EEG; MEG sees no radial current in a sphere.
    """
    import mne

    sphere = mne.make_sphere_model(HEAD_CENTRE, HEAD_RADIUS, verbose="error")
    is_eeg = info.get_channel_types()[0] == "eeg"
    if is_eeg:
        info = _with_reference(info)
    sources = mne.setup_volume_source_space(
        pos={"rr": positions, "nn": moments}, sphere=sphere, sphere_units="m", verbose="error"
    )
    forward = mne.make_forward_solution(
        info, None, sources, sphere, eeg=is_eeg, meg=not is_eeg, mindist=0, verbose="error"
    )
    if forward["nsource"] != len(positions):
        raise ValueError(f"{len(positions) - forward['nsource']} dipoles lie outside the brain")
    free = forward["sol"]["data"].reshape(len(info.ch_names), len(positions), 3)
    seen = np.einsum("cdk,dk->cd", free, moments)
    return seen[:-1] - seen[-1:] if is_eeg else seen


def _electrodes(sfreq: float) -> mne.Info:
    import mne

    info = mne.create_info(list(ELECTRODES), sfreq, "eeg")
    info.set_montage(_montage())
    return info


def _with_reference(info: mne.Info) -> mne.Info:
    import mne

    info = mne.create_info([*info.ch_names, REFERENCE], info["sfreq"], "eeg")
    info.set_montage(_montage())
    return info


@lru_cache(maxsize=1)
def _montage() -> mne.channels.DigMontage:
    import mne

    # MNE 1.13 gave the 10-05 template of the Colin27 head this new name.
    new = "colin27_1005"
    known = mne.channels.get_builtin_montages()
    return mne.channels.make_standard_montage(new if new in known else "standard_1005")


def _helmet(sfreq: float) -> mne.Info:
    """Radial magnetometers, evenly spread over a sphere cap that is open towards face and neck."""
    import mne
    from mne.io.constants import FIFF

    directions = helmet_directions(N_MAGNETOMETERS)
    names = [f"MEG{i + 1:03d}" for i in range(len(directions))]
    info = mne.create_info(names, sfreq, "mag")
    for channel, normal in zip(info["chs"], directions, strict=True):
        sideways = np.cross([0.0, 1.0, 0.0], normal)
        sideways /= np.linalg.norm(sideways)
        frame = np.concatenate([sideways, np.cross(normal, sideways), normal])
        channel["loc"][:] = np.concatenate([HEAD_CENTRE + HELMET_RADIUS * normal, frame])
        channel["coil_type"] = FIFF.FIFFV_COIL_VV_MAG_T3
    with info._unlock():
        info["dev_head_t"] = mne.Transform("meg", "head", np.eye(4))
    return info


def helmet_directions(n: int) -> np.ndarray:
    """(n, 3) unit vectors on a Fibonacci spiral, above a rim that lies lower at the back."""
    for total in range(n, 4 * n):
        index = np.arange(total) + 0.5
        z = 1 - 2 * index / total
        angle = index * np.pi * (3 - np.sqrt(5))
        ring = np.sqrt(1 - z**2)
        xyz = np.stack([ring * np.cos(angle), ring * np.sin(angle), z], 1)
        above = xyz[:, 2] > -0.15 + 0.35 * xyz[:, 1]
        if above.sum() == n:
            return xyz[above]
    raise ValueError(f"no spiral has {n} points above the rim")
