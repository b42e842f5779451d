"""A data set of sounds for tests: the loudness of four tones reaches the voxels through a matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from scipy.io import wavfile
from torch import Tensor

from decode.core import Facts, Kind, Reads, Recording, Stimulus, Truth

RATE, SECONDS, TONES = 8000, 0.4, (220, 550, 1100, 2400)


class SoundWorld:
    """One subject, `n` training and 8 test sounds, each played twice."""

    facts: ClassVar[Facts] = Facts("none", "none", "fmri", simulated=True)
    subjects = ("a",)

    def __init__(self, root: str, *, n: int = 24) -> None:
        self.root, self.n = Path(root), n

    def loudness(self) -> dict[str, np.ndarray]:
        """Of each tone in each sound."""
        rng = np.random.default_rng(0)
        names = [f"train/{i}" for i in range(self.n)] + [f"test/{i}" for i in range(8)]
        return {name: 0.24 * rng.dirichlet([0.5] * 4) for name in names}

    def stimuli(self) -> Mapping[str, Stimulus]:
        self.root.mkdir(parents=True, exist_ok=True)
        t = np.arange(round(RATE * SECONDS)) / RATE
        made = {}
        for uid, loud in self.loudness().items():
            path = self.root / f"{uid.replace('/', '-')}.wav"
            if not path.is_file():
                sound = loud @ np.sin(2 * np.pi * np.array(TONES)[:, None] * t)
                wavfile.write(path, RATE, (sound * 32767).astype(np.int16))
            made[uid] = Stimulus(uid, "audio", path=str(path))
        return made

    def recordings(self, subject: str) -> Iterator[Recording]:
        rng = np.random.default_rng(1)
        loud = self.loudness()
        weights = rng.normal(size=(4, 30))
        for run in range(2):
            uids = list(rng.permutation(list(loud)))
            signal = np.stack([loud[u] for u in uids]) @ weights * 10
            signal += 0.3 * rng.normal(size=signal.shape)
            channels = pd.DataFrame(
                {"name": [f"v{i}" for i in range(30)], "kind": "voxel", "x": 0.0, "y": 0.0, "z": 0.0,
                 "roi": ""}
            )  # fmt: skip
            events = pd.DataFrame(
                {"onset": np.arange(len(uids), dtype=float), "duration": 1.0, "stimulus": uids,
                 "split": [u.split("/")[0] for u in uids]}
            )  # fmt: skip
            signal = signal.astype(np.float32)
            yield Recording(subject, "1", str(run), "fmri", signal, 1.0, channels, events)

    def files(self, subject: str) -> list[Path]:
        return [self.root]

    def truth(self, subject: str) -> Truth | None:
        return None


class Loudness:
    """Amplitude (4,) of the tones."""

    accepts: ClassVar[frozenset[Kind]] = frozenset({"audio"})
    reads: ClassVar[frozenset[Reads]] = frozenset({"file"})

    def __call__(self, stimuli: Sequence[Stimulus]) -> Tensor:
        rows = []
        for stimulus in stimuli:
            sound = stimulus.read().data
            assert isinstance(sound, Tensor)
            t = torch.arange(sound.shape[1], dtype=torch.float64) / RATE
            waves = torch.exp(-2j * torch.pi * torch.tensor(TONES)[:, None] * t)
            rows.append((waves @ sound[0].to(torch.complex128)).abs() * 2 / len(t))
        return torch.stack(rows).float()
