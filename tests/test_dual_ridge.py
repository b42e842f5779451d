"""Ridge that never holds all targets: the same function as the one that does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge
from worlds import config

from decode.artefacts.predictions import pooled
from decode.core import Batch, InputError, Layout, Tensors
from decode.encoders.ridge import Ridge
from decode.linear import subject_ridge
from decode.linear.dual import FixedDual, solve_dual
from decode.linear.ridge import factor, left_out, solve
from decode.pipeline import execute
from decode.store import read_tensors, write_tensors
from decode.vectors import Columns, FeatureStore
from decode.workshop import Run

SHAPES = {"image": (7,), "lowlevel": (2, 3)}
N, P = 40, 90


def data(seed: int = 0, n: int = N) -> tuple[torch.Tensor, Tensors]:
    rng = np.random.default_rng(seed)
    weights = np.random.default_rng(5).normal(size=(P, 13)) / P**0.5
    x = rng.normal(size=(n, P)) + 3
    y = x @ weights + 0.3 * rng.normal(size=(n, 13)) + 10
    every = torch.from_numpy(y).float()
    targets = {"image": every[:, :7], "lowlevel": every[:, 7:].reshape(n, 2, 3)}
    return torch.from_numpy(x).float(), targets


def batch(seed: int = 0, n: int = N) -> Batch:
    x, targets = data(seed, n)
    return Batch(x[:, :, None], targets, torch.zeros(n, dtype=torch.int64), *2 * (torch.arange(n),))


LAYOUTS = {"s": Layout("fmri", tuple(map(str, range(P))), np.zeros((P, 3)), ("",) * P, 1.0, 1)}


def fitted(train: Any, **knobs: Any) -> Ridge:
    ridge = Ridge(LAYOUTS, SHAPES, **knobs)
    ridge.initialise(train, [])
    return ridge.eval()


@pytest.mark.parametrize("alphas", [[3.0], [0.1, 10.0, 1000.0], None])
@pytest.mark.parametrize("rescale", ["none", "train"])
def test_dual_and_weights_are_one_function(alphas: Any, rescale: str) -> None:
    a = fitted([batch()], alphas=alphas, rescale=rescale)
    b = fitted([batch()], alphas=alphas, rescale=rescale, form="dual")
    new = batch(1)
    for name, made in a(new).items():
        torch.testing.assert_close(b(new)[name], made, rtol=1e-4, atol=1e-4)
    assert b.ridge.get_buffer("weights_0").shape == (N, 13)


def test_strengths_by_name_equal_scikit_learn() -> None:
    x, targets = data()
    new = batch(1)
    made = fitted([batch()], alphas={"image": [50.0], "lowlevel": [2.0]}, form="dual")(new)
    for name, alpha in (("image", 50.0), ("lowlevel", 2.0)):
        oracle = SklearnRidge(alpha).fit(x.double().numpy(), targets[name].flatten(1).double())
        want = oracle.predict(new.brain[:, :, 0].double().numpy())
        error = np.abs(made[name].flatten(1).numpy() - want).max() / np.abs(want).max()
        assert error < 1e-5


def test_given_and_chosen_strengths_take_different_roads_to_one_answer() -> None:
    x, targets = data()
    f, y, alpha = factor(x), targets["image"], 5.0
    new = batch(1).brain[:, :, 0]
    weights, intercept = solve(f, y, torch.full((7,), alpha).double())
    chosen, mean = solve_dual(f, y, torch.full((7,), alpha).double())
    solver = FixedDual(x)
    given, same = solver(y, alpha)
    kernel = (new - f.mean.float()) @ (x - f.mean.float()).T
    for coefficients in (chosen, given):
        made = kernel @ coefficients + mean
        torch.testing.assert_close(made, new @ weights + intercept, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(same, mean)
    torch.testing.assert_close(
        solver.left_out(y, given, alpha),
        left_out(f, y, torch.full((7,), alpha).double()),
        rtol=1e-4,
        atol=1e-3,
    )


def test_a_dual_ridge_is_saved_and_loaded_with_its_trials() -> None:
    a = fitted([batch()], form="dual")
    b = Ridge(LAYOUTS, SHAPES, form="dual")
    b.load_state_dict(a.state_dict())
    torch.testing.assert_close(b(batch(1)), a(batch(1)))


@pytest.mark.parametrize("room", [True, False])
def test_a_streamed_dual_ridge_keeps_its_weights_on_disk_where_there_is_room(
    room: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if not room:
        monkeypatch.setattr("os.posix_fallocate", full)
    ridge = fitted([batch()], form="dual", stream=True)
    weights = ridge.ridge.get_buffer("weights_0")
    spans = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    backed = [
        line for line in spans
        if line[-1] == "(deleted)" and str(tmp_path) in line[-2]
        and int(line[0].split("-")[0], 16) <= weights.data_ptr() < int(line[0].split("-")[1], 16)
    ]  # fmt: skip
    assert bool(backed) == room
    assert not list(tmp_path.iterdir())
    torch.testing.assert_close(ridge(batch(1)), fitted([batch()], form="dual")(batch(1)))
    write_tensors(tmp_path / "ridge.safetensors", ridge.state_dict())
    again = Ridge(LAYOUTS, SHAPES, form="dual", stream=True)
    again.load_state_dict(read_tensors(tmp_path / "ridge.safetensors"))
    torch.testing.assert_close(again(batch(1)), ridge(batch(1)))


def test_columns_are_the_joined_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stores = []
    for name, shape in (("a", (4,)), ("b", (2, 3))):
        store = FeatureStore(tmp_path / name)
        store.append(["p", "q"], rng.normal(size=(2, *shape)).astype(np.float32))
        store.append(["r"], rng.normal(size=(1, *shape)).astype(np.float16))
        stores.append(store)
    trials = ["r", "p", "p", "q", "r"]
    every = torch.cat([s.rows(trials).flatten(1) for s in stores], 1)
    columns = Columns(stores, trials)
    assert columns.shape == (5, 10)
    for first in range(10):
        for stop in range(first + 1, 12):
            torch.testing.assert_close(columns[:, first:stop], every[:, first:stop])
    both = columns.followed_by(Columns(stores, ["q"]))
    torch.testing.assert_close(both[:, :], torch.cat([every, every[3:4]]))


@pytest.mark.parametrize("per", ["target", "name", "all"])
def test_a_streamed_run_predicts_what_a_resident_one_does(
    per: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Targets pass in blocks of seven columns."""
    node = {"_target_": "decode.encoders.ridge.Ridge", "_partial_": True, "per": per}
    found = []
    for more in ({}, {"form": "dual", "stream": True}):
        changes = {
            "encoder": {**node, **more}, "baselines": {}, "objectives": {}, "generator": None,
            "trainer": {"_target_": "decode.training.Trainer", "epochs": 0},
            "metrics": {"r": {"_target_": "decode.metrics.retrieval.Retrieval", "target": "pixels"}},
        }  # fmt: skip
        monkeypatch.setattr(subject_ridge, "BLOCK", 7 * 64 if more else 2**26)
        run = Run(config(tmp_path, **changes))
        execute(run, until="predict", force=[], say=lambda s: None)
        found.append(pooled(run.of("predict")[0].folder, "published").arrays["decoder/pixels"])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_selection_cannot_be_streamed() -> None:
    with pytest.raises(InputError, match="select"):
        Ridge(LAYOUTS, SHAPES, select=5, stream=True)


def test_targets_that_are_not_finite_are_refused() -> None:
    broken = batch()
    broken.targets["image"][3, 2] = torch.nan
    for knobs in ({}, {"alphas": [1.0]}, {"alphas": [1.0], "form": "dual"}):
        with pytest.raises(InputError, match="NaN"):
            fitted([broken], **knobs)
