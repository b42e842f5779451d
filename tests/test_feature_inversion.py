"""Pictures found from their VGG features, with a network of random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from decode.core import InputError, Tensors
from decode.features.vgg import MEAN, STD, map_shape, maps, packed
from decode.generators.feature_inversion import FeatureInversion, variation
from decode.pictures import normalised

SIZE = 32
SEEDS = [3, 4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VGG16 as torchvision names it, drawn at random."""
    from torchvision.models.vgg import cfgs, make_layers

    place = tmp_path_factory.mktemp("vgg")
    torch.manual_seed(0)
    state = make_layers(cfgs["D"], batch_norm=True).state_dict()
    save_file({f"features.{k}": v for k, v in state.items()}, place / "model.safetensors")
    return place


def make(folder: Path, **knobs: object) -> FeatureInversion:
    plain = {"features": {"one": 1, "two": 2}, "size": SIZE, "steps": 60, "device": "cpu"}
    return FeatureInversion(str(folder), **{**plain, **knobs})


@pytest.fixture(scope="module")
def shown() -> Tensor:
    """Drawn pictures (2, 3, 32, 32): blocks of colour."""
    coarse = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)


@pytest.fixture(scope="module")
def wanted(folder: Path, shown: Tensor) -> Tensors:
    from decode.features.vgg import load_vgg

    with torch.no_grad():
        found = maps(load_vgg(str(folder)).eval(), normalised(shown, SIZE, MEAN, STD))
    scales = dict(zip(("one", "two", "three", "four", "five"), found, strict=True))
    return {**scales, "all": packed(found), "pixels": shown}


def likeness(made: Tensor, shown: Tensor) -> list[float]:
    pairs = zip(made.flatten(1).numpy(), shown.flatten(1).numpy(), strict=True)
    return [float(np.corrcoef(a, b)[0, 1]) for a, b in pairs]


def test_shapes_are_those_of_the_maps(wanted: Tensors) -> None:
    names = ("one", "two", "three", "four", "five")
    for scale, name in enumerate(names, 1):
        assert map_shape(scale, SIZE) == tuple(wanted[name].shape[1:])
    assert map_shape(None, SIZE) == tuple(wanted["all"].shape[1:])
    assert map_shape(None, 112) == (7190, 512)


def test_the_energy_falls_and_the_picture_comes_back(
    folder: Path, shown: Tensor, wanted: Tensors
) -> None:
    generator = make(folder)
    generator.check({k: tuple(v.shape[1:]) for k, v in wanted.items()})
    generator.learn([], wanted)
    made = torch.stack([torch.as_tensor(m.data) for m in generator(wanted, seeds=SEEDS)])
    start = generator.begin(wanted, SEEDS)
    with torch.no_grad():
        before, after = (generator.energy(x, wanted) for x in (start, made))
        assert (generator.energy(shown, wanted) < 1e-6).all()
    assert (after < before / 4).all()
    assert all(
        b > a + 0.5 for a, b in zip(likeness(start, shown), likeness(made, shown), strict=True)
    )
    # Nothing is known of a picture from the features of the other one.
    assert max(likeness(made, shown.flip(0))) < min(likeness(made, shown)) - 0.3


def test_a_row_depends_on_its_prediction_and_seed_only(folder: Path, wanted: Tensors) -> None:
    generator = make(folder, features={"one": 1}, steps=5, batch_size=1)
    generator.learn([], wanted)
    both = generator(wanted, seeds=SEEDS)
    alone = generator({k: v[1:] for k, v in wanted.items()}, seeds=SEEDS[1:])
    together = make(folder, features={"one": 1}, steps=5)
    together.learn([], wanted)
    again = together(wanted, seeds=SEEDS)
    assert torch.allclose(both[1].data, alone[0].data, atol=1e-5)
    assert torch.allclose(both[0].data, again[0].data, atol=1e-4)
    other = generator(wanted, seeds=[9, 9])
    assert not torch.allclose(both[0].data, other[0].data, atol=1e-3)


def test_packed_tokens_and_a_start_are_read(folder: Path, shown: Tensor, wanted: Tensors) -> None:
    generator = make(folder, features={"all": None}, start="pixels", steps=2)
    generator.learn([], wanted)
    made = torch.stack([torch.as_tensor(m.data) for m in generator(wanted, seeds=SEEDS)])
    assert min(likeness(made, shown)) > 0.95
    with torch.no_grad():
        assert (generator.energy(shown, {"all": wanted["all"]}) < 1e-6).all()


def test_strengths_weigh_and_the_prior_smooths(folder: Path, wanted: Tensors) -> None:
    plain, heavy = make(folder), make(folder, strengths={"two": 3.0})
    for generator in (plain, heavy):
        generator.learn([], wanted)
        generator({k: v[:1] for k, v in wanted.items()}, seeds=[0])
    x = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, three = plain.energy(x, wanted), heavy.energy(x, wanted)
        only = make(folder, features={"two": 2}, steps=1)
        only.learn([], wanted)
        only({k: v[:1] for k, v in wanted.items()}, seeds=[0])
        assert torch.allclose(three - one, 2 * only.energy(x, wanted), rtol=1e-3)
    brute = [
        np.abs(np.diff(p, axis=2)).mean() + np.abs(np.diff(p, axis=1)).mean() for p in x.numpy()
    ]
    assert np.allclose(variation(x), brute, atol=1e-6)
    rough, smooth = (make(folder, features={"one": 1}, steps=20, smooth=s) for s in (0.0, 50.0))
    made = []
    for generator in (rough, smooth):
        generator.learn([], wanted)
        pictures = generator(wanted, seeds=SEEDS)
        made.append(variation(torch.stack([torch.as_tensor(m.data) for m in pictures])))
    assert (made[1] < made[0]).all()


def test_what_does_not_fit_is_said(folder: Path, wanted: Tensors) -> None:
    shapes = {k: tuple(v.shape[1:]) for k, v in wanted.items()}
    with pytest.raises(InputError, match=r"scale 3.*'one'"):
        make(folder, features={"one": 3}).check(shapes)
    with pytest.raises(InputError, match="start: expected a target of pictures"):
        make(folder, start="all").check(shapes)
    with pytest.raises(InputError, match="multiple of 16"):
        make(folder, size=40)
    with pytest.raises(InputError, match="from 1 to 5"):
        make(folder, features={"one": 6})
    with pytest.raises(InputError, match="'three'"):
        make(folder, strengths={"three": 1.0})
    with pytest.raises(InputError, match="learn"):
        make(folder)(wanted, seeds=SEEDS)
    generator = make(folder)
    generator.learn([], wanted)
    with pytest.raises(InputError, match="expected finite predictions of target"):
        generator({**wanted, "one": wanted["one"] * float("nan")}, seeds=SEEDS)
