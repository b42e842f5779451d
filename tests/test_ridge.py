"""Ridge against scikit-learn, himalaya and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from decode.core import InputError
from decode.linear import ridge as module
from decode.linear.ranking import rank_features
from decode.linear.ridge import (
    choose,
    factor,
    generalised_errors,
    left_out,
    left_out_errors,
    ridge,
    solve,
    strengths,
    validation_errors,
)

ALPHAS = [0.1, 3.0, 100.0, 3000.0]
SIZES = [(120, 30, 5), (40, 90, 5)]  # more trials than features, and fewer


def data(n: int, p: int, t: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p)) * rng.uniform(0.5, 3, p) + 5
    y = x @ rng.standard_normal((p, t)) / p**0.5 + rng.standard_normal((n, t)) - 2
    return x.astype(np.float32), y.astype(np.float32)


def oracle(x: np.ndarray, y: np.ndarray, alpha: float) -> Ridge:
    return Ridge(alpha=alpha, solver="cholesky").fit(x.astype(float), y.astype(float))


def brute_left_out(x: np.ndarray, y: np.ndarray, alpha: float, groups: np.ndarray) -> np.ndarray:
    out = np.empty(y.shape)
    for g in np.unique(groups):
        out[groups == g] = oracle(x[groups != g], y[groups != g], alpha).predict(x[groups == g])
    return out


def relative(got: object, want: np.ndarray) -> float:
    return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_weights_equal_scikit_learn(size, alpha):
    x, y = data(*size)
    weights, intercept = solve(factor(x), y, torch.tensor(alpha))
    model = oracle(x, y, alpha)
    assert relative(weights, model.coef_.T) < 1e-4
    assert relative(intercept, model.intercept_) < 1e-4
    assert weights.dtype == torch.float32


@pytest.mark.parametrize("size", SIZES)
def test_leave_one_out_equals_brute_force(size):
    x, y = data(*size)
    got = left_out_errors(factor(x), y, ALPHAS)
    for alpha, error in zip(ALPHAS, got, strict=True):
        want = ((brute_left_out(x, y, alpha, np.arange(len(x))) - y) ** 2).mean(0)
        assert relative(error, want) < 1e-3


@pytest.mark.parametrize("size", SIZES)
def test_leaving_groups_of_unequal_size_out_equals_brute_force(size):
    x, y = data(*size)
    groups = np.sort(np.random.default_rng(1).integers(0, len(x) // 3, len(x)))[::-1].copy()
    assert len(np.unique(np.unique(groups, return_counts=True)[1])) > 2
    f = factor(x)
    for alpha in ALPHAS[1:]:
        want = brute_left_out(x, y, alpha, groups)
        got = left_out(f, y, torch.tensor(alpha), groups=groups)
        assert relative(got, want) < 1e-3
        error = left_out_errors(f, y, [alpha], groups=groups)[0]
        assert relative(error, ((want - y) ** 2).mean(0)) < 1e-3


def test_left_out_predictions_use_each_targets_own_strength():
    x, y = data(40, 90, 5)
    alpha = torch.tensor([0.1, 100.0, 0.1, 3000.0, 100.0])
    got = left_out(factor(x), y, alpha)
    for j, a in enumerate(alpha.tolist()):
        assert relative(got[:, j], brute_left_out(x, y, a, np.arange(40))[:, j]) < 1e-3


@pytest.mark.parametrize("size", SIZES)
def test_generalised_errors_equal_their_definition(size):
    x, y = data(*size)
    n = len(x)
    centred = x.astype(float) - x.mean(0, dtype=float)
    for alpha, error in zip(ALPHAS, generalised_errors(factor(x), y, ALPHAS), strict=True):
        hat = centred @ np.linalg.solve(centred.T @ centred + alpha * np.eye(x.shape[1]), centred.T)
        hat += 1 / n
        want = ((y - hat @ y) ** 2).mean(0) / (1 - np.trace(hat) / n) ** 2
        assert relative(error, want) < 1e-3


@pytest.mark.parametrize("size", SIZES)
def test_validation_rows_choose_like_a_refit(size):
    x, y = data(*size)
    new_x, new_y = data(25, *size[1:], seed=7)
    errors = validation_errors(factor(x), y, ALPHAS, new_x, new_y)
    for alpha, error in zip(ALPHAS, errors, strict=True):
        want = ((oracle(x, y, alpha).predict(new_x) - new_y) ** 2).mean(0)
        assert relative(error, want) < 1e-4
    fit = ridge(x, y, alphas=ALPHAS, validation=(new_x, new_y))
    assert fit.alpha.tolist() == [ALPHAS[i] for i in errors.argmin(0)]


@pytest.mark.parametrize("size", SIZES)
def test_agrees_with_himalaya_on_the_same_folds(size):
    from himalaya.ridge import RidgeCV
    from sklearn.model_selection import KFold

    x, y = data(*size)
    peer = RidgeCV(
        alphas=ALPHAS, fit_intercept=True, cv=KFold(len(x)), solver_params={"warn": False}
    )
    peer.fit(x.astype(float), y.astype(float))
    fit = ridge(x, y, alphas=ALPHAS)
    assert np.allclose(fit.alpha.numpy(), peer.best_alphas_)
    assert relative(fit(torch.as_tensor(x)), peer.predict(x.astype(float))) < 1e-3


def test_blocks_of_targets_change_nothing(monkeypatch):
    x, y = data(40, 90, 23)
    whole = ridge(x, y)
    monkeypatch.setattr(module, "BLOCK", 90 * 4)
    parts = ridge(x, y)
    assert torch.equal(whole.alpha, parts.alpha)
    assert relative(parts.weights, whole.weights.numpy()) < 1e-5


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize("alpha", [1e-4, 1e-2, 1.0])
def test_hardly_penalised_errors_are_exact_in_single_precision(alpha, together):
    """With fewer trials than features residuals are a millionth of the targets there."""
    x, y = data(40, 90, 6)
    groups = np.arange(40) // together
    f = factor(x)
    errors = left_out_errors(f, y, [alpha], groups=groups)
    brute = ((y - brute_left_out(x, y, alpha, groups)) ** 2).mean(0)
    assert relative(errors[0], brute) < 1e-4
    made = left_out(f, y, torch.tensor(alpha), groups=groups)
    assert relative(made, brute_left_out(x, y, alpha, groups)) < 1e-4
    if together == 1:
        wide = x - x.mean(0, dtype=float)
        lost = alpha * np.linalg.inv(wide @ wide.T + alpha * np.eye(40))
        residual = lost @ (y - y.mean(0, dtype=float))
        expected = (residual**2).mean(0) / ((np.trace(lost) - 1) / 40) ** 2
        assert relative(generalised_errors(f, y, [alpha])[0], expected) < 1e-4


def test_of_equal_errors_the_strongest_penalty_is_taken():
    errors = torch.tensor([[1.0, 2.0, 0.0], [1.0 + 5e-6, 1.0, 0.0], [1.1, 1.0 + 5e-5, 0.1]])
    alpha = choose(errors.double(), [1.0, 10.0, 100.0])
    assert alpha.tolist() == [10, 10, 10]
    shared = choose(errors.double(), [1.0, 10.0, 100.0], share=np.array([0, 1, 1]))
    assert shared.tolist() == [10, 10, 10]


def test_targets_may_stay_on_disk(tmp_path):
    x, y = data(40, 90, 5)
    np.save(tmp_path / "y.npy", y)
    mapped = np.load(tmp_path / "y.npy", mmap_mode="r")
    assert torch.allclose(ridge(x, mapped).weights, ridge(x, y).weights)


def test_more_noise_asks_for_more_penalty():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((200, 40)).astype(np.float32)
    signal = x @ rng.standard_normal(40) / 40**0.5
    y = np.stack([signal + s * rng.standard_normal(200) for s in (0.1, 1.0, 10.0)], 1)
    alpha = ridge(x, y.astype(np.float32)).alpha
    assert alpha[0] < alpha[1] < alpha[2]


def test_shared_strength_is_one_number_per_group_whatever_the_units():
    x, y = data(60, 30, 6)
    share = [0, 0, 0, 1, 1, 1]
    fit = ridge(x, y, share=share)
    assert len(fit.alpha[:3].unique()) == len(fit.alpha[3:].unique()) == 1
    louder = y * np.array([1, 1000, 1, 1, 1, 1], np.float32)
    assert torch.equal(ridge(x, louder, share=share).alpha, fit.alpha)


def test_the_grid_follows_the_unit_of_the_features():
    x, y = data(60, 30, 3)
    tiny = x * np.float32(1e-6)
    want = ridge(x, y)(torch.as_tensor(x)).numpy()
    assert relative(ridge(tiny, y)(torch.as_tensor(tiny)), want) < 1e-3
    assert len(strengths(factor(x))) == 21


def test_choosing_without_looking_at_held_out_rows_is_caught():
    """Planted fault: training errors always prefer the weakest penalty, held-out errors do not."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((50, 45)).astype(np.float32)
    y = rng.standard_normal((50, 4)).astype(np.float32)
    f = factor(x)
    fitted = [torch.as_tensor(x) @ w + b for w, b in (solve(f, y, torch.tensor(a)) for a in ALPHAS)]
    training = torch.stack([(p - torch.as_tensor(y)).square().mean(0) for p in fitted])
    assert (choose(training, ALPHAS) == ALPHAS[0]).all()
    assert (choose(left_out_errors(f, y, ALPHAS), ALPHAS) > ALPHAS[0]).all()


def test_repeats_leak_unless_they_are_left_out_together():
    rng = np.random.default_rng(6)
    stimulus = np.repeat(np.arange(20), 6)
    x = rng.standard_normal((20, 60))[stimulus] + 0.1 * rng.standard_normal((120, 60))
    y = rng.standard_normal((20, 1))[stimulus]  # nothing about a new stimulus can be predicted
    f = factor(x.astype(np.float32))
    naive = left_out_errors(f, y, [1.0])[0] / y.var()
    honest = left_out_errors(f, y, [1.0], groups=stimulus)[0] / y.var()
    assert naive < 0.3
    assert honest > 0.9


def test_no_penalty_and_more_features_than_trials_is_never_chosen():
    x, y = data(30, 60, 4)
    errors = left_out_errors(factor(x), y, [0.0, 10.0])
    assert torch.isinf(errors[0]).all()
    assert (choose(errors, [0.0, 10.0]) == 10).all()


@pytest.mark.parametrize("size", SIZES)
def test_features_in_double_precision_are_left_as_they_came(size):
    x = torch.from_numpy(data(*size)[0]).double()
    before = x.clone()
    factor(x)
    assert torch.equal(x, before)


def test_constant_and_duplicate_features_do_no_harm():
    x, y = data(120, 30, 5)
    wide = np.concatenate([x, x[:, :3], np.ones((120, 2), np.float32)], 1)
    fit = ridge(wide, y)
    assert torch.isfinite(fit.weights).all()
    assert fit.weights[-2:].abs().max() < 1e-5


def test_selection_finds_the_features_that_know_the_targets():
    rng = np.random.default_rng(8)
    y = rng.standard_normal((100, 12)).astype(np.float32)
    x = rng.standard_normal((100, 400)).astype(np.float32)
    x[:, 50:60] += 2 * y[:, :10]
    x[:, 0] = 3
    scores = rank_features(x, y, components=12)
    assert sorted(scores.argsort(descending=True)[:10].tolist()) == list(range(50, 60))
    assert scores[0] == 0


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda x, y: (np.where(x == x[3, 3], np.nan, x), y), "expected finite features, got NaN"),
        (lambda x, y: (x, np.where(y == y[3, 3], np.nan, y)), "expected finite targets, got NaN"),
        (lambda x, y: (x[:-1], y), "align"),
        (lambda x, y: (x[0], y), "trial, feature"),
    ],
)
def test_bad_input_is_named(spoil, says):
    with pytest.raises(InputError, match=says):
        ridge(*spoil(*data(40, 20, 5)))
