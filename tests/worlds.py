"""A data set of a few seconds for tests: pictures whose pixels reach the voxels through a matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from decode.checksums import MANIFEST, checks_of, sealed
from decode.core import Facts, Layout, Recording, Shape, Stimulus, Tensors, Truth
from decode.store import read_json, write_json
from decode.trainable import Encoder, Objective

SIZE = 8


class PixelWorld:
    """Two subjects, `n` training and 12 test pictures shown `repeats` times each."""

    facts: ClassVar[Facts] = Facts("none", "none", "fmri", simulated=True)
    subjects = ("a", "b")

    def __init__(
        self, root: str, *, n: int = 40, repeats: int = 2, noise: float = 0.3, roi: str = "V1"
    ) -> None:
        self.roi = roi
        self.root, self.n, self.repeats, self.noise = Path(root), n, repeats, noise

    def _uids(self) -> list[str]:
        return [f"train/{i}" for i in range(self.n)] + [f"test/{i}" for i in range(12)]

    def stimuli(self) -> Mapping[str, Stimulus]:
        self.root.mkdir(parents=True, exist_ok=True)
        made = {}
        for number, uid in enumerate(self._uids()):
            path = self.root / f"{number}.png"
            if not path.is_file():
                coarse = np.random.default_rng(number).random((2, 2, 3))
                pixels = np.kron(coarse, np.ones((SIZE // 2, SIZE // 2, 1)))
                part = path.with_suffix(".tmp")
                Image.fromarray((pixels * 255).astype(np.uint8)).save(part, format="PNG")
                part.rename(path)
            made[uid] = Stimulus(uid, "image", path=str(path), labels={"odd": number % 2})
        return made

    def recordings(self, subject: str) -> Iterator[Recording]:
        stimuli = self.stimuli()
        rng = np.random.default_rng(self.subjects.index(subject))
        voxels = 30 + 5 * self.subjects.index(subject)
        weights = rng.normal(size=(SIZE * SIZE * 3, voxels)) / SIZE
        for run in range(self.repeats):
            uids = list(rng.permutation(self._uids()))
            pixels = np.stack(
                [np.asarray(Image.open(str(stimuli[u].path))).ravel() / 255 for u in uids]
            )
            signal = pixels @ weights + self.noise * rng.normal(size=(len(uids), voxels))
            channels = pd.DataFrame(
                {"name": [f"v{i}" for i in range(voxels)], "kind": "voxel", "x": 0.0, "y": 0.0,
                 "z": 0.0, "roi": self.roi}
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


class Linear(Encoder):
    """One linear layer per subject, trained by gradient."""

    def __init__(self, layouts: Mapping[str, Layout], shapes: Mapping[str, Shape]) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        self.widths = [layout.n_channels for layout in layouts.values()]
        out = sum(int(np.prod(s)) for s in shapes.values())
        self.layers = nn.ModuleList(nn.Linear(w, out) for w in self.widths)
        self.drop = nn.Dropout(0.1)

    def forward(self, batch: Any) -> Tensors:
        brain = self.drop(batch.brain.flatten(1))
        every = torch.stack(
            [layer(brain[:, :w]) for layer, w in zip(self.layers, self.widths, strict=True)]
        )
        flat = every[batch.subject, torch.arange(len(brain))]
        made, start = {}, 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            made[name] = flat[:, start : start + size].reshape(-1, *shape)
            start += size
        return made


class SquaredError(Objective):
    """Mean squared error of one target."""

    def __init__(self, target: str = "pixels") -> None:
        super().__init__()
        self.target = target
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, encoder: Any, batch: Any, progress: float) -> Tensors:
        error = encoder(batch)[self.target] - batch.targets[self.target]
        return {"error": error.square().mean() + self.bias.square()}


def sign_again(folder: Path) -> None:
    """Let the manifest of a finished folder agree with what a test has made of it."""
    manifest = read_json(folder / MANIFEST) | {"files": checks_of(folder)}
    manifest.pop("seal")
    write_json(folder / MANIFEST, sealed(manifest))


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    """A composed config over PixelWorld with all outputs below `folder`."""
    node: dict[str, Any] = {
        "name": "world",
        "notes": [],
        "paths": {"data": str(folder), "outputs": str(folder / "outputs")},
        "subjects": None, "seed": 0, "until": "report", "force": [], "dry": False, "debug": True,
        "data": {"_target_": "worlds.PixelWorld", "root": str(folder / "world")},
        "preprocess": {"_target_": "decode.preprocessing.betas.beta_maps", "_partial_": True},
        "scaler": {"_target_": "decode.scalers.zscore.ZScore"},
        "splits": {
            "published": {
"_target_": "decode.splits.published.published",
"_partial_": True,
"validation": 0.2,
}
        },
        "protocol": {"train_repeats": "single", "test_repeats": "before", "rescale": "none"},
        "targets": {"pixels": {"_target_": "decode.targets.pixels.Pixels", "size": SIZE}},
        "encoder": {"_target_": "worlds.Linear", "_partial_": True},
        "parts": {},
        "baselines": {"ridge": {"_target_": "decode.encoders.ridge.Ridge", "_partial_": True}},
        "objectives": {"error": {"_target_": "worlds.SquaredError"}},
        "trainer": {
            "_target_": "decode.training.Trainer", "epochs": 5, "rate": 0.01, "batch_size": 16,
        },
        "generator": {"_target_": "decode.generators.pixels.PixelGenerator"},
        "metrics": {
            "retrieval": {"_target_": "decode.metrics.retrieval.Retrieval", "target": "pixels"},
            "image": {"_target_": "decode.metrics.image.ImageSuite", "pairs": ["pixcorr", "mse"]},
        },
        "compute": {"device": "cpu"},
    }  # fmt: skip
    return {**node, **changes}
