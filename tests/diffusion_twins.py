"""Networks of a few thousand weights, of the classes that published diffusion models are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def tiny_vae(**config: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        **config,
    )


def tiny_unet(**config: Any) -> Any:
    from diffusers import UNet2DConditionModel

    knobs = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
    }
    return UNet2DConditionModel(**{**knobs, **config})


def tiny_text(
    width: int = 8, *, projection: int = 4, projected: bool = False, texts: Sequence[str] = ()
) -> tuple[Any, Any]:
    """A tokeniser of a few letters and its text tower; with `texts`, of all their words, a token each."""
    from transformers import (
        AddedToken,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "r", "e", "d</w>", "t", "h", "i", "n"]
    longest = max([6, *(len(t.split()) for t in texts)]) + 2
    tokeniser = CLIPTokenizer(
        vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=longest
    )
    known = sorted({w for text in texts for w in text.split()})
    tokeniser.add_tokens([AddedToken(w, single_word=True) for w in known])
    config = CLIPTextConfig(
        vocab_size=12 + len(known),
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=longest,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        projection_dim=projection,
    )
    return tokeniser, (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def save_words(folder: Path, texts: Sequence[str]) -> None:
    """Give a saved Stable Diffusion pipeline a text tower that reads these texts word by word."""
    import torch

    torch.manual_seed(0)
    tokeniser, tower = tiny_text(texts=texts)
    tokeniser.save_pretrained(folder / "tokenizer")
    tower.save_pretrained(folder / "text_encoder")


def tiny_vision(projection: int) -> Any:
    """An image tower for pictures of 16 x 16: one class token and four patches."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, projection_dim=projection, num_hidden_layers=2,
        num_attention_heads=2, image_size=16, patch_size=8,
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config).eval()


def save_versatile(folder: Path, *, width: int = 8, **schedule: Any) -> Path:
    """A folder of Versatile Diffusion's own format, for pictures of 16 x 16 and latents of 8 x 8."""
    import torch
    from diffusers import DDIMScheduler, VersatileDiffusionPipeline
    from diffusers.pipelines.deprecated.versatile_diffusion.modeling_text_unet import (
        UNetFlatConditionModel,
    )
    from transformers import CLIPImageProcessor

    torch.manual_seed(0)
    tokeniser, text = tiny_text(projection=width, projected=True)
    kinds = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    flat = {k: tuple(v.replace("2D", "Flat") for v in names) for k, names in kinds.items()}
    image_unet = tiny_unet(**kinds)
    shape = {
        name: image_unet.config[name]
        for name in ("sample_size", "block_out_channels", "layers_per_block", "attention_head_dim",
                     "norm_num_groups", "cross_attention_dim")
    }  # fmt: skip
    VersatileDiffusionPipeline(
        tokenizer=tokeniser,
        image_feature_extractor=CLIPImageProcessor(size=16, crop_size=16),
        text_encoder=text,
        image_encoder=tiny_vision(width),
        image_unet=image_unet,
        text_unet=UNetFlatConditionModel(
            **flat, **shape, mid_block_type="UNetMidBlockFlatCrossAttn"
        ),
        vae=tiny_vae(),
        scheduler=DDIMScheduler(clip_sample=False, **schedule),
    ).save_pretrained(folder)
    return folder


def teach_versatile(folder: Path, pictures: np.ndarray) -> None:
    """Train autoencoder and image denoiser of a saved folder, so that tokens of a picture draw it.

    `pictures` is (picture, 16, 16, 3) uint8. One in ten sees zeros for tokens, as guidance wants it.
    """
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from torch.nn.functional import mse_loss
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    from decode.features.clip_tokens import versatile_image

    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1

    def learn(network: Any, steps: int, loss: Callable[[Tensor], Tensor]) -> None:
        optimiser = torch.optim.Adam(network.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, steps)
        for _ in range(steps):
            optimiser.zero_grad()
            loss(torch.randint(len(pixels), (32,))).backward()
            optimiser.step()
            schedule.step()

    learn(vae, 150, lambda rows: mse_loss(vae(pixels[rows]).sample, pixels[rows]))
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mode()
        vae.register_to_config(scaling_factor=float(1 / latents.std()))
        latents = latents * vae.config.scaling_factor
        prepare = CLIPImageProcessor.from_pretrained(folder, subfolder="image_feature_extractor")
        tower = CLIPVisionModelWithProjection.from_pretrained(folder, subfolder="image_encoder")
        seen = prepare(list(pictures), return_tensors="pt")["pixel_values"]
        tokens = versatile_image(tower, seen)
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="image_unet")

    def denoising(rows: Tensor) -> Tensor:
        noise, time = torch.randn_like(latents[rows]), torch.randint(1000, (len(rows),))
        noisy = scheduler.add_noise(latents[rows], noise, time)
        given = tokens[rows] * (torch.rand(len(rows), 1, 1) >= 0.1)
        return mse_loss(unet(noisy, time, encoder_hidden_states=given).sample, latents[rows])

    learn(unet, 400, denoising)
    vae.save_pretrained(folder / "vae")
    unet.save_pretrained(folder / "image_unet")
