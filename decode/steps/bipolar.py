"""Differences between neighbouring contacts of a shaft or strip, or between named channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from decode.core import Recording, refusal
from decode.notices import tell
from decode.preprocessing.contacts import (
    ELECTRODES,
    contact_of,
    distances,
    following,
    grouped,
    places,
    spacing,
)
from decode.preprocessing.streams import derived


class Bipolar:
    """One channel per pair, the first minus the second, in V; channels in no pair are left out.

    Without `pairs`, contacts of one group (as `Reference` has it) whose numbers follow each other, those
    farther apart than `reach` times the usual distance left out: the end of a row of a grid is no
    neighbour of the next one's beginning. What was dropped before, as a bad contact, leaves a gap that
    nothing bridges. A pair is called A1-A2 and lies at the mean of its contacts; kind, region and group
    are kept where both agree, and a region is else "".

    Raises InputError for channels that the recording has not and where no two contacts follow each other.
    """

    def __init__(
        self,
        *,
        pairs: Sequence[Sequence[str]] | None = None,
        kinds: Sequence[str] = ELECTRODES,
        reach: float = 1.5,
    ) -> None:
        if pairs is not None and (not pairs or any(len({*p}) != 2 or len(p) != 2 for p in pairs)):
            raise refusal(
                "pairs",
                "lists of two different channels",
                list(pairs),
                "write [[A1, A2], [A2, A3]]",
            )
        self.pairs, self.kinds, self.reach = pairs, tuple(kinds), reach

    def __call__(self, recording: Recording) -> Recording:
        pairs = self._neighbours(recording) if self.pairs is None else self._named(recording)
        weights = np.zeros((len(pairs), len(recording.channels)))
        rows = np.arange(len(pairs))
        weights[rows, pairs[:, 0]], weights[rows, pairs[:, 1]] = 1.0, -1.0
        return derived(recording, weights, pair_table(recording.channels, pairs))

    def _named(self, recording: Recording) -> np.ndarray:
        names = recording.channels["name"].astype(str).tolist()
        asked = [name for pair in self.pairs or () for name in pair]
        missing = [name for name in asked if name not in names]
        if missing:
            raise refusal(
                "pairs", f"channels of {recording.where} that were picked", repr(missing[0]),
                "name channels that it has",
            )  # fmt: skip
        return np.array([names.index(name) for name in asked], np.int64).reshape(-1, 2)

    def _neighbours(self, recording: Recording) -> np.ndarray:
        mine = recording.channels["kind"].isin(self.kinds).to_numpy()
        found: list[tuple[int, int]] = []
        far = 0
        for channels in grouped(recording, "group", mine).values():
            table = recording.channels.iloc[channels]
            apart = distances(table)
            near = ~(apart > self.reach * spacing(apart))  # where positions are unknown, too
            for a, b in zip(*np.nonzero(following(table)), strict=True):
                first, second = (contact_of(str(table["name"].iloc[i]))[1] for i in (a, b))
                if first is not None and second is not None and first < second:
                    far += int(not near[a, b])
                    found += [(int(channels[a]), int(channels[b]))] if near[a, b] else []
        if not found:
            raise refusal(
                recording.where, "contacts whose numbers follow each other, as A1 and A2",
                ", ".join(recording.channels["name"].astype(str)[:6]), "name them in `pairs`",
            )  # fmt: skip
        if far:
            tell(
                recording.where,
                f"{far} pairs of contacts that follow each other by number lie more than {self.reach:g} "
                "times the usual distance apart: left out (`reach` of the bipolar step)",
            )
        return np.array(found, np.int64)


def pair_table(channels: pd.DataFrame, pairs: np.ndarray) -> pd.DataFrame:
    """The channel table of differences between the channels of each pair (pair, 2)."""
    first, second = (channels.iloc[pairs[:, k]].reset_index(drop=True) for k in (0, 1))
    made = first.copy()
    for column in ("kind", "roi", "group"):
        if column in made:
            same = first[column].fillna("") == second[column].fillna("")
            made[column] = first[column].where(same, "" if column != "kind" else first[column])
    made["name"] = first["name"].astype(str) + "-" + second["name"].astype(str)
    made[["x", "y", "z"]] = (places(first) + places(second)) / 2
    if "bad" in made:
        made["bad"] = first["bad"].astype(bool) | second["bad"].astype(bool)
    return made
