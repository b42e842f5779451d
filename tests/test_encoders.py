"""Every encoder yaml on small EEG, MEG and fMRI layouts, and what single encoders promise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import hydra.utils
import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge
from test_configs import choice
from voxels import encodes

from decode.core import Batch, InputError, Layout, Tensors
from decode.encoders.adapted import Adapted
from decode.encoders.flat import Flat
from decode.encoders.joined import Joined
from decode.encoders.mlp import MLP
from decode.encoders.principal import Principal
from decode.encoders.ridge import Ridge
from decode.encoders.ridge_mlp import RidgeMLP
from decode.encoders.tsconv import TSConv
from decode.encoders.with_prior import WithPrior
from decode.objectives.mse import MSE
from decode.objectives.own import Own
from decode.store import read_tensors, write_tensors
from decode.strangers import MeanOfSubjects, has_own_layers
from decode.trainable import Encoder, left_to_training
from decode.training import OncePerBatch

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "encoder"
# Models of the brain are in tests/test_encoding.py.
FILES = [f for f in sorted(FOLDER.glob("*.yaml")) if not encodes(f)]
SHAPES = {"image": (6,), "retrieval": (6,), "tokens": (3, 4)}
PICTURES = {"image": (1, 16, 16), "retrieval": (6,)}
LATENTS = {"lowlevel": (2, 8, 8), "lowlevel_tokens": (4, 6)}
TOKENS = {"image": (3, 4), "retrieval": (3, 4), "label": (5,)}
# What a target may be; an encoder is tried with the first of these that it takes.
TARGETS = (TOKENS | LATENTS, LATENTS, PICTURES)
# Knobs of size, wherever they are larger than a test wants.
SMALL: dict[str, Any] = {
    "width": 16, "depth": 1, "heads": 2, "head_width": 4, "channels": 8, "sizes": [4, 4, 8], "steps": 3,
    "sample_steps": 3, "projector": 8, "rank": 2, "clusters": 5, "sample": 25, "pooled": 24, "adapter": 4,
    "tokens": 5, "size": 3, "bank": 60, "inner_folds": 2, "voxels": [10], "noise": [0.3],
    "temperature": [0.1], "between_semantic": 6, "between_hint": 6, "flow_width": 16,
}  # fmt: skip
LARGE = 30_000_000  # parameters; beyond this, presets are built without memory


def small(node: Any) -> Any:
    """A node with knobs as a test can afford them, of people whom a test has, from no older weights."""
    if isinstance(node, list):
        return [small(v) for v in node]
    if not isinstance(node, dict):
        return node
    made = {
        k: SMALL[k] if k in SMALL and is_larger(v, SMALL[k]) else small(v) for k, v in node.items()
    }
    made |= {k: None for k in ("through",) if k in made}
    if str(made.get("_target_")).endswith(".Adapted"):
        made |= {"weights": "scratch", "trained": []}
    if made.get("inner") == "???":
        made["inner"] = small(choice(FOLDER / "mlp.yaml"))
    return made


def is_larger(value: Any, least: Any) -> bool:
    numbers = isinstance(value, int | float) and not isinstance(value, bool)
    return value > least if numbers and not isinstance(least, list) else isinstance(value, list)


def layout(modality: str, channels: int, times: int, rois: Sequence[str] = ("",)) -> Layout:
    names = tuple(f"c{i}" for i in range(channels))
    of = tuple(rois[i % len(rois)] for i in range(channels))
    return Layout(modality, names, np.zeros((channels, 3)), of, 100.0, times)


def flat_map(side: int = 16) -> Layout:
    names = tuple(f"{row}-{column}" for row in range(side) for column in range(side))
    return replace(layout("fmri", side * side, 1), names=names)


def wider(world: str) -> dict[str, Layout]:
    """Other signals of the same kind, of more channels."""
    if world == "maps":
        return {k: flat_map(32) for k in WORLDS[world]}
    found = WORLDS[world].items()
    return {k: layout(l.modality, l.n_channels + 3, l.n_times, l.rois) for k, l in found}


REGIONS = ("early", "ventral", "midventral", "lateral", "midlateral", "parietal", "midparietal")
WORLDS = {
    "eeg": {"sub-01": layout("eeg", 6, 90), "sub-02": layout("eeg", 5, 90)},
    "meg": {"sub-01": layout("meg", 9, 80), "sub-02": layout("meg", 9, 80)},
    "fmri": {
        "sub-01": layout("fmri", 40, 1, REGIONS),
        "sub-02": layout("fmri", 30, 1, REGIONS),
    },
    "maps": {"sub-01": flat_map(), "sub-02": flat_map()},
}


class Batches:
    """Trials of all subjects with a linear code, in batches; iterable again and again."""

    def __init__(self, layouts, *, n=24, seed=0, noise=0.3, shapes=SHAPES, size=20):
        g = torch.Generator().manual_seed(seed)
        width = max(l.n_channels for l in layouts.values())
        self.rows = []
        for s, l in enumerate(layouts.values()):
            code = torch.Generator().manual_seed(100 + s)
            z = torch.randn(n, 4, generator=g)
            brain = torch.zeros(n, width, l.n_times)
            mix = torch.randn(4, l.n_channels * l.n_times, generator=code)
            signal = z @ mix + noise * torch.randn(n, mix.shape[1], generator=g)
            brain[:, : l.n_channels] = signal.reshape(n, l.n_channels, l.n_times)
            targets = {}
            for name, shape in shapes.items():
                w = torch.randn(4, int(np.prod(shape)), generator=torch.Generator().manual_seed(7))
                targets[name] = (5 + 2 * z @ w).reshape(n, *shape)
            trial = torch.arange(n) + s * n
            self.rows.append(Batch(brain, targets, torch.full((n,), s), trial, trial))
        self.size = size

    def all(self) -> Batch:
        """One batch with the subjects' rows interleaved."""
        join = lambda get: torch.stack([get(b) for b in self.rows], 1).flatten(0, 1)  # noqa: E731
        targets = {k: join(lambda b, k=k: b.targets[k]) for k in self.rows[0].targets}
        names = ("brain", "subject", "stimulus", "trial")
        return Batch(targets=targets, **{f: join(lambda b, f=f: getattr(b, f)) for f in names})

    def __iter__(self) -> Iterator[Batch]:
        whole = self.all()
        for rows in torch.arange(len(whole)).split(self.size):
            yield whole._map(lambda x, rows=rows: x[rows])


def maker(file: Path) -> Any:
    """What makes the encoder of a yaml, small."""
    return hydra.utils.instantiate(small(choice(file)), _convert_="all")


@cache
def taken(file: Path, world: str) -> dict[str, tuple[int, ...]] | str:
    """The first targets that an encoder takes from the signals of a world, or what it says to the last."""
    said = ""
    for shapes in TARGETS:
        try:
            with torch.device("meta"):
                made = maker(file)(WORLDS[world], shapes)
        except InputError as e:
            said = str(e)
        else:
            assert isinstance(made, Encoder)
            return shapes
    return said


def shapes_of(file: Path, world: str) -> dict[str, tuple[int, ...]]:
    found = taken(file, world)
    assert isinstance(found, dict), found
    return found


def build(file: Path, world: str, layouts: Any = None, *, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return maker(file)(layouts or WORLDS[world], shapes_of(file, world))


def batches(file: Path, world: str, **knobs: Any) -> Batches:
    return Batches(WORLDS[world], shapes=shapes_of(file, world), **knobs)


def needs(file: Path, world: str) -> None:
    """Encoders that cannot read some signals say so, with what they expect and what came."""
    if world == "maps" and isinstance(taken(file, "fmri"), dict):
        pytest.skip("maps are for those that do not read voxels")
    said = taken(file, world)
    if isinstance(said, str):
        assert "expected" in said
        assert "got" in said
        pytest.skip(f"refused: {said}")


def is_large(file: Path, world: str) -> bool:
    with torch.device("meta"):
        return sum(p.numel() for p in build(file, world).parameters()) > LARGE


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_encoder_reads_some_signal(file: Path) -> None:
    said = [taken(file, world) for world in WORLDS]
    assert any(isinstance(found, dict) for found in said), said


@pytest.mark.parametrize("world", list(WORLDS))
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
class TestContract:
    def test_life_of_an_encoder(self, file, world, tmp_path):
        needs(file, world)
        layouts, train = WORLDS[world], batches(file, world)
        batch, shapes = train.all(), shapes_of(file, world)
        if is_large(file, world):
            with torch.device("meta"):
                big = build(file, world).eval()
                assert all(b.device.type == "meta" for b in big.parameters())
            pytest.skip("built without memory: the preset is for a GPU")
        encoder = build(file, world).eval()
        with torch.no_grad():
            assert {k: tuple(v.shape[1:]) for k, v in encoder(batch).items()} == shapes
            encoder.initialise(train, batches(file, world, n=6, seed=1))
            encoder.eval()
            made = encoder(batch)
            assert {k: tuple(v.shape) for k, v in made.items()} == {
                k: (len(batch), *s) for k, s in shapes.items()
            }
            assert all(torch.isfinite(v).all() for v in made.values())
            # Rows stand for themselves: other rows of the batch change nothing.
            few = batch._map(lambda x: x[5:8])
            for name, value in encoder(few).items():
                assert torch.allclose(value, made[name][5:8], atol=1e-3), name
            # Padding is no signal.
            padded = batch.brain.clone()
            for s, l in enumerate(layouts.values()):
                padded[batch.subject == s, l.n_channels :] = 99
            for name, value in encoder(replace(batch, brain=padded)).items():
                assert torch.allclose(value, made[name], atol=1e-5), name
            write_tensors(tmp_path / "w.safetensors", encoder.state_dict())
            again = build(file, world, seed=99).eval()
            again.load_state_dict(read_tensors(tmp_path / "w.safetensors"))
            for name, value in again(batch).items():
                assert torch.equal(value, made[name]), name
        same = build(file, world)
        same.initialise(train, batches(file, world, n=6, seed=1))
        for (k, v), w in zip(encoder.state_dict().items(), same.state_dict().values(), strict=True):
            assert torch.equal(v, w), f"same seed, other {k}"

    def test_what_is_left_to_training_hangs_on_the_first_weights(self, file, world):
        """Two random starts: what `initialise` fits is predicted alike, all else differs."""
        needs(file, world)
        train = batches(file, world)
        if is_large(file, world):
            pytest.skip("the preset is for a GPU")
        made = []
        for seed in (0, 1):
            encoder = build(file, world, seed=seed)
            encoder.initialise(train, batches(file, world, n=6, seed=1))
            with torch.no_grad():
                made.append(encoder.eval()(train.all()))
        differ = {k for k in made[0] if not torch.allclose(made[0][k], made[1][k], atol=1e-4)}
        left = set(left_to_training(maker(file), tuple(shapes_of(file, world))))
        # A head that begins at zero says the same of every trial, and nothing yet.
        silent = {k for k in left if torch.equal(made[0][k], made[0][k][:1].expand_as(made[0][k]))}
        assert differ | silent == left

    def test_wrong_signals_are_refused_by_name(self, file, world):
        needs(file, world)
        layouts = WORLDS[world]
        if is_large(file, world):
            pytest.skip("the preset is for a GPU")
        encoder, batch = build(file, world).eval(), batches(file, world).all()
        widest = max(l.n_channels for l in layouts.values())
        unit = "voxels" if world in ("fmri", "maps") else "channels"
        with pytest.raises(InputError, match=f"{widest} {unit} for sub-01, data have {widest - 1}"):
            encoder(replace(batch, brain=batch.brain[:, :-1]))
        with pytest.raises(InputError, match=f"data have {widest + 1}"):
            encoder(replace(batch, brain=torch.cat([batch.brain, batch.brain[:, :1]], 1)))
        with pytest.raises(InputError, match="samples"):
            encoder(replace(batch, brain=torch.cat([batch.brain, batch.brain[:, :, :1]], 2)))
        with pytest.raises(InputError, match="got subject number 7"):
            encoder(replace(batch, subject=torch.full_like(batch.subject, 7)))

    def test_weights_of_another_signal_are_refused(self, file, world):
        needs(file, world)
        layouts = WORLDS[world]
        if is_large(file, world):
            pytest.skip("the preset is for a GPU")
        state = build(file, world).state_dict()
        old = layouts["sub-01"]
        other = wider(world)
        says = f"saved model has {old.n_channels} .* for sub-01, data have {other['sub-01'].n_channels}"
        with pytest.raises(InputError, match=says):
            build(file, world, other).load_state_dict(state)
        with pytest.raises(InputError, match="as many subjects as the saved model, 2, got 1"):
            build(file, world, {"sub-01": old}).load_state_dict(state)

    def test_gradients_reach_every_weight(self, file, world):
        needs(file, world)
        if is_large(file, world):
            pytest.skip("the preset is for a GPU")
        encoder, train = build(file, world), batches(file, world)
        encoder.initialise(train, batches(file, world, n=6, seed=1))
        if not any(True for _ in encoder.parameters()):
            pytest.skip("solved by initialise alone")
        batch = train.all()
        terms = [MSE(target=name)(encoder, batch, 0.5) for name in batch.targets]
        torch.manual_seed(0)
        terms.append(encoder.own_terms(batch, 0.5, lambda: encoder.before_sampling(batch)))
        torch.stack([v for t in terms for v in t.values()]).sum().backward()
        blind = [k for k, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
        assert not blind


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_stranger_is_read_through_the_layers_of_others(file):
    """With the second person as a stranger, the first one's layers speak; one layer for all is built."""
    needs(file, "meg")
    layouts, train = WORLDS["meg"], batches(file, "meg")
    if is_large(file, "meg"):
        pytest.skip("the preset is for a GPU")
    encoder = build(file, "meg").eval()
    encoder.initialise(train, batches(file, "meg", n=6, seed=1))
    encoder.eval()
    batch = train.all()
    with torch.no_grad():
        made = MeanOfSubjects(encoder, [0], [1]).eval()(batch)
        first = encoder(replace(batch, subject=torch.zeros_like(batch.subject)))
        other = encoder(batch)
    stranger = batch.subject == 1
    for name, value in made.items():
        torch.testing.assert_close(value[stranger], first[name][stranger], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(value[~stranger], other[name][~stranger], atol=1e-4, rtol=1e-4)
    same = all(torch.allclose(first[n], other[n], atol=1e-6) for n in made)
    assert has_own_layers(encoder) or same, "knows subjects and does not say so"
    everyone = build(file, "meg", {"everyone": layouts["sub-01"]}).eval()
    alone = replace(batch, subject=torch.zeros_like(batch.subject))
    everyone.initialise([alone], [])
    with torch.no_grad():
        assert set(everyone.eval()(alone)) == set(made)


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.stem.startswith("ridge") and "prior" not in f.stem]
)
def test_linear_presets_explain_held_out_trials(file):
    layouts = WORLDS["fmri"]
    encoder = hydra.utils.instantiate(choice(file), _convert_="all")(layouts, SHAPES)
    encoder.initialise(Batches(layouts, n=80), Batches(layouts, n=10, seed=1))
    encoder.eval()
    test = Batches(layouts, n=30, seed=2).all()
    with torch.no_grad():
        made = encoder(test)
    for name, truth in test.targets.items():
        error = (made[name] - truth).square().mean() / truth.var(0).mean()
        # Strengths that are given are made for thousands of trials.
        assert error < (0.9 if choice(file)["alphas"] else 0.1), name


def fit(layouts, train, validation=(), **knobs) -> Ridge:
    encoder = Ridge(layouts, SHAPES, **knobs)
    encoder.initialise(train, validation)
    return encoder.eval()


def test_ridge_equals_scikit_learn_per_subject():
    layouts, train = WORLDS["fmri"], Batches(WORLDS["fmri"])
    batch = train.all()
    made = fit(layouts, train, alphas=[10.0])(batch)["tokens"]
    for s, l in enumerate(layouts.values()):
        mine = batch.subject == s
        x = batch.brain[mine, : l.n_channels, 0].double().numpy()
        y = batch.targets["tokens"][mine].flatten(1).double().numpy()
        want = SklearnRidge(alpha=10.0).fit(x, y).predict(x)
        assert np.allclose(made[mine].flatten(1), want, rtol=1e-4, atol=1e-4)


def test_another_subjects_data_do_not_change_a_ridge():
    layouts, train = WORLDS["fmri"], Batches(WORLDS["fmri"])
    before = fit(layouts, train).state_dict()
    train.rows[1] = replace(train.rows[1], brain=train.rows[1].brain * 3 + 1)
    after = fit(layouts, train).state_dict()
    assert torch.equal(before["ridge.weights_0"], after["ridge.weights_0"])
    assert not torch.equal(before["ridge.weights_1"], after["ridge.weights_1"])


def test_ridge_finds_the_voxels_that_matter_inside_the_fold():
    layouts = {"sub-01": layout("fmri", 200, 1)}
    train = Batches(layouts, n=60)
    rows = train.rows[0]
    brain = rows.brain.clone()
    noisy = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:180]
    brain[:, noisy] = 10 * torch.randn(60, 180, 1)
    train.rows[0] = replace(rows, brain=brain)
    chosen = fit(layouts, train, select=20).state_dict()["ridge.chosen_0"]
    assert not set(chosen.tolist()) & set(noisy.tolist())


def test_ridge_strength_from_validation_rows_and_only_then():
    layouts = WORLDS["fmri"]
    train, validation = Batches(layouts, noise=3.0), Batches(layouts, n=12, seed=4, noise=3.0)
    apart = fit(layouts, train, validation, by="validation").state_dict()
    pooled = fit(layouts, train, validation).state_dict()
    alone = fit(layouts, train, validation, use_validation=False).state_dict()
    assert torch.equal(
        alone["ridge.weights_0"], fit(layouts, train).state_dict()["ridge.weights_0"]
    )
    assert not torch.equal(alone["ridge.weights_0"], pooled["ridge.weights_0"])
    assert not torch.equal(alone["ridge.weights_0"], apart["ridge.weights_0"])
    with pytest.raises(InputError, match=r"expected validation trials of .* got none"):
        fit(layouts, train, by="validation")


def test_ridge_rescaling_gives_new_predictions_the_spread_of_the_targets():
    layouts = {"sub-01": layout("fmri", 60, 1)}
    shapes = {"image": (3,)}
    worlds = [Batches(layouts, n=400, seed=s, noise=8.0, shapes=shapes) for s in (0, 1)]
    ratio = {}
    for rescale in ("none", "train"):
        encoder = Ridge(layouts, shapes, rescale=rescale)
        encoder.initialise(worlds[0], ())
        made = encoder(worlds[1].all())["image"]
        ratio[rescale] = float(made.std(0).mean() / worlds[1].all().targets["image"].std(0).mean())
    assert ratio["none"] < 0.8
    assert ratio["train"] == pytest.approx(1, abs=0.1)


def test_ridge_strength_may_be_shared():
    layouts, train = WORLDS["fmri"], Batches(WORLDS["fmri"], noise=3.0)
    alpha = {p: fit(layouts, train, per=p).state_dict()["ridge.alpha_0"] for p in ("name", "all")}
    assert len(alpha["all"].unique()) == 1
    for part in alpha["name"].split([6, 6, 12]):
        assert len(part.unique()) == 1


def test_ridge_on_one_hot_targets_classifies():
    layouts = WORLDS["fmri"]
    made = []
    for seed in (0, 1):
        b = Batches(layouts, n=90, seed=seed, shapes={"label": (3,)}, noise=1.0)
        for i, rows in enumerate(b.rows):
            best = rows.targets["label"].argmax(1)
            b.rows[i] = replace(rows, targets={"label": torch.eye(3)[best]})
        made.append(b)
    encoder = Ridge(layouts, {"label": (3,)})
    encoder.initialise(made[0], ())
    test = made[1].all()
    right = encoder(test)["label"].argmax(1) == test.targets["label"].argmax(1)
    assert right.float().mean() > 0.75


def test_ridge_refuses_a_subject_that_it_never_saw():
    layouts, train = WORLDS["fmri"], Batches(WORLDS["fmri"])
    batch = train.all()
    train.rows = train.rows[:1]
    with pytest.raises(InputError, match="expected training trials of sub-02"):
        fit(layouts, train)(batch)


def test_ridge_may_average_over_time():
    layouts, train = WORLDS["eeg"], Batches(WORLDS["eeg"])
    encoder = fit(layouts, train, time="mean", select=4)
    assert encoder.state_dict()["ridge.weights_0"].shape == (4, 24)
    shuffled = train.all().brain[:, :, torch.randperm(90)]
    batch = train.all()
    again = encoder(replace(batch, brain=shuffled))["image"]
    assert torch.allclose(again, encoder(batch)["image"], atol=1e-4)


def test_misspelt_ridge_knobs_are_named():
    with pytest.raises(InputError, match=r"encoder\.by"):
        Ridge(WORLDS["fmri"], SHAPES, by="cv")


def test_ridge_mlp_starts_as_ridge_and_learns_from_left_out_predictions():
    layouts, train = WORLDS["fmri"], Batches(WORLDS["fmri"], noise=3.0)
    encoder = RidgeMLP(layouts, SHAPES, dropout=0.0)
    encoder.initialise(train, ())
    batch = train.all()
    plain = fit(layouts, train, per="name")(batch)
    inside = encoder.eval()(batch)
    honest = encoder.train()(batch)
    unknown = encoder(replace(batch, trial=torch.full_like(batch.trial, -1)))
    for name, truth in batch.targets.items():
        assert torch.allclose(inside[name], plain[name], atol=1e-5)
        assert torch.allclose(unknown[name], plain[name], atol=1e-5)
        error = [(made[name] - truth).square().mean() for made in (inside, honest)]
        assert error[1] > 1.2 * error[0]
    # Brute force for one trial: refit without it at the strength chosen with it.
    mine, i = batch.subject == 0, 4
    x, y = batch.brain[mine, :, 0].double(), batch.targets["image"][mine].double()
    rest = torch.arange(len(x)) != i
    alpha = float(encoder.state_dict()["ridge.alpha_0"][0])
    want = (
        SklearnRidge(alpha=alpha)
        .fit(x[rest].numpy(), y[rest].numpy())
        .predict(x[i : i + 1].numpy())
    )
    assert np.allclose(honest["image"][mine][i].detach(), want[0], rtol=1e-3, atol=1e-3)


def test_ridge_mlp_leaves_alone_what_it_shall_not_correct():
    layouts, train = WORLDS["fmri"], Batches(WORLDS["fmri"], noise=3.0)
    encoder = RidgeMLP(layouts, SHAPES, correct=["retrieval"])
    encoder.initialise(train, ())
    torch.nn.init.ones_(encoder.heads[0].weight)
    made, plain = encoder.eval()(train.all()), fit(layouts, train, per="name")(train.all())
    assert torch.equal(made["image"], plain["image"])
    assert not torch.allclose(made["retrieval"], plain["retrieval"], atol=1e-2)
    with pytest.raises(InputError, match="correct"):
        RidgeMLP(layouts, SHAPES, correct=["retreival"])


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_parameter_counts():
    eeg = {"sub-01": layout("eeg", 63, 250)}
    nice = TSConv(eeg, {"retrieval": (1024,)}, subjects="shared")
    assert count(nice) == 103_680 + 2_527_232
    assert nice.heads.heads[0].first.in_features == 1440
    assert count(TSConv(eeg, {"retrieval": (768,)}, subjects="shared")) == pytest.approx(
        1.80e6, rel=5e-3
    )
    short = TSConv({"sub-01": layout("eeg", 63, 200)}, {"retrieval": (8,)}, subjects="shared")
    assert short.heads.heads[0].first.in_features == 1040
    ubp = Flat({"sub-01": layout("eeg", 17, 250)}, {"retrieval": (1024,)}, subjects="shared")
    assert count(ubp) == 5_404_672
    with torch.device("meta"):
        mindeye = MLP(
            {"sub-01": layout("fmri", 15724, 1)},
            {"image": (257, 768)},
            width=4096,
            blocks=4,
            projector=2048,
        )
        assert count(mindeye) == pytest.approx(0.94e9, rel=0.02)


def test_subject_mixing_starts_as_no_mixing():
    same = {"sub-01": layout("eeg", 6, 90), "sub-02": layout("eeg", 6, 90)}
    batch = Batches(same).all()
    torch.manual_seed(0)
    shared = Flat(same, SHAPES, subjects="shared").eval()
    torch.manual_seed(0)
    mixed = Flat(same, SHAPES, subjects="mix").eval()
    assert torch.allclose(shared(batch)["image"], mixed(batch)["image"], atol=1e-6)
    with pytest.raises(InputError, match=r"encoder\.subjects: expected mix .* got shared"):
        Flat(WORLDS["eeg"], SHAPES, subjects="shared")


def test_short_windows_are_refused_with_the_length_needed():
    with pytest.raises(InputError, match=r"at least 75 samples .* got 74"):
        TSConv({"sub-01": layout("eeg", 4, 74)}, SHAPES)
    TSConv({"sub-01": layout("eeg", 4, 75)}, SHAPES)


def test_regression_heads_start_at_the_scale_of_the_targets():
    train = Batches(WORLDS["fmri"], n=60)
    torch.manual_seed(0)
    encoder = MLP(WORLDS["fmri"], SHAPES).eval()
    truth = train.all().targets["image"]
    spread = float(truth.std(0).mean())
    with torch.no_grad():
        before = encoder(train.all())["image"]
        encoder.initialise(train, ())
        made = encoder(train.all())
    # Brought to scale: the same outputs, times the spread of the targets, around their mean.
    want = before * truth.var(0, unbiased=False).mean().sqrt() + truth.mean(0)
    assert torch.allclose(made["image"], want, rtol=1e-4, atol=1e-4)
    assert float((made["image"] - truth).mean().abs()) < spread
    assert abs(float(made["retrieval"].mean())) < 1.0


def test_a_trained_prior_turns_conditions_into_targets():
    torch.manual_seed(0)
    layouts = {"sub-01": layout("fmri", 40, 1)}
    shapes = {"image": (6,)}
    train = Batches(layouts, n=200, shapes=shapes, noise=0.1, size=50)

    def ridge(layouts, shapes):
        return RidgeMLP(layouts, shapes, width=16)

    encoder = WithPrior(layouts, shapes, inner=ridge, width=32, depth=1, heads=2)
    encoder.initialise(train, ())
    test = Batches(layouts, n=50, seed=3, shapes=shapes, noise=0.1).all()
    truth = test.targets["image"]

    @torch.no_grad()
    def error() -> float:
        return float((encoder.eval()(test)["image"] - truth).square().mean() / truth.var(0).mean())

    before = error()
    optimiser = torch.optim.Adam(encoder.prior.parameters(), lr=5e-3)
    objective = Own(weights={"prior": 1.0})
    for _ in range(40):
        encoder.train()
        for batch in train:
            (loss,) = objective(encoder, batch, 0.5).values()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    assert before > 0.9
    assert error() < 0.25


def test_prior_of_an_absent_target_is_refused():
    with pytest.raises(InputError, match="a target that the prior samples, got 'video'"):
        WithPrior(WORLDS["fmri"], SHAPES, inner=MLP, target="video")


class TwoSided(Encoder):
    """Says something of its own for every method of the contract."""

    def __init__(self, layouts, shapes, *, gain: float = 2.0) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def forward(self, batch: Batch) -> Tensors:
        return self.sampled(self.before_sampling(batch))

    def before_sampling(self, batch: Batch) -> Tensors:
        return {"brain": self.gain * batch.targets["image"]}

    def sampled(self, made: Tensors) -> Tensors:
        return {"brain": made["brain"] + 1}

    def embed(self, targets: Tensors) -> Tensors:
        return {k: -v for k, v in targets.items()}

    def truth(self, batch: Batch) -> Tensors:
        return {"brain": batch.brain}

    def own_terms(self, batch, progress, predicted) -> Tensors:
        return {"mine": progress * predicted()["brain"].mean()}


def test_encoders_around_others_pass_on_all_that_these_say() -> None:
    layouts, shapes = WORLDS["fmri"], {"image": (6,)}
    batch, plain = Batches(layouts, shapes=shapes).all(), TwoSided(layouts, shapes)
    around = [
        Adapted(layouts, shapes, inner=TwoSided, what="all"),
        Joined(layouts, shapes, encoders={"one": TwoSided}, targets={}),
        Principal(layouts, shapes, inner=TwoSided, size=3, targets=[]),
        MeanOfSubjects(plain, [0], [1]),
        OncePerBatch(plain.eval()),
    ]
    for encoder in around:
        encoder.eval()
        for asked in ("forward", "before_sampling", "truth"):
            got, expected = getattr(encoder, asked)(batch), getattr(plain, asked)(batch)
            assert got.keys() == expected.keys()
            assert torch.equal(got["brain"], expected["brain"]), (type(encoder), asked)
        assert torch.equal(encoder.embed(batch.targets)["image"], -batch.targets["image"])
        assert float(encoder.sampled({"brain": torch.ones(1)})["brain"].detach()) == 2
        terms = encoder.own_terms(batch, 0.5, lambda: plain.before_sampling(batch))
        assert float(terms["mine"].detach()) == pytest.approx(
            float(plain.before_sampling(batch)["brain"].mean().detach()) / 2
        )


def test_terms_of_one_name_are_added_where_encoders_are_joined() -> None:
    layouts, batch = WORLDS["fmri"], Batches(WORLDS["fmri"]).all()
    both = Joined(
        layouts, SHAPES, encoders={"a": TwoSided, "b": TwoSided}, targets={"b": ["tokens"]}
    )
    terms = both.own_terms(batch, 1.0, lambda: {"brain": torch.tensor([3.0])})
    assert float(terms["mine"]) == 6
