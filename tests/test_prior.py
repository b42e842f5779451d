"""Sampling of diffusion priors against the textbook, and where repeats are averaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from voxels import Voxels

from decode.cli import CONFIGS
from decode.core import Batch, InputError
from decode.encoders.joined import Joined
from decode.encoders.mlp import MLP
from decode.encoders.neuroflow import NeuroFlow
from decode.encoders.with_prior import WithPrior
from decode.networks.prior import DiffusionPrior, full_schedule, short_schedule
from decode.stages.predict import predict
from decode.trainable import Encoder


class Known(DiffusionPrior):
    """Sees the clean vector by a rule in place of a network."""

    def __init__(self, shape: tuple[int, ...], steps: int, **rule: float) -> None:
        super().__init__(shape, width=8, depth=1, heads=2, steps=steps, seed=4)
        self.rule = rule

    def forward(self, noisy: Tensor, time: Tensor, condition: Tensor, keep: Tensor) -> Tensor:
        if not self.rule:  # the best guess of vectors of mean zero and unit spread
            return self.survival[time].sqrt().view(-1, 1) * noisy
        return self.rule["noisy"] * noisy + self.rule["told"] * condition


def noises(prior: DiffusionPrior, n: int) -> tuple[Tensor, list[Tensor]]:
    draws = torch.Generator().manual_seed(prior.seed + 1)
    return prior.noise.double(), [
        torch.randn(prior.shape, generator=draws).double() for _ in range(n)
    ]


def test_all_steps_are_the_ancestral_sampler() -> None:
    """x of the step before ~ N(mean, variance) of its posterior given x and the clean vector (Ho 2020)."""
    prior = Known((5,), 12, noisy=0.3, told=0.6)
    told = torch.linspace(-1, 1, 5)[None]
    kept = prior.survival.double()
    x, fresh = noises(prior, 12)
    for t, noise in zip(reversed(range(12)), fresh, strict=True):
        before = kept[t - 1] if t else torch.ones((), dtype=torch.float64)
        alpha = kept[t] / before
        clean = 0.3 * x + 0.6 * told[0]
        mean = (before.sqrt() * (1 - alpha) * clean + alpha.sqrt() * (1 - before) * x) / (
            1 - kept[t]
        )
        x = mean + ((1 - alpha) * (1 - before) / (1 - kept[t])).sqrt() * noise
    made = prior.sample(told, steps=12, guidance=1.0)
    torch.testing.assert_close(made[0].double(), x, atol=2e-5, rtol=1e-4)


def test_twenty_steps_are_spaced_as_published() -> None:
    """19 times of 100, told to the network; shares of variance are of one time earlier."""
    survival = torch.linspace(0.99, 0.01, 100)
    steps = short_schedule(survival, 20)
    times = [94, 89, 84, 79, 74, 69, 64, 59, 54, 49, 44, 39, 34, 29, 24, 19, 14, 9, 4]
    assert [now for now, _, _ in steps] == times
    for (now, before, after), following in zip(steps, [*times[1:], None], strict=True):
        assert float(before) == float(survival[now - 1])
        assert float(after) == (1.0 if following is None else float(survival[following - 1]))
    assert [now for now, _, _ in full_schedule(survival, 100)] == list(range(99, -1, -1))


def test_few_steps_put_back_as_much_noise_as_asked() -> None:
    """DDIM by hand (Song 2021, equation 12) over the three times of four steps."""
    prior = Known((5,), 10, noisy=0.3, told=0.6)
    told = torch.linspace(-1, 1, 5)[None]
    kept = prior.survival.double()
    for eta in (0.0, 0.5, 1.0):
        x, fresh = noises(prior, 3)
        # -1 + 11 k / 4 for k = 3, 2, 1 and 0, cut to whole numbers
        for (t, s), noise in zip(((7, 4), (4, 1), (1, -1)), fresh, strict=True):
            clean = 0.3 * x + 0.6 * told[0]
            seen = (x - kept[t].sqrt() * clean) / (1 - kept[t]).sqrt()
            if s < 0:
                x = clean
                continue
            a, b = kept[t - 1], kept[s - 1]
            spread = eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
            x = b.sqrt() * clean + (1 - b - spread**2).sqrt() * seen + spread * noise
        made = prior.sample(told, steps=4, guidance=1.0, eta=eta)
        torch.testing.assert_close(made[0].double(), x, atol=2e-5, rtol=1e-4)


def test_samples_of_vectors_of_unit_spread_have_unit_spread() -> None:
    prior = Known((20_000,), 100)
    made = prior.sample(torch.zeros(1, 20_000), steps=100, guidance=1.0)
    assert float(made.std()) == pytest.approx(1.0, abs=0.02)


class Squares(Encoder):
    """The mean voxel may be averaged; its square is what is drawn of it."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.sampled(self.before_sampling(batch))

    def before_sampling(self, batch: Batch) -> dict[str, Tensor]:
        return {"z": batch.brain.mean(1)}

    def sampled(self, made: dict[str, Tensor]) -> dict[str, Tensor]:
        return made | {"z": made["z"] ** 2}


def test_repeats_are_averaged_before_anything_is_sampled() -> None:
    brain = torch.tensor([[1.0], [2.0], [6.0], [5.0]])[:, :, None]
    rows = torch.arange(4)
    truth = {"z": torch.tensor([[1.0], [1.0], [1.0], [7.0]])}
    batch = Batch(brain, truth, rows * 0, torch.tensor([0, 0, 0, 1]), rows)
    groups = [np.array([0, 1, 2]), np.array([3])]
    made, wanted = predict(Squares(), [batch], groups)
    np.testing.assert_allclose(made["z"], [[9.0], [25.0]])  # not 41 / 3
    np.testing.assert_allclose(wanted["z"], [[1.0], [7.0]])
    single, _ = predict(Squares(), [batch])
    np.testing.assert_allclose(single["z"][:, 0], [1, 4, 36, 25])


SHAPES = {"image": (3, 8), "other": (4,)}


def encoders(world: Voxels, shapes: dict[str, Any]) -> dict[str, Encoder]:
    def prior(layouts: Any, shapes: Any, **knobs: Any) -> Encoder:
        inner = lambda l, s: MLP(l, s, width=8, blocks=1, contrastive=())  # noqa: E731
        return WithPrior(layouts, shapes, inner=inner, width=8, depth=1, heads=2, **knobs)

    def flow(layouts: Any, shapes: Any) -> Encoder:
        return NeuroFlow(layouts, shapes, width=8, channels=4, blocks=1, depth=1, heads=2, steps=3)

    def joined(layouts: Any, shapes: Any) -> Encoder:
        low = lambda l, s: MLP(l, s, width=8, blocks=1, contrastive=())  # noqa: E731
        return Joined(
            layouts, shapes, encoders={"high": prior, "low": low}, targets={"low": ["other"]}
        )

    made = {"prior": prior, "joined": joined, "flow": flow}
    return {name: make(world.layouts, shapes).eval() for name, make in made.items()}


def test_an_encoder_that_samples_samples_what_may_be_averaged() -> None:
    world = Voxels(SHAPES, voxels=(30,), n=6)
    for name, encoder in encoders(world, SHAPES).items():
        torch.manual_seed(1)
        with torch.no_grad():
            encoder.initialise([world.batch], ())
            for parameter in encoder.parameters():  # a flow begins without speed
                parameter.add_(0.1 * torch.randn_like(parameter))
            whole, before = encoder(world.batch), encoder.before_sampling(world.batch)
            again = encoder.sampled(before)
        for target, value in whole.items():
            torch.testing.assert_close(value, again[target])
        assert not torch.allclose(whole["image"], before["image"]), name
        torch.testing.assert_close(whole["other"], before["other"])


@pytest.mark.parametrize("factor", [None, 3.0])
def test_the_prior_learns_the_target_times_its_factor(factor: float | None) -> None:
    """A network that says zero is wrong by the mean square of what it should have said."""
    world = Voxels(SHAPES, voxels=(30,), n=50)
    inner = lambda l, s: MLP(l, s, width=8, blocks=1, contrastive=())  # noqa: E731
    encoder = WithPrior(
        world.layouts, SHAPES, inner=inner, width=8, depth=1, heads=2, factor=factor
    )
    encoder.initialise([world.batch], ())
    torch.nn.init.zeros_(encoder.prior.leave[1].weight)  # type: ignore[arg-type]
    truth = world.batch.targets["image"]
    loss = encoder.prior_loss(
        encoder.before_sampling(world.batch)["image"], truth, drop=0.0, generator=None
    )
    spread = (truth - truth.mean(0)).square().mean()
    expected = 9 * truth.square().mean() if factor else spread / spread
    assert float(loss.mean().detach()) == pytest.approx(float(expected), rel=1e-4)
    made = encoder.eval()(world.batch)["image"].detach()
    wanted = torch.zeros_like(truth) if factor else truth.mean(0).expand_as(truth)
    torch.testing.assert_close(made, wanted, atol=1e-4, rtol=1e-4)


def test_published_priors_have_published_factors_and_steps() -> None:
    for name, steps, factor in (("mindeye1", 100, 768**0.5), ("mindeye2", 20, 1.0)):
        node = yaml.safe_load((CONFIGS / "encoder" / f"{name}.yaml").read_text())
        assert (node["steps"], node["sample_steps"], node["eta"]) == (100, steps, 1.0)
        assert node["factor"] == pytest.approx(factor, rel=1e-6)
        assert node["guidance"] == 1.0


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"sample_steps": 1}, "sample_steps: expected 2 to steps=100"),
        ({"sample_steps": 101}, "sample_steps: expected 2 to"),
        ({"eta": 1.5}, "eta: expected a share"),
        ({"factor": 0.0}, "factor: expected a number above 0"),
        ({"factor": float("inf")}, "factor: expected a number above 0"),
    ],
)
def test_odd_sampling_is_refused(knobs: dict[str, Any], told: str) -> None:
    world = Voxels(SHAPES, voxels=(30,), n=2)
    with pytest.raises(InputError, match=told):
        WithPrior(world.layouts, SHAPES, inner=MLP, **knobs)
