"""Choosing voxels inside a fold by how well their responses repeat."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from decode.core import InputError, refusal
from decode.division import Scaler, State
from decode.scoring.ceiling import noise_ceiling_from_groups, repeats

KEPT = "kept"
AT_ONCE = 256


class ReliableVoxels(Scaler):
    """Scales by another scaler, then sets every channel to 0 that does not repeat itself.

    How reliable a channel is comes from training stimuli that were shown more than once, after
    scaling: the share of the variance of single trials that the stimuli explain, signal variance over
    signal plus noise variance, summed over the samples of a window (Allen et al. 2022,
    doi:10.1038/s41593-021-00962-x; ncsnr^2 / (1 + ncsnr^2) in the words of NSD). Either all channels
    of `at_least` are kept or the `keep` best. No test trial is looked at, unlike with NSD's published
    map (`data.ncsnr_above`).

    A channel that is left out stays in its place as zeros, so that layouts and saved weights have the
    same size in every fold: encoders read nothing from it, noise ceilings and brain correlations
    leave it out. It costs as much memory and time as one that is kept.

    Raises InputError for a scaler that looks at test trials, without two repeated training stimuli,
    and where no channel is left.
    """

    reads_stimuli = True

    def __init__(
        self, scaler: Scaler, *, at_least: float | None = None, keep: int | None = None
    ) -> None:
        if scaler.test_conditioned:
            raise refusal(
                "scaler.scaler",
                "one that is fitted on training trials",
                f"{type(scaler).__name__}, which looks at test trials, so that the choice of voxels would",
                "take another",
            )
        if (at_least is None) == (keep is None):
            raise InputError(
                f"scaler: expected one of at_least and keep, got at_least={at_least}, keep={keep}; "
                "set the other to null"
            )
        if at_least is not None and not 0 < at_least < 1:
            raise InputError(
                f"scaler.at_least: expected a share between 0 and 1, got {at_least}; give a reliability "
                "between 0 and 1"
            )
        if keep is not None and keep < 1:
            raise InputError(f"scaler.keep: expected 1 channel or more, got {keep}; raise it")
        self.scaler, self.at_least, self.keep = scaler, at_least, keep

    def fit(self, brain: np.ndarray, table: pd.DataFrame) -> State:
        state = self.scaler.fit(brain, table)
        share = self.reliability(brain, table, state)
        if self.keep is not None:
            kept = np.zeros(len(share), bool)
            kept[np.argsort(-share, kind="stable")[: self.keep]] = True
            kept &= share > 0
        else:
            kept = share >= (self.at_least or 0)
        if not kept.any():
            raise refusal(
                "scaler",
                f"channels of reliability {self.at_least or 0:g} or more",
                f"{share.max():.3g} at best of {len(share)}",
                "lower at_least or take another scaler",
            )
        return {**state, KEPT: kept}

    def reliability(self, brain: np.ndarray, table: pd.DataFrame, state: State) -> np.ndarray:
        """(channel,) share of single-trial variance that the stimuli explain, 0 to 1."""
        groups = repeats(table["stimulus"].to_numpy(dtype=str))
        if len(groups) < 2:
            raise refusal(
                "scaler",
                "training stimuli that were shown more than once, from which reliability is known",
                f"{len(groups)} of them",
                "take another scaler",
            )
        found = noise_ceiling_from_groups(self._scaled(brain, table, state, groups))
        signal, noise = (x.reshape(brain.shape[1:]).sum(1) for x in (found.signal, found.noise))
        total = signal + noise
        return np.divide(signal, total, out=np.zeros_like(total), where=total > 0)

    def _scaled(
        self, brain: np.ndarray, table: pd.DataFrame, state: State, groups: list[np.ndarray]
    ) -> Iterator[np.ndarray]:
        """(repeat, channel x time) of each stimulus, some hundred trials scaled at a time."""
        step = max(1, AT_ONCE // max(len(g) for g in groups))
        for start in range(0, len(groups), step):
            some = groups[start : start + step]
            rows = np.concatenate(some)
            x = self.scaler.apply(np.asarray(brain[rows]), table.iloc[rows], state)
            yield from np.split(x.reshape(len(rows), -1), np.cumsum([len(g) for g in some])[:-1])

    def apply(self, brain: np.ndarray, table: pd.DataFrame, state: State) -> np.ndarray:
        inner = {k: v for k, v in state.items() if k != KEPT}
        out = self.scaler.apply(brain, table, inner)
        out[:, ~np.asarray(state[KEPT], bool)] = 0
        return out
