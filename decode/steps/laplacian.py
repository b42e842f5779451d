"""Each contact against the mean of its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decode.core import Recording, refusal
from decode.preprocessing.contacts import ELECTRODES, grouped, neighbours
from decode.preprocessing.streams import derived


class Laplacian:
    """Every contact minus the mean of its nearest neighbours of one group (Hjorth 1975), in V.

    Neighbours lie no farther than `reach` times the usual distance between contacts of their shaft, strip
    or grid: on a grid those beside, above and below, not the diagonal ones. Where positions are unknown
    they are the contacts before and after by number. Contacts with fewer than `at_least` neighbours, as
    the two ends of a shaft, are left out; names, positions and regions of the others stay.

    Raises InputError where no contact has as many neighbours.
    """

    def __init__(
        self, *, reach: float = 1.25, at_least: int = 2, kinds: Sequence[str] = ELECTRODES
    ) -> None:
        self.reach, self.at_least, self.kinds = reach, at_least, tuple(kinds)

    def __call__(self, recording: Recording) -> Recording:
        n = len(recording.channels)
        beside = np.zeros((n, n), bool)
        mine = recording.channels["kind"].isin(self.kinds).to_numpy()
        for channels in grouped(recording, "group", mine).values():
            near = neighbours(recording.channels.iloc[channels], self.reach)
            beside[np.ix_(channels, channels)] = near
        count = beside.sum(1)
        kept = np.flatnonzero(count >= self.at_least)
        if not len(kept):
            raise refusal(
                recording.where, f"contacts with {self.at_least} neighbours or more on their shaft",
                f"at most {count.max(initial=0)}", "lower `at_least`, or choose reference or bipolar",
            )  # fmt: skip
        weights = np.eye(n)[kept] - beside[kept] / count[kept, None]
        return derived(recording, weights, recording.channels.iloc[kept])
