"""What EEG and MEG sensors record while a participant looks at scenes: responses, noise, truth.

A response is linear in features of the picture: coarse retinotopic luminance, contrast and colour
drive early occipital dipoles (80-150 ms), the scene's attributes drive ventral, lateral and parietal
dipoles later (170-450 ms). Noise is a sum of stationary Gaussian sources of known spectrum and
topography, plus blinks and line noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from decode.simulation.scenes import Scene, attributes, draw, training_scenes
from decode.simulation.sensors import HEAD_CENTRE, gain, sensor_info

if TYPE_CHECKING:
    import mne

RESPONSE_S = 0.6
LINE_HZ = 50.0
GRID = 4
ATTRIBUTE_WEIGHTS = {
    "kind": 1.0,
    "colour": 0.9,
    "background": 0.9,
    "texture": 0.7,
    "size": 0.5,
    "x": 0.5,
    "y": 0.5,
}
# Peak and width in seconds of the early response to each kind of low-level feature.
EARLY = {
    "luminance": (0.095, 0.016),
    "contrast": (0.105, 0.016),
    "red-green": (0.120, 0.018),
    "blue-yellow": (0.130, 0.018),
}
EXTRASTRIATE_DELAY = 0.03
LATE_WEIGHT = 0.8


@dataclass(frozen=True, slots=True)
class Amplitudes:
    """Sizes at the sensors, in V or T: root mean squares over sensors, blinks at their peak sensor.

    `moment` is the dipole moment in A m that one standard deviation of a feature evokes.
    """

    moment: float
    background: float
    alpha: float
    sensor: float
    line: float
    blink: float


AMPLITUDES = {
    "eeg": Amplitudes(
        moment=6e-9, background=9e-6, alpha=5e-6, sensor=1e-6, line=2e-6, blink=120e-6
    ),
    "meg": Amplitudes(
        moment=6e-9, background=250e-15, alpha=150e-15, sensor=35e-15, line=100e-15, blink=800e-15
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


def image_features(scenes: Sequence[Scene]) -> np.ndarray:
    """(scene, feature) what drives the response: one for its mean, low-level maps, attributes."""
    mean, deviation, centre = _usual_scenes()
    meaning = np.array([attributes(s) for s in scenes]) - centre
    maps = (_low_level(scenes) - mean) / deviation
    return np.concatenate([np.ones((len(scenes), 1)), maps, meaning], 1)


def participant(
    modality: Literal["eeg", "meg"], *, sfreq: float, seed: Sequence[int]
) -> Participant:
    """A participant whose cortex is folded by `seed`."""
    rng = np.random.default_rng(list(seed))
    info = sensor_info(modality, sfreq)
    size = AMPLITUDES[modality]
    weights = _response_weights(info, rng, sfreq) * size.moment
    background = gain(info, *_scattered(rng, 200))
    alpha = gain(info, *_jittered(rng, _ALPHA_PLACES * 3, 0.012, 0.8))
    eyes = np.array([[-0.03, 0.065, -0.02], [0.03, 0.065, -0.02]])
    upwards = np.array([[0.0, 0.8, 0.6]] * 2)
    blink = gain(info, HEAD_CENTRE + eyes, upwards).sum(1)
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


def background_spectrum(freqs: np.ndarray, sfreq: float) -> np.ndarray:
    """Power of unit-variance 1/f noise, flat below 0.5 Hz; `freqs` in Hz, its mean up to Nyquist is 1."""
    return _unit_power(lambda f: np.maximum(np.abs(f), 0.5) ** -1.2, freqs, sfreq)


def alpha_spectrum(freqs: np.ndarray, sfreq: float) -> np.ndarray:
    """Power of a unit-variance rhythm around 10 Hz, 1 Hz wide."""
    return _unit_power(lambda f: np.exp(-0.5 * (np.abs(f) - 10.0) ** 2), freqs, sfreq)


def simulate_run(
    who: Participant,
    features: np.ndarray,
    onsets: np.ndarray,
    n_samples: int,
    *,
    noise: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """(sensor, time) float64: responses to `features` (trial, feature) at sample numbers `onsets`,
    and `noise` times the noise.
    """
    signal = noise * _noise(who, n_samples, rng)
    n_features, n_sensors, n_times = who.weights.shape
    flat = who.weights.reshape(n_features, -1)
    for row, onset in zip(features, onsets, strict=True):
        signal[:, onset : onset + n_times] += (row @ flat).reshape(n_sensors, n_times)
    return signal


def whitened_response(who: Participant, features: np.ndarray) -> np.ndarray:
    """(trial, axis): responses in axes where a single trial's noise is white with unit variance.

    An observer who knows the noise spectrum S(f) of every sensor pair needs only these numbers: the
    axes span all responses, orthonormal under sum_f x(f)^H S(f)^-1 y(f). Blinks are left out.
    """
    n_features, _, n_times = who.weights.shape
    # Padding leaves room for what the observer learns of the noise around the response.
    n = 4 * n_times
    sfreq = float(who.info["sfreq"])
    freqs = np.fft.rfftfreq(n, 1 / sfreq)
    spectra = np.fft.rfft(who.weights, n)
    gram = np.zeros((n_features, n_features))
    slow, rhythm = background_spectrum(freqs, sfreq), alpha_spectrum(freqs, sfreq)
    background, alpha = who.background @ who.background.T, who.alpha @ who.alpha.T
    floor = who.sensor**2 * np.eye(len(background))
    power = (np.abs(spectra) ** 2).sum((0, 1))
    for i in np.flatnonzero(power > 1e-12 * power.max()):
        root = np.linalg.cholesky(slow[i] * background + rhythm[i] * alpha + floor)
        white = np.linalg.solve(root, spectra[:, :, i].T)
        twice = 1 if i in (0, n // 2) else 2
        gram += twice / n * (white.conj().T @ white).real
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-10 * values[-1]
    return features @ (vectors[:, kept] * np.sqrt(values[kept]))


def _noise(who: Participant, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

    sfreq = float(who.info["sfreq"])
    n = next_fast_len(n_samples, real=True)
    freqs = rfftfreq(n, 1 / sfreq)

    def coloured(mixing: np.ndarray, power: np.ndarray) -> np.ndarray:
        # A square root of the covariance needs no more channels than there are sensors.
        left, sizes, _ = np.linalg.svd(mixing, full_matrices=False)
        white = rfft(rng.standard_normal((len(sizes), n)))
        return (left * sizes) @ irfft(white * np.sqrt(power), n)[:, :n_samples]

    signal = who.sensor * rng.standard_normal((len(who.line), n_samples))
    signal += coloured(who.background, background_spectrum(freqs, sfreq))
    signal += coloured(who.alpha, alpha_spectrum(freqs, sfreq))
    phase = 2 * np.pi * (LINE_HZ * np.arange(n_samples) / sfreq + rng.uniform())
    signal += np.outer(who.line, np.sqrt(2) * np.sin(phase))
    signal += np.outer(who.blink, _blinks(n_samples, sfreq, rng))
    return signal


def _blinks(n_samples: int, sfreq: float, rng: np.random.Generator) -> np.ndarray:
    """(time,) eyelid position: about twelve blinks a minute of a quarter of a second."""
    eyelid = np.zeros(n_samples)
    shape = np.hanning(round(0.3 * sfreq))
    for start in rng.integers(0, n_samples, rng.poisson(n_samples / sfreq / 5)):
        part = eyelid[start : start + len(shape)]
        part += rng.uniform(0.6, 1.0) * shape[: len(part)]
    return eyelid


@lru_cache
def _usual_scenes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and deviation of low-level features and mean attributes, the same for every data set."""
    usual = training_scenes(256, seed=0)
    low = _low_level(usual)
    return low.mean(0), low.std(0), np.mean([attributes(s) for s in usual], axis=0)


def _low_level(scenes: Sequence[Scene]) -> np.ndarray:
    """(scene, map * grid * grid): coarse luminance, contrast and two colour differences."""
    found = []
    for scene in scenes:
        rgb = draw(scene, 8 * GRID).astype(np.float64) / 255
        side = rgb.shape[0] // GRID
        grey = rgb.mean(2)
        maps = (grey, rgb[..., 0] - rgb[..., 1], rgb[..., 2] - rgb[..., :2].mean(2))
        tiles = [m.reshape(GRID, side, GRID, side) for m in maps]
        means = [t.mean((1, 3)).ravel() for t in tiles]
        found.append(np.concatenate([means[0], tiles[0].std((1, 3)).ravel(), *means[1:]]))
    return np.array(found)


def _response_weights(info: mne.Info, rng: np.random.Generator, sfreq: float) -> np.ndarray:
    """(feature, sensor, time) V or T for one A m per unit of feature."""
    times = np.arange(round(RESPONSE_S * sfreq)) / sfreq
    lag = rng.normal(0, 0.004)
    mean_places = [
        (0.03, -0.065, 0.0),
        (-0.03, -0.065, 0.0),
        (0.03, -0.04, -0.03),
        (0.0, -0.05, 0.05),
    ]
    mean = gain(info, *_jittered(rng, mean_places, 0.005, 0.3))
    courses = [_bump(times, at + lag, w) for at, w in ((0.1, 0.02), (0.11, 0.02), (0.17, 0.025))]
    courses.append(_bump(times, 0.35 + lag, 0.06))
    parts = [2.0 * np.einsum("cd,dt->ct", mean, courses)[None]]

    striate = gain(info, *_retinotopic(rng, depth=0.068))
    extrastriate = gain(info, *_retinotopic(rng, depth=0.058))
    for peak, width in EARLY.values():
        peak = peak + lag
        first = _bump(times, peak, width) - 0.5 * _bump(times, peak + 2.5 * width, 1.5 * width)
        second = _bump(times, peak + EXTRASTRIATE_DELAY, 1.3 * width)
        parts.append(
            np.einsum("cd,t->dct", striate, first)
            + 0.7 * np.einsum("cd,t->dct", extrastriate, second)
        )
    parts.append(_attribute_weights(info, rng, times, lag))
    return np.concatenate(parts)


def _attribute_weights(
    info: mne.Info, rng: np.random.Generator, times: np.ndarray, lag: float
) -> np.ndarray:
    """Each attribute is coded by its own pattern over patches, and by another one later on."""
    from decode.simulation.scenes import ATTRIBUTES

    patches = gain(info, *_jittered(rng, _SEMANTIC_PLACES * 2, 0.012, 0.8))
    n = patches.shape[1]
    weights = []
    for name in ATTRIBUTES:
        pattern = rng.normal(size=(2, n)) / np.sqrt(n / 4)
        early, late = rng.uniform(0.19, 0.25) + lag, rng.uniform(0.30, 0.38) + lag
        course = np.stack([_bump(times, early, 0.03), LATE_WEIGHT * _bump(times, late, 0.045)])
        size = ATTRIBUTE_WEIGHTS[name.partition("=")[0]]
        weights.append(size * (patches @ (pattern.T @ course)))
    return np.stack(weights)


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
    """Places moved by `by` metres, and unit moments: outward or `normals`, turned by about `turn`."""
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


def _unit_power(shape, freqs: np.ndarray, sfreq: float) -> np.ndarray:
    grid = (np.arange(8192) + 0.5) / 8192 * sfreq / 2
    return shape(freqs) / shape(grid).mean()
