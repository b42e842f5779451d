"""A simulated participant in front of EEG or MEG sensors: where currents flow, when, how strongly.

Coarse retinotopic luminance, contrast and colour of the picture drive early occipital dipoles
(80-150 ms); the scene's attributes drive ventral, lateral and parietal dipoles later (170-450 ms).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from decode.simulation.scenes import ATTRIBUTES
from decode.simulation.sensors import HEAD_CENTRE, gain, sensor_info

if TYPE_CHECKING:
    import mne

RESPONSE_S = 0.6
GRID = 4
# Peak and width in seconds of the early response to each kind of low-level feature.
EARLY = {
    "luminance": (0.095, 0.016),
    "contrast": (0.105, 0.016),
    "red-green": (0.120, 0.018),
    "blue-yellow": (0.130, 0.018),
}
EXTRASTRIATE_DELAY = 0.03
LATE_WEIGHT = 0.8
ATTRIBUTE_WEIGHTS = {
    "kind": 1.0,
    "colour": 0.9,
    "background": 0.9,
    "texture": 0.7,
    "size": 0.5,
    "x": 0.5,
    "y": 0.5,
}
# Relative to the centre of the head: metres to the right, to the front, upwards.
_SEMANTIC_PLACES = [
    (side * x, y, z)
    for side in (-1, 1)
    for x, y, z in (
        (0.045, -0.055, 0.0),
        (0.052, -0.040, -0.012),
        (0.035, -0.045, -0.035),
        (0.040, -0.020, -0.042),
        (0.060, -0.020, -0.015),
        (0.030, -0.045, 0.045),
    )
]
_ALPHA_PLACES = [
    (side * x, y, z)
    for side in (-1, 1)
    for x, y, z in ((0.02, -0.065, 0.02), (0.03, -0.05, 0.045), (0.045, -0.055, 0.01))
]


@dataclass(frozen=True, slots=True)
class Amplitudes:
    """Sizes at the sensors, in V or T: root mean squares over sensors, blinks at their peak sensor.

    `moment` is the dipole moment in A m that one standard deviation of a feature evokes, `mean`
    that of the response to any picture. Test pictures are shown eight times by default, not
    eighty (THINGS-EEG2) or twelve (THINGS-MEG), so a single trial says more than a real one: sizes
    are such that a ridge from averaged, whitened windows ranks 200 pictures about as well as linear
    decoders do there.
    """

    moment: float
    mean: float
    background: float
    alpha: float
    sensor: float
    line: float
    blink: float


AMPLITUDES = {
    "eeg": Amplitudes(
        moment=5.3e-9,
        mean=14.3e-9,
        background=9e-6,
        alpha=5e-6,
        sensor=1e-6,
        line=2e-6,
        blink=120e-6,
    ),
    "meg": Amplitudes(
        moment=4.4e-9,
        mean=11.5e-9,
        background=500e-15,
        alpha=300e-15,
        sensor=50e-15,
        line=200e-15,
        blink=1500e-15,
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class Participant:
    """Anatomy and physiology of one participant.

    `weights` is (feature, sensor, time), the response to a unit of each feature; `background`,
    `alpha` are (sensor, source) mixing matrices, `sensor` the standard deviation of sensor noise;
    `line` and `blink` are (sensor,) topographies. Everything is in V or T.
    """

    info: mne.Info
    weights: np.ndarray
    background: np.ndarray
    alpha: np.ndarray
    sensor: float
    line: np.ndarray
    blink: np.ndarray


def participant(
    modality: Literal["eeg", "meg"], *, sfreq: float, seed: Sequence[int]
) -> Participant:
    """A participant whose cortex is folded by `seed`."""
    rng = np.random.default_rng(list(seed))
    info = sensor_info(modality, sfreq)
    size = AMPLITUDES[modality]
    weights = _response_weights(info, rng, sfreq, size)
    background = gain(info, *_scattered(rng, 200))
    alpha = gain(info, *_jittered(rng, _ALPHA_PLACES * 3, 0.012, 0.8))
    # The eyes lie outside the sphere, so their currents are put as near to them as it allows.
    eyes = np.array([[-0.03, 0.075, -0.01], [0.03, 0.075, -0.01]])
    blink = gain(info, HEAD_CENTRE + eyes, np.array([[0.0, 0.95, -0.31]] * 2)).sum(1)
    line = rng.normal(size=len(info.ch_names))
    return Participant(
        info=info,
        weights=weights,
        background=_scaled(background, size.background),
        alpha=_scaled(alpha, size.alpha),
        sensor=size.sensor,
        line=size.line * line,
        blink=size.blink * blink / np.abs(blink).max(),
    )


def _response_weights(
    info: mne.Info, rng: np.random.Generator, sfreq: float, size: Amplitudes
) -> np.ndarray:
    """(feature, sensor, time) V or T per unit of each feature, in the order of `image_features`."""
    times = np.arange(round(RESPONSE_S * sfreq)) / sfreq
    lag = rng.normal(0, 0.004)
    parts = [size.mean * _mean_response(info, rng, times - lag)[None]]
    striate = gain(info, *_retinotopic(rng, depth=0.068))
    extrastriate = gain(info, *_retinotopic(rng, depth=0.058))
    for peak, width in EARLY.values():
        peak += lag
        first = _bump(times, peak, width) - 0.5 * _bump(times, peak + 2.5 * width, 1.5 * width)
        second = 0.7 * _bump(times, peak + EXTRASTRIATE_DELAY, 1.3 * width)
        maps = np.einsum("cd,t->dct", striate, first) + np.einsum("cd,t->dct", extrastriate, second)
        parts.append(size.moment * maps)
    parts.append(size.moment * _attribute_weights(info, rng, times - lag))
    return np.concatenate(parts)


def _mean_response(info: mne.Info, rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """(sensor, time) evoked by any picture: two early occipital peaks, N170, a late positivity."""
    places = [(0.03, -0.065, 0.0), (-0.03, -0.065, 0.0), (0.03, -0.04, -0.03), (0.0, -0.05, 0.05)]
    peaks = ((0.1, 0.02), (0.11, 0.02), (0.17, 0.025), (0.35, 0.06))
    courses = np.stack([_bump(times, peak, width) for peak, width in peaks])
    return gain(info, *_jittered(rng, places, 0.005, 0.3)) @ courses


def _attribute_weights(info: mne.Info, rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """Each attribute is coded by its own pattern over patches, and by another one later on."""
    patches = gain(info, *_jittered(rng, _SEMANTIC_PLACES * 2, 0.012, 0.8))
    n = patches.shape[1]
    weights = []
    for name in ATTRIBUTES:
        pattern = rng.normal(size=(2, n)) / np.sqrt(n / 4)
        early, late = rng.uniform(0.19, 0.25), rng.uniform(0.30, 0.38)
        course = np.stack([_bump(times, early, 0.03), LATE_WEIGHT * _bump(times, late, 0.045)])
        size = ATTRIBUTE_WEIGHTS[name.partition("=")[0]]
        weights.append(size * (patches @ (pattern.T @ course)))
    return np.stack(weights)


def _retinotopic(rng: np.random.Generator, *, depth: float) -> tuple[np.ndarray, np.ndarray]:
    """Dipoles of the cells of the picture's grid: the right half of the picture in the left
    hemisphere, its upper half below the calcarine sulcus, the periphery further in front.
    """
    steps = (np.arange(GRID) + 0.5) / GRID * 2 - 1
    down, right = (v.ravel() for v in np.meshgrid(steps, steps, indexing="ij"))
    radius = np.hypot(right, down)
    places = np.stack(
        [
            -np.sign(right) * (0.006 + 0.014 * np.abs(right)),
            -depth + 0.022 * radius,
            0.016 * down + 0.004,
        ],
        1,
    )
    # The banks of the sulcus face each other, so fields above and below evoke opposite currents.
    normals = np.stack([-0.7 * right, np.full_like(right, -0.4), -1.2 * down], 1)
    return _jittered(rng, places, 0.005, 0.4, normals)


def _jittered(
    rng: np.random.Generator,
    places: Sequence[Sequence[float]] | np.ndarray,
    by: float,
    turn: float,
    normals: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Places moved by `by` metres; unit moments, outward or along `normals`, turned by `turn`."""
    places = np.asarray(places, np.float64) + rng.normal(0, by, (len(places), 3))
    distance = np.linalg.norm(places, axis=1, keepdims=True)
    places = places * np.minimum(1, 0.078 / distance)
    moments = places / distance if normals is None else normals
    moments = moments / np.linalg.norm(moments, axis=1, keepdims=True)
    moments = moments + rng.normal(0, turn, moments.shape)
    return HEAD_CENTRE + places, moments / np.linalg.norm(moments, axis=1, keepdims=True)


def _scattered(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Dipoles anywhere in the upper three quarters of the cortex, pointing anywhere."""
    directions = rng.normal(size=(4 * n, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions = directions[directions[:, 2] > -0.5][:n]
    return _jittered(rng, directions * rng.uniform(0.045, 0.075, (n, 1)), 0.0, 2.0)


def _bump(times: np.ndarray, peak: float, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((times - peak) / width) ** 2)


def _scaled(mixing: np.ndarray, size: float) -> np.ndarray:
    """Mixing matrix whose sensors have a root mean square of `size`."""
    return mixing * size / np.sqrt((mixing**2).sum(1).mean())
