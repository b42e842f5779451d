"""The SDXL that reads image tokens: its full size, and a checkpoint in the original's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusion_twins import tiny_unet, tiny_vae
from torch import Tensor

from decode.core import InputError
from decode.generators.sdxl_unclip import SdxlUnclip
from decode.weights.sdxl_layout import DENOISER, load_denoiser, read_checkpoint, write_folder

PREFIX = "model.diffusion_model."
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
WHOLE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def original_name(name: str, layers: int, attended: set[str]) -> str:
    """The name of a diffusers' weight in the layout of the original latent diffusion code."""
    body, kind = name.rsplit(".", 1)
    if body in WHOLE:
        return f"{PREFIX}{WHOLE[body]}.{kind}"
    side, *rest = body.split(".")
    if side == "mid_block":
        part, number, *inner = rest
        place = {"resnets": 2 * int(number), "attentions": 1}[part]
        return f"{PREFIX}middle_block.{place}.{inside(part, inner)}.{kind}"
    block, part, number, *inner = rest
    up = side == "up_blocks"
    start = int(block) * (layers + 1) + (0 if up else 1)
    where = f"{PREFIX}{'output' if up else 'input'}_blocks"
    if part == "downsamplers":
        return f"{where}.{start + layers}.0.op.{kind}"
    if part == "upsamplers":
        place = 2 if f"{side}.{block}" in attended else 1
        return f"{where}.{start + layers}.{place}.conv.{kind}"
    place = {"resnets": 0, "attentions": 1}[part]
    return f"{where}.{start + int(number)}.{place}.{inside(part, inner)}.{kind}"


def inside(part: str, inner: list[str]) -> str:
    return RESNET[inner[0]] if part == "resnets" else ".".join(inner)


def original(network: Any) -> dict[str, Tensor]:
    state = network.state_dict()
    attended = {".".join(k.split(".")[:2]) for k in state if ".attentions." in k}
    layers = network.config["layers_per_block"]
    return {original_name(k, layers, attended): v for k, v in state.items()}


TINY: dict[str, Any] = {
    "use_linear_projection": True,
    "cross_attention_dim": 12,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 16,
}


def test_weights_survive_the_layout_of_the_original(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = tiny_unet(**TINY)
    save_file(original(network), tmp_path / "big.safetensors")
    shape = {k: v for k, v in network.config.items() if not k.startswith("_")}
    found = load_denoiser(read_checkpoint(tmp_path / "big.safetensors"), shape)
    for name, weights in network.state_dict().items():
        assert torch.equal(found.state_dict()[name], weights)
    write_folder(tmp_path / "folder", found, tiny_vae())
    generator = SdxlUnclip(str(tmp_path / "folder"), steps=2, norm="keep", device="cpu")
    generator.check({"image": (6, 12)})
    made = generator({"image": torch.randn(1, 6, 12)}, seeds=[1])
    assert torch.as_tensor(made[0].data).shape == (3, 16, 16)
    with pytest.raises(InputError, match="expected a denoiser of the SDXL"):
        load_denoiser(original(network))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"no checkpoint")
    (tmp_path / "x.safetensors").write_bytes(b"no checkpoint")
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 1}, tmp_path / "good.ckpt")
    torch.save({"code": Path("x")}, tmp_path / "objects.ckpt")
    assert torch.equal(read_checkpoint(tmp_path / "good.ckpt")["a"], torch.ones(2))
    for name in ("x.ckpt", "x.safetensors", "objects.ckpt", "none.safetensors"):
        with pytest.raises(InputError, match="convert it to safetensors"):
            read_checkpoint(tmp_path / name)


def test_the_full_size_has_the_names_and_the_shapes_of_sdxl() -> None:
    """On the meta device: no memory, every name of the original layout is known."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    with torch.device("meta"):
        network = UNet2DConditionModel(**DENOISER)
        tokens = torch.empty(2, 256, 1664)
        told = {"text_embeds": torch.empty(2, 0), "time_ids": torch.empty(2, 4)}
        made = network(
            torch.empty(2, 4, 96, 96), torch.tensor(5), tokens, added_cond_kwargs=told
        ).sample
    assert made.shape == (2, 4, 96, 96)
    # SDXL's 2,567 M, less what narrower text and sizes cost.
    narrower = 2 * (2048 - 1664) * (10 * 640 + 60 * 1280)
    expected = 2_567_463_684 - narrower - (2816 - 1024) * 1280
    assert sum(p.numel() for p in network.parameters()) == expected
    converted = convert_ldm_unet_checkpoint(original(network), network.config)
    assert set(converted) == set(network.state_dict())
