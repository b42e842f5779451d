"""Potentials against the average of all channels, or against named ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from decode.core import Recording, refusal
from decode.preprocessing.contacts import ELECTRODES, grouped
from decode.preprocessing.streams import Array, sample_by_sample


class Reference:
    """Every electrode minus the mean of all of them (`to` "average"), or of the channels that `to` names.

    Electrodes are channels of `kinds`; others stay as they are. With `by` "group" the average is taken
    over the contacts of each shaft, grid or strip, which is the column `group` of the channel table or,
    where that says nothing, the name without its number; with `by` another column (roi, kind) over the
    channels that are equal there. Raises InputError for names that the recording has not, and for a
    group of one contact, which would be 0.
    """

    def __init__(
        self,
        *,
        to: str | Sequence[str] = "average",
        by: str | None = None,
        kinds: Sequence[str] = ELECTRODES,
    ) -> None:
        if by is not None and to != "average":
            raise refusal("by", "null beside named references", repr(by), "leave one of them out")
        self.to, self.by, self.kinds = to, by, tuple(kinds)

    def __call__(self, recording: Recording) -> Recording:
        mine = recording.channels["kind"].isin(self.kinds).to_numpy()
        if not mine.any():
            there = sorted(set(recording.channels["kind"]))
            raise refusal(
                "kinds", f"channels of {list(self.kinds)} in {recording.where}", f"only {there}",
                "name kinds that it has, or leave the step out",
            )  # fmt: skip
        groups = self._groups(recording, mine)
        width = recording.signal.shape[1]

        def minus_means(x: Array) -> Array:
            out = x.copy()
            for of, means in groups:
                out[:, of] -= x[:, means].mean(1, keepdims=True)
            return out

        signal = sample_by_sample(recording.signal, minus_means, width)
        return replace(recording, signal=signal)

    def _groups(self, recording: Recording, mine: Array) -> list[tuple[Array, Array]]:
        """Pairs: channels, and those whose mean is subtracted from them."""
        if self.to != "average":
            return [(np.flatnonzero(mine), self._named(recording))]
        if self.by is None:
            return [(np.flatnonzero(mine), np.flatnonzero(mine))]
        found = grouped(recording, self.by, mine)
        for name, channels in found.items():
            if len(channels) < 2:
                raise refusal(
                    f"by: {recording.where}", f"2 or more channels in each {self.by}",
                    f"one in {name!r}", "drop that channel or choose another `by`",
                )  # fmt: skip
        return [(channels, channels) for channels in found.values()]

    def _named(self, recording: Recording) -> Array:
        wanted = [self.to] if isinstance(self.to, str) else list(self.to)
        names = recording.channels["name"].astype(str).tolist()
        missing = [name for name in wanted if name not in names]
        if missing:
            raise refusal(
                "to", f"'average' or channels of {recording.where} that were picked",
                repr(missing[0]), "correct it",
            )  # fmt: skip
        return np.array([names.index(name) for name in wanted], np.int64)
