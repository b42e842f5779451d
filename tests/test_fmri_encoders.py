"""Each fMRI encoder learns a simulated code, knows nothing of shuffled pairs, and meets new people."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from voxels import Voxels, train
from worlds import config

from decode.core import InputError
from decode.encoders.adapted import Adapted
from decode.encoders.dynadiff import Dynadiff
from decode.encoders.low_level import LowLevel
from decode.encoders.mindbridge import MindBridge
from decode.encoders.mindeye2 import MindEye2
from decode.encoders.mlp import MLP
from decode.encoders.neuroflow import NeuroFlow
from decode.encoders.neuropictor import NeuroPictor
from decode.encoders.umbrae import Umbrae
from decode.encoders.voxel_tokens import VoxelTokens
from decode.encoders.wave import Wave
from decode.encoders.with_prior import WithPrior
from decode.networks.adaptation import adapt, start_from
from decode.networks.causal import CausalVolumes
from decode.networks.mixers import LegacyMixer, ResidualMixer
from decode.objectives.bimixco import BiMixCo
from decode.objectives.infonce import InfoNCE
from decode.objectives.l1 import L1
from decode.objectives.mse import MSE
from decode.objectives.own import Own
from decode.objectives.soft_tokens import SoftTokens
from decode.objectives.softclip import SoftCLIP
from decode.pipeline import execute
from decode.store import read_tensors, write_tensors
from decode.trainable import Encoder, Objective
from decode.training import loss_terms
from decode.workshop import Run

TOKENS = {"image": (3, 16), "retrieval": (3, 16)}


@dataclass
class Case:
    """A tiny preset, its objectives, its targets, and which of them are scored."""

    make: Callable[..., Encoder]
    objectives: Callable[[], dict[str, Objective]]
    shapes: dict[str, Any]
    scored: tuple[str, ...]
    world: dict[str, Any] = field(default_factory=dict)
    steps: int = 150
    rate: float = 3e-3


def mindeye(inner: Callable[..., Encoder], **knobs: Any) -> Callable[..., Encoder]:
    def make(layouts: Any, shapes: Any) -> Encoder:
        return WithPrior(
            layouts, shapes, inner=lambda l, s: inner(l, s, **knobs), width=None, depth=2, heads=4,
            head_width=16, sample_steps=10,
        )  # fmt: skip

    return make


def contrastive() -> dict[str, Objective]:
    return {
        "bimixco": BiMixCo(),
        "softclip": SoftCLIP(starts=0.33),
        "prior": Own(weights={"prior": 30.0}),
    }


def tiny(kind: Any, **knobs: Any) -> Callable[..., Encoder]:
    return lambda layouts, shapes: kind(layouts, shapes, **knobs)


FLOW = {"voxels": 1.0, "divergence": 1e-3, "speed": 1.0, "contrast": 1e3, "cycle": 1e3}
UMBRAE = {"tokens": 4, "width": 32, "depth": 2, "heads": 2, "head_width": 16}
VOXEL_TOKENS = {"width": 64, "clusters": 16, "depth": 1, "heads": 4, "sample": None}
CASES = {
    "mindeye1": Case(
        mindeye(MLP, width=64, blocks=2, share="image", projector=32, dropout_in=0.1),
        contrastive,
        TOKENS,
        ("image", "retrieval"),
        {"n": 400},
        steps=500,
        rate=1e-2,
    ),
    "mindeye1_low_level": Case(
        tiny(LowLevel, width=64, blocks=1, dropout_in=0.1, channels=8, sizes=(8, 8, 8)),
        lambda: {"l1": L1(target="lowlevel"), "tokens": SoftTokens(weight=1.0)},
        {"lowlevel": (2, 8, 8), "lowlevel_tokens": (4, 16)},
        ("lowlevel", "lowlevel_tokens"),
    ),
    "mindeye2": Case(
        mindeye(MindEye2, width=64, channels=8, sizes=(8, 8, 8)),
        lambda: contrastive() | {"low": L1(target="lowlevel")},
        TOKENS | {"lowlevel": (2, 8, 8)},
        ("image", "retrieval", "lowlevel"),
        {"n": 400},
        steps=500,
        rate=5e-3,
    ),
    "mindeye2_factorised": Case(
        tiny(MindEye2, width=64, head="factorised", rank=8),
        lambda: {"bimixco": BiMixCo(), "softclip": SoftCLIP(starts=0.33), "mse": MSE()},
        TOKENS,
        ("image", "retrieval"),
    ),
    "mindbridge": Case(
        tiny(MindBridge, pooled=60, adapter=8, width=64, blocks=1, dropout_in=0.1),
        lambda: {
            "image": SoftCLIP(target="image", first=0.005, last=0.005),
            "text": SoftCLIP(target="text", first=0.005, last=0.005),
            "unit": MSE(target="image", weight=1e4, normalise=True),
            "cycle": Own(weights={"rebuilt": 1.0, "cycle": 1.0}),
        },
        {"image": (3, 6), "text": (2, 6)},
        ("image", "text"),
    ),
    "umbrae": Case(tiny(Umbrae, **UMBRAE), lambda: {"mse": MSE()}, {"image": (3, 6)}, ("image",)),
    "voxel_tokens": Case(
        tiny(VoxelTokens, **VOXEL_TOKENS),
        lambda: {"mse": MSE(), "features": MSE(target="features")},
        {"image": (3, 6), "features": (4, 5)},
        ("image", "features"),
    ),
    "neuroflow": Case(
        tiny(
            NeuroFlow, width=32, channels=8, blocks=1, depth=2, heads=2, flow_width=32, average=0.9
        ),
        lambda: {
            "flow": Own(weights=FLOW),
            "retrieval": SoftCLIP(weight=1000.0, first=0.125, last=0.125),
        },
        TOKENS,
        ("image", "retrieval"),
    ),
    "dynadiff": Case(
        tiny(Dynadiff, width=64, dropout=0.1, share=None, projector=32),
        lambda: {"mse": MSE(), "infonce": InfoNCE()},
        TOKENS,
        ("image", "retrieval"),
        {"times": 3, "voxels": (30, 20)},
    ),
    "neuropictor": Case(
        tiny(NeuroPictor, patch=4, width=32, depth=1, heads=2, between_semantic=8, between_hint=8),
        lambda: {"text": MSE(target="text"), "hint": MSE(target="hint")},
        {"text": (3, 6), "hint": (2, 4, 4)},
        ("text", "hint"),
        {"voxels": (64,), "n": 400},
    ),
    "wave": Case(
        tiny(Wave, network=lambda c: CausalVolumes(c, width=32, depth=1, heads=2, longest=4)),
        lambda: {"image": MSE(), "text": InfoNCE()},
        TOKENS,
        ("image", "retrieval"),
        {"voxels": (40,), "times": 2, "n": 400},
    ),
}
HELD_OUT = 40


def worlds(case: Case, **changes: Any) -> tuple[Voxels, Voxels]:
    knobs = case.world | changes
    test = knobs | {"n": HELD_OUT}
    return Voxels(case.shapes, **knobs), Voxels(case.shapes, seed=99, **test)


def built(case: Case, world: Voxels) -> Encoder:
    torch.manual_seed(0)
    return case.make(world.layouts, case.shapes)


LONG = {"mindeye1", "mindeye1_low_level", "mindeye2", "neuroflow"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in CASES]
)
def test_an_encoder_reads_held_out_stimuli(name: str) -> None:
    """At least half as often right as one who knows the code and the noise; chance is 1 in 40."""
    case = CASES[name]
    world, test = worlds(case)
    encoder = train(built(case, world), world, case.objectives(), steps=case.steps, rate=case.rate)
    for target in case.scored:
        assert test.ceiling(target) > 0.9
        assert test.score(encoder, target) > 0.5 * test.ceiling(target), target


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == "mindeye1_low_level" else n for n in CASES],
)
def test_an_encoder_of_shuffled_pairs_knows_nothing(name: str) -> None:
    case = CASES[name]
    world, test = worlds(case)
    encoder = train(built(case, world), world.shuffled(), case.objectives(), steps=25)
    for target in case.scored:
        # 80 (or 40) trials at 1 in 40 are right 2 (or 1) times; more than 8 in 1000 worlds at most.
        assert test.score(encoder, target) * len(test.batch) <= 8, target


@pytest.mark.parametrize("name", CASES)
def test_half_precision_trains_as_the_trainer_does_it(name: str) -> None:
    case = CASES[name]
    world = Voxels(case.shapes, **case.world | {"n": 6})
    encoder = built(case, world)
    encoder.initialise(world, ())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = loss_terms(encoder, case.objectives(), world.batch, 0.1)
        loss = torch.stack([t.float() for t in terms.values()]).sum()
    loss.backward()
    grads = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert torch.isfinite(loss)
    assert grads
    assert all(bool(torch.isfinite(g).all()) for g in grads)


# Trials of the new subject: UMBRAE's tokenizer has most to fit, and at 30 it learns them by heart.
ADAPTABLE: dict[str, tuple[Callable[..., Encoder], int]] = {
    "mindeye2": (tiny(MindEye2, width=64), 30),
    "mindbridge": (tiny(MindBridge, pooled=60, adapter=8, width=64, blocks=2), 30),
    "umbrae": (tiny(Umbrae, **UMBRAE), 100),
    "voxel_tokens": (tiny(VoxelTokens, **VOXEL_TOKENS), 30),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ADAPTABLE)
def test_a_new_subject_with_few_trials_gains_from_others(name: str, tmp_path: Path) -> None:
    (inner, n), shapes = ADAPTABLE[name], {"image": (3, 16)}
    world: dict[str, Any] = {"curved": True, "noise": 1.0}
    others = Voxels(shapes, voxels=(60, 45, 50), n=400, **world)
    few = Voxels(shapes, voxels=(55,), n=n, first=7, seed=5, **world)
    test = Voxels(shapes, voxels=(55,), n=100, first=7, seed=99, **world)
    torch.manual_seed(0)
    trained = train(inner(others.layouts, shapes), others, {"mse": MSE()}, steps=400)
    file = tmp_path / "encoder.safetensors"
    write_tensors(file, trained.state_dict())
    scores = {}
    for what in ("scratch", "input", "lora"):
        torch.manual_seed(1)
        encoder = inner(few.layouts, shapes)
        if what != "scratch":
            encoder = Adapted(
                few.layouts, shapes, inner=inner, weights=str(file), what=what, rank=2
            )  # type: ignore[arg-type]
        train(encoder, few, {"mse": MSE()}, steps=200, size=min(n, 64))
        scores[what] = test.score(encoder, "image")
    assert test.ceiling("image") > 0.9
    assert scores["input"] > scores["scratch"] + 0.2, scores
    assert scores["lora"] > scores["scratch"] + 0.2, scores


@pytest.mark.parametrize("kind", [LowLevel, MindEye2])
def test_a_changed_target_is_compared_with_and_not_predicted(kind: type[Encoder]) -> None:
    shapes = {"lowlevel": (2, 8, 8), "lowlevel_tokens": (4, 16), "lowlevel_changed": (4, 16)}
    world = Voxels(shapes, n=6)
    encoder = kind(world.layouts, shapes, width=16, channels=8, sizes=(4, 4, 8), blocks=1)
    encoder.initialise(world, ())
    predicted = {"lowlevel", "lowlevel_tokens"}
    assert set(encoder(world.batch)) == set(encoder.embed(world.batch.targets)) == predicted
    losses = []
    for other in (None, "lowlevel_changed"):
        (loss,) = SoftTokens(other=other)(encoder.eval(), world.batch, 0.5).values()
        losses.append(float(loss.detach()))
    loss.backward()
    assert any(bool((p.grad != 0).any()) for p in encoder.parameters() if p.grad is not None)
    assert losses[0] != losses[1]


def test_a_legacy_mixer_only_adds_a_constant_and_the_residual_one_works() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 32)
    legacy = LegacyMixer(32, blocks=4, dropout=0.15).eval()
    before = legacy(x)
    shift = before - x
    assert torch.allclose(shift, shift[0, 0].expand_as(shift), atol=1e-5)
    for parameter in legacy.mixer_blocks1.parameters():
        torch.nn.init.normal_(parameter)
    assert torch.equal(legacy(x), before)
    for parameter in legacy.mixer_blocks2.parameters():
        torch.nn.init.normal_(parameter)
    change = legacy(x) - before
    assert float(change.detach()[0, 0].abs()) > 1e-3
    assert torch.allclose(change, change[0, 0].expand_as(change), atol=1e-4)

    residual = ResidualMixer(32, blocks=4, dropout=0.15).eval()
    before = residual(x)
    torch.nn.init.normal_(residual.blocks[0][0].weight)  # type: ignore[index]
    change = residual(x) - before
    assert float(change.detach().std()) > 1e-2


def test_a_published_mixer_never_gets_a_gradient() -> None:
    world = Voxels(TOKENS, n=8)
    torch.manual_seed(0)
    for mixer, learns in (("legacy", False), ("residual", True)):
        encoder = MindEye2(world.layouts, TOKENS, width=16, mixer=mixer)  # type: ignore[arg-type]
        sum(v.square().mean() for v in encoder(world.batch).values()).backward()  # type: ignore[union-attr]
        blocks = encoder.mixer.mixer_blocks1 if mixer == "legacy" else encoder.mixer.blocks
        size = sum(float(p.grad.abs().sum()) for p in blocks.parameters() if p.grad is not None)  # type: ignore[union-attr]
        assert (size > 1e-6) == learns


class TestAdaptation:
    shapes = {"image": (3, 16)}  # noqa: RUF012

    def umbrae(self, *numbers: int, shapes: Any = None) -> Encoder:
        layouts: dict[str, Any] = {}
        for i in numbers:
            layouts |= Voxels(self.shapes, voxels=(20 + i,), n=2, first=i).layouts
        return Umbrae(layouts, shapes or self.shapes, **UMBRAE)

    def test_each_step_of_the_ladder_trains_what_it_names(self) -> None:
        counts = {}
        for what in ("input", "lora", "all"):
            encoder = self.umbrae(1, 2)
            trained = adapt(encoder, what, rank=2)
            names = {n for n, p in encoder.named_parameters() if p.requires_grad}
            counts[what] = sum(p.numel() for p in trained)
            if what == "input":
                assert names == {n for n in names if n.startswith("tokenizer.")}
            if what == "lora":
                assert {n.split(".")[0] for n in names} == {"tokenizer", "resampler", "queries"}
                assert all("lora" in n for n in names if not n.startswith("tokenizer."))
        assert counts["input"] < counts["lora"] < counts["all"]
        encoder = self.umbrae(1, 2)
        adapt(encoder, "input", known=[0])
        free = {n for n, p in encoder.named_parameters() if p.requires_grad}
        assert free
        assert all(re.search(r"\.1\.", n) for n in free)

    def test_low_rank_products_start_at_nothing_and_reach_the_output(self) -> None:
        world = Voxels(self.shapes, voxels=(21,), n=6, first=1)
        torch.manual_seed(0)
        encoder = self.umbrae(1).eval()
        before = encoder(world.batch)["image"]
        adapt(encoder, "lora", rank=2)
        assert torch.equal(encoder(world.batch)["image"], before)
        for name, parameter in encoder.named_parameters():
            if name.endswith("lora_up"):
                torch.nn.init.normal_(parameter, std=0.1)
        assert not torch.allclose(encoder(world.batch)["image"], before, atol=1e-3)

    def test_shared_weights_are_taken_and_own_ones_are_kept(self, tmp_path: Path) -> None:
        old, new = self.umbrae(1, 2, 3), self.umbrae(9, 3)
        file = tmp_path / "encoder.safetensors"
        write_tensors(file, old.state_dict())
        mine = new.state_dict()["tokenizer.gather.0.weight"].clone()
        back = start_from(new, file, subjects=["9", "3"], trained=["1", "2", "3"])
        state, source = new.state_dict(), old.state_dict()
        assert back == [1]
        assert torch.equal(state["tokenizer.gather.0.weight"], mine)
        assert torch.equal(state["tokenizer.gather.1.weight"], source["tokenizer.gather.2.weight"])
        for name in state:
            if not name.startswith(("tokenizer.", "passport.")):
                assert torch.equal(state[name], source[name]), name

    def test_weights_that_do_not_fit_are_named_in_one_line(self, tmp_path: Path) -> None:
        file = tmp_path / "encoder.safetensors"
        write_tensors(file, self.umbrae(1, 2).state_dict())
        another_target = {"image": (5, 16)}
        with pytest.raises(InputError) as e:
            start_from(self.umbrae(3, shapes=another_target), file)
        says = str(e.value)
        assert "\n" not in says
        assert str(file) in says
        assert "queries.queries (5, 32), found (3, 32)" in says
        longer = self.umbrae(2)
        longer.tokenizer.gather[0] = torch.nn.Linear(40, 32)  # type: ignore[union-attr, operator, index]
        with pytest.raises(InputError, match=r"gather.1.weight \(32, 40\), found \(32, 22\)"):
            start_from(longer, file, subjects=["2"], trained=["1", "2"])
        shallow = Umbrae(Voxels(self.shapes, n=2).layouts, self.shapes, **{**UMBRAE, "depth": 1})
        with pytest.raises(InputError, match="which it has not"):
            start_from(shallow, file)
        deep = Umbrae(Voxels(self.shapes, n=2).layouts, self.shapes, **{**UMBRAE, "depth": 3})
        with pytest.raises(InputError, match="found no such tensor"):
            start_from(deep, file)
        with pytest.raises(InputError, match="whole safetensors"):
            start_from(shallow, tmp_path / "none.safetensors")

    def test_a_returning_subject_keeps_its_layers_and_weights_are_read_once(
        self, tmp_path: Path
    ) -> None:
        old = Voxels(self.shapes, voxels=(20, 25), n=20)
        file = tmp_path / "encoder.safetensors"
        torch.manual_seed(0)
        trained = Umbrae(old.layouts, self.shapes, **UMBRAE)
        trained.initialise(old, ())
        write_tensors(file, trained.state_dict())
        both = Voxels(self.shapes, voxels=(25, 30), n=20, first=1)
        encoder = Adapted(
            both.layouts, self.shapes, inner=tiny(Umbrae, **UMBRAE), weights=str(file),
            what="input", trained=list(old.layouts),
        )  # fmt: skip
        encoder.initialise(both, ())
        state, source = encoder.state_dict(), trained.state_dict()
        kept = "tokenizer.gather.0.weight"
        assert torch.equal(state[f"inner.{kept}"], source["tokenizer.gather.1.weight"])
        free = {n for n, p in encoder.named_parameters() if p.requires_grad}
        assert free == {n for n in free if re.search(r"tokenizer\.\w+\.1\.", n)}
        file.unlink()
        again = Adapted(
            both.layouts, self.shapes, inner=tiny(Umbrae, **UMBRAE), weights=str(file),
            what="input", trained=list(old.layouts),
        )  # fmt: skip
        again.load_state_dict(encoder.state_dict())
        with torch.no_grad():
            made = [e.eval()(both.batch)["image"] for e in (encoder, again)]
        assert torch.equal(*made)
        with pytest.raises(InputError, match=r"expected encoder\.safetensors"):
            again.initialise(both, ())

    def test_encoders_without_layers_per_subject_have_no_first_step(self) -> None:
        world = Voxels(TOKENS, voxels=(40,), n=4)
        with pytest.raises(InputError, match="no layers per subject"):
            Adapted(world.layouts, TOKENS, inner=CASES["wave"].make, what="input")
        with pytest.raises(InputError, match=r"encoder\.what"):
            Adapted(world.layouts, TOKENS, inner=CASES["wave"].make, what="head")  # type: ignore[arg-type]

    def test_objectives_find_what_they_need_behind_the_wrapper(self) -> None:
        world = Voxels(TOKENS, n=6)
        encoder = Adapted(world.layouts, TOKENS, inner=CASES["mindeye1"].make, what="lora", rank=1)
        encoder.initialise(world, ())
        (term,) = Own(weights={"prior": 30.0})(encoder, world.batch, 0.5).values()
        assert torch.isfinite(term)
        with pytest.raises(AttributeError):
            encoder.nothing  # noqa: B018


def test_a_run_starts_from_the_run_of_another_subject(tmp_path: Path) -> None:
    mlp = {"_target_": "decode.encoders.mlp.MLP", "_partial_": True, "width": 24, "blocks": 1}
    mse = {"_target_": "decode.objectives.mse.MSE", "target": "pixels"}
    common = {"objectives": {"mse": mse}, "baselines": {}}
    first = Run(config(tmp_path, subjects=["a"], encoder=mlp, **common))
    execute(first, until="train", force=(), say=lambda s: None)
    folder = first.folder("train")
    assert folder is not None
    (file,) = folder.rglob("encoder.safetensors")
    adapted = {
        "_target_": "decode.encoders.adapted.Adapted", "_partial_": True, "inner": mlp,
        "weights": str(file.parents[1]), "what": "input",
    }  # fmt: skip
    second = Run(config(tmp_path, subjects=["b"], encoder=adapted, **common))
    execute(second, until="train", force=(), say=lambda s: None)
    (mine,) = second.folder("train").rglob("encoder.safetensors")  # type: ignore[union-attr]
    old, new = read_tensors(file), read_tensors(mine)
    assert set(new) == {f"inner.{k}" for k in old}
    moved = {k for k in old if old[k].shape != new[f"inner.{k}"].shape or
             not torch.equal(old[k], new[f"inner.{k}"])}  # fmt: skip
    assert moved == {"inputs.layers.0.weight", "inputs.layers.0.bias", "passport.channels"}
    file.unlink()
    execute(second, until="predict", force=(), say=lambda s: None)
