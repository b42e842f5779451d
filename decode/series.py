"""Targets that run in time: one series for each block of a continuous stimulus, cut for each window.

A *stretch* is what a series is made of: the block that a clip belongs to or, without one, the clip itself.
Nothing of another block takes part in it, and windows that overlap share it, so that they take no room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from decode.checksums import check_of, differs, is_check
from decode.core import Stimulus, refusal
from decode.events import BETWEEN
from decode.store import read_array, read_json, write_array, write_json
from decode.vectors import FeatureStore

SERIES = "series.json"


@dataclass(frozen=True, slots=True)
class Clock:
    """How a series is cut: frames per second, how many seconds the brain lies behind the stimulus, and the
    value where nothing is played.
    """

    rate: float
    lag: float
    rest: float


def stretches_of(
    clips: Mapping[str, Stimulus], known: Mapping[str, Stimulus]
) -> dict[str, Stimulus]:
    """The stretch that each of the clips in a file belongs to, by uid.

    A block that is itself among the `known` stimuli lasts as long as that says, any other from its first
    clip to the end of its last one. Of a block in several files each file is a stretch of its own.
    """
    there = {uid: clip for uid, clip in clips.items() if clip.path is not None}
    blocks: dict[tuple[str | None, str | None], Stimulus] = {}
    for clip in there.values():
        if clip.block is None:
            continue
        said, key = known.get(clip.block), (clip.block, clip.path)
        if said is not None and said.path == clip.path:
            blocks[key] = said
        else:
            blocks[key] = _joined(blocks.get(key, replace(clip, uid=clip.block)), clip)
    return {
        uid: clip if clip.block is None else blocks[clip.block, clip.path]
        for uid, clip in there.items()
    }


def _joined(block: Stimulus, clip: Stimulus) -> Stimulus:
    """The block with the clip in it."""
    start = min(block.start, clip.start)
    if block.duration is None or clip.duration is None:
        return replace(block, start=start, duration=None)
    end = max(block.start + block.duration, clip.start + clip.duration)
    return replace(block, start=start, duration=end - start)


def write_series(folder: Path, key: str, values: np.ndarray) -> None:
    """Keep a series (time, *shape) under the digest of its stretch."""
    path = folder / f"{key}.npy"
    write_array(path, values)
    write_json(folder / f"{key}.json", check_of(path))


def write_clock(folder: Path, clock: Clock) -> None:
    if not (folder / SERIES).is_file():
        write_json(folder / SERIES, {"rate": clock.rate, "lag": clock.lag, "rest": clock.rest})


class SeriesStore(FeatureStore):
    """The series in a folder, cut for windows of the brain: (frame of the window, *shape) per stimulus.

    `places` says of a stimulus' digest which series it lies in, and how many seconds after its beginning;
    `window` is where the brain's windows begin after the stimulus and how long they are, in seconds. The
    cut begins `lag` s before the window; where it leaves the series nothing is played.
    """

    def __init__(
        self,
        folder: Path,
        places: Mapping[str, tuple[str, float]],
        window: tuple[float, float] | None = None,
    ) -> None:
        self.places, self.window = dict(places), window
        self.clock = Clock(**read_json(folder / SERIES))
        self._known: dict[str, np.ndarray] = {}
        super().__init__(folder)

    def refresh(self) -> None:
        """Series are looked up one by one."""

    def key(self, digest: str) -> str:
        return self.places[digest.partition(BETWEEN)[0]][0]

    def missing(self, digests: Sequence[str]) -> list[str]:
        keys = dict.fromkeys(map(self.key, digests))
        return [k for k in keys if not (self.folder / f"{k}.json").is_file()]

    @property
    def frames(self) -> int:
        """In a window."""
        if self.window is None:
            raise refusal(
                self.folder, "features of still things", "series in time", "choose another target"
            )
        return max(1, round(self.window[1] * self.clock.rate))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.frames, *self._any().shape[1:]

    def _any(self) -> np.ndarray:
        return self._series(next(iter(self.places.values()))[0])

    def _series(self, key: str) -> np.ndarray:
        if key not in self._known:
            path, kept = self.folder / f"{key}.npy", self.folder / f"{key}.json"
            remedy = f"delete {path.name} and {kept.name}, where they are there, and run again"
            said = read_json(kept, remedy)
            if not is_check(said):
                raise refusal(kept, "size and checksum of a series", str(said)[:60], remedy)
            if fault := differs(path, said):
                raise refusal(path, "what was written", fault, remedy)
            self._known[key] = read_array(path, remedy)
        return self._known[key]

    @property
    def bytes_each(self) -> int:
        return int(np.prod(self.shape)) * self._any().dtype.itemsize

    def stored(self, digests: Sequence[str]) -> Tensor:
        assert self.window is not None
        out = np.full((len(digests), *self.shape), self.clock.rest, self._any().dtype)
        for cut, digest in zip(out, digests, strict=True):
            key, at = self.places[digest.partition(BETWEEN)[0]]
            series = self._series(key)
            moment = (at + self.window[0] - self.clock.lag) * self.clock.rate
            first = int(np.floor(moment + 0.5))
            low, high = max(0, first), min(len(series), first + len(cut))
            if low < high:
                cut[low - first : high - first] = series[low:high]
        return torch.from_numpy(out)

    def columns(self, digests: Sequence[str], block: slice) -> Tensor:
        return self.stored(digests).flatten(1)[:, block].float()
