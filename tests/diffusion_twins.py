"""Networks of a few thousand weights, of the classes that published diffusion models are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any


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


def tiny_text(width: int = 8, *, projection: int = 4, projected: bool = False) -> tuple[Any, Any]:
    """A tokeniser of a few letters and its text tower."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    config = CLIPTextConfig(
        vocab_size=12,
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        projection_dim=projection,
    )
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "r", "e", "d</w>", "t", "h", "i", "n"]
    tokeniser = CLIPTokenizer(
        vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=8
    )
    return tokeniser, (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


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
