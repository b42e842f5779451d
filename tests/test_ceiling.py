"""Noise ceilings against brute force in the space of features."""

from __future__ import annotations

import numpy as np
import pytest

from decode.core import InputError, Truth
from decode.scoring.ceiling import (
    estimate_retrieval,
    noise_ceiling_from_repeats,
    retrieval_ceiling,
    two_way_ceiling,
    variance_ceiling,
)


def world(seed: int = 0, n: int = 12, features: int = 30, size: float = 0.4) -> Truth:
    rng = np.random.default_rng(seed)
    response = size * rng.standard_normal((n, features)).astype(np.float32)
    noise = rng.uniform(0.5, 2.0, features)
    return Truth(tuple(f"s{i}" for i in range(n)), response, noise)


def observer_by_hand(truth: Truth, repeats: int, k: int, draws: int) -> float:
    """Draw averages of trials in feature space and name the likeliest stimulus."""
    rng = np.random.default_rng(1)
    sd = np.sqrt(truth.noise / repeats)
    hits = []
    for _ in range(draws):
        seen = truth.response + sd * rng.standard_normal(truth.response.shape)
        misfit = np.sum(((seen[:, None] - truth.response) / sd) ** 2, axis=2)
        rank = np.sum(misfit < np.diag(misfit)[:, None], axis=1)
        hits.append(np.mean(rank < k))
    return float(np.mean(hits))


@pytest.mark.parametrize(("repeats", "k"), [(1, 1), (3, 1), (1, 5)])
def test_retrieval_equals_an_ideal_observer_in_feature_space(repeats: int, k: int) -> None:
    truth = world()
    found = estimate_retrieval(truth, repeats=repeats, k=k, draws=1500)
    by_hand = observer_by_hand(truth, repeats, k, 1500)
    assert 0.2 < by_hand < 0.999
    assert 0 < found.error < 0.01
    assert found.value == pytest.approx(by_hand, abs=0.02)


@pytest.mark.parametrize(("repeats", "k"), [(1, 1), (3, 1), (1, 5)])
def test_finding_the_trial_equals_an_ideal_observer_in_feature_space(repeats: int, k: int) -> None:
    from scipy.special import logsumexp
    from scipy.stats import norm

    truth = world()
    rng = np.random.default_rng(1)
    sd = np.sqrt(truth.noise / repeats)
    seen = truth.response + sd * rng.standard_normal((400, *truth.response.shape))
    # (draw, trial, stimulus): density of the trial of one stimulus if it were another.
    density = norm.logpdf(seen[:, :, None], truth.response, sd).sum(3)
    others = np.array([np.delete(np.arange(12), j) for j in range(12)])
    odds = density - logsumexp(density[:, :, others], axis=3)
    own = np.diagonal(odds, axis1=1, axis2=2)
    hits = ((odds > own[:, None, :]).sum(1) < k).mean()
    assert 0.2 < hits < 0.999
    found = estimate_retrieval(truth, repeats=repeats, k=k, find="brain", draws=800)
    assert found.value == pytest.approx(hits, abs=0.025)


def test_two_way_equals_drawn_comparisons() -> None:
    truth = world(n=6, features=8, size=0.6)
    rng = np.random.default_rng(2)
    sd = np.sqrt(truth.noise / 2)
    hits = []
    for i in range(6):
        for j in range(6):
            if i == j:
                continue
            seen = truth.response[i] + sd * rng.standard_normal((4000, 8))
            own, other = (np.sum(((seen - truth.response[x]) / sd) ** 2, axis=1) for x in (i, j))
            hits.append(np.mean(own < other))
    assert two_way_ceiling(truth, repeats=2) == pytest.approx(np.mean(hits), abs=0.005)


def test_a_rotation_of_white_noise_changes_nothing() -> None:
    truth = world()
    white = Truth(truth.stimuli, truth.response, np.ones(30))
    q, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((30, 30)))
    turned = Truth(truth.stimuli, truth.response @ q, np.ones(30))
    assert two_way_ceiling(white, repeats=1) == pytest.approx(two_way_ceiling(turned, repeats=1))
    assert retrieval_ceiling(white, repeats=1) == pytest.approx(
        retrieval_ceiling(turned, repeats=1), abs=0.03
    )


def test_without_signal_the_ceiling_is_chance() -> None:
    truth = Truth(("a", "b", "c", "d"), np.ones((4, 5)), np.ones(5))
    assert retrieval_ceiling(truth, repeats=3) == pytest.approx(0.25)
    assert retrieval_ceiling(truth, repeats=3, k=2) == pytest.approx(0.5)
    assert two_way_ceiling(truth, repeats=3) == pytest.approx(0.5)
    assert np.all(variance_ceiling(truth, repeats=3) == 0)


def test_only_the_named_stimuli_compete() -> None:
    truth = world()
    few = retrieval_ceiling(truth, ["s1", "s4"], repeats=1)
    assert few > retrieval_ceiling(truth, repeats=1)
    assert few == pytest.approx(two_way_ceiling(truth, ["s4", "s1"], repeats=1), abs=0.05)


def test_variance_ceiling_and_repeats_agree() -> None:
    rng = np.random.default_rng(4)
    truth = world(n=400, features=20, size=0.8)
    stimulus = np.repeat(np.arange(400), 3)
    betas = truth.response[stimulus] + np.sqrt(truth.noise) * rng.standard_normal((1200, 20))
    found = noise_ceiling_from_repeats(betas, stimulus)
    np.testing.assert_allclose(found.noise, truth.noise, rtol=0.15)
    np.testing.assert_allclose(found.ceiling(3), variance_ceiling(truth, repeats=3), atol=0.1)
    means = betas.reshape(400, 3, 20).mean(axis=1)
    explained = [np.corrcoef(means[:, v], truth.response[:, v])[0, 1] ** 2 for v in range(20)]
    np.testing.assert_allclose(explained, variance_ceiling(truth, repeats=3), atol=0.1)


def test_unequal_repeats_and_single_trials_do_not_bias_the_ceiling() -> None:
    rng = np.random.default_rng(5)
    counts = rng.integers(1, 6, 600)
    stimulus = rng.permutation(np.repeat(np.arange(600), counts))
    signal = rng.standard_normal((600, 40))
    betas = signal[stimulus] + 2 * rng.standard_normal((len(stimulus), 40))
    found = noise_ceiling_from_repeats(betas, stimulus)
    assert found.noise.mean() == pytest.approx(4.0, rel=0.03)
    assert found.signal.mean() == pytest.approx(1.0, rel=0.06)
    assert found.ncsnr.mean() == pytest.approx(0.5, rel=0.05)
    # What a perfect prediction of these unequal averages reaches, and of single trials.
    means = np.stack([betas[stimulus == s].mean(axis=0) for s in range(600)])
    reached = [np.corrcoef(means[:, v], signal[:, v])[0, 1] for v in range(40)]
    assert np.sqrt(found.ceiling(counts)).mean() == pytest.approx(np.mean(reached), abs=0.015)
    alone = [np.corrcoef(betas[:, v], signal[stimulus, v])[0, 1] for v in range(40)]
    assert np.sqrt(found.ceiling(1)).mean() == pytest.approx(np.mean(alone), abs=0.015)
    assert found.ceiling([2, 2]) == pytest.approx(found.ceiling(2))
    with pytest.raises(InputError, match="at least one repeat"):
        found.ceiling([3, 0])
    shuffled = noise_ceiling_from_repeats(betas, rng.permutation(stimulus))
    assert shuffled.ceiling(3).mean() < 0.05


def test_messages() -> None:
    truth = world()
    with pytest.raises(InputError, match="knows no response to 'nobody'"):
        retrieval_ceiling(truth, ["s1", "nobody"], repeats=1)
    with pytest.raises(InputError, match="k=13"):
        retrieval_ceiling(truth, repeats=1, k=13)
    with pytest.raises(InputError, match="at least one repeat"):
        variance_ceiling(truth, repeats=0)
    with pytest.raises(InputError, match="shown more than once"):
        noise_ceiling_from_repeats(np.zeros((4, 2)), ["a", "b", "c", "c"])
    silent = Truth(truth.stimuli, truth.response, np.zeros(30))
    with pytest.raises(InputError, match="no noise"):
        retrieval_ceiling(silent, repeats=1)
