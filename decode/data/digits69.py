"""Handwritten sixes and nines seen by one person: BOLD responses of early visual cortex."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from decode.core import Facts, InputError, Recording, Stimulus, Truth, refusal
from decode.pictures import write_picture
from decode.recordings.matlab import read_mat

_VARIABLES = ("fmriTrn", "fmriTest", "stimTrn", "stimTest", "labelTrn", "labelTest")
_DIGITS = {1: 6, 2: 9}
_SIDE = 28


def read(file: Path, *, outside: bool = False) -> dict[str, np.ndarray]:
    """Variables of the published MATLAB file, the 90 training trials before the 10 test trials.

    Returns `brain` (trial, voxel) float32, `pictures` (trial, 28, 28) uint8 upright and `digit`
    (trial,) with 6 or 9. Values that lie in other files are read with `outside` only. Raises InputError
    where the file is missing, broken or of another shape.
    """
    if not file.is_file():
        raise InputError(
            f"digits69: expected {file.name} in {file.parent}, found no such file; "
            "put it there or set paths.data"
        )
    raw = read_mat(file, _VARIABLES, remedy="fetch it again", outside=outside)
    brain = _joined(file, raw["fmriTrn"], raw["fmriTest"]).astype(np.float32)
    flat = _joined(file, raw["stimTrn"], raw["stimTest"])
    label = np.concatenate([raw["labelTrn"].ravel(), raw["labelTest"].ravel()])
    if flat.shape[1:] != (_SIDE**2,) or not len(brain) == len(flat) == len(label):
        raise InputError(
            f"digits69: expected {_SIDE**2} pixels and one label per response in {file}, got "
            f"{len(brain)} responses, pictures {flat.shape} and {len(label)} labels; fetch it again"
        )
    if not set(label.tolist()) <= set(_DIGITS):
        raise InputError(
            f"digits69: expected labels {list(_DIGITS)} in {file}, got "
            f"{sorted(set(label.tolist()))}; fetch it again"
        )
    for part in (raw["stimTrn"], raw["stimTest"]):
        if part.min() < 0 or not 1 < part.max() <= 255:
            raise refusal(
                file,
                "pictures of whole numbers from 0 to 255",
                f"values from {part.min():g} to {part.max():g}",
                "multiply pictures in [0, 1] by 255, or fetch the file again",
            )
    # MATLAB stores pictures column by column.
    pictures = flat.astype(np.uint8).reshape(-1, _SIDE, _SIDE).transpose(0, 2, 1)
    return {
        "brain": brain,
        "pictures": np.ascontiguousarray(pictures),
        "digit": np.array([_DIGITS[int(x)] for x in label]),
        "published": np.repeat(["train", "test"], [len(raw["fmriTrn"]), len(raw["fmriTest"])]),
    }


def _joined(file: Path, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """(trial, column) of both parts; InputError where they do not fit together or are not finite."""
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1]:
        raise refusal(
            file,
            "as many columns in the training as in the test part",
            f"{train.shape} and {test.shape}",
            "fetch it again",
        )
    joined = np.concatenate([train, test])
    if not np.isfinite(joined).all():
        raise refusal(file, "finite numbers", "NaN or infinity", "fetch it again")
    return joined


class Digits69:
    """One response vector of 3092 voxels (V1 to V3) for each of 100 handwritten digits, 6 or 9.

    `root` holds `digit69_28x28.mat`; its pictures are written once as PNG into `cache`. Responses
    are estimates per trial in the arbitrary unit in which they were published, one sample per
    trial; voxel positions and regions were not published. The published split has 90 training and
    10 test trials. Raises InputError where the file is missing or broken.

    van Gerven, de Lange & Heskes, "Neural decoding with hierarchical generative models", Neural
    Computation 22 (2010).
    """

    facts: ClassVar[Facts] = Facts(
        citation="van Gerven, de Lange & Heskes (2010), Neural Computation 22:3127-3142",
        licence="none stated",
        modality="fmri",
        n_subjects=1,
        n_channels=3092,
        sfreq=1.0,
        n_stimuli=100,
        n_trials=100,
    )
    subjects: tuple[str, ...] = ("sub-01",)

    def __init__(self, root: str, *, cache: str, outside: bool = False) -> None:
        self.outside = outside
        self.file = Path(root) / "digit69_28x28.mat"
        self.cache = Path(cache)

    def recordings(self, subject: str) -> Iterator[Recording]:
        if subject not in self.subjects:
            raise refusal(
                "subjects",
                f"one of {list(self.subjects)}",
                f"{subject!r}",
                "name it, or null for all",
            )
        content = read(self.file, outside=self.outside)
        n_trials, n_voxels = content["brain"].shape
        channels = pd.DataFrame({"name": [f"voxel{i:04d}" for i in range(n_voxels)]})
        channels = channels.assign(kind="bold", x=np.nan, y=np.nan, z=np.nan, roi="")
        events = pd.DataFrame(
            {
                "onset": np.arange(n_trials, dtype=float),
                "duration": 1.0,
                "stimulus": [_uid(i) for i in range(n_trials)],
                "split": content["published"],
                "digit": content["digit"],
            }
        )
        yield Recording(
            subject, "", "01", "fmri", content["brain"], 1.0, channels, events, source=self.file
        )

    def stimuli(self) -> Mapping[str, Stimulus]:
        content = read(self.file, outside=self.outside)
        found = {}
        for i, (picture, digit) in enumerate(
            zip(content["pictures"], content["digit"], strict=True)
        ):
            path = self.cache / f"{i:03d}.png"
            write_picture(picture, path)
            found[_uid(i)] = Stimulus(
                _uid(i), "image", path=str(path), labels={"digit": int(digit)}
            )
        return found

    def files(self, subject: str) -> Iterable[Path]:
        return [self.file]

    def truth(self, subject: str) -> Truth | None:
        return None


def _uid(index: int) -> str:
    return f"digits69/{index:03d}"
