"""Single-stage training: the denoiser's own loss teaches the encoder and low-rank products beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusion_twins import save_versatile, teach_versatile, tiny_unet
from nsd_twin import GAIN, Twin, ideal_top1, shrink_sampling, write_nsd, write_timeseries
from scored import means
from test_configs import composed
from torch import Tensor, nn

from decode.core import Batch, InputError, Layout
from decode.diffusion.low_rank import add_products, attach, cross_attention, products
from decode.encoders.dynadiff import Dynadiff
from decode.generators.nearest import Nearest
from decode.generators.versatile import Versatile
from decode.objectives.denoising import Denoising
from decode.pipeline import execute
from decode.store import read_json, read_tensors, write_tensors
from decode.trainable import Encoder
from decode.workshop import Run

TOKENS, LATENTS = (5, 8), (4, 8, 8)
VOXELS, VOLUMES, CODE = 30, 3, 3
SEEDS = [11, 12]
# Of sampling the twin's pictures; noise of a volume in units of the response.
STEPS, VOLUME_NOISE = 4, 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_versatile(tmp_path_factory.mktemp("versatile"))


def world(n: int, *, seed: int) -> Batch:
    """Trials whose voxels, tokens and latents are linear in one code; a colour fills the latents."""
    fixed = torch.Generator().manual_seed(1)
    maps = {
        "brain": torch.randn(CODE, VOXELS * VOLUMES, generator=fixed),
        "image": torch.randn(CODE, 40, generator=fixed),
        "latents": torch.randn(CODE, 4, 1, 1, generator=fixed).expand(CODE, *LATENTS).flatten(1),
    }
    g = torch.Generator().manual_seed(seed)
    code = torch.randn(n, CODE, generator=g) / CODE**0.5
    brain = code @ maps["brain"] + 0.3 * torch.randn(n, VOXELS * VOLUMES, generator=g)
    targets = {
        "image": (code @ maps["image"]).view(n, *TOKENS),
        "latents": (code @ maps["latents"]).view(n, *LATENTS),
    }
    rows = torch.arange(n)
    return Batch(brain.view(n, VOXELS, VOLUMES), targets, torch.zeros_like(rows), rows, rows)


def brain_module(train: Batch) -> Dynadiff:
    names = tuple(f"v{i}" for i in range(VOXELS))
    layout = Layout("fmri", names, np.zeros((VOXELS, 3)), ("",) * VOXELS, 0.75, VOLUMES)
    torch.manual_seed(0)
    encoder = Dynadiff({"a": layout}, {"image": TOKENS, "latents": LATENTS}, width=32, dropout=0.1)
    encoder.initialise([train], [train])
    return encoder


class Wide(Encoder):
    """Predicts tokens of another width."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"wide": torch.zeros(len(batch), 5, 9)}


def loss(objective: Denoising, encoder: Encoder, batch: Batch) -> Tensor:
    return objective(encoder, batch, 0.5)["denoising"]


def steps(objective: Denoising, encoder: Dynadiff, train: Batch, n: int) -> None:
    learnt = [p for m in (encoder, objective) for p in m.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=1e-2)
    for _ in range(n):
        some = torch.randint(len(train), (16,))
        value = loss(objective, encoder, train._map(lambda x, some=some: x[some]))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()


def random_products(objective: Denoising) -> None:
    with torch.no_grad():
        for value in objective.parameters():
            value.normal_(generator=torch.Generator().manual_seed(2))


def pictures(generator: Versatile, tokens: Tensor) -> Tensor:
    made = generator({"image": tokens}, seeds=SEEDS)
    return torch.stack([torch.as_tensor(m.data) for m in made])


def sampler(folder: Path, **knobs: Any) -> Versatile:
    plain = {"steps": 3, "guidance": 3.5, "norm": "keep", "blank": None, "device": "cpu"}
    return Versatile(str(folder), **{**plain, **knobs})


def test_the_gradient_reaches_what_is_trained_and_nothing_else(folder: Path) -> None:
    train = world(16, seed=0)
    objective, encoder = Denoising(model=str(folder)), brain_module(train)
    random_products(objective)
    before = {k: v.clone() for k, v in objective.denoiser.state_dict().items()}
    loss(objective, encoder, train).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    own = {id(p) for p in objective.parameters()}
    frozen = [p for p in objective.denoiser.parameters() if id(p) not in own]
    assert len(frozen) > 50
    assert all(p.grad is None and not p.requires_grad for p in frozen)
    steps(objective, encoder, train, 1)
    for name, value in objective.denoiser.state_dict().items():
        assert torch.equal(value, before[name]) == ("lora" not in name), name
    assert set(objective.state_dict()) == {f"low_rank.{i}" for i in range(len(own))}


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_that_of_the_library(kind: str, tmp_path: Path) -> None:
    """Noise and velocity by diffusers' scheduler, the denoiser as it lies in the folder."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    folder, batch = save_versatile(tmp_path, prediction_type=kind), world(6, seed=4)
    objective, encoder = Denoising(model=str(folder), weight=3.0), brain_module(batch).eval()
    found = float(loss(objective, encoder, batch).detach())
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="image_unet")
    clean = batch.targets["latents"]
    time, noise, keep = objective.draw(clean, training=False)
    assert keep.all()
    wanted = {
        "epsilon": noise, "sample": clean, "v_prediction": scheduler.get_velocity(clean, noise, time)
    }[kind]  # fmt: skip
    with torch.no_grad():
        noisy, tokens = scheduler.add_noise(clean, noise, time), encoder(batch)["image"]
        made = unet(noisy, time, encoder_hidden_states=tokens).sample
    assert found == pytest.approx(3 * float((made - wanted).square().mean()), rel=1e-4)


def test_levels_offsets_and_dropped_conditions_are_drawn_as_they_are_said(folder: Path) -> None:
    torch.manual_seed(0)
    clean = torch.zeros(4000, *LATENTS)
    objective = Denoising(model=str(folder), drop=0.3, offset=2.0)
    time, noise, keep = objective.draw(clean, training=True)
    # 1 - u^3 has the mean 3/4, and lies below one half where u^3 is above: 1 - 2^(-1/3).
    assert float(time.double().mean()) == pytest.approx(750, abs=15)
    assert float((time < 500).double().mean()) == pytest.approx(1 - 0.5 ** (1 / 3), abs=0.02)
    assert float(noise.mean((2, 3)).std()) == pytest.approx((4 + 1 / 64) ** 0.5, rel=0.03)
    assert float(keep.double().mean()) == pytest.approx(0.7, abs=0.02)
    flat = Denoising(model=str(folder), levels="uniform", offset=0.0)
    time, noise, _ = flat.draw(clean, training=True)
    assert float(time.double().mean()) == pytest.approx(500, abs=15)
    assert float(noise.mean((2, 3)).std()) == pytest.approx(1 / 8, rel=0.03)
    once, twice = (flat.draw(clean, training=False) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_a_dropped_condition_is_zeros(folder: Path) -> None:
    train = world(8, seed=0)
    objective, encoder = Denoising(model=str(folder), drop=0.999999), brain_module(train)
    loss(objective, encoder.train(), train).backward()
    assert all(p.grad is None or not p.grad.any() for p in encoder.parameters())


def test_latents_are_not_decoded() -> None:
    train = world(20, seed=0)
    encoder = brain_module(train).eval()
    assert set(encoder(train)) == set(encoder.embed(train.targets)) == {"image"}


def test_products_start_at_nothing_and_fit_the_layers_they_were_made_for(folder: Path) -> None:
    from diffusers import UNet2DConditionModel

    plain, other = (
        UNet2DConditionModel.from_pretrained(folder, subfolder="image_unet").eval() for _ in "ab"
    )
    layers = add_products(other, rank=2)
    x, t, tokens = torch.randn(2, *LATENTS), torch.tensor([3, 700]), torch.randn(2, *TOKENS)

    def made(unet: nn.Module) -> Tensor:
        with torch.no_grad():
            return unet(x, t, encoder_hidden_states=tokens).sample

    untouched = made(plain)
    assert torch.equal(made(other), untouched)
    trained = products(layers)
    with torch.no_grad():
        for value in trained.values():
            value.normal_()
    assert not torch.allclose(made(other), untouched, atol=1e-3)
    attach(plain, {k: v.detach() for k, v in trained.items()})
    assert torch.equal(made(plain), made(other))
    kept = {k: v.detach() for k, v in trained.items()}
    again = UNet2DConditionModel.from_pretrained(folder, subfolder="image_unet")
    one = next(iter(kept))
    for wrong in ({one: kept[one]}, {**kept, one: kept[one][:, 1:]}, {"none.lora_up": kept[one]}):
        with pytest.raises(InputError, match="expected low-rank products that fit the denoiser"):
            attach(again, wrong)


def test_the_published_products_are_four_hundred_thousand_numbers() -> None:
    """Rank 4 beside q, k, v and out of 16 cross-attentions of the denoiser's published shape."""
    with torch.device("meta"):
        unet = tiny_unet(
            block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=768, norm_num_groups=32, sample_size=64,
        )  # fmt: skip
    assert len(cross_attention(unet)) == 4 * 16
    numbers = sum(p.numel() for p in products(add_products(unet, rank=4)).values())
    places = {320: 5, 640: 5, 1280: 6}
    assert numbers == sum(n * 4 * (6 * d + 2 * 768) for d, n in places.items()) == 397_824
    assert sum(p.numel() for p in unet.parameters() if p.requires_grad) == numbers


@pytest.mark.parametrize("text", [None, "text"])
def test_saved_products_make_the_same_pictures_bit_by_bit(
    text: str | None, folder: Path, tmp_path: Path
) -> None:
    objective = Denoising(model=str(folder), rank=3)
    random_products(objective)
    write_tensors(tmp_path / "w.safetensors", objective.tuned())
    saved = read_tensors(tmp_path / "w.safetensors")
    g = torch.Generator().manual_seed(0)
    given = {
        "image": torch.randn(2, *TOKENS, generator=g),
        "text": torch.randn(2, 8, 8, generator=g),
    }
    generator = sampler(folder, text=text)

    def made() -> Tensor:
        return torch.stack([torch.as_tensor(m.data) for m in generator(given, seeds=SEEDS)])

    untuned = made()
    generator.tune(saved)
    tuned = made()
    assert (tuned - untuned).abs().max() > 1e-3
    generator.tune({})
    assert torch.equal(made(), untuned)
    generator.tune(saved)
    assert torch.equal(made(), tuned)
    if text is None:
        # The very denoiser that was trained, not one rebuilt from the file.
        generator.tune({})
        made()
        generator._pipe.image_unet = objective.denoiser
        assert torch.equal(made(), tuned)


def test_zeros_guide_where_no_picture_does(folder: Path) -> None:
    tokens = torch.randn(2, *TOKENS, generator=torch.Generator().manual_seed(0))
    strong = pictures(sampler(folder), tokens)
    assert not torch.allclose(strong, pictures(sampler(folder, blank=0.0), tokens), atol=1e-3)
    # Without a condition, guidance has nothing to steer from.
    nothing = torch.zeros_like(tokens)
    guided, plain = (pictures(sampler(folder, guidance=g), nothing) for g in (3.5, 1.0))
    assert torch.allclose(guided, plain, atol=1e-5)


@pytest.mark.slow
def test_training_tells_right_pairs_from_wrong_ones_on_held_out_trials(tmp_path: Path) -> None:
    folder = save_versatile(tmp_path, prediction_type="sample")
    train, test = world(512, seed=2), world(128, seed=3)
    objective, encoder = Denoising(model=str(folder)), brain_module(train)
    wrong = replace(test, brain=test.brain.roll(1, 0))

    def scored() -> tuple[float, float]:
        encoder.eval()
        with torch.no_grad():
            return tuple(float(loss(objective, encoder, b)) for b in (test, wrong))  # type: ignore[return-value]

    first = scored()
    assert abs(first[1] / first[0] - 1) < 0.02
    torch.manual_seed(0)
    steps(objective, encoder.train(), train, 100)
    right, shuffled = scored()
    assert right < 0.8 * first[0]
    assert right < 0.9 * shuffled


def test_what_does_not_fit_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    batch = world(4, seed=0)
    encoder = brain_module(batch)
    for knobs, says in [
        ({"levels": "low"}, "expected levels out of"),
        ({"drop": 1.0}, r"drop in \[0, 1\)"),
        ({"rank": 0}, "rank: expected 1"),
        ({"model": str(tmp_path / "none")}, "found none there"),
    ]:
        with pytest.raises(InputError, match=says):
            Denoising(**{"model": str(folder), **knobs})
    objective = Denoising(model=str(folder))
    with pytest.raises(InputError, match="target 'pixels'"):
        loss(Denoising(model=str(folder), latents="pixels"), encoder, batch)
    few = {**batch.targets, "latents": torch.zeros(4, 3, 8, 8)}
    with pytest.raises(InputError, match=r"sees latents \(4, h, w\)"):
        loss(objective, encoder, replace(batch, targets=few))
    with pytest.raises(InputError, match=r"reads tokens \(token, 8\)"):
        loss(Denoising(model=str(folder), image="wide"), Wide(), batch)
    weights = objective.tuned()
    with pytest.raises(InputError, match="no weights trained with the encoder"):
        Nearest().tune(weights)
    with pytest.raises(
        InputError, match=r"generator\.image: expected the target of the tokens .* got null"
    ):
        sampler(folder, image=None, text="text").tune(weights)


def small(folder: Path, place: Path) -> dict[str, Any]:
    """The experiment as it ships, with the twin's networks, few weights and a ridge beside it."""
    config = composed("experiment=nsd/dynadiff", f"paths.outputs={place}/outputs")
    config["data"] |= {"root": str(place / "nsd"), "volumes": None}
    config["subjects"], config["published"] = ["subj01"], None
    parts = {"tower": "image_encoder", "prepared": "image_feature_extractor"}
    config["targets"]["image"] |= {"model": str(folder), "device": "cpu", **parts}
    config["targets"]["latents"] |= {"model": str(folder), "device": "cpu", "size": 16}
    config["encoder"] |= {"width": 64}
    config["baselines"] = {"ridge": {"_target_": "decode.encoders.ridge.Ridge", "_partial_": True}}
    config["objectives"]["denoising"] |= {"model": str(folder), "precision": "float32"}
    config["trainer"] |= {"epochs": 10, "rate": 7e-3, "batch_size": 64, "precision": "float32"}
    shrink_sampling(config, folder)
    config["generator"]["steps"] = STEPS
    config["metrics"]["image"]["two_way"] = [{"_target_": "decode.scoring.feature_networks.Pixels"}]
    return config


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Twin, Path]:
    """A twin with time series, and a denoiser that draws its training pictures from their tokens."""
    place = tmp_path_factory.mktemp("drawing")
    one = {"subj01": "nii.gz"}
    twin = write_nsd(place / "nsd", subjects=one, n_images=320, n_shared=24, size=16)
    write_timeseries(twin, "subj01", sessions=40, per_run=12, noise=VOLUME_NOISE * GAIN)
    schedule = {"prediction_type": "sample", "timestep_spacing": "trailing"}
    model = save_versatile(place / "versatile", **schedule)
    train = np.setdiff1d(twin.ids("subj01"), twin.shared("subj01"))
    teach_versatile(model, twin.pictures[train])
    return twin, model


@pytest.mark.slow
def test_the_experiment_draws_what_was_seen_from_runs_to_scores(
    drawing: tuple[Twin, Path],
) -> None:
    """Pictures are told apart a third of the way from chance to the ideal observer of the windows."""
    from PIL import Image

    from decode.artefacts.media import place
    from decode.pictures import to_bytes
    from decode.stages.reconstruct import seed_of
    from decode.store import Frame

    twin, folder = drawing
    config = small(folder, folder.parent)
    run = Run(config)
    execute(run, until="report", force=(), say=lambda s: None)
    places = {n: run.folder(n) or folder for n in ("train", "predict", "reconstruct", "evaluate")}
    fold = {name: place / "shared1000-00" for name, place in places.items()}
    trained = fold["train"]
    assert {p.relative_to(trained).as_posix() for p in trained.rglob("*.safetensors")} == {
        "scaler.safetensors", "decoder/encoder.safetensors", "decoder/generator.safetensors",
        "baselines/ridge/encoder.safetensors",
    }  # fmt: skip
    tuned = read_tensors(trained / "decoder" / "generator.safetensors")
    assert all(value.abs().sum() > 0 for value in tuned.values())
    frame = Frame.read(fold["predict"])
    assert len(frame.table) == twin.n_shared
    assert {"decoder/image", "truth/decoder/image"} == {k for k in frame.arrays if "ridge" not in k}
    seeds = [seed_of(config["seed"], s) for s in frame.table["stimulus"]]
    knobs = {"steps": STEPS, "guidance": 3.5}
    for name, source, weights in (
        ("decoder", "decoder", tuned), ("baselines/ridge", "baselines/ridge", {}),
        ("controls/oracle", "truth/decoder", {}),
    ):  # fmt: skip
        generator = sampler(folder, **knobs)
        generator.tune(weights)
        made = generator(frame.tensors(source), seeds=seeds)
        for row, media in enumerate(made):
            found = np.asarray(Image.open(place(fold["reconstruct"] / name, row, "image")))
            wanted = torch.as_tensor(media.data).permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(found, to_bytes(wanted, white=1.0))
    scores = pd.read_parquet(places["evaluate"] / "scores.parquet")
    value = means(scores)
    whose = {source for source, found in value.items() if "pixcorr" in found}
    assert {"decoder", "oracle", "prior", "ridge"} <= whose
    facts = read_json(places["train"] / "manifest.json")["facts"]
    assert facts == {"n_folds": 1}
    # A picture that is named rightly beats all others; the response stands in three volumes.
    response = twin.response["subj01"][twin.shared("subj01")][:, twin.masks["subj01"]]
    ceiling = ideal_top1(response, VOLUME_NOISE / (3 * 3) ** 0.5)
    assert ceiling > 0.9
    assert value["decoder"]["two_way_pixels"] > 0.5 + (ceiling - 0.5) / 3
    for control in ("shuffled", "prior"):
        assert abs(value[control]["two_way_pixels"] - 0.5) < 0.04


def test_a_generator_that_takes_no_products_is_refused_before_training(
    folder: Path, tmp_path: Path
) -> None:
    write_nsd(tmp_path / "nsd", n_images=80, size=16)
    place = tmp_path / "nsd/nsddata_timeseries/ppdata/subj01/func1pt8mm/timeseries"
    place.mkdir(parents=True)
    config = small(folder, tmp_path)
    Run(config)
    Run({**config, "generator": None})
    nearest = {"_target_": "decode.generators.nearest.Nearest"}
    with pytest.raises(
        InputError, match=r"objectives\.denoising: expected a generator that takes the weights"
    ):
        Run({**config, "generator": nearest})
