"""Training and sampling through a frozen denoiser with a hint, against diffusers' own pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusion_twins import tiny_text, tiny_unet, tiny_vae
from torch import Tensor, nn

from decode.core import Batch, InputError, Tensors
from decode.diffusion.hints import hint_control, hinted, residuals, trained_control
from decode.diffusion.pipelines import draw, row_generators
from decode.generators.hinted import Hinted
from decode.objectives.hinted_denoising import HintedDenoising
from decode.trainable import Encoder

SEEDS = [5, 6, 7]


def write_model(folder: Path, kind: str = "epsilon") -> Path:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    torch.manual_seed(0)
    tokeniser, text = tiny_text()
    StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=text,
        tokenizer=tokeniser,
        unet=tiny_unet(),
        scheduler=DDIMScheduler(clip_sample=False, prediction_type=kind),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("sd"))


class Known(Encoder):
    """Predicts, for each trial, weights of its own."""

    def __init__(self, n: int, hint: tuple[int, ...] = (4, 8, 8)) -> None:
        super().__init__()
        self.text = nn.Parameter(torch.randn(n, 8, 8))
        self.hint = nn.Parameter(torch.randn(n, *hint))

    def forward(self, batch: Batch) -> Tensors:
        return {"text": self.text[batch.trial], "latents": self.hint[batch.trial]}


def batch_of(n: int, latents: tuple[int, ...] = (4, 8, 8)) -> Batch:
    rows = torch.arange(n)
    g = torch.Generator().manual_seed(3)
    targets = {
        "text": torch.randn(n, 8, 8, generator=g),
        "latents": torch.randn(n, *latents, generator=g),
    }
    return Batch(torch.zeros(n, 1, 1), targets, rows * 0, rows, rows)


def shaken(control: Any, seed: int = 0) -> Any:
    """A control whose residuals are not zero."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in control.parameters():
            weights.copy_(0.1 * torch.randn(weights.shape, generator=g))
    return control


def opened(folder: Path) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval()


@torch.no_grad()
def test_a_fresh_control_adds_nothing_and_a_trained_one_at_every_scale(folder: Path) -> None:
    unet = opened(folder)
    noisy, text, hint = torch.randn(2, 4, 8, 8), torch.randn(2, 8, 8), torch.randn(2, 4, 8, 8)
    time = torch.tensor([3, 700])
    plain = unet(noisy, time, encoder_hidden_states=text, return_dict=False)[0]
    control = hint_control(unet, 4)
    added = residuals(control, noisy, time, text, hint)
    assert torch.equal(hinted(unet, noisy, time, text, added), plain)
    down, middle = residuals(shaken(control), noisy, time, text, hint)
    assert {d.shape[-1] for d in down} == {8, 4}
    assert middle.shape[-1] == 4
    assert all(float(d.abs().mean()) > 0 for d in (*down, middle))
    for k in range(len(down)):
        alone = [d if i == k else torch.zeros_like(d) for i, d in enumerate(down)]
        made = hinted(unet, noisy, time, text, (alone, torch.zeros_like(middle)))
        assert not torch.allclose(made, plain, atol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_that_of_diffusers_schedulers(kind: str, tmp_path: Path) -> None:
    from diffusers import DDPMScheduler

    folder = write_model(tmp_path, kind)
    objective = HintedDenoising(model=str(folder), weight=2.0)
    shaken(objective.control)
    encoder, batch = Known(5).eval(), batch_of(5)
    with torch.no_grad():
        made = objective(encoder, batch, 0.0)["denoising"]
        g = torch.Generator().manual_seed(0)
        time = torch.randint(1000, (5,), generator=g)
        clean = batch.targets["latents"]
        noise = torch.randn(clean.shape, generator=g)
        scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        noisy = scheduler.add_noise(clean, noise, time)
        wanted = {
            "epsilon": noise,
            "v_prediction": scheduler.get_velocity(clean, noise, time),
            "sample": clean,
        }[kind]
        added = objective.control(
            noisy, time, encoder_hidden_states=encoder.text, controlnet_cond=encoder.hint
        )
        found = opened(folder)(
            noisy,
            time,
            encoder_hidden_states=encoder.text,
            down_block_additional_residuals=added.down_block_res_samples,
            mid_block_additional_residual=added.mid_block_res_sample,
        ).sample
    assert float(made) == pytest.approx(2 * float(((found - wanted) ** 2).mean()), rel=1e-5)


def test_training_reaches_encoder_and_control_but_not_the_denoiser(folder: Path) -> None:
    objective, encoder, batch = HintedDenoising(model=str(folder)), Known(4), batch_of(4)
    assert all(name.startswith("control.") for name in objective.state_dict())
    shaken(objective.control)
    before = {k: v.clone() for k, v in objective.denoiser.state_dict().items()}
    loss = objective(encoder, batch, 0.0)["denoising"]
    loss.backward()
    for weights in (encoder.text, encoder.hint, *objective.control.parameters()):
        assert weights.grad is not None
        assert float(weights.grad.abs().sum()) > 0
    assert all(p.grad is None for p in objective.denoiser.parameters())
    torch.optim.SGD([*objective.parameters(), *encoder.parameters()], lr=0.1).step()
    after = objective.denoiser.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.slow
def test_the_hint_comes_to_say_what_the_latents_are(tmp_path: Path) -> None:
    """Trained on few trials, the denoiser does better with a trial's own hint than with another's."""
    folder = write_model(tmp_path, "sample")
    torch.manual_seed(0)
    objective, encoder, batch = HintedDenoising(model=str(folder), drop=0.0), Known(6), batch_of(6)

    @torch.no_grad()
    def loss(hint: Tensor) -> float:
        encoder.eval().hint.copy_(hint)
        return float(objective(encoder, batch, 1.0)["denoising"])

    with torch.no_grad():
        encoder.text.zero_()
    encoder.requires_grad_(False)
    own, other = batch.targets["latents"], batch.targets["latents"].roll(1, 0)
    before = loss(own)
    assert before == loss(other)
    encoder.hint.copy_(own)
    encoder.train()
    optimiser = torch.optim.Adam(objective.parameters(), lr=1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        objective(encoder, batch, 0.0)["denoising"].backward()
        optimiser.step()
    assert loss(own) < 0.8 * min(before, loss(other))


def test_trials_without_text_read_the_empty_caption(folder: Path) -> None:
    objective, encoder = HintedDenoising(model=str(folder), drop=0.5), Known(64)
    objective(encoder.train(), batch_of(64), 0.0)["denoising"].backward()
    reached = (encoder.text.grad.abs().sum((1, 2)) > 0).float().mean()  # type: ignore[union-attr]
    assert 0.25 < float(reached) < 0.75
    encoder.text.grad = None
    objective(encoder.eval(), batch_of(64), 0.0)["denoising"].backward()
    assert bool((encoder.text.grad.abs().sum((1, 2)) > 0).all())  # type: ignore[attr-defined]


def test_targets_that_do_not_fit_are_refused(folder: Path) -> None:
    objective = HintedDenoising(model=str(folder))
    with pytest.raises(InputError, match=r"hint \(4, 8, 8\), got 'latents' of \(3, 8, 8\)"):
        objective(Known(2, hint=(3, 8, 8)), batch_of(2), 0.0)
    with pytest.raises(InputError, match=r"hint \(4, 6, 6\), got 'latents' of \(4, 8, 8\)"):
        objective(Known(2), batch_of(2, latents=(4, 6, 6)), 0.0)
    with pytest.raises(InputError, match=r"latents \(4, h, w\), got 'latents' of \(3, 8, 8\)"):
        objective(Known(2), batch_of(2, latents=(3, 8, 8)), 0.0)
    with pytest.raises(InputError, match="expected a target 'words'"):
        HintedDenoising(model=str(folder), text="words")(Known(2), batch_of(2), 0.0)
    with pytest.raises(InputError, match=r"drop in \[0, 1\)"):
        HintedDenoising(model=str(folder), drop=1.0)


def generator(folder: Path, **knobs: Any) -> Hinted:
    settings = {
        "steps": 4,
        "guidance": 5.0,
        "norm": "keep",
        "precision": "float32",
        "device": "cpu",
    }
    return Hinted(str(folder), **{**settings, **knobs})


def predicted() -> Tensors:
    batch = batch_of(3)
    return dict(batch.targets)


def pixels(made: list[Any]) -> Tensor:
    return torch.stack([m.data for m in made])


@torch.no_grad()
def by_hand(folder: Path, wanted: Tensors, control: Any, scale: float) -> Tensor:
    """The stock pieces in a loop written out, guidance 5."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline

    stock = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    unet, scheduler = stock.unet, DDIMScheduler.from_config(stock.scheduler.config)
    free = stock.encode_prompt("", "cpu", 1, False)[0].expand(3, -1, -1)
    scheduler.set_timesteps(4)
    x = draw((4, 8, 8), row_generators(SEEDS), torch.empty(0))
    for t in scheduler.timesteps:
        both = []
        for text in (free, wanted["text"]):
            added = control(x, t, encoder_hidden_states=text, controlnet_cond=wanted["latents"])
            both.append(
                unet(
                    x,
                    t,
                    encoder_hidden_states=text,
                    down_block_additional_residuals=[
                        scale * d for d in added.down_block_res_samples
                    ],
                    mid_block_additional_residual=scale * added.mid_block_res_sample,
                ).sample
            )
        x = scheduler.step(both[0] + 5 * (both[1] - both[0]), t, x).prev_sample
    vae: AutoencoderKL = stock.vae
    return (vae.decode(x / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def test_sampling_is_the_loop_written_out(folder: Path) -> None:
    control = shaken(hint_control(opened(folder), 4))
    made = generator(folder, control_scale=0.7)
    made.tune(dict(control.state_dict()))
    found = pixels(made(predicted(), seeds=SEEDS))
    assert made.size_of({}) == found.shape[2:]
    assert torch.allclose(found, by_hand(folder, predicted(), control, 0.7), atol=1e-4)
    other = {**predicted(), "latents": predicted()["latents"].roll(1, 0)}
    assert not torch.allclose(found, pixels(made(other, seeds=SEEDS)), atol=1e-3)
    made.tune({})
    plain = pixels(made(predicted(), seeds=SEEDS))
    assert torch.allclose(plain, by_hand(folder, predicted(), control, 0.0), atol=1e-4)
    assert torch.equal(plain, pixels(made(other, seeds=SEEDS)))
    made.tune(dict(control.state_dict()))
    assert torch.equal(found, pixels(made(predicted(), seeds=SEEDS)))


def test_what_the_objective_keeps_is_what_the_generator_takes(folder: Path) -> None:
    objective = HintedDenoising(model=str(folder))
    shaken(objective.control)
    loaded = trained_control(opened(folder), objective.tuned())
    for name, value in objective.control.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    wider = tiny_unet(block_out_channels=(8, 24))
    with pytest.raises(InputError, match=r"expected .* of the denoiser's control, found"):
        trained_control(wider, objective.tuned())
    lost = objective.tuned()
    lost.pop("conv_in.weight")
    with pytest.raises(InputError, match=r"expected conv_in.weight \(8, 4, 3, 3\) .* found None"):
        trained_control(opened(folder), lost)


def test_shapes_are_checked_before_training(folder: Path) -> None:
    made = generator(folder)
    made.check({"text": (8, 8), "latents": (4, 8, 8)})
    with pytest.raises(
        InputError,
        match=r"a hint that is \(channel, 8, 8\), got target 'latents' of shape \(4, 6, 6\)",
    ):
        made.check({"text": (8, 8), "latents": (4, 6, 6)})
    with pytest.raises(InputError, match=r"expected tokens of shape .* which condition"):
        made.check({"text": (8, 7), "latents": (4, 8, 8)})
    with pytest.raises(InputError, match="expected targets"):
        made.check({"text": (8, 8)})
