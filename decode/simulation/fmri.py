"""BOLD runs of a simulated participant: design, haemodynamics, noise, and what is known of them."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from decode.preprocessing import glm
from decode.preprocessing.bold import Method, beta_weights
from decode.simulation.visual_cortex import Cortex

HRF = "glover"
HIGH_PASS = 0.01
SLOT_S, SHOWN_S = 4.0, 3.0
LEAD_SLOTS, TAIL_S = 2, 16.0
TRIALS_PER_BLANK = 12
UNITS_PER_STEP = 0.05

AR1 = 0.35
# Respiration and heart beat (Hz), aliased by the TR; they lose phase over about 20 s.
PHYSIOLOGY_HZ = (0.29, 1.13)
COHERENCE_S = 20.0
DRIFT_PERIODS_S = (160.0, 240.0, 400.0, 700.0)
DRIFT_POWER = 1.0

# Median share of explainable variance in averages of three repeats, as in NSD's visual cortex.
MEDIAN_CEILING, CEILING_REPEATS = 0.35, 3


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A run of one split: `rows` (trial,) of the participant's stimuli, their `onsets` in s."""

    split: str
    rows: np.ndarray
    onsets: np.ndarray
    n_times: int


@dataclass(frozen=True, slots=True, eq=False)
class Noise:
    """Standard deviation per voxel (percent signal change), its physiological share of power, and
    the phase with which each voxel (voxel, source) sees breathing and heart beat.
    """

    sd: np.ndarray
    physiology: np.ndarray
    phase: np.ndarray


def plan_runs(
    order: Sequence[tuple[str, np.ndarray]],
    *,
    trials_per_run: int,
    tr: float,
    rng: np.random.Generator,
) -> list[Run]:
    """Cut each split's sequence of rows into runs with blanks, and shuffle the runs.

    Training and test pictures never share a run, so that no GLM mixes them.
    """
    runs = []
    for split, rows in order:
        n_runs = -(-len(rows) // trials_per_run)
        for part in np.array_split(rows, n_runs):
            slots = len(part) + len(part) // TRIALS_PER_BLANK
            used = np.sort(rng.permutation(slots)[: len(part)])
            onsets = (used + LEAD_SLOTS) * SLOT_S
            length = (slots + LEAD_SLOTS) * SLOT_S + TAIL_S
            runs.append(Run(split, part, onsets, int(np.ceil(length / tr))))
    return [runs[i] for i in rng.permutation(len(runs))]


def repeat_in_rounds(rows: np.ndarray, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """Every row once, in random order, then again: repeats of a picture lie far apart."""
    return np.concatenate([rng.permutation(rows) for _ in range(repeats)])


def run_regressors(run: Run, tr: float) -> np.ndarray:
    """(time, trial) haemodynamic response to each trial."""
    shown = np.full(len(run.onsets), SHOWN_S)
    return glm.trial_regressors(run.onsets, shown, np.arange(run.n_times) * tr, hrf=HRF)


def noise_covariances(n_times: int, tr: float) -> np.ndarray:
    """(3, time, time) covariance of AR(1), physiological and drift noise of unit variance."""
    lag = np.abs(np.subtract.outer(np.arange(n_times), np.arange(n_times)))
    t = lag * tr
    waves = np.mean([np.cos(2 * np.pi * f * t) for f in PHYSIOLOGY_HZ], axis=0)
    drift = np.mean([np.cos(2 * np.pi * t / p) for p in DRIFT_PERIODS_S], axis=0)
    return np.stack([AR1**lag, np.exp(-t / COHERENCE_S) * waves, drift])


def make_noise(n_voxels: int, rng: np.random.Generator) -> Noise:
    """A participant's noise at unit level; `calibrate` says how much of it there is."""
    sd = np.exp(0.3 * rng.standard_normal(n_voxels))
    phase = rng.uniform(0, 2 * np.pi, (n_voxels, len(PHYSIOLOGY_HZ)))
    return Noise(sd, rng.uniform(0, 0.4, n_voxels), phase)


def draw_noise(noise: Noise, n_times: int, *, tr: float, rng: np.random.Generator) -> np.ndarray:
    """(time, voxel) float32; a physiological source is one wave that voxels see at their phase."""
    from scipy.signal import lfilter

    n_voxels = len(noise.sd)
    white = rng.standard_normal((n_times, n_voxels), dtype=np.float32)
    innovation = np.sqrt(1 - AR1**2)
    # Starting in the stationary state: the first sample has the variance of all others.
    total = lfilter(
        [innovation], [1.0, -AR1], white, axis=0, zi=(AR1 * rng.standard_normal((1, n_voxels)))
    )[0]
    for source, frequency in enumerate(PHYSIOLOGY_HZ):
        wave = _random_wave(n_times, frequency, tr, rng)
        seen = np.outer(wave, np.exp(1j * noise.phase[:, source])).real
        total += np.sqrt(noise.physiology / len(PHYSIOLOGY_HZ)) * seen
    angles = 2 * np.pi * np.outer(np.arange(n_times) * tr, 1 / np.array(DRIFT_PERIODS_S))
    basis = np.hstack([np.cos(angles), np.sin(angles)])
    amplitudes = rng.standard_normal((basis.shape[1], n_voxels))
    total += np.sqrt(DRIFT_POWER / len(DRIFT_PERIODS_S)) * (basis @ amplitudes)
    return (noise.sd * total).astype(np.float32)


def _random_wave(n: int, frequency: float, tr: float, rng: np.random.Generator) -> np.ndarray:
    """(n,) complex wave; its real part has covariance exp(-t / coherence) cos(2 pi f t)."""
    kept = np.exp(-tr / COHERENCE_S)
    turn = kept * np.exp(2j * np.pi * frequency * tr)
    drive = rng.standard_normal((n, 2)) @ np.array([1, 1j])
    wave = np.empty(n, complex)
    wave[0] = drive[0]
    for i in range(1, n):
        wave[i] = turn * wave[i - 1] + np.sqrt(1 - kept**2) * drive[i]
    return wave


def beta_noise_factors(runs: Sequence[Run], *, tr: float, method: Method) -> np.ndarray:
    """(4,) mean over trials: crosstalk from other trials (in units of the variance over pictures),
    then the variance of a beta per unit of AR(1), physiological and drift noise.

    Betas are W y, so noise of covariance R has variance diag(W R W'), and W X - 1 is what other
    trials, here independent pictures, add. Drift is what the high-pass leaves of it.
    """
    parts = []
    for run in runs:
        x = run_regressors(run, tr)
        w = beta_weights(x, glm.cosine_drift(run.n_times, tr, HIGH_PASS), method=method, rho=None)
        crosstalk = w @ x
        np.fill_diagonal(crosstalk, 0.0)
        noise = [np.sum((w @ c) * w, axis=1) for c in noise_covariances(run.n_times, tr)]
        parts.append(np.stack([np.sum(crosstalk**2, axis=1), *noise], axis=1))
    return np.concatenate(parts).mean(axis=0)


def beta_noise(noise: Noise, factors: np.ndarray) -> np.ndarray:
    """(voxel,) variance of a single-trial beta that noise causes, without crosstalk."""
    share = factors[1] + noise.physiology * factors[2] + DRIFT_POWER * factors[3]
    return noise.sd**2 * share


def calibrate(cortex: Cortex, noise: Noise, factors: np.ndarray, level: float) -> Noise:
    """Noise at `level`; level 1 puts the median voxel that responds at MEDIAN_CEILING."""
    responsive = cortex.gain > 0
    needed = CEILING_REPEATS * (1 / MEDIAN_CEILING - 1) - factors[0]
    now = np.median((beta_noise(noise, factors) / np.maximum(cortex.gain, 1e-9) ** 2)[responsive])
    return Noise(level * np.sqrt(needed / now) * noise.sd, noise.physiology, noise.phase)


def run_signal(
    run: Run, responses: np.ndarray, noise: Noise, *, tr: float, rng: np.random.Generator
) -> np.ndarray:
    """(time, voxel) percent change from the mean of the run; `responses` is (trial, voxel)."""
    evoked = run_regressors(run, tr).astype(np.float32) @ responses
    change = evoked + draw_noise(noise, run.n_times, tr=tr, rng=rng)
    return change - change.mean(axis=0)


def write_bold(path: Path, signal: np.ndarray, cortex: Cortex, *, tr: float) -> None:
    """NIfTI run of 16-bit steps from scanner units (time, voxel); voxels outside are 0.

    Written by hand, since nibabel passes through float64 to find a scale that is known here.
    """
    volumes = np.zeros((len(signal), *cortex.grid[::-1]), np.int16)
    i, j, k = cortex.ijk.T
    volumes[:, k, j, i] = np.rint(signal / UNITS_PER_STEP)
    _write_nifti(path, volumes, cortex, slope=UNITS_PER_STEP, tr=tr)


def write_regions(path: Path, names: Sequence[str], cortex: Cortex) -> None:
    """Label image: 1 + index into `names` for voxels of a region, len(names) + 1 for the others."""
    volume = np.zeros((1, *cortex.grid[::-1]), np.int16)
    i, j, k = cortex.ijk.T
    numbers = {name: 1 + n for n, name in enumerate(names)}
    volume[:, k, j, i] = [numbers.get(r, len(names) + 1) for r in cortex.region]
    _write_nifti(path, volume, cortex, slope=1.0, tr=None)


def _write_nifti(
    path: Path, volumes: np.ndarray, cortex: Cortex, *, slope: float, tr: float | None
) -> None:
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(cortex.grid if tr is None else (*cortex.grid, len(volumes)))
    header.set_sform(cortex.affine, code="mni")
    header.set_qform(cortex.affine, code="mni")
    header.set_zooms([*np.diag(cortex.affine)[:3], *([] if tr is None else [tr])])
    header.set_xyzt_units("mm", "sec")
    header.set_slope_inter(slope, 0.0)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    # No time stamp: equal signals give equal files.
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as f,
    ):
        header.write_to(f)
        f.write(memoryview(volumes.astype("<i2", copy=False)).cast("B"))


def chunks(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))
