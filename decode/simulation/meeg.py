"""What EEG and MEG sensors record while a participant looks at scenes: responses, noise, truth.

A response is linear in features of the picture. Noise is a sum of stationary Gaussian sources of
known spectrum and topography, plus blinks and line noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from decode.simulation.meeg_participant import GRID, Participant
from decode.simulation.scenes import Scene, attributes, draw, training_scenes

LINE_HZ = 50.0


def image_features(scenes: Sequence[Scene]) -> np.ndarray:
    """(scene, feature) what drives the response: one for its mean, low-level maps, attributes."""
    mean, deviation, centre = _usual_scenes()
    meaning = np.array([attributes(s) for s in scenes]) - centre
    maps = (_low_level(scenes) - mean) / deviation
    return np.concatenate([np.ones((len(scenes), 1)), maps, meaning], 1)


def background_spectrum(freqs: np.ndarray, sfreq: float) -> np.ndarray:
    """Power of unit-variance 1/f noise, flat below 0.5 Hz: its mean up to Nyquist is 1."""
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
    from scipy.linalg import cholesky, solve_triangular

    n_features, _, n_times = who.weights.shape
    # Padding leaves room for what the observer learns of the noise around the response.
    n = 4 * n_times
    sfreq = float(who.info["sfreq"])
    freqs = np.fft.rfftfreq(n, 1 / sfreq)
    spectra = np.ascontiguousarray(np.fft.rfft(who.weights, n).transpose(2, 1, 0))
    slow, rhythm = background_spectrum(freqs, sfreq), alpha_spectrum(freqs, sfreq)
    background, alpha = who.background @ who.background.T, who.alpha @ who.alpha.T
    floor = who.sensor**2 * np.eye(len(background))
    gram = np.zeros((n_features, n_features))
    power = (np.abs(spectra) ** 2).sum((1, 2))
    for i in np.flatnonzero(power > 1e-12 * power.max()):
        root = cholesky(slow[i] * background + rhythm[i] * alpha + floor, lower=True)
        twice = 1 if i in (0, n // 2) else 2
        for part in (spectra[i].real, spectra[i].imag):
            white = solve_triangular(root, part, lower=True)
            gram += twice / n * (white.T @ white)
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


def _unit_power(
    shape: Callable[[np.ndarray], np.ndarray], freqs: np.ndarray, sfreq: float
) -> np.ndarray:
    grid = (np.arange(8192) + 0.5) / 8192 * sfreq / 2
    return shape(freqs) / shape(grid).mean()
