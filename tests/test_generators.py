"""Generators: rows and seeds, the stock pipelines as oracles, checks before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusion_twins import tiny_text, tiny_unet, tiny_vae, tiny_vision
from PIL import Image
from torch import Tensor

from decode.core import Generator, InputError, Media, Stimulus, Tensors
from decode.diffusion.pipelines import draw, row_generators
from decode.generators.ip_adapter import IpAdapter
from decode.generators.kandinsky import Kandinsky
from decode.generators.nearest import Nearest
from decode.generators.pixels import PixelGenerator
from decode.generators.unclip import Unclip, as_noised

WIDTH = 12
SEEDS = [11, 12, 13]


@pytest.fixture(scope="module")
def unclip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import DDIMScheduler, DDPMScheduler, StableUnCLIPImg2ImgPipeline
    from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
    from transformers import CLIPImageProcessor

    folder = tmp_path_factory.mktemp("unclip")
    torch.manual_seed(0)
    tokeniser, text = tiny_text()
    StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(size=16, crop_size=16),
        image_encoder=tiny_vision(WIDTH),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=WIDTH),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=tokeniser,
        text_encoder=text,
        unet=tiny_unet(
            class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTH
        ),
        scheduler=DDIMScheduler(clip_sample=False),
        vae=tiny_vae(),
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def kandinsky_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import DDPMScheduler, KandinskyV22Pipeline, VQModel

    folder = tmp_path_factory.mktemp("kandinsky")
    torch.manual_seed(0)
    movq = VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("AttnUpDecoderBlock2D",) * 2,
        latent_channels=4,
        vq_embed_dim=4,
        norm_type="spatial",
    )
    unet = tiny_unet(
        out_channels=8,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        addition_embed_type="image",
        addition_embed_type_num_heads=2,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="image_proj",
        resnet_time_scale_shift="scale_shift",
        class_embed_type=None,
    )
    # Clipping keeps an untrained denoiser from blowing rounding errors up.
    scheduler = DDPMScheduler(clip_sample_range=2.0, variance_type="learned_range")
    KandinskyV22Pipeline(unet=unet, scheduler=scheduler, movq=movq).save_pretrained(folder)
    tiny_vision(WIDTH).save_pretrained(folder / "prior" / "image_encoder")
    return folder


@pytest.fixture(scope="module")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionXLPipeline
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("sdxl")
    torch.manual_seed(0)
    tokeniser, text = tiny_text()
    tokeniser_2, text_2 = tiny_text(4, projected=True)
    unet = tiny_unet(
        cross_attention_dim=12,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=4 + 6 * 4,
    )
    StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=text,
        text_encoder_2=text_2,
        tokenizer=tokeniser,
        tokenizer_2=tokeniser_2,
        unet=unet,
        scheduler=EulerAncestralDiscreteScheduler(timestep_spacing="trailing"),
        add_watermarker=False,
    ).save_pretrained(folder)
    adapter = {
        "image_proj.proj.weight": torch.randn(4 * 12, WIDTH),
        "image_proj.proj.bias": torch.zeros(4 * 12),
        "image_proj.norm.weight": torch.ones(12),
        "image_proj.norm.bias": torch.zeros(12),
    }
    # Published files number the processors of the UNet in order; cross-attention ones are odd.
    crossing = [n for n in unet.attn_processors if n.endswith("attn2.processor")]
    for i in range(len(crossing)):
        adapter[f"ip_adapter.{2 * i + 1}.to_k_ip.weight"] = torch.randn(16, 12)
        adapter[f"ip_adapter.{2 * i + 1}.to_v_ip.weight"] = torch.randn(16, 12)
    (folder / "adapter" / "models").mkdir(parents=True)
    save_file(adapter, folder / "adapter" / "models" / "ip.safetensors")
    other = {k: torch.randn_like(v) if ".to_" in k else v for k, v in adapter.items()}
    save_file(other, folder / "adapter" / "models" / "other.safetensors")
    return folder


Build = Callable[..., Generator]


@pytest.fixture
def unclip(unclip_folder: Path) -> Build:
    return lambda **k: Unclip(
        str(unclip_folder), **{"steps": 4, "guidance": 3.0, "norm": "keep", "device": "cpu", **k}
    )


@pytest.fixture
def kandinsky(kandinsky_folder: Path) -> Build:
    knobs = {"prior": str(kandinsky_folder / "prior"), "size": 16, "steps": 4, "norm": "keep"}
    return lambda **k: Kandinsky(str(kandinsky_folder), **{**knobs, "device": "cpu", **k})


@pytest.fixture
def ip_adapter(sdxl_folder: Path) -> Build:
    knobs = {
        "adapter": str(sdxl_folder / "adapter"),
        "subfolder": "models",
        "weight_name": "ip.safetensors",
        "steps": 4,
        "norm": "keep",
        "device": "cpu",
    }
    return lambda **k: IpAdapter(str(sdxl_folder), **{**knobs, **k})


@pytest.fixture(params=["unclip", "kandinsky", "ip_adapter"])
def build(request: pytest.FixtureRequest) -> Build:
    return request.getfixturevalue(request.param)


@pytest.fixture
def predicted() -> Tensors:
    g = torch.Generator().manual_seed(3)
    return {
        "image": torch.randn(3, WIDTH, generator=g),
        "latents": torch.randn(3, 4, 8, 8, generator=g),
        "pixels": torch.rand(3, 3, 20, 20, generator=g),
    }


def pixels(made: list[Media]) -> Tensor:
    return torch.stack([m.data for m in made if isinstance(m.data, Tensor)])


def some(predicted: Tensors, rows: list[int]) -> Tensors:
    return {name: values[rows] for name, values in predicted.items()}


@pytest.mark.parametrize("low_level", [None, "latents", "pixels"])
def test_a_row_depends_on_its_prediction_and_seed_only(
    build: Build, predicted: Tensors, low_level: str | None
) -> None:
    knobs = {"low_level": low_level, "strength": 0.5 if low_level else 1.0}
    generator = build(**knobs, batch_size=2)
    made = pixels(generator(predicted, seeds=SEEDS))
    assert made.shape == (3, 3, 16, 16)
    shapes = {name: tuple(values.shape[1:]) for name, values in predicted.items()}
    assert generator.size_of(shapes) == (16, 16)
    wide = build(**knobs, size=32)
    if low_level != "latents":
        assert wide.size_of(shapes) == tuple(pixels(wide(predicted, seeds=SEEDS)).shape[2:])
    again = pixels(build(**knobs, batch_size=3)(some(predicted, [2, 0]), seeds=[13, 11]))
    assert torch.allclose(again, made[[2, 0]], atol=1e-4)
    other = pixels(generator(predicted, seeds=[11, 12, 99]))
    assert torch.allclose(other[:2], made[:2], atol=1e-4)
    assert (other[2] - made[2]).abs().max() > 1e-3


def test_sampling_starts_from_the_pictures_of_another_generator(
    build: Build, predicted: Tensors
) -> None:
    """As from a target of the same pictures, and not as from noise."""
    expected = pixels(build(low_level="pixels", strength=0.5)(predicted, seeds=SEEDS))
    started = build(low_level=PixelGenerator("pixels"), strength=0.5, batch_size=2)
    started.check({k: tuple(v.shape[1:]) for k, v in predicted.items()})
    assert started.needs == ("image", "pixels")
    made = pixels(started(predicted, seeds=SEEDS))
    assert torch.allclose(made, expected, atol=1e-4)
    assert (made - pixels(build()(predicted, seeds=SEEDS))).abs().max() > 1e-3
    with pytest.raises(InputError, match="name a pixels target"):
        started.check({"image": (WIDTH,), "pixels": (5,)})


def test_latents_of_another_size_are_decoded_enlarged_and_encoded(
    unclip: Build, predicted: Tensors
) -> None:
    """As Takagi & Nishimoto start: latents of a small picture, that picture enlarged, its latents."""
    from diffusers import AutoencoderKL
    from torchvision.transforms.functional import InterpolationMode, resize

    knobs = {"strength": 0.5, "size": 16, "start_size": 8}
    small = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    generator = unclip(low_level="latents", **knobs)
    generator.check({"image": (WIDTH,), "latents": (4, 4, 4)})
    with pytest.raises(InputError, match=r"\(4, 4, 4\).*\(4, 8, 8\)"):
        generator.check({"image": (WIDTH,), "latents": (4, 8, 8)})
    made = pixels(generator({**predicted, "latents": small}, seeds=SEEDS))
    vae = AutoencoderKL.from_pretrained(generator.model, subfolder="vae")
    with torch.no_grad():
        seen = (vae.decode(small / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
        large = resize(seen, [16, 16], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
        start = vae.encode(large * 2 - 1).latent_dist.mode() * vae.config.scaling_factor
    plain = unclip(low_level="latents", strength=0.5)({**predicted, "latents": start}, seeds=SEEDS)
    assert torch.allclose(made, pixels(plain), atol=1e-4)


def test_pictures_of_a_start_are_brought_to_its_size_first(
    unclip: Build, predicted: Tensors
) -> None:
    from torchvision.transforms.functional import InterpolationMode, resize

    way = {"interpolation": InterpolationMode.BICUBIC, "antialias": True}
    small = resize(predicted["pixels"], [8, 8], **way).clamp(0, 1)  # type: ignore[arg-type]
    plain = unclip(low_level="pixels", strength=0.5, size=16)
    expected = pixels(plain({**predicted, "pixels": small}, seeds=SEEDS))
    for low_level in ("pixels", PixelGenerator("pixels")):
        generator = unclip(low_level=low_level, strength=0.5, size=16, start_size=8)
        assert torch.allclose(pixels(generator(predicted, seeds=SEEDS)), expected, atol=1e-4)
    with pytest.raises(InputError, match="set start_size to null"):
        unclip(size=16, start_size=8)


def test_the_embedding_matters(build: Build, predicted: Tensors) -> None:
    one = pixels(build()(predicted, seeds=SEEDS))
    moved = {**predicted, "image": predicted["image"].flip(0)}
    other = pixels(build()(moved, seeds=SEEDS))
    assert (one[0] - other[0]).abs().max() > 1e-4
    assert torch.allclose(one[1], other[1], atol=1e-4)


def test_the_norm_is_that_of_the_training_embeddings(build: Build, predicted: Tensors) -> None:
    truth = {"image": torch.nn.functional.normalize(torch.randn(20, WIDTH), dim=1) * 5}
    generator = build(norm="train")
    with pytest.raises(InputError, match="call learn"):
        generator(predicted, seeds=SEEDS)
    generator.learn([], truth)
    made = pixels(generator(predicted, seeds=SEEDS))
    scaled = {"image": torch.nn.functional.normalize(predicted["image"], dim=1) * 5}
    assert torch.allclose(made, pixels(build()(scaled, seeds=SEEDS)), atol=1e-4)


def test_unclip_equals_the_stock_pipeline(
    unclip: Build, unclip_folder: Path, predicted: Tensors
) -> None:
    from diffusers import StableUnCLIPImg2ImgPipeline

    stock = StableUnCLIPImg2ImgPipeline.from_pretrained(unclip_folder)
    for guidance, level in [(3.0, 0), (1.0, 200)]:
        expected = stock(
            image_embeds=predicted["image"],
            prompt=[""] * 3,
            noise_level=level,
            num_inference_steps=4,
            guidance_scale=guidance,
            generator=row_generators(SEEDS),
            output_type="pt",
        ).images
        made = pixels(unclip(guidance=guidance, noise_level=level)(predicted, seeds=SEEDS))
        assert torch.allclose(made, expected, atol=1e-5)


def test_kandinsky_equals_the_stock_pipelines(
    kandinsky: Build, kandinsky_folder: Path, predicted: Tensors
) -> None:
    from diffusers import KandinskyV22Img2ImgPipeline, KandinskyV22Pipeline
    from transformers import CLIPVisionModelWithProjection

    stock = KandinskyV22Pipeline.from_pretrained(kandinsky_folder)
    encoder = CLIPVisionModelWithProjection.from_pretrained(
        kandinsky_folder / "prior" / "image_encoder"
    )
    with torch.no_grad():
        black = encoder(torch.zeros(1, 3, 16, 16)).image_embeds.expand(3, -1)
    knobs = {
        "image_embeds": predicted["image"],
        "negative_image_embeds": black,
        "height": 16,
        "width": 16,
        "num_inference_steps": 4,
        "generator": row_generators(SEEDS),
    }
    expected = stock(**knobs, output_type="np").images
    made = pixels(kandinsky()(predicted, seeds=SEEDS)).permute(0, 2, 3, 1)
    assert np.allclose(made, expected, atol=1e-5)

    image2image = KandinskyV22Img2ImgPipeline(**stock.components)
    pictures = predicted["pixels"][:, :, :16, :16]
    knobs["generator"] = row_generators(SEEDS)
    expected = image2image(**knobs, image=pictures, strength=0.5, output_type="pt").images
    made = pixels(
        kandinsky(low_level="pixels", strength=0.5)({**predicted, "pixels": pictures}, seeds=SEEDS)
    )
    assert torch.allclose(made, expected, atol=1e-4)


@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_ip_adapter_equals_the_stock_pipeline_row_by_row(
    ip_adapter: Build, sdxl_folder: Path, predicted: Tensors, guidance: float
) -> None:
    """One row at a time: given several embeddings the stock call shows all of them to each row."""
    from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

    stock = StableDiffusionXLPipeline.from_pretrained(sdxl_folder, add_watermarker=False)
    stock.load_ip_adapter(
        str(sdxl_folder / "adapter"),
        subfolder="models",
        weight_name="ip.safetensors",
        image_encoder_folder=None,
    )
    image2image = StableDiffusionXLImg2ImgPipeline(**stock.components, add_watermarker=False)
    knobs = {"guidance": guidance, "prompt": "a red tin"}
    made = pixels(ip_adapter(**knobs)(predicted, seeds=SEEDS))
    started = pixels(ip_adapter(**knobs, low_level="latents", strength=0.5)(predicted, seeds=SEEDS))
    for row, seed in enumerate(SEEDS):
        tokens = predicted["image"][row, None, None]
        both = torch.cat([torch.zeros_like(tokens), tokens]) if guidance > 1 else tokens
        knobs = {
            "prompt": "a red tin",
            "num_inference_steps": 4,
            "guidance_scale": guidance,
            "ip_adapter_image_embeds": [both],
            "output_type": "pt",
        }
        expected = stock(**knobs, generator=row_generators([seed])[0]).images
        assert torch.allclose(made[row], expected[0], atol=1e-5)
        start = predicted["latents"][row, None]
        expected = image2image(
            **knobs, image=start, strength=0.5, generator=row_generators([seed])[0]
        ).images
        assert torch.allclose(started[row], expected[0], atol=1e-5)


def test_an_adapter_can_be_weighed_block_by_block(ip_adapter: Build, predicted: Tensors) -> None:
    def made(scale: Any) -> Tensor:
        return pixels(ip_adapter(scale=scale)(predicted, seeds=SEEDS))

    assert torch.allclose(made({"mid": 0.0}), made(0.0), atol=1e-6)
    middle = made({"mid": 1.0})
    assert min((middle - made(s)).abs().max() for s in (0.0, 1.0)) > 1e-4


def test_several_adapters_equal_the_stock_pipeline(
    ip_adapter: Build, sdxl_folder: Path, predicted: Tensors
) -> None:
    from diffusers import StableDiffusionXLPipeline

    files = ["ip.safetensors", "other.safetensors"]
    stock = StableDiffusionXLPipeline.from_pretrained(sdxl_folder, add_watermarker=False)
    stock.load_ip_adapter(
        str(sdxl_folder / "adapter"), subfolder="models", weight_name=files,
        image_encoder_folder=None,
    )  # fmt: skip
    stock.set_ip_adapter_scale([0.8, 0.4])
    second = {**predicted, "second": predicted["image"].flip(1)}
    made = pixels(
        ip_adapter(weight_name=files, image=["image", "second"], scale=[0.8, 0.4])(
            second, seeds=SEEDS
        )
    )
    for row, seed in enumerate(SEEDS):
        expected = stock(
            prompt="",
            num_inference_steps=4,
            guidance_scale=0.0,
            ip_adapter_image_embeds=[second[k][row, None, None] for k in ("image", "second")],
            generator=row_generators([seed])[0],
            output_type="pt",
        ).images
        assert torch.allclose(made[row], expected[0], atol=1e-5)
    with pytest.raises(InputError, match="image: expected one for each of 2 adapters"):
        ip_adapter(weight_name=files)


def test_a_weak_start_is_kept_and_full_strength_forgets_it(
    unclip: Build, predicted: Tensors
) -> None:
    """With one of many steps left the picture is nearly the decoded start."""
    from diffusers import AutoencoderKL

    generator = unclip(low_level="latents", strength=0.02, steps=50, guidance=1.0)
    vae = AutoencoderKL.from_pretrained(generator.model, subfolder="vae")
    with torch.no_grad():
        start = vae.decode(predicted["latents"] / vae.config.scaling_factor).sample / 2 + 0.5

    def error(strength: float) -> float:
        knobs = {"low_level": "latents", "strength": strength, "steps": 50, "guidance": 1.0}
        made = pixels(unclip(**knobs)(predicted, seeds=SEEDS))
        return float((made - start.clamp(0, 1)).pow(2).mean())

    assert error(0.02) < 0.2 * error(1.0)


def test_noise_is_the_row_generators_own() -> None:
    noise = draw((4, 2, 2), row_generators([5, 6]), torch.zeros(1))
    assert torch.equal(noise[1], torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(6)))


def test_wrong_shapes_are_found_without_reading_weights(
    build: Build, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    generator = build(low_level="latents", strength=0.5)
    for file in Path(generator.model).rglob("*.safetensors"):
        if "ip" not in file.name:
            file.rename(file.with_suffix(".hidden"))
    try:
        generator.check({"image": (WIDTH,), "latents": (4, 8, 8)})
        generator.check({"image": (WIDTH,), "latents": (3, 50, 50)})
        with pytest.raises(InputError, match=r"\(12,\).*\(1024,\)"):
            generator.check({"image": (1024,), "latents": (4, 8, 8)})
        with pytest.raises(InputError, match="choose the target whose embedding"):
            generator.check({"image": (WIDTH, 2), "latents": (4, 8, 8)})
        with pytest.raises(InputError, match=r"\(4, 8, 8\).*\(4, 16, 16\)"):
            generator.check({"image": (WIDTH,), "latents": (4, 16, 16)})
        with pytest.raises(InputError, match="add a target named 'latents'"):
            generator.check({"image": (WIDTH,)})
        with pytest.raises(InputError, match="remove width"):
            build(width=7).check({"image": (WIDTH,)})
    finally:
        for file in Path(generator.model).rglob("*.hidden"):
            file.rename(file.with_suffix(".safetensors"))


def test_published_models_are_checked_by_their_stated_width() -> None:
    generator = Unclip("sd2-community/stable-diffusion-2-1-unclip", width=1024, size=768)
    generator.check({"image": (1024,)})
    with pytest.raises(InputError, match=r"\(1024,\).*\(768,\)"):
        generator.check({"image": (768,)})


def test_wrong_knobs_say_what_to_do(build: Build) -> None:
    for knobs, says in [
        ({"strength": 0.5}, r"generator\.low_level: .* got null"),
        ({"strength": 0.0, "low_level": "latents"}, r"strength: expected a share in \(0, 1\]"),
        ({"strength": 0.1, "low_level": "latents"}, "reaches 1"),
        ({"norm": "none"}, "norm: expected train, keep or first, got 'none'"),
        ({"offload": "disk"}, "offload: expected none, model or sequential, got 'disk'"),
        ({"precision": "half"}, "precision"),
        ({"batch_size": 0}, "at least 1"),
    ]:
        with pytest.raises(InputError, match=says):
            build(**knobs)
    with pytest.raises(InputError, match="set offload to none"):
        build(offload="model").check({"image": (WIDTH,)})


def test_predictions_that_are_not_finite_are_refused(build: Build, predicted: Tensors) -> None:
    predicted["image"][1, 0] = torch.nan
    with pytest.raises(InputError, match="expected finite predictions of target"):
        build()(predicted, seeds=SEEDS)


def test_incomplete_folders_are_named(
    unclip_folder: Path, predicted: Tensors, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="expected a configuration at"):
        Unclip(str(tmp_path)).check({"image": (WIDTH,)})
    with pytest.raises(InputError, match="expected a model that can be loaded"):
        Unclip(str(tmp_path), norm="keep")(predicted, seeds=SEEDS)


def test_half_precision_gives_pictures(build: Build, predicted: Tensors) -> None:
    full = pixels(build()(predicted, seeds=SEEDS))
    half = pixels(build(precision="bfloat16")(predicted, seeds=SEEDS))
    assert half.dtype == torch.float32
    assert (half - full).abs().mean() < 0.1


def test_nearest_gives_back_training_pictures(tmp_path: Path) -> None:
    shown = []
    for i in range(4):
        Image.fromarray(np.full((8, 8, 3), 60 * i, np.uint8)).save(tmp_path / f"{i}.png")
        shown.append(Stimulus(str(i), "image", str(tmp_path / f"{i}.png")))
    truth = {"image": torch.eye(4)[:, :3] + 0.1}
    generator = Nearest()
    with pytest.raises(InputError, match="learn"):
        generator({"image": torch.ones(1, 3)}, seeds=[0])
    generator.learn(shown, truth)
    # Cosine ignores length: a short and a long query choose alike.
    query = torch.stack([truth["image"][2] * 0.01, truth["image"][1] * 90])
    made = pixels(generator({"image": query}, seeds=[0, 1]))
    assert torch.allclose(made.mean((1, 2, 3)), torch.tensor([120.0, 60.0]) / 255)
    with pytest.raises(InputError, match="one row"):
        generator.learn(shown[:2], truth)


def test_pixels_become_pictures() -> None:
    generator = PixelGenerator("pixels", size=8)
    grey = torch.full((2, 1, 4, 4), 0.5)
    grey[1] = 3.0
    made = pixels(generator({"pixels": grey}, seeds=[0, 0]))
    assert made.shape == (2, 3, 8, 8)
    assert torch.allclose(made[0], torch.full((3, 8, 8), 0.5), atol=1e-6)
    assert made[1].max() == 1.0
    with pytest.raises(InputError, match="name a pixels target"):
        generator.check({"pixels": (4, 8, 8)})


def test_a_prediction_is_an_embedding_with_the_noise_that_it_lacks() -> None:
    """z is seen in noise; its posterior mean, made longer, is z on the noising schedule."""
    from diffusers import DDPMScheduler

    kept = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
    z = torch.randn(400, 512, generator=torch.Generator().manual_seed(0))
    for share in (0.9, 0.5, 0.2):
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
        seen = z + (1 / share - 1) ** 0.5 * noise
        made, level = as_noised(share * seen, kept)
        assert float(kept[level].mean()) == pytest.approx(share, abs=0.03)
        trusted, told = as_noised(share * seen, kept, 0.5)
        assert torch.equal(trusted, made)
        assert float(kept[told].mean()) == pytest.approx((1 + share) / 2, abs=0.03)
        assert int(as_noised(share * seen, kept, 0.0)[1].max()) == 0
        left = made - share**0.5 * z
        assert float(left.var()) == pytest.approx(1 - share, abs=0.03)
        assert abs(float((left * z).mean())) < 0.02


def test_predicted_noise_levels_are_told_as_the_pipeline_tells_them(unclip_folder: Path) -> None:
    generator = Unclip(str(unclip_folder), noise_level="predicted", norm="keep", steps=2)
    generator._pipe = pipe = generator.open()
    pipe.image_normalizer.std.data[:] = 2.0
    embedding = 0.5 * torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(2))
    told = []
    pipe.unet.forward, real = (lambda *a, **k: (told.append(k["class_labels"]), real(*a, **k))[1],
                               pipe.unet.forward)  # fmt: skip
    generator({"image": embedding}, seeds=[1, 2, 3])
    scaled, level = as_noised(embedding / 2.0, pipe.image_noising_scheduler.alphas_cumprod)
    assert len(level.unique()) > 1
    for i in range(3):
        stock = pipe.noise_image_embeddings(embedding[:1], int(level[i]), noise=embedding[:1] * 0)
        torch.testing.assert_close(told[0][-3:][i, WIDTH:], stock[0, WIDTH:])
    torch.testing.assert_close(told[0][-3:, :WIDTH], scaled * 2.0, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("knobs", [{"noise_level": 1000}, {"noise_level": "known"},
                                   {"noise_level": "predicted", "norm": "train"}, {"doubt": 0.5},
                                   {"noise_level": "predicted", "norm": "keep", "doubt": 1.1}])  # fmt: skip
def test_impossible_noise_levels_are_refused(unclip_folder: Path, knobs: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"noise_level|doubt"):
        Unclip(str(unclip_folder), **knobs)
