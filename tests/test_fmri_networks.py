"""Pieces of the fMRI encoders and their losses against plain arithmetic."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from voxels import Voxels

from decode.core import Batch, InputError, Layout, Tensors
from decode.encoders.mindbridge import MindBridge
from decode.encoders.neuroflow import NeuroFlow
from decode.encoders.neuropictor import NeuroPictor
from decode.encoders.umbrae import SubjectTokens, Umbrae
from decode.encoders.voxel_tokens import VoxelTokens
from decode.encoders.wave import Wave
from decode.networks.causal import CausalVolumes
from decode.networks.flow import Averaged, SpeedTransformer, between, travel
from decode.networks.heads import FactorisedHead, TokenHeads
from decode.networks.low_level import LowLevelHead
from decode.networks.prior_dalle2 import SHARPNESS, Dalle2Prior, hear, rotate
from decode.networks.voxel_autoencoder import VoxelAutoencoder, divergence
from decode.objectives.mse import MSE
from decode.objectives.own import Own
from decode.objectives.soft_tokens import SoftTokens
from decode.trainable import Encoder

SHAPES = {"image": (3, 8), "retrieval": (3, 8)}
FLOW: dict[str, Any] = {"width": 8, "channels": 4, "blocks": 1, "depth": 1, "heads": 2}


def test_umbrae_tokens_are_two_linear_maps_in_turn() -> None:
    torch.manual_seed(0)
    layer = SubjectTokens([7, 5], tokens=4, width=6)
    x = torch.randn(3, 5)
    made = layer([(1, torch.arange(3), x)], 3)
    spread = layer.spread[1](x[..., None])
    assert torch.allclose(made, layer.gather[1](spread.transpose(1, 2)), atol=1e-5)


def test_umbrae_is_the_resampler_of_flamingo_between_norms_and_a_projection() -> None:
    """By plain formulas: tokens normed, plus the medium; queries ask tokens and themselves; projected."""
    torch.manual_seed(0)
    world = Voxels({"image": (3, 8)}, voxels=(7,), n=4)
    sizes = {"tokens": 5, "width": 8, "depth": 2, "heads": 2, "head_width": 3}
    encoder = Umbrae(world.layouts, world.shapes, **sizes).eval()  # type: ignore[arg-type]
    assert 0.5 < float(encoder.queries.queries.std()) < 1.5
    w = encoder.state_dict()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return unit * w[f"{name}.weight"] + w[f"{name}.bias"]

    voxels = world.batch.brain[:, :7, 0]
    spread = (
        voxels[:, None] * w["tokenizer.spread.0.weight"] + w["tokenizer.spread.0.bias"][:, None]
    )
    x = spread @ w["tokenizer.gather.0.weight"].T + w["tokenizer.gather.0.bias"]
    x = norm(x, "norm") + w["medium"]
    q = w["queries.queries"].expand(4, -1, -1)
    for i in range(2):
        asks = norm(q, f"resampler.ask.{i}.norm")
        heard = torch.cat([norm(x, f"resampler.ask.{i}.norm_context"), asks], 1)
        ask = (asks @ w[f"resampler.ask.{i}.query.weight"].T).unflatten(2, (2, 3))
        kv = (heard @ w[f"resampler.ask.{i}.key_value.weight"].T).unflatten(2, (2, 2, 3))
        weight = torch.einsum("bihd,bjhd->bhij", ask / 3**0.5, kv[:, :, 0]).softmax(-1)
        answer = torch.einsum("bhij,bjhd->bihd", weight, kv[:, :, 1]).flatten(2)
        q = q + answer @ w[f"resampler.ask.{i}.out.weight"].T
        inner = norm(q, f"resampler.think.{i}.0") @ w[f"resampler.think.{i}.1.weight"].T
        gelu = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        q = q + gelu @ w[f"resampler.think.{i}.3.weight"].T
    expected = norm(q, "resampler.norm") @ w["queries.leave.0.weight"].T + w["queries.leave.0.bias"]
    assert torch.allclose(encoder(world.batch)["image"], expected, atol=1e-5)


def test_the_order_and_number_of_voxels_mean_nothing_to_voxel_tokens() -> None:
    torch.manual_seed(0)
    world = Voxels(SHAPES, voxels=(30,), n=5)
    encoder = VoxelTokens(world.layouts, SHAPES, width=16, clusters=4, depth=1, heads=2).eval()
    made = encoder(world.batch)["image"]
    order = torch.randperm(30)
    with torch.no_grad():
        encoder.voxels.tables[0].copy_(encoder.voxels.tables[0][order])
        same = encoder(replace(world.batch, brain=world.batch.brain[:, order]))["image"]
    assert torch.allclose(same, made, atol=1e-5)
    other = encoder(replace(world.batch, brain=world.batch.brain[:, order.flip(0)]))["image"]
    assert not torch.allclose(other, made, atol=1e-3)
    shared = {k: v.shape for k, v in encoder.state_dict().items()}
    more = Voxels(SHAPES, voxels=(99, 10), n=2)
    large = VoxelTokens(more.layouts, SHAPES, width=16, clusters=4, depth=1, heads=2).state_dict()
    differ = {k for k in large if large[k].shape != shared.get(k)}
    assert {k.split(".")[0] for k in differ} == {"voxels", "passport"}


def test_voxels_are_sampled_only_while_training() -> None:
    torch.manual_seed(0)
    world = Voxels(SHAPES, voxels=(30,), n=5)
    encoder = VoxelTokens(world.layouts, SHAPES, width=16, clusters=4, depth=1, heads=2, sample=10)
    made = [encoder.train(t)(world.batch)["image"] for t in (True, True, False, False)]
    assert not torch.equal(made[0], made[1])
    assert torch.equal(made[2], made[3])


def test_a_factorised_head_is_the_low_rank_map_it_says() -> None:
    torch.manual_seed(0)
    head = FactorisedHead(5, (4, 7), rank=2)
    torch.nn.init.normal_(head.bias)
    x = torch.randn(3, 5)
    enter = head.enter.weight.reshape(4, 2, 5)
    want = torch.einsum("bi,tri,fr->btf", x, enter, head.leave.weight) + head.bias
    assert torch.allclose(head(x), want, atol=1e-5)
    assert FactorisedHead(5, (7,), rank=2)(x).shape == (3, 7)
    for knobs, says in (({"head": "sparse"}, "encoder.head"), ({"rank": 0}, "encoder.rank")):
        with pytest.raises(InputError, match=says):
            TokenHeads(5, {"image": (2, 3)}, contrastive=(), **{"head": "factorised", **knobs})  # type: ignore[arg-type]


@pytest.mark.parametrize("rank", [3, 12])
def test_a_factorised_head_starts_from_the_principal_components_of_training_tokens(
    rank: int,
) -> None:
    rng = np.random.default_rng(0)
    values = 5 + rng.standard_normal((64, 4, 8)) @ rng.standard_normal((8, 8))
    world = Voxels(SHAPES, voxels=(6,), n=4)
    targets = [{"image": torch.from_numpy(v).float()} for v in (values[:40], values[40:])]
    train = [replace(world.batch, targets=t) for t in targets]
    heads = TokenHeads(5, {"image": (4, 8)}, contrastive=(), head="factorised", rank=rank)
    heads.learn(train)

    centred = values - values.mean(0)
    rows = centred.reshape(-1, 8) / centred.std()
    _, sizes, axes = np.linalg.svd(rows, full_matrices=False)
    kept = min(rank, 8)
    want = (axes[:kept].T * sizes[:kept] ** 2 / len(rows)) @ axes[:kept]
    leave = heads.heads[0].leave.weight.detach().numpy()  # type: ignore[union-attr]
    assert np.allclose(leave[:, :kept] @ leave[:, :kept].T, want, atol=1e-4)


def test_a_shared_projector_reads_the_tokens_of_the_other_target() -> None:
    torch.manual_seed(0)
    heads = TokenHeads(5, SHAPES, contrastive=["retrieval"], share="image", projector=4)
    x = torch.randn(3, 5)
    made = heads(x)
    assert torch.equal(made["retrieval"], heads.heads[1](made["image"]))
    alone = TokenHeads(
        5, SHAPES | {"retrieval": (2, 8)}, contrastive=["retrieval"], share="image", projector=4
    )
    assert alone(x)["retrieval"].shape == (3, 2, 8)
    with pytest.raises(InputError, match=r"encoder\.share"):
        TokenHeads(5, SHAPES, contrastive=["image"], share="image")


def test_low_level_targets_that_do_not_fit_are_refused() -> None:
    knobs: dict[str, Any] = {"channels": 8, "sizes": (8, 8, 8), "dropout": 0.0, "bias": True}
    for latents, tokens, says in (
        ((4, 30, 32), None, "multiples of 4"),
        ((4, 32), None, "multiples of 4"),
        ((4, 32, 32), (49, 16), r"of shape \(64, feature\)"),
    ):
        read = ("lowlevel_tokens", tokens) if tokens else None
        with pytest.raises(InputError, match=says):
            LowLevelHead(6, ("lowlevel", latents), read, **knobs)


def test_rotation_keeps_lengths_and_sees_only_distances() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(6).expand(9, 6), torch.randn(6).expand(9, 6)
    a, b = rotate(q, 4), rotate(k, 4)
    assert torch.allclose(a.norm(dim=-1), q.norm(dim=-1), atol=1e-5)
    assert torch.equal(a[:, 4:], q[:, 4:])
    products = a @ b.T
    assert torch.allclose(products.diagonal(2), products[0, 2].expand(7), atol=1e-4)
    assert not torch.allclose(products[0], products[0, :1].expand(9), atol=1e-2)


def test_queries_hear_shared_keys_by_likeness_and_bias() -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 3, 4, 5, dtype=torch.float64)  # a width that is no multiple of eight
    k, v = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    bias = torch.randn(3, 4, 6, dtype=torch.float64)
    heard = hear(q, k, v, bias)
    for b, h, i in itertools.product(range(2), range(3), range(4)):
        weight = torch.stack([SHARPNESS * q[b, h, i] @ key for key in k[b]]) + bias[h, i]
        expected = sum(w * value for w, value in zip(weight.softmax(0), v[b], strict=True))
        torch.testing.assert_close(heard[b, h, i], expected)


def test_the_published_prior_forgets_a_dropped_condition() -> None:
    torch.manual_seed(0)
    prior = Dalle2Prior((3, 8), depth=1, heads=2, head_width=4, steps=10).eval()
    x, c = torch.randn(2, 4, 3, 8)
    time, yes = torch.tensor([0, 3, 6, 9]), torch.ones(4, dtype=torch.bool)
    assert not torch.allclose(prior(x, time, c, yes), prior(x, time, -c, yes), atol=1e-4)
    assert torch.equal(prior(x, time, c, ~yes), prior(x, time, -c, ~yes))
    assert torch.equal(prior(x, time, c, yes, ~yes), prior(-x, time, c, yes, ~yes))
    assert not torch.allclose(prior(x, time, c, yes), prior(x, time.flip(0), c, yes), atol=1e-4)
    whole = prior.sample(c, steps=5, guidance=2.0)
    assert torch.allclose(prior.sample(c[1:2], steps=5, guidance=2.0), whole[1:2], atol=1e-5)


def test_the_speed_is_the_derivative_of_the_way_and_leads_home() -> None:
    torch.manual_seed(0)
    image, brain = torch.randn(2, 5, 3, 8, dtype=torch.float64)
    time, h = torch.rand(5, dtype=torch.float64), 1e-6
    _, speed = between(image, brain, time)
    ahead, behind = (between(image, brain, time + s * h)[0] for s in (1, -1))
    assert torch.allclose(speed, (ahead - behind) / (2 * h), atol=1e-6)
    assert torch.allclose(between(image, brain, torch.zeros(5))[0], image)
    assert torch.allclose(between(image, brain, torch.ones(5))[0], brain)

    def exact(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return between(image, brain, t)[1]

    error = {}
    for steps in (20, 200):
        back = travel(exact, brain, steps=steps, start=1.0, end=0.0)
        error[steps] = float((back - image).abs().max())
    assert error[200] < 0.02 < 0.15 * math.pi
    assert error[200] == pytest.approx(error[20] / 10, rel=0.2)


def test_divergence_is_that_of_the_formula_book() -> None:
    torch.manual_seed(0)
    mean, logvar = torch.randn(2, 3, 2, 4, dtype=torch.float64)
    mine = divergence(mean, logvar)
    a = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    b = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    want = torch.distributions.kl_divergence(a, b).flatten(1).sum(1)
    assert torch.allclose(mine, want)


def test_neuroflow_goes_from_pictures_to_voxels_too() -> None:
    world = Voxels(SHAPES, voxels=(20, 13), n=4)
    encoder = NeuroFlow(world.layouts, SHAPES, **FLOW).eval()
    encoder.initialise(world, ())
    with torch.no_grad():
        made = encoder.voxels(world.batch.targets, world.batch.subject)
    assert [tuple(v.shape) for _, v in made] == [(4, 20), (4, 13)]
    with pytest.raises(InputError, match="flow leads to, got 'video'"):
        NeuroFlow(world.layouts, SHAPES, target="video")
    with pytest.raises(InputError, match=r"encoder\.heads: expected a divisor"):
        NeuroFlow(world.layouts, SHAPES, **{**FLOW, "heads": 3})


def convolved(x: torch.Tensor, w: Any, name: str, **way: int) -> torch.Tensor:
    return torch.nn.functional.conv1d(x, w[f"{name}.weight"], w[f"{name}.bias"], **way)


def grouped(x: torch.Tensor, w: Any, name: str) -> torch.Tensor:
    """With as few channels every channel is a group of its own."""
    spread = (x.var(2, unbiased=False, keepdim=True) + 1e-6).sqrt()
    unit = (x - x.mean(2, keepdim=True)) / spread
    return unit * w[f"{name}.weight"][:, None] + w[f"{name}.bias"][:, None]


def residual(x: torch.Tensor, w: Any, name: str) -> torch.Tensor:
    silu = torch.nn.functional.silu
    y = convolved(silu(grouped(x, w, f"{name}.inner.0")), w, f"{name}.inner.2", padding=1)
    y = convolved(silu(grouped(y, w, f"{name}.inner.3")), w, f"{name}.inner.5", padding=1)
    wide = f"{name}.skip.weight" in w
    return (convolved(x, w, f"{name}.skip") if wide else x) + y


def middle(x: torch.Tensor, w: Any, stack: str, first: int) -> torch.Tensor:
    x, name = residual(x, w, f"{stack}.{first}"), f"{stack}.{first + 1}"
    seen = grouped(x, w, f"{name}.norm")
    q, k, v = (convolved(seen, w, f"{name}.{part}") for part in ("query", "key", "value"))
    heard = (q.mT @ k / q.shape[1] ** 0.5).softmax(-1) @ v.mT
    return residual(x + convolved(heard.mT, w, f"{name}.out"), w, f"{stack}.{first + 2}")


def affine(x: torch.Tensor, w: Any, name: str) -> torch.Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def test_the_voxel_autoencoder_by_plain_formulas() -> None:
    """Copies of the voxels, the subject's layers, two halvings, blocks and attention in the middle."""
    torch.manual_seed(0)
    gelu, silu = torch.nn.functional.gelu, torch.nn.functional.silu
    sizes = {"tokens": 8, "features": 6, "width": 5, "channels": 2, "blocks": 1}
    network = VoxelAutoencoder([9], **sizes).double().eval()
    w, x = network.state_dict(), torch.randn(3, 9, dtype=torch.float64)
    made, logvar, trunk = network.encode([(0, torch.arange(3), x)], 3)
    y = convolved(x[:, None], w, "copy") @ w["enter.layers.0.weight"].T + w["enter.layers.0.bias"]
    y = torch.nn.functional.layer_norm(y, (5,), w["spread.0.weight"], w["spread.0.bias"])
    y = residual(affine(gelu(y), w, "spread.2"), w, "down.0")
    for at in (1, 3):
        y = convolved(y, w, f"down.{at}", stride=2, padding=3)
        y = residual(y, w, f"down.{at + 1}")
    y = silu(grouped(middle(y, w, "down", 5), w, "down.8"))
    assert torch.allclose(trunk, y, atol=1e-5)
    assert torch.allclose(torch.cat([made, logvar], 1), convolved(y, w, "posterior"), atol=1e-5)
    ((_, voxels),) = network.decode(made, torch.zeros(3, dtype=torch.long))
    y = middle(convolved(convolved(made, w, "compress"), w, "up.0"), w, "up", 1)
    y = residual(residual(y, w, "up.4"), w, "up.5")
    for at in (6, 9):
        y = torch.nn.functional.conv_transpose1d(
            y, w[f"up.{at}.weight"], w[f"up.{at}.bias"], stride=2, padding=3, output_padding=1
        )
        y = residual(residual(y, w, f"up.{at + 1}"), w, f"up.{at + 2}")
    y = torch.nn.functional.layer_norm(
        affine(y, w, "gather.0"), (5,), w["gather.1.weight"], w["gather.1.bias"]
    )
    y = silu(grouped(affine(gelu(y), w, "leave.layers.0"), w, "merge.0"))
    assert voxels.shape == (3, 9)
    assert torch.allclose(voxels, convolved(y, w, "merge.2")[:, 0], atol=1e-5)


def test_the_flow_knows_time_and_place_by_fixed_waves() -> None:
    """Position 3 and time .25, in [0, 1], at the third of four (and 128) rates, by hand."""
    network = SpeedTransformer(5, 8, width=8, depth=1, heads=2)
    assert not [name for name, _ in network.named_parameters() if "position" in name]
    assert isinstance(network.enter, torch.nn.Identity)
    rate = 10_000 ** (-2 / 4)
    assert float(network.position[3, 2]) == pytest.approx(np.sin(3 * rate), abs=1e-6)
    assert float(network.position[3, 4 + 2]) == pytest.approx(np.cos(3 * rate), abs=1e-6)
    seen: list[torch.Tensor] = []
    network.time.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    assert float(network(torch.randn(1, 5, 8), torch.tensor([0.25])).detach().abs().max()) == 0
    slow = 0.25 * 10_000 ** (-100 / 128)
    assert float(seen[0][0, 100]) == pytest.approx(np.cos(slow), abs=1e-6)
    assert float(seen[0][0, 128 + 100]) == pytest.approx(np.sin(slow), abs=1e-6)


def test_weights_are_averaged_as_far_as_training_went() -> None:
    """After values 1, 2 and 4 at .5: (1 + 2 * 2 + 4 * 4) / (1 + 2 + 4) = 3."""
    network = torch.nn.Linear(1, 1)
    averaged = Averaged(network, 0.5)
    assert torch.equal(averaged.weights(network)["bias"], network.bias)
    for value in (1.0, 2.0, 4.0):
        with torch.no_grad():
            network.bias.fill_(value)
        averaged.add(network)
    assert float(averaged.weights(network)["bias"].detach()) == pytest.approx(3)


def test_neuroflow_compares_codes_with_tokens_as_they_are() -> None:
    """Labels, flow and targets are raw; the projector's image of the rebuilt voxels counts too."""
    torch.manual_seed(0)
    world = Voxels(SHAPES, n=6)
    batch = replace(world.batch, targets={k: 5 + 3 * v for k, v in world.batch.targets.items()})
    encoder = NeuroFlow(world.layouts, SHAPES, **FLOW).eval()
    encoder.initialise([batch], ())
    terms = encoder.flow_terms(batch, batch.targets)
    assert torch.equal(encoder.clean(batch.targets), batch.targets["image"])
    got = 1000 * own_terms(encoder, batch)["cycle"]
    image = batch.targets["image"].flatten(1)
    image = image / image.norm(dim=1, keepdim=True)
    labels, expected = (image @ image.T / 0.125).softmax(1), 0.0
    assert len(terms["again"]) == 2
    for code in terms["again"]:
        made = code.flatten(1) / code.flatten(1).norm(dim=1, keepdim=True)
        logits = made @ image.T / 0.125
        both = (labels * logits.log_softmax(1)).sum(1) + (labels * logits.T.log_softmax(1)).sum(1)
        expected -= 1000 * float(both.mean().detach()) / 2
    assert float(got.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_flow_does_not_pull_the_code() -> None:
    torch.manual_seed(0)
    world = Voxels(SHAPES, n=4)
    encoder = NeuroFlow(world.layouts, SHAPES, **FLOW)
    encoder.initialise(world, ())
    encoder.flow_terms(world.batch, world.batch.targets)["speed"].mean().backward()
    assert all(p.grad is None for p in encoder.autoencoder.parameters())
    assert any(p.grad is not None for p in encoder.flow.parameters())


def test_flow_terms_add_up_and_weights_multiply() -> None:
    torch.manual_seed(0)
    world = Voxels(SHAPES, n=6)
    encoder = NeuroFlow(world.layouts, SHAPES, **FLOW).eval()
    encoder.initialise(world, ())
    one = own_terms(encoder, world.batch)
    factors = dict(zip(one, (2, 3, 5, 7, 11), strict=True))
    again = Own(weights=factors)(encoder, world.batch, 0.9)
    for name, factor in factors.items():
        assert float(again[name].detach()) == pytest.approx(
            factor * float(one[name].detach()), rel=1e-5
        ), name
    # Voxels by hand: padding counts for nothing, the sum runs over the voxels of each trial.
    mean, _ = encoder.code(world.batch)
    rebuilt = encoder.autoencoder.decode(mean, world.batch.subject)
    total = 0.0
    for s, (rows, value) in enumerate(rebuilt):
        seen = world.batch.brain[rows, : world.voxels[s], 0]
        total += float((value - seen).detach().square().sum())
    assert float(one["voxels"].detach()) == pytest.approx(total / len(world.batch), rel=1e-5)
    with pytest.raises(InputError, match=r"has \['cycle', 'rebuilt'\], got speed"):
        Own(weights={"speed": 1.0})(bridge(world), world.batch, 0.5)


def own_terms(encoder: Encoder, batch: Batch) -> Tensors:
    return encoder.own_terms(batch, 0.5, lambda: encoder.before_sampling(batch))


def bridge(world: Voxels, **knobs: Any) -> MindBridge:
    torch.manual_seed(0)
    small = {"pooled": 16, "adapter": 2, "width": 8, "blocks": 1, "projector": 4}
    return MindBridge(world.layouts, world.shapes, **{**small, **knobs})  # type: ignore[arg-type]


def test_mindbridge_pools_any_number_of_voxels() -> None:
    world = Voxels(SHAPES, voxels=(48, 10), n=3)
    pooled = bridge(world).pooled(world.batch)
    first = world.batch.brain[:3, :48, 0].reshape(3, 16, 3).max(2).values
    assert torch.equal(pooled[:3], first)
    assert pooled.shape == (6, 16)
    # Fewer voxels than places: neighbours share one, and padding is never looked at.
    assert bool((pooled[3:, :, None] == world.batch.brain[3:, None, :10, 0]).any(2).all())


def test_cycle_terms_are_those_of_two_networks_by_hand() -> None:
    world = Voxels(SHAPES, voxels=(20, 20), n=4)
    encoder = bridge(world).eval()
    got = Own(weights={"rebuilt": 3.0, "cycle": 2.0})(encoder, world.batch, 0.5)
    rebuilt, cycle = [], []
    for i in range(len(world.batch)):
        s = int(world.batch.subject[i])
        x = encoder.pooled(world.batch)[i : i + 1]
        e = encoder.embedders.layers[s](x)
        rebuilt.append((encoder.builders.layers[s](e) - x).square().mean())
        back = encoder.embedders.layers[1 - s](encoder.builders.layers[1 - s](e))
        cycle.append((back - e).square().mean())
    assert float(got["rebuilt"].detach()) == pytest.approx(
        3 * float(torch.stack(rebuilt).detach().mean()), rel=1e-5
    )
    assert float(got["cycle"].detach()) == pytest.approx(
        2 * float(torch.stack(cycle).detach().mean()), rel=1e-5
    )
    with pytest.raises(InputError, match="got rebuilt"):
        Own(weights={"rebuilt": 1.0})(NeuroFlow(world.layouts, SHAPES, **FLOW), world.batch, 0.5)


class Told(Encoder):
    """Predicts what it was told."""

    def __init__(self, prediction: torch.Tensor) -> None:
        super().__init__()
        self.prediction = prediction

    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        return {"lowlevel_tokens": self.prediction}

    def embed(self, targets: Any) -> Any:
        return targets


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def test_soft_tokens_equal_loops_in_float64() -> None:
    g = torch.Generator().manual_seed(0)
    made, clean, changed = torch.randn(3, 4, 2, 5, generator=g)
    world = Voxels({}, n=4, voxels=(3,))
    targets = {"lowlevel_tokens": clean, "other": changed}
    batch = replace(world.batch, targets=targets)
    p, t, a = (
        (x / x.norm(dim=2, keepdim=True)).reshape(8, 5).double().numpy()
        for x in (made, clean, changed)
    )
    for other, candidates in ((None, t), ("other", a)):
        loss = 0.0
        for i in range(8):
            for labels, scores in (
                (candidates @ t[i], candidates @ p[i]),
                (t @ candidates[i], p @ candidates[i]),
            ):
                loss -= float(softmax(labels / 0.1) @ np.log(softmax(scores / 0.1))) / 16
        objective = SoftTokens(other=other, weight=2.0, temperature=0.1)
        (got,) = objective(Told(made), batch, 0.5).values()  # type: ignore[arg-type]
        assert float(got) == pytest.approx(2 * loss, rel=1e-4)
    with pytest.raises(InputError, match=r"objectives.*\.other"):
        SoftTokens(other="none")(Told(made), batch, 0.5)  # type: ignore[arg-type]


def test_squared_error_of_unit_vectors() -> None:
    g = torch.Generator().manual_seed(0)
    made, wanted = torch.randn(2, 4, 2, 5, generator=g)
    batch = replace(Voxels({}, n=4, voxels=(3,)).batch, targets={"lowlevel_tokens": wanted})
    objective = MSE(target="lowlevel_tokens", weight=3.0, normalise=True)
    (got,) = objective(Told(made), batch, 0.5).values()  # type: ignore[arg-type]
    cosine = torch.nn.functional.cosine_similarity(made.flatten(1), wanted.flatten(1))
    assert float(got) == pytest.approx(3 * float((2 - 2 * cosine).mean()) / 10, rel=1e-5)


def test_hints_start_at_nothing() -> None:
    world = Voxels({"text": (3, 6), "hint": (2, 4, 4)}, voxels=(64,), n=3)
    encoder = NeuroPictor(world.layouts, world.shapes, patch=4, width=16, depth=1, heads=2).eval()
    made = encoder(world.batch)
    assert float(made["hint"].detach().abs().max()) == 0
    assert float(made["text"].detach().std()) > 0.1


def test_neuropictor_reads_the_last_text_layer_and_something_beside_it() -> None:
    """Heads by plain formulas; no nonlinearity between the convolutions over tokens."""
    shapes = {"text": (3, 6), "text_last": (3, 6), "hint": (2, 4, 4)}
    world = Voxels(shapes, voxels=(64,), n=3)
    encoder = NeuroPictor(world.layouts, world.shapes, patch=4, width=16, depth=1, heads=2).eval()
    with torch.no_grad():
        made = encoder(world.batch)
        assert torch.equal(made["text"], made["text_last"])
        for name, parameter in encoder.named_parameters():
            if "gate" in name:
                parameter.copy_(torch.randn(parameter.shape))
        made, w = encoder(world.batch), encoder.state_dict()
        tokens = encoder.transformer(encoder.maps(world.batch))

    def mixed(i: int) -> torch.Tensor:
        x = tokens
        for layer in ("0", "1"):
            weight, bias = (w[f"heads.{i}.mix.{layer}.{part}"] for part in ("weight", "bias"))
            x = torch.einsum("ot,btw->bow", weight[..., 0], x) + bias[:, None]
        return x @ w[f"heads.{i}.leave.0.weight"].T + w[f"heads.{i}.leave.0.bias"]

    def gated(i: int, x: torch.Tensor) -> torch.Tensor:
        wide = torch.nn.functional.pad(x, (1, 1)).unfold(2, 3, 1)
        weight = w[f"heads.{i}.gate.weight"]
        return torch.einsum("bifk,oik->bof", wide, weight) + w[f"heads.{i}.gate.bias"][:, None]

    norm = torch.nn.functional.layer_norm
    last = norm(mixed(1), (6,))
    assert torch.allclose(made["text_last"], last, atol=1e-5)
    assert torch.allclose(made["text"], last + gated(0, norm(mixed(0), (6,))), atol=1e-5)
    seen = mixed(2)
    hint = gated(2, seen * torch.sigmoid(seen)).reshape(3, 2, 4, 4)
    assert torch.allclose(made["hint"], hint, atol=1e-5)
    with pytest.raises(
        InputError, match=r"encoder\.semantic: expected tokens of the shape of 'text'"
    ):
        NeuroPictor(world.layouts, {**shapes, "text_last": (4, 6)}, patch=4, width=16, heads=2)


def test_a_causal_network_sees_no_later_volume() -> None:
    torch.manual_seed(0)
    network = CausalVolumes(6, width=8, depth=2, heads=2, longest=5).eval()
    x = torch.randn(2, 4, 6)
    later = x.clone()
    later[:, 3] += 1
    a, b = network(x), network(later)
    assert a.shape == (2, 5, 8)
    assert torch.allclose(a[:, :3], b[:, :3], atol=1e-6)
    assert not torch.allclose(a[:, 4], b[:, 4], atol=1e-3)
    with pytest.raises(InputError, match="at most 5 volumes, got 6"):
        network(torch.randn(1, 6, 6))


class Outside(torch.nn.Module):
    """A network from elsewhere."""

    def __init__(self, channels: int, *, width: Any = 4, tokens: bool = True) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(channels, 4)
        self.width, self.tokens = width, tokens

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        made = self.layer(volumes)
        return made if self.tokens else made.mean(1)


def test_any_network_of_volumes_can_be_put_in(tmp_path: Any) -> None:
    from decode.store import write_tensors

    world = Voxels(SHAPES, voxels=(10,), times=3, n=4)
    torch.manual_seed(0)
    saved = Outside(10)
    file = tmp_path / "network.safetensors"
    write_tensors(file, saved.state_dict())
    for pool in ("first", "last", "mean"):
        encoder = Wave(
            world.layouts, SHAPES, network=Outside, weights=str(file), pool=pool, freeze=True
        ).eval()  # type: ignore[arg-type]
        encoder.initialise(world, ())
        volumes = saved(world.batch.brain.transpose(1, 2))
        want = {"first": volumes[:, 0], "last": volumes[:, -1], "mean": volumes.mean(1)}[pool]
        assert torch.allclose(encoder.pooled(encoder.network(world.batch.brain.mT)), want)
        assert not any(p.requires_grad for p in encoder.network.parameters())
    with pytest.raises(InputError, match="a network that says its width"):
        Wave(world.layouts, SHAPES, network=lambda c: Outside(c, width=None))
    flat = Wave(world.layouts, SHAPES, network=lambda c: Outside(c, tokens=False))
    with pytest.raises(InputError, match=r"expected tokens \(batch, token, width\)"):
        flat(world.batch)
    wrong = Wave(
        {"a": Layout("fmri", ("v",) * 9, np.zeros((9, 3)), ("",) * 9, 1.0, 3)}, SHAPES,
        network=Outside, weights=str(file),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"layer.weight \(4, 9\), found \(4, 10\)"):
        wrong.initialise([replace(world.batch, brain=world.batch.brain[:, :9])], ())


def test_the_cycle_goes_through_the_new_subject_alone() -> None:
    """Rows of the others are built and embedded by it; its own rows count for the rebuilt voxels only."""
    torch.manual_seed(0)
    world = Voxels({"image": (6,)}, voxels=(20, 25, 30), n=6)
    names = tuple(world.layouts)
    small: dict[str, Any] = {"pooled": 12, "adapter": 3, "width": 8, "blocks": 1}
    encoder = MindBridge(world.layouts, world.shapes, through=names[2], **small).eval()
    terms = own_terms(encoder, world.batch)
    own = encoder.embedded(world.batch)
    with torch.no_grad():
        there = encoder.embedders.layers[2](encoder.builders.layers[2](own))
    others = world.batch.subject != 2
    assert int(others.sum()) == 12
    expected = (there - own)[others].square().mean()
    assert float(terms["cycle"].detach()) == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(InputError, match=r"through: expected one of .*, got nobody"):
        MindBridge(world.layouts, world.shapes, through="nobody", **small)
