"""Schedulers by name: the library's own pipelines and hand-written time steps are the oracles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusion_twins import save_versatile
from test_configs import composed

from decode.core import InputError, Tensors
from decode.diffusion.pipelines import draw, first_latents, row_generators
from decode.diffusion.schedulers import check_scheduler, choose_scheduler
from decode.generators.versatile import Versatile

WIDTH, SEEDS = 8, [3, 4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_versatile(tmp_path_factory.mktemp("versatile"), width=WIDTH)


@pytest.fixture(scope="module")
def predicted() -> Tensors:
    g = torch.Generator().manual_seed(0)
    return {"image": torch.randn(2, 5, WIDTH, generator=g) * torch.rand(2, 1, 1, generator=g)}


def made(generator: Versatile, predicted: Tensors) -> torch.Tensor:
    return torch.stack([torch.as_tensor(m.data) for m in generator(predicted, seeds=SEEDS)])


@pytest.mark.slow
def test_tokens_of_a_picture_are_guided_away_from_nothing_at_all(
    folder: Path, predicted: Tensors
) -> None:
    """MindEye's sampler by hand: UniPC, class token of length 1, zeros for the unconditional half."""
    from diffusers import UniPCMultistepScheduler

    knobs = {"blank": None, "norm": "first", "scheduler": "UniPCMultistepScheduler"}
    generator = Versatile(str(folder), **knobs, steps=4, guidance=3.5, device="cpu")
    found = made(generator, predicted)
    pipe = generator.open()
    steps = UniPCMultistepScheduler.from_pretrained(folder, subfolder="scheduler")
    steps.set_timesteps(4)
    tokens = torch.stack([row / row[0].norm() for row in predicted["image"]])
    x = draw((4, 8, 8), row_generators(SEEDS), tokens) * steps.init_noise_sigma
    with torch.no_grad():
        for t in steps.timesteps:
            free = pipe.image_unet(x, t, encoder_hidden_states=torch.zeros_like(tokens)).sample
            bound = pipe.image_unet(x, t, encoder_hidden_states=tokens).sample
            x = steps.step(free + 3.5 * (bound - free), t, x).prev_sample
        expected = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample / 2 + 0.5
    assert torch.allclose(found, expected.clamp(0, 1), atol=1e-4)
    own = Versatile(str(folder), blank=None, norm="first", steps=4, guidance=3.5, device="cpu")
    assert (made(own, predicted) - found).abs().max() > 1e-3


def test_unipc_takes_the_steps_that_were_published() -> None:
    """20 of a line from 999 to 0, of which .85 are left from a start."""
    from diffusers import DDIMScheduler

    own = DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1, clip_sample=False)
    chosen = choose_scheduler(own, "UniPCMultistepScheduler", None)
    start = torch.zeros(1, 4, 2, 2)
    times, latents = first_latents(chosen, start, torch.ones_like(start), steps=20, strength=0.85)
    line = np.linspace(0, 999, 21).round()[::-1][:-1]
    assert times.tolist() == line[3:].tolist()
    level = (1 - own.alphas_cumprod[int(line[3])]).sqrt()
    torch.testing.assert_close(latents, torch.full_like(latents, float(level)))


@pytest.mark.slow
def test_trailing_steps_of_refinement_begin_where_published() -> None:
    """The last 12 of 25 noise levels, those of 999, 959, ... down to 39."""
    from diffusers import EulerDiscreteScheduler

    own = EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1)
    config = composed("experiment=nsd/mindeye2_refined")["generator"]
    chosen = choose_scheduler(own, config["scheduler"], config["spacing"])
    start = torch.zeros(1, 4, 2, 2)
    strength = {"steps": config["steps"], "strength": config["strength"]}
    times, latents = first_latents(chosen, start, torch.ones_like(start), **strength)
    line = np.linspace(999, 0, 25, endpoint=False).astype(int)
    assert times.tolist() == line[13:].tolist()
    kept = own.alphas_cumprod[int(line[13])]
    torch.testing.assert_close(latents, torch.ones_like(latents) * ((1 - kept) / kept).sqrt())


def test_latents_are_not_clipped_by_a_scheduler_that_was_not_told() -> None:
    from diffusers import DDIMScheduler, PNDMScheduler

    assert DDIMScheduler().config.clip_sample
    chosen = choose_scheduler(PNDMScheduler(steps_offset=1), "DDIMScheduler", None)
    assert not chosen.config.clip_sample
    chosen.set_timesteps(50)
    assert chosen.timesteps.tolist() == [20 * k + 1 for k in reversed(range(50))]


@pytest.mark.parametrize(
    ("name", "spacing", "says"),
    [
        ("UniPC", None, "expected the name of a scheduler of diffusers, got 'UniPC'"),
        ("UNet2DConditionModel", None, "got 'UNet2DConditionModel'"),
        ("os.system", None, "got 'os.system'"),
        (None, "even", r"one of \['leading', 'linspace', 'trailing'\], got 'even'"),
        ("KarrasVeScheduler", "leading", "KarrasVeScheduler, which spaces its steps in one way"),
    ],
)
def test_what_is_no_scheduler_is_refused(name: str | None, spacing: str | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_scheduler(name, spacing)


@pytest.mark.slow
def test_published_systems_are_guided_away_from_what_they_were() -> None:
    """Middle grey and the empty caption for Brain-Diffuser, zeros for the others."""
    for name, blank, negative, scheduler, norm in [
        ("brain_diffuser", 0.5, "", "DDIMScheduler", "train"),
        ("mindeye1", None, None, "UniPCMultistepScheduler", "first"),
        ("mindbridge", None, None, "UniPCMultistepScheduler", "first"),
    ]:
        node = composed(f"experiment=nsd/{name}")["generator"]
        assert (node["blank"], node.get("negative")) == (blank, negative), name
        assert (node["scheduler"], node["norm"]) == (scheduler, norm), name
        steps = {"brain_diffuser": 50}.get(name, 20)
        assert node["steps"] == steps


@pytest.mark.slow
def test_the_picture_of_nothing_is_middle_grey(folder: Path) -> None:
    """The published code hands zeros in [-1, 1] to the encoder: .5 before its mean and spread."""
    generator = Versatile(str(folder), text="text", text_share=0.4, device="cpu")
    pipe = generator.open()
    prepared = pipe.image_feature_extractor
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in (prepared.image_mean, prepared.image_std)
    )
    grey = ((torch.zeros(1, 3, 16, 16) + 1) / 2 - mean) / std
    with torch.no_grad():
        hidden = pipe.image_encoder.vision_model(grey).last_hidden_state
        tokens = pipe.image_encoder.visual_projection(
            pipe.image_encoder.vision_model.post_layernorm(hidden)
        )
    expected = tokens / tokens[:, :1].norm(dim=-1, keepdim=True)
    assert torch.allclose(generator._free["image"], expected, atol=1e-5)
    black = Versatile(str(folder), text="text", blank=0.0, negative=None, device="cpu")
    black.open()
    assert (black._free["image"] - expected).abs().max() > 1e-2
    assert "text" not in black._free
