"""Windows of volumes against nilearn's cleaning, and where they begin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from nilearn.signal import clean

from decode.core import InputError, Recording
from decode.preprocessing.windows import bold_windows

TR = 4 / 3


def _run(signal: np.ndarray, onsets: list[float], confounds: int = 0) -> Recording:
    kinds = ["bold"] * (signal.shape[1] - confounds) + ["confound"] * confounds
    channels = pd.DataFrame({"name": [f"v{i}" for i in range(len(kinds))], "kind": kinds})
    channels = channels.assign(x=0.0, y=0.0, z=0.0, roi="V1")
    events = pd.DataFrame({"onset": onsets, "duration": 3.0, "stimulus": "s", "split": ""})
    return Recording("a", "01", "02", "fmri", signal.astype(np.float32), 1 / TR, channels, events)


def _noise(n: int = 60, voxels: int = 5) -> np.ndarray:
    rng = np.random.default_rng(0)
    return 100 + rng.normal(size=(n, voxels)).cumsum(0) + np.arange(n)[:, None]


def test_runs_are_cleaned_as_nilearn_does() -> None:
    signal = _noise()
    made = bold_windows(_run(signal, [0.0, 20.0]))
    expected = clean(signal, detrend=True, standardize="zscore_sample")
    np.testing.assert_allclose(made.signal, expected, atol=2e-4)


def test_confounds_are_taken_out_with_the_trend() -> None:
    signal = _noise()
    confound = np.random.default_rng(3).normal(size=(60, 1))
    made = bold_windows(_run(np.hstack([signal + 5 * confound, confound]), [0.0], confounds=1))
    assert made.signal.shape == (60, 5)
    assert np.abs(np.corrcoef(made.signal.T, confound.T)[-1, :-1]).max() < 1e-4


def test_windows_begin_whole_volumes_after_the_onset() -> None:
    onsets = [0.0, 12 * TR, 12 * TR + 0.2, 58 * TR]
    made = bold_windows(_run(_noise(), onsets), start=4.6, n_trs=6)
    assert list(made.table["start"]) == [3, 15, 15]  # the last window leaves the run
    assert made.layout.n_times == 6
    assert made.layout.start == pytest.approx(3 * TR)
    with pytest.raises(
        InputError, match=r"the volumes 61 to 66, which the window of event 3 .* got a run of 60"
    ):
        bold_windows(_run(_noise(), onsets), incomplete="refuse")


def test_windows_heed_the_moment_that_volumes_stand_for() -> None:
    # Volume k stands for k TR + 1 s: the nearest to 10.2 s is volume 7 (10.33 s), not 8 (11.67 s).
    made = bold_windows(replace(_run(_noise(), [10.2]), offset=1.0), start=0.0, n_trs=6)
    assert list(made.table["start"]) == [7]
    assert list(bold_windows(_run(_noise(), [10.2]), start=0.0).table["start"]) == [8]


def test_what_cannot_be_standardised_is_refused() -> None:
    signal = _noise()
    signal[:, 2] = np.arange(60)
    with pytest.raises(
        InputError, match=r"vary beyond a trend, got 1 that do not .the first is number 2"
    ):
        bold_windows(_run(signal, [0.0]))
    with pytest.raises(InputError, match="n_trs"):
        bold_windows(_run(signal, [0.0]), n_trs=0)
