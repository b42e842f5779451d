"""LPIPS against its definition, written out over torchvision's AlexNet."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from decode.core import InputError, Media, Results, Stimulus
from decode.metrics.lpips import Lpips
from decode.scoring.picture_scores import Resize

lpips = pytest.importorskip("lpips")
SIZE, N = 70, 6


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Six pictures seen by two subjects; made ones are noisy, the first is the shown one itself."""
    rng = np.random.default_rng(0)
    shown, made = [], []
    for i in range(N):
        pixels = np.kron(rng.integers(0, 256, (7, 7, 3)), np.ones((10, 10, 1))).astype(np.uint8)
        path = tmp_path / f"{i}.png"
        Image.fromarray(pixels).save(path)
        shown.append(Stimulus(f"s{i}", "image", str(path)))
        clean = torch.from_numpy(pixels).permute(2, 0, 1) / 255
        noise = torch.from_numpy(rng.random(clean.shape)).float()
        made.append(Media("image", clean + 0.1 * i * (noise - clean)))
    trials = pd.DataFrame({"subject": np.repeat(["a", "b"], N), "split": "test", "fold": 0})
    trials["stimulus"] = [s.uid for s in shown] * 2
    return Results(trials, {}, {}, shown * 2, made * 2)


@cache
def untrained() -> tuple[torch.nn.Module, dict[str, Tensor]]:
    """The layers of AlexNet as the metric draws them, and what weighs them."""
    from torchvision.models import alexnet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = alexnet(weights=None).features.eval()
    file = Path(lpips.__file__).parent / "weights/v0.1/alex.pth"
    return network, torch.load(file, weights_only=True, map_location="cpu")


def by_hand(made: Tensor, shown: Tensor) -> float:
    """Zhang et al. 2018, eq. 1: weighted squared differences of unit-length features, averaged over
    places and added up over the five layers of an untrained AlexNet.
    """
    network, weights = untrained()
    centre = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    spread = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    a, b = ((2 * x[None] - 1 - centre) / spread for x in (made, shown))
    total = 0.0
    with torch.no_grad():
        for number, layer in enumerate(network):
            a, b = layer(a), layer(b)
            if number in (1, 4, 7, 9, 11):
                unit = [x / (x.norm(dim=1, keepdim=True) + 1e-10) for x in (a, b)]
                weight = weights[f"lin{(1, 4, 7, 9, 11).index(number)}.model.1.weight"]
                total += float((weight * (unit[0] - unit[1]) ** 2).sum(1).mean())
    return total


@pytest.mark.parametrize("batch", [1, 5])
def test_it_is_the_published_definition(results: Results, batch: int) -> None:
    metric = Lpips(imagenet=False, batch=batch, device="cpu")
    rows = metric(results)
    assert set(rows["metric"]) == {"random_lpips_alex"}
    assert {m.better for m in metric.measures().values()} == {"lower"}
    pictures = [m.data for m in results.made or () if isinstance(m.data, Tensor)][:N]
    shown = [
        torch.from_numpy(np.array(Image.open(str(s.path)))).permute(2, 0, 1) / 255
        for s in results.shown[:N]
    ]
    every = np.array([[by_hand(m, s) for s in shown] for m in pictures])
    for subject in "ab":
        mine = rows[rows["subject"] == subject]
        np.testing.assert_allclose(mine["value"], np.diag(every), rtol=1e-3, atol=1e-7)
        # All five others of six are drawn, so chance is exact.
        np.testing.assert_allclose(mine["chance"], every.mean(), rtol=1e-3)
    assert rows["value"].iloc[0] == pytest.approx(0, abs=1e-7)
    assert rows["value"].iloc[1] > 1e-4


def test_pictures_are_resized_first_or_refused(results: Results) -> None:
    small = [Media("image", torch.rand(3, 32, 32)) for _ in results.trials.index]
    other = Results(results.trials, {}, {}, results.shown, small)
    with pytest.raises(InputError, match=r"made ones of \(32, 32\) and shown ones of \(70, 70\)"):
        Lpips(imagenet=False, device="cpu")(other)
    rows = Lpips(imagenet=False, device="cpu", first=Resize(64))(other)
    assert rows["value"].min() > 0
    with pytest.raises(InputError, match=r"net among \['alex'"):
        Lpips(net="resnet")  # type: ignore[arg-type]
    assert Lpips().name == "lpips_alex"
