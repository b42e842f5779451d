"""Targets reduced to principal components inside a fold."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor
from voxels import Voxels
from worlds import config

from decode.core import Batch, InputError
from decode.encoders.mlp import MLP
from decode.encoders.principal import Principal, stimuli
from decode.encoders.ridge import Ridge
from decode.encoders.with_prior import WithPrior
from decode.linear import principal as module
from decode.linear.principal import principal
from decode.pipeline import execute
from decode.store import read_tensors
from decode.workshop import Run

SHAPES = {"image": (3, 8), "pixels": (5,)}


def rows_of(batch: Batch, keep: Tensor) -> Batch:
    return batch._map(lambda x: x[keep])


@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
def test_axes_equal_those_of_scikit_learn(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.rand(shape[1]) + 3
    known = PCA(12, svd_solver="full").fit(x.double().numpy())
    for block in (module.BLOCK, 7 * shape[0]):
        monkeypatch.setattr(module, "BLOCK", block)
        mean, axes = principal(x, 12)
        assert np.allclose(mean, known.mean_, atol=1e-4)
        assert np.allclose(axes, known.components_, atol=1e-4)


def test_sizes_that_the_rows_do_not_span_are_refused() -> None:
    x = torch.randn(6, 20)
    with pytest.raises(InputError, match="1 to 5"):
        principal(x, 6)
    with pytest.raises(InputError, match=r"expected at most 2, the directions .* got 3"):
        principal(x[:, :2] @ torch.randn(2, 20), 3)
    with pytest.raises(InputError, match="NaN"):
        principal(torch.full((6, 20), float("nan")), 2)


def make(world: Voxels, size: int = 4, targets: tuple[str, ...] | None = ("image",)) -> Principal:
    torch.manual_seed(0)
    inner = partial(Ridge, alphas=[1.0])
    return Principal(world.layouts, world.shapes, inner=inner, size=size, targets=targets)


def test_axes_come_from_training_stimuli_each_counted_once() -> None:
    world = Voxels(SHAPES, n=60)
    train, test = (rows_of(world.batch, part(world.batch.stimulus)) for part in (
        lambda s: s < 40, lambda s: s >= 40,
    ))  # fmt: skip
    encoder = make(world)
    encoder.initialise([train], [])
    once = train.targets["image"][train.subject == 0].flatten(1)
    known = PCA(4, svd_solver="full").fit(once.double().numpy())
    axes = encoder.get_buffer("axes_image")
    assert np.allclose(axes, known.components_, atol=1e-4)
    # An outlier in rows that are not trained on moves nothing, one in training rows does.
    outlier = {k: v + 1000 for k, v in test.targets.items()}
    other = make(world)
    other.initialise([train], [replace(test, targets=outlier)])
    assert torch.equal(other.get_buffer("axes_image"), axes)
    planted = train.targets["image"].clone()
    planted[train.stimulus == 3] += torch.randn(3, 8) * 100
    other.initialise([replace(train, targets={**train.targets, "image": planted})], [])
    assert not torch.allclose(other.get_buffer("axes_image"), axes, atol=1e-2)
    # Repeats do not count twice.
    again = rows_of(train, torch.cat([torch.arange(80), torch.arange(20).repeat(5)]))
    other.initialise([again], [])
    assert torch.allclose(other.get_buffer("axes_image"), axes, atol=1e-5)


def test_predictions_are_those_of_the_inner_encoder_turned_back() -> None:
    world = Voxels(SHAPES, n=60)
    encoder = make(world)
    encoder.initialise([world.batch], [])
    known = PCA(4, svd_solver="full").fit(
        world.batch.targets["image"][:60].flatten(1).double().numpy()
    )
    components = known.transform(world.batch.targets["image"].flatten(1).double().numpy())
    ridge = Ridge(world.layouts, {"image": (4,), "pixels": (5,)}, alphas=[1.0])
    reduced = {**world.batch.targets, "image": torch.from_numpy(components).float()}
    ridge.initialise([replace(world.batch, targets=reduced)], [])
    expected = ridge(world.batch)
    made = encoder(world.batch)
    turned = known.inverse_transform(expected["image"].double().numpy()).reshape(-1, 3, 8)
    assert np.allclose(made["image"], turned, atol=1e-3)
    assert torch.allclose(made["pixels"], expected["pixels"], atol=1e-3)
    assert torch.equal(encoder.embed(world.batch.targets)["image"], world.batch.targets["image"])
    fresh = make(world)
    fresh.load_state_dict(encoder.state_dict())
    assert torch.equal(fresh(world.batch)["image"], made["image"])


def test_targets_that_are_not_there_are_named() -> None:
    with pytest.raises(InputError, match="'words'"):
        make(Voxels(SHAPES, n=20), targets=("words",))
    with pytest.raises(InputError, match="1 component"):
        make(Voxels(SHAPES, n=20), size=0)


def test_an_experiment_can_choose_it(tmp_path: Path) -> None:
    """Through a run: the axes are those of the training pictures of the fold, read in blocks."""
    inner = {"_target_": "decode.encoders.ridge.Ridge", "_partial_": True}
    node = {
        "_target_": "decode.encoders.principal.Principal", "_partial_": True, "size": 5,
        "inner": inner, "targets": None,
    }  # fmt: skip
    run = Run(config(tmp_path, encoder=node))
    execute(run, until="predict", force=(), say=lambda s: None)
    (split, fold), *_ = run.inputs.folds()
    train = run.inputs.part(split, fold, "train")
    digests = dict.fromkeys(run.inputs.digests[u] for u in train.table["stimulus"])
    folder = next((run.folder("train") or tmp_path).glob(f"{split}-*"))
    weights = read_tensors(folder / "decoder" / "encoder.safetensors")
    for name, store in run.inputs.features.items():
        x = store.rows(list(digests)).flatten(1).double().numpy()
        known = PCA(5, svd_solver="full").fit(x)
        assert np.allclose(weights[f"axes_{name}"], known.components_, atol=1e-4)
    loader = train.loader(run.inputs.features, run.inputs.digests, batch_size=7)
    found = stimuli(loader, list(run.inputs.features))
    assert all(not isinstance(x, Tensor) and len(x) == len(digests) for x in found.values())


def test_a_prior_lives_among_the_components() -> None:
    """What the inner encoder knows of itself is told, and what it samples is averaged first."""
    world = Voxels(SHAPES, n=60)
    plain = lambda l, s: MLP(l, s, width=8, blocks=1, contrastive=())  # noqa: E731
    torch.manual_seed(0)
    encoder = Principal(
        world.layouts, SHAPES, size=4, targets=["image"],
        inner=lambda l, s: WithPrior(l, s, inner=plain, width=8, depth=1, heads=2, sample_steps=4),
    )  # fmt: skip
    encoder.initialise([world.batch], [])
    inner, batch = encoder.eval().inner, world.batch
    assert isinstance(inner, WithPrior)
    with torch.no_grad():
        terms = encoder.own_terms(batch, 0.5, lambda: encoder.before_sampling(batch))
        draws = torch.Generator().manual_seed(0)
        components = encoder.reduced(batch.targets)["image"]
        told = inner.inner(batch)["image"]
        by_hand = inner.prior_loss(told, components, drop=0.2, generator=draws).mean()
        assert float(terms["prior"]) == pytest.approx(float(by_hand), rel=1e-4)
        before, whole = encoder.before_sampling(batch), encoder(batch)
        again = encoder.sampled(before)
    assert not torch.allclose(before["image"], whole["image"], atol=1e-2)
    torch.testing.assert_close(again["image"], whole["image"], atol=1e-3, rtol=1e-3)
    assert torch.equal(again["pixels"], whole["pixels"])
    assert torch.equal(encoder.truth(batch)["image"], batch.targets["image"])
