"""Training of the tiny latent diffusion model on drawn scenes, saved as a diffusers folder.

Three networks in the arrangement of Stable unCLIP (Ramesh et al. 2022; Rombach et al. 2022): a
variational autoencoder, a UNet that denoises its latents given the tiny CLIP's image embedding
(unnormalised, with a known amount of noise), and an image encoder in transformers' format that
imitates the tiny CLIP, so that the pipeline can also be called with a picture.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from decode.miniatures.clip import CONTEXT_LENGTH, EMBED_DIM, PREPROCESS, Pictures, batches
from decode.simulation.scenes import SIZE_RANGE, Scene

CROP = 32
KL_WEIGHT = 1e-3
LATENT_CHANNELS = 8
VAE_WIDTHS = (16, 32, 48, 64)
UNET_WIDTHS = (64, 128, 128)
DROPPED = 0.1
OBJECT_WEIGHT = 3.0


@dataclass(frozen=True, slots=True)
class EmbeddingNoise:
    """Noise on the embeddings that a denoiser learns from: on a share `noised` of them, of a level
    below `most`. A share `alike` of it has the covariance of the embeddings themselves, as the errors of
    predicted embeddings nearly have; the rest is white, as the pipeline adds it.
    """

    noised: float
    most: int
    alike: float = 0.0


WHITE = EmbeddingNoise(noised=0.5, most=700)
AS_PREDICTED = EmbeddingNoise(noised=0.7, most=1000, alike=0.7)


def train_vae(pictures: Pictures, *, steps: int, batch: int, seed: int) -> Any:
    """An AutoencoderKL from 64x64 pictures to 8x8 latents of unit variance.

    The network is convolutional, so three quarters of the steps see crops around the object, at a
    quarter of the cost, and the last quarter sees whole pictures.
    """
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    vae: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(VAE_WIDTHS),
        up_block_types=("UpDecoderBlock2D",) * len(VAE_WIDTHS),
        block_out_channels=VAE_WIDTHS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )
    vae.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.98), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2.5e-3, steps, pct_start=0.08)
    bar = tqdm(_views(pictures, steps=steps, batch=batch, seed=seed), "vae", steps)
    for x in bar:
        x = x.contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(x).latent_dist
        made = vae.decode(posterior.sample()).sample
        error = F.l1_loss(made, x) + F.mse_loss(made, x)
        loss = error + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        bar.set_postfix(error=f"{error.item():.3f}", refresh=False)
    vae.eval()
    latents = encode(vae, pictures, slice(0, 1000), scale=1.0)
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return vae


def train_decoder(vae: Any, pictures: Pictures, *, steps: int, batch: int, seed: int) -> Any:
    """Train the decoder further while the latents stay what they are, on crops and pictures like
    before, with differences of neighbouring pixels in the loss: edges tell what a thing is.
    """
    torch.manual_seed(seed)
    weights = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimiser = torch.optim.AdamW(weights, betas=(0.9, 0.98), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps, pct_start=0.08)
    bar = tqdm(_views(pictures, steps=steps, batch=batch, seed=seed), "decoder", steps)
    for x in bar:
        with torch.no_grad():
            latents = vae.encode(x).latent_dist.sample()
        made = vae.decode(latents).sample
        edges = [F.l1_loss(made.diff(dim=axis), x.diff(dim=axis)) for axis in (2, 3)]
        loss = F.l1_loss(made, x) + F.mse_loss(made, x) + edges[0] + edges[1]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return vae.eval()


def _views(pictures: Pictures, *, steps: int, batch: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    crops = 3 * steps // 4
    size = pictures.pixels.shape[-1]
    for rows in batches(len(pictures), size=batch, steps=crops, seed=seed):
        centres = torch.tensor([(pictures.scenes[i].y, pictures.scenes[i].x) for i in rows]) * size
        jitter = (torch.rand(centres.shape, generator=generator) - 0.5) * 2 * SIZE_RANGE[1] * size
        corners = (centres + jitter - CROP / 2).long().clamp(0, size - CROP).tolist()
        pixels = pictures.pixels[rows]
        cut = [p[:, i : i + CROP, j : j + CROP] for p, (i, j) in zip(pixels, corners, strict=True)]
        yield torch.stack(cut).float() / 127.5 - 1
    whole = max(1, batch // 2)
    for rows in batches(len(pictures), size=whole, steps=steps - crops, seed=seed + 1):
        yield pictures.images(rows)


@torch.no_grad()
def encode(vae: Any, pictures: Pictures, rows: slice, *, scale: float) -> Tensor:
    """Mean latents times `scale`, (picture, channel, row, column)."""
    numbers = torch.arange(len(pictures))[rows].split(32)
    parts = [vae.encode(pictures.images(r)).latent_dist.mean for r in tqdm(numbers, "latents")]
    return torch.cat(parts) * scale


def make_schedulers() -> tuple[Any, Any]:
    """The scheduler of the latents (noise of zero signal at the end, so that few steps suffice) and
    that of the image embedding.
    """
    from diffusers import DDIMScheduler, DDPMScheduler

    latents = DDIMScheduler(
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    return latents, DDPMScheduler(beta_schedule="squaredcos_cap_v2")


def make_normaliser(embeddings: Tensor) -> Any:
    from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer

    normaliser: Any = StableUnCLIPImageNormalizer(embedding_dim=EMBED_DIM)
    normaliser.mean.data[0] = embeddings.mean(0)
    normaliser.std.data[0] = embeddings.std(0)
    return normaliser.requires_grad_(False)


def make_text_encoder(tokenizer: Any, *, seed: int) -> Any:
    """The text tower that the pipeline's class asks for; the UNet is trained with the empty prompt
    only, so it serves as a constant.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval()


def train_unet(
    unet: Any,
    latents: Tensor,
    embeddings: Tensor,
    weights: Tensor,
    context: Tensor,
    normaliser: Any,
    noise: EmbeddingNoise,
    *,
    steps: int,
    rate: float,
    batch: int,
    seed: int,
) -> Any:
    """Train a denoiser of latents (picture, channel, row, column) given embeddings (picture, feature).

    `weights` (picture, 1, row, column) says how much errors count where, `context` is the empty
    prompt's (1, token, feature). One in ten embeddings is dropped for classifier-free guidance.
    Products are taken in bfloat16. The returned weights are a running average.
    """
    average = copy.deepcopy(unet).requires_grad_(False)
    scheduler, _ = make_schedulers()
    optimiser = torch.optim.AdamW(
        unet.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.05)
    root = torch.linalg.cholesky(covariance(embeddings, normaliser))
    bar = tqdm(batches(len(latents), size=batch, steps=steps, seed=seed), "unet", steps)
    for step, rows in enumerate(bar):
        labels = condition(embeddings[rows], normaliser, noise, root)
        clean, added = latents[rows], torch.randn_like(latents[rows])
        t = torch.randint(0, scheduler.config.num_train_timesteps, (batch,))
        seen = scheduler.add_noise(clean, added, t)
        with torch.autocast("cpu", torch.bfloat16):
            made = unet(seen, t, context.expand(batch, -1, -1), class_labels=labels).sample
        error = (made.float() - scheduler.get_velocity(clean, added, t)).square()
        loss = (weights[rows] * error).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        keep = min(0.998, (1 + step) / (10 + step))
        for slow, fast in zip(average.parameters(), unet.parameters(), strict=True):
            slow.lerp_(fast, 1 - keep)
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return average.eval()


def make_unet(size: int, context: int) -> Any:
    """An untrained denoiser of square latents, whose class label is a noised embedding and the
    level of its noise.
    """
    from diffusers import UNet2DConditionModel

    depth = len(UNET_WIDTHS) - 1
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=UNET_WIDTHS,
        layers_per_block=1,
        down_block_types=(*("DownBlock2D",) * depth, "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", *("UpBlock2D",) * depth),
        cross_attention_dim=context,
        attention_head_dim=4,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * EMBED_DIM,
    )


def near_object(scenes: Sequence[Scene], size: int) -> Tensor:
    """How much an error counts in each of size x size places, (picture, 1, row, column): around the
    object `OBJECT_WEIGHT` times as much as elsewhere, where there is little to learn; mean 1.
    """
    centres = (torch.arange(size) + 0.5) / size
    place = torch.tensor([(s.y, s.x, s.size + 0.5 / size) for s in scenes])
    inside = [(centres - place[:, k, None]).abs() < place[:, 2:] for k in (0, 1)]
    weights = 1 + (OBJECT_WEIGHT - 1) * (inside[0][:, :, None] & inside[1][:, None]).float()
    return (weights / weights.mean((1, 2), keepdim=True))[:, None]


def covariance(embeddings: Tensor, normaliser: Any) -> Tensor:
    """(feature, feature) of standardised embeddings (picture, feature); it can be inverted."""
    scaled = normaliser.scale(embeddings)
    return torch.cov(scaled.T) + 1e-4 * torch.eye(scaled.shape[1])


def condition(embeddings: Tensor, normaliser: Any, noise: EmbeddingNoise, root: Tensor) -> Tensor:
    """Class labels of a training batch, (picture, 2 * feature): noised embedding, noise level.

    `root` (feature, feature) times its transpose is the covariance of the noise that is not white.
    """
    from diffusers.models.embeddings import get_timestep_embedding

    _, scheduler = make_schedulers()
    n = len(embeddings)
    level = torch.randint(0, noise.most, (n,)) * (torch.rand(n) < noise.noised)
    scaled = normaliser.scale(embeddings)
    added = torch.randn_like(scaled)
    if noise.alike:
        added = torch.where(torch.rand(n, 1) < noise.alike, added @ root.T, added)
    seen = normaliser.unscale(scheduler.add_noise(scaled, added, level))
    known = get_timestep_embedding(level, EMBED_DIM, flip_sin_to_cos=True, downscale_freq_shift=0)
    return torch.cat([seen, known], 1) * (torch.rand(n, 1) >= DROPPED)


def train_image_encoder(
    pictures: Pictures, embeddings: Tensor, *, steps: int, batch: int, seed: int
) -> Any:
    """A small vision transformer that imitates the tiny CLIP's image embedding."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        projection_dim=EMBED_DIM,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=64,
        patch_size=16,
    )
    model: Any = CLIPVisionModelWithProjection(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.5e-3, steps, pct_start=0.1)
    bar = tqdm(batches(len(pictures), size=batch, steps=steps, seed=seed), "image encoder", steps)
    for rows in bar:
        made = model(pixel_values=pictures.images(rows)).image_embeds
        loss = F.mse_loss(made, embeddings[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return model.eval()


def save_pipeline(folder: Path, *, half: tuple[str, ...], **parts: Any) -> None:
    """Save the parts as a `StableUnCLIPImg2ImgPipeline` folder; those in `half` as float16."""
    from diffusers import StableUnCLIPImg2ImgPipeline
    from transformers import CLIPImageProcessor

    scheduler, image_noising_scheduler = make_schedulers()
    processor = CLIPImageProcessor(
        size={"shortest_edge": 64},
        crop_size={"height": 64, "width": 64},
        image_mean=PREPROCESS["mean"],
        image_std=PREPROCESS["std"],
    )
    for name in half:
        parts[name] = copy.deepcopy(parts[name]).half()
    pipeline: Any = StableUnCLIPImg2ImgPipeline(
        feature_extractor=processor,
        scheduler=scheduler,
        image_noising_scheduler=image_noising_scheduler,
        **parts,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    _forget_places(folder)


def save_part(folder: Path, network: Any) -> None:
    network.save_pretrained(folder)
    _forget_places(folder)


def _forget_places(folder: Path) -> None:
    """Take out the folder that a part was read from, which diffusers notes in its config."""
    for path in folder.rglob("config.json"):
        kept = {k: v for k, v in json.loads(path.read_text()).items() if k != "_name_or_path"}
        path.write_text(json.dumps(kept, indent=2) + "\n")
