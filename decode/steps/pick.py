"""Channels by kind, name and goodness: the first step of most recipes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decode.core import Recording, refusal
from decode.preprocessing.streams import check_signals, taken


class Pick:
    """Channels of one of `kinds` (None: of any) that are neither in `drop` nor marked bad (column `bad`).

    With `names` exactly those, in that order, whatever their kind. Raises InputError for names that the
    recording has not, where nothing is left, and where a kept channel holds NaN, infinite or only equal
    values, which no later step can mend.
    """

    def __init__(
        self,
        *,
        kinds: Sequence[str] | None = ("eeg",),
        names: Sequence[str] | None = None,
        drop: Sequence[str] = (),
    ) -> None:
        self.kinds, self.names, self.drop = kinds, names, tuple(drop)

    def __call__(self, recording: Recording) -> Recording:
        channels = self._channels(recording)
        check_signals(
            recording, channels, remedy="name them in `drop` or mark them bad in channels.tsv"
        )
        return taken(recording, channels)

    def _channels(self, recording: Recording) -> np.ndarray:
        table = recording.channels
        there = table["name"].astype(str).tolist()
        for name in (*(self.names or ()), *self.drop):
            if name not in there:
                raise refusal(
                    "names or drop", f"channels of {recording.where}, {', '.join(there[:6])}, ...",
                    repr(name), "correct the list",
                )  # fmt: skip
        if self.names is not None:
            return np.array([there.index(n) for n in self.names if n not in self.drop], np.int64)
        good = ~table["name"].isin(self.drop)
        if self.kinds is not None:
            good &= table["kind"].isin(list(self.kinds))
        if "bad" in table:
            good &= ~table["bad"].astype(bool)
        if not good.any():
            got = f"none, only {sorted(set(table['kind']))}"
            kinds = "any kind" if self.kinds is None else f"kind {list(self.kinds)}"
            raise refusal(
                "kinds", f"a good channel of {kinds} in {recording.where}", got,
                "name kinds that it has",
            )  # fmt: skip
        return np.flatnonzero(good)
