"""Every objective yaml, and each formula against plain loops in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra.utils
import numpy as np
import pytest
import torch
from test_configs import choice
from torch import Tensor, nn

from decode.core import Batch, InputError, Tensors
from decode.kinds import locate
from decode.networks.prior import DiffusionPrior
from decode.objectives import bimixco as bimixco_module
from decode.objectives.bimixco import BiMixCo, mixed_labels, partners
from decode.objectives.cosine import Cosine
from decode.objectives.cross_entropy import CrossEntropy
from decode.objectives.infonce import InfoNCE
from decode.objectives.l1 import L1
from decode.objectives.mse import MSE
from decode.objectives.own import Own
from decode.objectives.siglip import SigLIP
from decode.objectives.softclip import SoftCLIP
from decode.trainable import Encoder, Objective
from decode.training import loss_terms

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "objective"
NODES = {f: choice(f) for f in sorted(FOLDER.glob("*.yaml"))}
# Those of a published denoiser are in tests/test_dynadiff.py and tests/test_hinted.py.
FILES = [f for f, node in NODES.items() if not locate(node["_target_"], f.stem).tunes]
NAMED = {NODES[f].get(key) for f in FILES for key in ("target", "other")} - {None}
NAMES = {"image", "retrieval", "label"} | NAMED


def tokens(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Targets called tokens, and what they are compared with, are (token, feature)."""
    flat = {k for k in values if "tokens" not in k and "changed" not in k}
    return {k: v if k in flat else v.unflatten(1, (1, -1)) for k, v in values.items()}


class Plain(Encoder):
    """Predicts every target with one linear layer, has a prior on `image` and terms of other models."""

    def __init__(self, voxels: int = 8, width: int = 6) -> None:
        super().__init__()
        self.layer = nn.Linear(voxels, width)
        self.prior = DiffusionPrior((width,), width=8, depth=1, heads=2, steps=10)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return tokens({name: self.layer(batch.brain[:, :, 0]) for name in NAMES})

    def own_terms(self, batch: Batch, progress: float, predicted: Callable[[], Tensors]) -> Tensors:
        made, truth = predicted()["image"], batch.targets["image"]
        g = None if self.training else torch.Generator().manual_seed(0)
        loss = self.prior.loss(truth, made, drop=0.2, generator=g).mean()
        others = ("rebuilt", "cycle", "voxels", "divergence", "speed", "contrast")
        return {"prior": loss, **dict.fromkeys(others, (made - truth).square().mean())}


class Told(Encoder):
    """Predicts what it was told, whatever the brain."""

    def __init__(self, prediction: Tensor) -> None:
        super().__init__()
        self.prediction = nn.Parameter(prediction)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return dict.fromkeys(NAMES, self.prediction)


def batch_of(n: int = 10, *, width: int = 6, seed: int = 0, stimulus: object = None) -> Batch:
    g = torch.Generator().manual_seed(seed)
    y = torch.randn(n, width, generator=g)
    stimulus = torch.arange(n) if stimulus is None else torch.as_tensor(stimulus)
    y = y[stimulus]
    label = nn.functional.one_hot(stimulus % width, width).float()
    return Batch(
        torch.randn(n, 8, 1, generator=g),
        tokens({**dict.fromkeys(NAMES, y), "label": label}),
        torch.arange(n) % 2,
        stimulus,
        torch.arange(n),
    )


def jittered(batch: Batch) -> Batch:
    """Candidates of repeats that differ a little, as augmented pictures do."""
    y = batch.targets["retrieval"]
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(11))
    return replace(batch, targets={**batch.targets, "retrieval": y + 0.5 * noise})


def value(objective: Objective, encoder: Encoder, batch: Batch, progress: float = 0.5) -> float:
    terms = objective(encoder, batch, progress).values()
    return float(torch.stack(list(terms)).sum().detach())


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
class TestContract:
    def build(self, file: Path) -> Objective:
        return hydra.utils.instantiate(NODES[file], _convert_="all")

    @pytest.mark.parametrize("progress", [0.0, 0.2, 0.9])
    def test_terms_are_finite_and_reach_the_encoder(self, file, progress):
        torch.manual_seed(0)
        objective, encoder = self.build(file), Plain()
        terms = objective(encoder, batch_of(), progress)
        assert terms
        assert all(v.ndim == 0 and torch.isfinite(v) for v in terms.values())
        torch.stack(list(terms.values())).sum().backward()
        assert encoder.layer.weight.grad is not None
        assert torch.isfinite(encoder.layer.weight.grad).all()
        idle = all(float(v.detach()) == 0 for v in terms.values())
        starts, stops = getattr(objective, "starts", 0), getattr(objective, "stops", 2)
        assert idle == (progress < starts or progress >= stops)
        assert idle or encoder.layer.weight.grad.abs().sum() > 0
        learnt = [p for p in objective.parameters() if p.requires_grad]
        assert idle or all(p.grad is not None and torch.isfinite(p.grad) for p in learnt)

    def test_weight_multiplies(self, file):
        node = NODES[file]

        def times(w: float) -> dict[str, Any]:
            if "weights" in node:
                return {"weights": dict.fromkeys(node["weights"], w)}
            return {"weight": w}

        one, three = (hydra.utils.instantiate(node | times(w), _convert_="all") for w in (1.0, 3.0))
        encoder = Plain().eval()
        assert value(three, encoder, batch_of()) == pytest.approx(
            3 * value(one, encoder, batch_of())
        )

    def test_validation_is_repeatable_and_does_not_depend_on_progress(self, file):
        objective, encoder = self.build(file), Plain().eval()
        got = {value(objective, encoder, batch_of(), p) for p in (0.0, 0.5, 1.0, 0.0)}
        assert len(got) == 1

    def test_a_batch_of_one_does_not_crash(self, file):
        term = value(self.build(file), Plain().train(), batch_of(1), 0.1)
        assert math.isfinite(term)

    def test_a_missing_target_is_named(self, file):
        objective = self.build(file)
        batch = replace(batch_of(), targets={})
        name = getattr(objective, "target", "image")
        with pytest.raises((InputError, KeyError), match=name):
            objective(Plain(), batch, 0.1)


def loop_infonce(brain, image, scale, normalise, directions, stimulus):
    """InfoNCE, one pair at a time."""
    a, b = np.asarray(brain, float), np.asarray(image, float)
    if normalise in ("both", "brain"):
        a = a / np.linalg.norm(a, axis=1, keepdims=True)
    if normalise in ("both", "image"):
        b = b / np.linalg.norm(b, axis=1, keepdims=True)
    n = len(a)
    logits = np.array([[scale * float(a[i] @ b[j]) for j in range(n)] for i in range(n)])

    def one_way(s):
        total = 0.0
        for i in range(n):
            right = [j for j in range(n) if stimulus[j] == stimulus[i]]
            norm = math.log(sum(math.exp(v) for v in s[i]))
            total += sum(norm - s[i][j] for j in right) / len(right)
        return total / n

    if directions == "both":
        return (one_way(logits) + one_way(logits.T)) / 2
    return one_way(logits)


THETA = math.log(1 / 0.07)
SCALES = {"exp": 1 / 0.07, "raw": THETA, "softplus": math.log1p(math.exp(THETA)), "fixed": 1.0}


@pytest.mark.parametrize("normalise", ["both", "image", "brain", "none"])
@pytest.mark.parametrize("scale", list(SCALES))
@pytest.mark.parametrize("directions", ["both", "brain_to_image"])
@pytest.mark.parametrize("stimulus", [range(7), [0, 1, 0, 2, 3, 3, 3]], ids=["unique", "repeats"])
def test_infonce_equals_a_loop(normalise, scale, directions, stimulus):
    batch = jittered(batch_of(7, stimulus=list(stimulus)))
    told = Told(torch.randn(7, 6, generator=torch.Generator().manual_seed(5)) / 3)
    objective = InfoNCE(
        normalise=normalise, scale=scale, directions=directions, learnable=scale != "fixed"
    )
    want = loop_infonce(
        told.prediction.detach(),
        batch.targets["retrieval"],
        SCALES[scale],
        normalise,
        directions,
        list(stimulus),
    )
    assert value(objective, told, batch) == pytest.approx(want, rel=1e-5)


def test_the_three_scales_are_the_published_numbers():
    scales = {s: float(InfoNCE(scale=s).temperature().detach()) for s in ("exp", "raw", "softplus")}
    assert scales == pytest.approx({"exp": 14.2857, "raw": 2.6593, "softplus": 2.7270}, abs=1e-3)
    assert float(InfoNCE(theta=9.0).temperature().detach()) == pytest.approx(100, rel=1e-5)


def test_counting_repeats_as_wrong_is_another_number():
    """Repeats with equal candidates cost the same either way; augmented candidates do not."""
    batch = batch_of(6, stimulus=[0, 0, 1, 1, 2, 2])
    told = Told(torch.randn(6, 6, generator=torch.Generator().manual_seed(5)))
    multi, naive = InfoNCE(), InfoNCE(positives="row")
    assert value(multi, told, batch) == pytest.approx(value(naive, told, batch), rel=1e-5)
    batch = jittered(batch)
    args = (told.prediction.detach(), batch.targets["retrieval"], 1 / 0.07, "both", "both")
    want_multi = loop_infonce(*args, [0, 0, 1, 1, 2, 2])
    want_naive = loop_infonce(*args, range(6))
    assert want_multi != pytest.approx(want_naive, rel=1e-2)
    assert value(multi, told, batch) == pytest.approx(want_multi, rel=1e-5)
    assert value(naive, told, batch) == pytest.approx(want_naive, rel=1e-5)


def test_infonce_of_constant_predictions_is_the_log_of_the_batch():
    batch = batch_of(32, width=64)
    told = Told(torch.ones(32, 64))
    assert value(InfoNCE(scale="fixed", learnable=False, directions="brain_to_image", theta=0.0),
                 told, batch) == pytest.approx(math.log(32), rel=1e-6)  # fmt: skip
    wide = batch_of(64, width=4000)
    random = Told(torch.randn(64, 4000, generator=torch.Generator().manual_seed(9)))
    assert value(InfoNCE(), random, wide) == pytest.approx(math.log(64), abs=0.1)


def test_infonce_of_one_row_is_zero():
    assert value(InfoNCE(), Plain(), batch_of(1)) == 0


def test_misspelt_choices_are_refused():
    with pytest.raises(InputError, match="normalise"):
        InfoNCE(normalise="xy")
    with pytest.raises(InputError, match="learnable"):
        InfoNCE(scale="fixed")


def test_siglip_equals_a_loop_with_repeats_left_out():
    stimulus = [0, 1, 0, 2, 3]
    batch = batch_of(5, stimulus=stimulus)
    told = Told(torch.randn(5, 6, generator=torch.Generator().manual_seed(5)))
    a = told.prediction.detach().double()
    b = batch.targets["retrieval"].double()
    total = 0.0
    for i in range(5):
        for j in range(5):
            if i != j and stimulus[i] == stimulus[j]:
                continue
            logit = 10 * float(a[i] @ b[j] / a[i].norm() / b[j].norm()) - 10
            total += math.log1p(math.exp(-logit if i == j else logit))
    assert value(SigLIP(), told, batch) == pytest.approx(total / 5, rel=1e-5)


def test_softclip_equals_a_loop():
    batch = batch_of(6, seed=3)
    told = Told(torch.randn(6, 6, generator=torch.Generator().manual_seed(5)))
    unit = lambda x: x / x.norm(dim=1, keepdim=True)  # noqa: E731
    p, t = unit(told.prediction.detach().double()), unit(batch.targets["retrieval"].double())
    at = 0.2
    total = 0.0
    for i in range(6):
        label = np.exp([float(t[i] @ t[j]) / at for j in range(6)])
        label /= label.sum()
        row = np.array([float(p[i] @ t[j]) / at for j in range(6)])
        column = np.array([float(p[j] @ t[i]) / at for j in range(6)])
        for logits in (row, column):
            total -= float((label * (logits - np.log(np.exp(logits).sum()))).sum()) / 12
    objective = SoftCLIP(first=at, last=at)
    assert value(objective, told, batch) == pytest.approx(total, rel=1e-4)


def test_softclip_temperature_anneals_from_its_start():
    objective = SoftCLIP(starts=0.33)
    assert objective.temperature(0.33) == pytest.approx(0.004)
    assert objective.temperature(0.665) == pytest.approx((0.004 + 0.0075) / 2)
    assert objective.temperature(1.0) == pytest.approx(0.0075)
    assert value(objective, Plain().train(), batch_of(), 0.32) == 0
    assert value(objective, Plain().train(), batch_of(), 0.34) > 0


def naive_labels(share: Tensor, partner: Tensor) -> Tensor:
    """The published slip: assignment wipes the mass of a row that is its own partner."""
    out = torch.diag(share)
    out[torch.arange(len(share)), partner] = 1 - share
    return out


def naive_partners(subject: Tensor) -> Tensor:
    """The published slip: permutations per subject put together without their row offsets."""
    return torch.cat([torch.randperm(int((subject == s).sum())) for s in subject.unique()])


def loop_labels(share: Tensor, partner: Tensor) -> Tensor:
    out = torch.zeros(len(share), len(share))
    for i in range(len(share)):
        out[i, i] += share[i]
        out[i, partner[i]] += 1 - share[i]
    return out


def check_labels(make) -> None:
    share, partner = torch.tensor([0.3, 1.0, 0.6, 0.9]), torch.tensor([2, 1, 0, 3])
    assert torch.allclose(make(share, partner), loop_labels(share, partner))
    assert torch.allclose(make(share, partner).sum(1), torch.ones(4))


def check_partners(make) -> None:
    subject = torch.tensor([0] * 6 + [1] * 9 + [2] * 4)
    torch.manual_seed(0)
    for _ in range(20):
        partner = make(subject)
        assert torch.equal(subject[partner], subject)
        assert torch.equal(partner.sort().values, torch.arange(19))


def test_mixed_labels_keep_the_mass_of_fixed_points():
    check_labels(mixed_labels)
    with pytest.raises(AssertionError):
        check_labels(naive_labels)


def test_partners_stay_within_their_subject_at_the_right_rows():
    check_partners(partners)
    with pytest.raises(AssertionError):
        check_partners(naive_partners)


def test_partners_work_when_subjects_are_interleaved():
    subject = torch.tensor([0, 1] * 8)
    torch.manual_seed(0)
    partner = partners(subject)
    assert torch.equal(subject[partner], subject)
    assert not torch.equal(partner, torch.arange(16))


def loop_bimixco(encoder, batch, share, partner, temperature):
    brain = torch.stack(
        [
            share[i] * batch.brain[i] + (1 - share[i]) * batch.brain[partner[i]]
            for i in range(len(batch))
        ]
    )
    made = encoder(replace(batch, brain=brain))["retrieval"].double().detach()
    wanted = batch.targets["retrieval"].double()
    s = (made / made.norm(dim=1, keepdim=True)) @ (wanted / wanted.norm(dim=1, keepdim=True)).T
    s, labels = s / temperature, loop_labels(share, partner).double()
    rows = -(labels * torch.log_softmax(s, 1)).sum(1).mean()
    columns = -(labels.T * torch.log_softmax(s.T, 1)).sum(1).mean()
    return float((rows + columns) / 2)


@pytest.mark.parametrize("fault", [None, "labels", "partners"])
def test_bimixco_equals_a_loop_and_both_published_slips_would_show(fault, monkeypatch):
    batch = batch_of(12, width=6, stimulus=list(range(12)))
    batch = replace(batch, subject=torch.tensor([0] * 7 + [1] * 5))
    encoder = Plain().train()
    objective = BiMixCo(chance=1.0, alpha=0.5)
    if fault == "labels":
        monkeypatch.setattr(bimixco_module, "mixed_labels", naive_labels)
    agree = []
    for seed in range(8):
        torch.manual_seed(seed)
        share, partner = objective.draw(batch.subject)
        want = loop_bimixco(encoder, batch, share, partner, objective.temperature)
        if fault == "partners":
            monkeypatch.setattr(bimixco_module, "partners", naive_partners)
        torch.manual_seed(seed)
        agree.append(value(objective, encoder, batch, 0.1) == pytest.approx(want, rel=1e-4))
        monkeypatch.setattr(bimixco_module, "partners", partners)
    assert all(agree) == (fault is None)


def test_bimixco_marks_mixed_rows_and_leaves_pure_ones():
    seen = []

    class Spy(Plain):
        def forward(self, batch):
            seen.append(batch)
            return super().forward(batch)

    batch = batch_of(200, stimulus=list(range(200)))
    torch.manual_seed(0)
    BiMixCo()(Spy().train(), batch, 0.0)
    untouched = (seen[0].brain == batch.brain).all(2).all(1)
    assert torch.equal(seen[0].trial[untouched], batch.trial[untouched])
    assert (seen[0].trial[~untouched] == -1).all()
    assert 0.3 < float(untouched.float().mean()) < 0.75


def test_simple_losses_equal_numpy():
    batch, told = batch_of(), Told(torch.randn(10, 6))
    p, t = told.prediction.detach().double().numpy(), batch.targets["image"].double().numpy()
    norm = np.linalg.norm(p, axis=1) * np.linalg.norm(t, axis=1)
    assert value(MSE(), told, batch) == pytest.approx(((p - t) ** 2).mean(), rel=1e-5)
    assert value(L1(), told, batch) == pytest.approx(np.abs(p - t).mean(), rel=1e-5)
    assert value(Cosine(), told, batch) == pytest.approx(
        (1 - (p * t).sum(1) / norm).mean(), rel=1e-5
    )
    want = nn.functional.cross_entropy(told.prediction, batch.targets["label"].argmax(1))
    assert value(CrossEntropy(), told, batch) == pytest.approx(float(want.detach()), rel=1e-5)
    want = nn.functional.cross_entropy(
        told.prediction, batch.targets["label"].argmax(1), label_smoothing=0.1
    )
    assert value(CrossEntropy(smoothing=0.1), told, batch) == pytest.approx(
        float(want.detach()), rel=1e-5
    )


def test_cross_entropy_wants_classes_and_pairs_want_equal_shapes():
    with pytest.raises(InputError, match="add up to 1"):
        CrossEntropy(target="image")(Plain(), batch_of(), 0.0)
    with pytest.raises(InputError, match=r"shape of target 'image', \(5,\), got \(6,\)"):
        MSE()(Plain(), batch_of(width=5, n=5), 0.0)


def test_own_terms_are_those_that_the_encoder_has():
    for encoder, has in ((Told(torch.zeros(10, 6)), "none of its own"), (Plain(), "'cycle'")):
        with pytest.raises(InputError, match=f"has .*{has}.*, got depth"):
            Own(weights={"depth": 1.0})(encoder, batch_of(), 0.0)
    with pytest.raises(InputError, match="one term or more"):
        Own(weights={})


class Counted(Plain):
    """Keeps every batch that it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Batch] = []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.asked.append(batch)
        return super().forward(batch)


@pytest.mark.parametrize(("at", "mixes"), [(0.1, True), (0.5, False)])
def test_all_objectives_see_the_same_mixtures_in_one_forward_pass(at: float, mixes: bool) -> None:
    torch.manual_seed(2)
    batch, encoder = batch_of(40), Counted().train()
    objectives = {"mixed": BiMixCo(chance=1.0), "l1": L1(), "prior": Own(weights={"prior": 30.0})}
    terms = loss_terms(encoder, objectives, batch, at)
    (seen,) = encoder.asked
    assert (seen.mix is not None) == mixes
    assert torch.equal(seen.brain, batch.brain) != mixes
    with torch.no_grad():
        made = encoder(seen)["image"]
    # Targets stay as they are: the published low level and prior are not told of the other picture.
    assert float(terms["l1"]) == pytest.approx(float((made - batch.targets["image"]).abs().mean()))
    if seen.mix is not None:
        share, partner = seen.mix.share[:, None, None], seen.mix.partner
        expected = share * batch.brain + (1 - share) * batch.brain[partner]
        torch.testing.assert_close(seen.brain, expected)
        assert bool((seen.trial[partner != torch.arange(40)] == -1).all())


def test_nothing_is_mixed_while_validating() -> None:
    encoder, batch = Counted().eval(), batch_of(10)
    loss_terms(encoder, {"mixed": BiMixCo(chance=1.0), "l1": L1()}, batch, 0.1)
    assert all(torch.equal(b.brain, batch.brain) for b in encoder.asked)
