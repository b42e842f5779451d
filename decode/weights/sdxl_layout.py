"""An SDXL denoiser that reads image tokens: its shape, and its weights out of one big checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decode.core import refusal

# SDXL's own blocks; tokens of ViT-bigG/14 in the place of text, four sizes of 256 values each and no
# pooled text beside them.
DENOISER: dict[str, Any] = {
    "sample_size": 96,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "cross_attention_dim": 1664,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 4 * 256,
}


def load_denoiser(state: Mapping[str, Tensor], shape: Mapping[str, Any] = DENOISER) -> Any:
    """A UNet2DConditionModel with the weights that `state` holds under `model.diffusion_model.`.

    Raises InputError when names or shapes are left over or missing on either side.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    # Nothing is allocated beside the weights that were read.
    with torch.device("meta"):
        network: Any = UNet2DConditionModel(**shape)
    try:
        found = convert_ldm_unet_checkpoint(dict(state), network.config)
        network.load_state_dict(found, assign=True)
    except (KeyError, RuntimeError) as e:
        raise refusal(
            "checkpoint",
            "a denoiser of the SDXL that reads image tokens",
            f"another ({e})",
            "give the checkpoint of the SDXL unCLIP, with names that begin with model.diffusion_model.",
        ) from e
    return network


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .ckpt file that holds nothing but tensors."""
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Restricted loading: tensors and plain containers, no code is run.
        found = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except (OSError, SafetensorError, RuntimeError, pickle.UnpicklingError) as e:
        reason = " ".join(str(e).split())[:200]
        raise refusal(
            f"checkpoint {path}",
            ".safetensors, or a .ckpt of tensors only",
            reason,
            "convert it to safetensors where you trust it",
        ) from e
    return dict(found.get("state_dict", found))


def write_folder(folder: Path, network: Any, autoencoder: Any) -> None:
    """Save both as the StableDiffusionXLPipeline without text encoders that generator sdxl_unclip
    opens.
    """
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
    )
    none: Any = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipe: Any = StableDiffusionXLPipeline(
        vae=autoencoder, unet=network, scheduler=scheduler, add_watermarker=False, **none
    )
    pipe.save_pretrained(folder)
