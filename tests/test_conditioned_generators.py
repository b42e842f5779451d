"""SDXL unCLIP, ControlNet, Stable Cascade and refinement on folders of their own format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusion_twins import tiny_text, tiny_unet, tiny_vae
from torch import Tensor

from decode.core import Generator, InputError, Media, Shape, Stimulus, Tensors
from decode.diffusion.energies import PictureDistance
from decode.diffusion.pipelines import draw, row_generators
from decode.generators.cascade import Cascade
from decode.generators.controlnet import ControlNet
from decode.generators.pixels import PixelGenerator
from decode.generators.refine import Refine
from decode.generators.sdxl_unclip import SdxlUnclip

SEEDS = [11, 12, 13]
TOKENS = 12  # width of the image tokens
EMBEDDING = 10


@pytest.fixture(scope="module")
def unclip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    folder = tmp_path_factory.mktemp("sdxl_unclip")
    torch.manual_seed(0)
    StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=tiny_unet(
            cross_attention_dim=TOKENS,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=4 * 4,
        ),
        scheduler=EulerDiscreteScheduler(timestep_spacing="trailing"),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def controlnet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionPipeline

    folder = tmp_path_factory.mktemp("controlnet")
    torch.manual_seed(0)
    tokeniser, text = tiny_text()
    unet = tiny_unet()
    StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=text,
        tokenizer=tokeniser,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
    for weights in control.parameters():
        # A fresh one adds nothing: its last layers are zero.
        torch.nn.init.normal_(weights, std=0.1)
    control.save_pretrained(folder / "control")
    return folder


@pytest.fixture(scope="module")
def cascade_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import (
        DDPMWuerstchenScheduler,
        StableCascadeDecoderPipeline,
        StableCascadePriorPipeline,
    )
    from diffusers.models import StableCascadeUNet
    from diffusers.pipelines.stable_cascade.pipeline_stable_cascade import PaellaVQModel

    folder = tmp_path_factory.mktemp("cascade")
    torch.manual_seed(0)
    tokeniser, text = tiny_text(8, projection=8, projected=True)
    blocks = ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock")
    shape: dict[str, Any] = {
        "conditioning_dim": 16,
        "block_out_channels": (16, 16),
        "num_attention_heads": (2, 2),
        "down_num_layers_per_block": (1, 1),
        "up_num_layers_per_block": (1, 1),
        "down_blocks_repeat_mappers": (1, 1),
        "up_blocks_repeat_mappers": (1, 1),
        "block_types_per_layer": (blocks, blocks),
        "timestep_ratio_embedding_dim": 8,
        "clip_text_pooled_in_channels": 8,
        "dropout": (0.0, 0.0),
    }
    prior = StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        clip_image_in_channels=EMBEDDING,
        clip_text_in_channels=8,
        switch_level=(False,),
        **shape,
    )
    decoder = StableCascadeUNet(
        in_channels=4, out_channels=4, effnet_in_channels=4, switch_level=None, **shape
    )
    parts = {"tokenizer": tokeniser, "text_encoder": text, "scheduler": DDPMWuerstchenScheduler()}
    StableCascadePriorPipeline(prior=prior, **parts).save_pretrained(folder / "prior")
    vqgan = PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=2, embed_dim=8)
    second = StableCascadeDecoderPipeline(
        decoder=decoder, vqgan=vqgan, latent_dim_scale=4.0, **parts
    )
    second.save_pretrained(folder / "decoder")
    return folder


@pytest.fixture(scope="module")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    folder = tmp_path_factory.mktemp("sdxl")
    torch.manual_seed(0)
    (tokeniser, text), (tokeniser_2, text_2) = tiny_text(), tiny_text(4, projected=True)
    StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=text,
        text_encoder_2=text_2,
        tokenizer=tokeniser,
        tokenizer_2=tokeniser_2,
        unet=tiny_unet(
            cross_attention_dim=12,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=4 + 6 * 4,
        ),
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


Build = Callable[..., Generator]
PLAIN: dict[str, Any] = {"steps": 4, "norm": "keep", "device": "cpu"}


@pytest.fixture
def unclip(unclip_folder: Path) -> Build:
    return lambda **k: SdxlUnclip(str(unclip_folder), **{**PLAIN, "image": "tokens", **k})


@pytest.fixture
def controlnet(controlnet_folder: Path) -> Build:
    control = str(controlnet_folder / "control")
    return lambda **k: ControlNet(str(controlnet_folder), controlnet=control, **{**PLAIN, **k})


@pytest.fixture
def cascade(cascade_folder: Path) -> Build:
    knobs = {**PLAIN, "decoder": str(cascade_folder / "decoder"), "decoder_steps": 3, "size": 80}
    return lambda **k: Cascade(str(cascade_folder / "prior"), **{**knobs, **k})


@pytest.fixture
def refine(sdxl_folder: Path) -> Build:
    knobs = {**PLAIN, "low_level": PixelGenerator("pixels"), "strength": 0.5}
    return lambda **k: Refine(str(sdxl_folder), **{**knobs, **k})


@pytest.fixture(params=["unclip", "controlnet", "cascade", "refine"])
def build(request: pytest.FixtureRequest) -> Build:
    return request.getfixturevalue(request.param)


@pytest.fixture
def predicted() -> Tensors:
    g = torch.Generator().manual_seed(3)
    return {
        "image": torch.randn(3, EMBEDDING, generator=g),
        "tokens": torch.randn(3, 6, TOKENS, generator=g),
        "text": torch.randn(3, 8, 8, generator=g),
        "depth": torch.rand(3, 1, 5, 5, generator=g),
        "pixels": torch.rand(3, 3, 20, 20, generator=g),
        "latents": torch.randn(3, 4, 8, 8, generator=g),
    }


def shapes_of(predicted: Tensors) -> dict[str, Shape]:
    return {name: tuple(values.shape[1:]) for name, values in predicted.items()}


def pixels(made: list[Media]) -> Tensor:
    return torch.stack([torch.as_tensor(m.data) for m in made])


def test_a_row_depends_on_its_prediction_and_seed_only(build: Build, predicted: Tensors) -> None:
    generator = build(batch_size=2)
    generator.check(shapes_of(predicted))
    made = pixels(generator(predicted, seeds=SEEDS))
    assert made.shape[:2] == (3, 3)
    assert generator.size_of(shapes_of(predicted)) == made.shape[2:]
    wide = build(size=32)
    sizes = pixels(wide(predicted, seeds=SEEDS)).shape[2:]
    assert wide.size_of(shapes_of(predicted)) == sizes != made.shape[2:]
    some = {name: values[[2, 0]] for name, values in predicted.items()}
    again = pixels(generator(some, seeds=[13, 11]))
    assert torch.allclose(again, made[[2, 0]], atol=1e-4)
    other = pixels(generator(predicted, seeds=[11, 12, 99]))
    assert (other[2] - made[2]).abs().max() > 1e-3
    for name in generator.needs:
        moved = {**predicted, name: predicted[name].flip(0)}
        assert (pixels(generator(moved, seeds=SEEDS))[0] - made[0]).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["unclip", "controlnet", "refine"])
def test_sampling_starts_from_the_pictures_of_another_generator(
    name: str, predicted: Tensors, request: pytest.FixtureRequest
) -> None:
    """As from a target of the same pictures."""
    build = request.getfixturevalue(name)
    target, generator = (
        build(low_level=start, strength=0.5, batch_size=2)
        for start in ("pixels", PixelGenerator("pixels"))
    )
    for one in (target, generator):
        one.check(shapes_of(predicted))
    expected = pixels(target(predicted, seeds=SEEDS))
    made = pixels(generator(predicted, seeds=SEEDS))
    assert torch.allclose(made, expected, atol=1e-4)
    moved = {**predicted, "pixels": predicted["pixels"].flip(0)}
    assert (pixels(generator(moved, seeds=SEEDS))[0] - made[0]).abs().max() > 1e-3
    with pytest.raises(InputError, match="generator of pictures"):
        build(low_level=Writer(), strength=0.5)


def test_half_precision_gives_pictures(build: Build, predicted: Tensors) -> None:
    full = pixels(build()(predicted, seeds=SEEDS))
    half = pixels(build(precision="bfloat16")(predicted, seeds=SEEDS))
    assert (half - full).abs().mean() < 0.1


def test_sdxl_unclip_equals_euler_steps_by_hand(
    unclip: Build, unclip_folder: Path, predicted: Tensors
) -> None:
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(unclip_folder, subfolder="unet")
    vae = AutoencoderKL.from_pretrained(unclip_folder, subfolder="vae")
    scheduler = EulerDiscreteScheduler.from_pretrained(unclip_folder, subfolder="scheduler")
    scheduler.set_timesteps(4)
    rows, tokens = row_generators(SEEDS), predicted["tokens"]
    free = draw((6, TOKENS), rows, tokens)
    noise = draw((4, 8, 8), rows, tokens) + 0.04 * draw((1, 1, 1), rows, tokens)
    sizes = torch.tensor([[16, 16, 0, 0]]).expand(3, -1)
    told = {"text_embeds": torch.zeros(3, 0), "time_ids": sizes}

    def epsilon(x: Tensor, t: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        seen = x / (sigma**2 + 1) ** 0.5
        return unet(seen, t, encoder_hidden_states=context, added_cond_kwargs=told).sample

    with torch.no_grad():
        x = noise * scheduler.init_noise_sigma
        for t, sigma, then in zip(
            scheduler.timesteps, scheduler.sigmas[:-1], scheduler.sigmas[1:], strict=True
        ):
            none, all_of_it = (epsilon(x, t, sigma, c) for c in (free, tokens))
            x = x + (then - sigma) * (none + 5.0 * (all_of_it - none))
        expected = vae.decode(x / vae.config.scaling_factor).sample * 0.8 + 0.2
    made = pixels(unclip()(predicted, seeds=SEEDS))
    assert torch.allclose(made, expected.clamp(0, 1), atol=1e-4)


def test_sdxl_unclip_refuses_a_denoiser_that_reads_text(
    sdxl_folder: Path, predicted: Tensors
) -> None:
    generator = SdxlUnclip(str(sdxl_folder), image="tokens", device="cpu")
    with pytest.raises(InputError, match=r"is told 16 values .* got 28"):
        generator.check(shapes_of(predicted))


def test_controlnet_equals_the_stock_pipeline(
    controlnet: Build, controlnet_folder: Path, predicted: Tensors
) -> None:
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    control = ControlNetModel.from_pretrained(controlnet_folder / "control")
    stock = StableDiffusionControlNetPipeline.from_pretrained(
        controlnet_folder, controlnet=control, safety_checker=None
    )
    free = stock.encode_prompt("", "cpu", 1, False)[0]
    depth = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = stock(
        prompt_embeds=predicted["text"],
        negative_prompt_embeds=free.expand(3, -1, -1),
        image=depth.expand(-1, 3, -1, -1),
        num_inference_steps=4,
        guidance_scale=7.5,
        controlnet_conditioning_scale=0.7,
        generator=row_generators(SEEDS),
        output_type="pt",
    ).images
    made = pixels(controlnet(control_scale=0.7)({**predicted, "depth": depth}, seeds=SEEDS))
    assert torch.allclose(made, expected, atol=1e-4)


class Writer(Generator):
    """Writes the one of two captions that a prediction says."""

    makes = "text"
    needs = ("said",)
    disclosure = "Written by a rule."

    def __call__(self, predicted: Tensors, *, seeds: Sequence[int]) -> list[Media]:
        return [Media("text", "a red" if row > 0 else "blue") for row in predicted["said"]]


def test_controlnet_reads_written_captions(
    controlnet: Build, controlnet_folder: Path, predicted: Tensors
) -> None:
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    control = ControlNetModel.from_pretrained(controlnet_folder / "control")
    stock = StableDiffusionControlNetPipeline.from_pretrained(
        controlnet_folder, controlnet=control, safety_checker=None
    )
    expected = stock(
        prompt=["a red", "blue", "a red"],
        image=predicted["depth"].new_zeros(3, 3, 16, 16),
        num_inference_steps=4,
        guidance_scale=7.5,
        generator=row_generators(SEEDS),
        output_type="pt",
    ).images
    seen = {"depth": torch.zeros(3, 1, 4, 4), "said": torch.tensor([1.0, -1.0, 1.0])}
    generator = controlnet(writer=Writer(), batch_size=2, norm="train")
    generator.check({"depth": (1, 4, 4), "said": ()})
    generator.learn([], seen)
    assert torch.allclose(pixels(generator(seen, seeds=SEEDS)), expected, atol=1e-4)
    assert "captions" in generator.disclosure
    assert "Written by a rule." in generator.disclosure
    with pytest.raises(InputError, match="said"):
        generator.check({"depth": (1, 4, 4)})
    with pytest.raises(InputError, match="makes image"):
        controlnet(writer=PixelGenerator("pixels"))


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_cascade_equals_the_stock_pipelines_row_by_row(
    cascade: Build, predicted: Tensors, guidance: float
) -> None:
    generator = cascade(guidance=guidance, prompt="a red")
    made = pixels(generator(predicted, seeds=SEEDS))
    assert isinstance(generator, Cascade)
    prior, decoder = generator._pipe, generator._second
    for row, seed in enumerate(SEEDS):
        random = row_generators([seed])[0]
        small = prior(
            prompt="a red",
            image_embeds=predicted["image"][row][None, None],
            height=80,
            width=80,
            num_inference_steps=4,
            guidance_scale=guidance,
            generator=random,
        )
        expected = decoder(
            small.image_embeddings,
            prompt_embeds=small.prompt_embeds,
            prompt_embeds_pooled=small.prompt_embeds_pooled,
            num_inference_steps=3,
            guidance_scale=0.0,
            generator=random,
            output_type="pt",
        ).images
        assert torch.allclose(made[row], expected[0], atol=1e-4)


def test_cascade_starts_from_latents_only(cascade: Build, predicted: Tensors) -> None:
    started = cascade(low_level="latents", strength=0.5)
    started.check(shapes_of(predicted))
    made = pixels(started(predicted, seeds=SEEDS))
    moved = {**predicted, "latents": predicted["latents"].flip(0)}
    assert (pixels(started(moved, seeds=SEEDS))[0] - made[0]).abs().max() > 1e-4
    with pytest.raises(InputError, match="latents of the prior"):
        cascade(low_level="pixels", strength=0.5).check(shapes_of(predicted))
    with pytest.raises(InputError, match="nothing here makes from pictures"):
        cascade(low_level=PixelGenerator("pixels"), strength=0.5)
    with pytest.raises(InputError, match="set energy to null"):
        cascade(energy=PictureDistance())


def test_refinement_equals_the_stock_pipeline(
    refine: Build, sdxl_folder: Path, predicted: Tensors
) -> None:
    from diffusers import StableDiffusionXLImg2ImgPipeline

    stock = StableDiffusionXLImg2ImgPipeline.from_pretrained(sdxl_folder, add_watermarker=False)
    small = {**predicted, "pixels": predicted["pixels"][:, :, :16, :16]}
    knobs = {"prompt": "a red", "negative": "tin", "target_size": 48}
    made = pixels(refine(**knobs)(small, seeds=SEEDS))
    latents = stock.vae.encode(small["pixels"] * 2 - 1).latent_dist.mode()
    expected = stock(
        prompt=["a red"] * 3,
        negative_prompt=["tin"] * 3,
        image=(latents * stock.vae.config.scaling_factor).detach(),
        strength=0.5,
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=row_generators(SEEDS),
        output_type="pt",
        original_size=(16, 16),
        target_size=(48, 48),
    ).images
    assert torch.allclose(made, expected, atol=1e-4)


def test_refinement_takes_the_caption_of_the_nearest_training_stimulus(
    refine: Build, predicted: Tensors
) -> None:
    shown = [Stimulus(str(i), "image", texts=(f"caption {i}",)) for i in range(4)]
    truth = {"image": torch.eye(4, EMBEDDING), "pixels": torch.zeros(4, 3, 2, 2)}
    generator = refine(caption="image", prompt="a photo:")
    assert generator.needs == ("pixels", "image")
    assert "nearest" in generator.disclosure
    with pytest.raises(InputError, match="call learn"):
        generator(predicted, seeds=SEEDS)
    generator.learn(shown, truth)
    query = {"image": truth["image"][[2, 0]] * 7}
    assert generator.texts(query, seeds=[0, 1]) == ["a photo: caption 2", "a photo: caption 0"]
    with pytest.raises(InputError, match="got none of '9'"):
        generator.learn([*shown[:3], Stimulus("9", "image")], truth)
    with pytest.raises(InputError, match=r"low_level: expected pictures to start from, got null"):
        refine(low_level=None, strength=1.0)


def test_wrong_shapes_say_what_to_do(
    unclip: Build, controlnet: Build, cascade: Build, refine: Build, predicted: Tensors
) -> None:
    shapes = shapes_of(predicted)
    for generator, wrong, says in [
        (unclip(), {"tokens": (6, 1664)}, r"\(token, 12\).*\(6, 1664\)"),
        (controlnet(), {"text": (8,)}, r"\(token, 8\).*\(8,\)"),
        (controlnet(), {"depth": (64,)}, "name a target of maps"),
        (cascade(), {"image": (768,)}, r"\(10,\).*\(768,\)"),
        (refine(), {"pixels": (5,)}, "name a pixels target"),
    ]:
        with pytest.raises(InputError, match=says):
            generator.check({**shapes, **wrong})
