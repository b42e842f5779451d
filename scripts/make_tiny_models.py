"""Train the tiny foundation models that ship with the package, from nothing but drawn scenes.

    python scripts/make_tiny_models.py                 # everything, into decode/tiny
    python scripts/make_tiny_models.py decoder unclip  # only these parts; earlier ones are loaded
    python scripts/make_tiny_models.py measure         # only write the measured numbers again

It writes two folders and a `provenance.json` with seeds, steps and measured numbers. They are
loaded by the classes that load published models:

    model = open_clip.create_model("local-dir:decode/tiny/clip")
    tokenizer = open_clip.get_tokenizer("local-dir:decode/tiny/clip")
    vae = diffusers.AutoencoderKL.from_pretrained("decode/tiny/unclip", subfolder="vae")
    pipe = diffusers.StableUnCLIPImg2ImgPipeline.from_pretrained("decode/tiny/unclip")
    pipe(prompt=[""] * n, image_embeds=model.encode_image(pictures), guidance_scale=2.0,
         num_inference_steps=10, noise_level=0)

Embeddings go in as `encode_image` returns them, not normalised. Only training combinations of
scenes are seen; the numbers are measured on test combinations.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decode.miniatures import clip as clips
from decode.miniatures import unclip as unclips
from decode.miniatures.clip import Pictures
from decode.simulation.scenes import test_scenes, training_scenes

PARTS = ("clip", "vae", "decoder", "unclip", "refine", "measure")
SEED = 2026
BATCH = {"clip": 64, "vae": 16, "decoder": 32, "unet": 128, "image_encoder": 64}


def main(argv: list[str] | None = None) -> None:
    from diffusers import AutoencoderKL

    args = _arguments(argv)
    torch.set_num_threads(args.threads)
    # moments of unused weights decay into numbers that a CPU handles many times slower
    torch.set_flush_denormal(True)
    pictures = Pictures.of(training_scenes(args.scenes, seed=SEED))
    clip_folder, pipe_folder = args.out / "clip", args.out / "unclip"
    if "clip" in args.parts:
        clips.train_clip(
            pictures, clip_folder, steps=args.clip_steps, batch=BATCH["clip"], seed=SEED
        )
    if "vae" in args.parts:
        vae = unclips.train_vae(pictures, steps=args.vae_steps, batch=BATCH["vae"], seed=SEED)
        unclips.save_part(pipe_folder / "vae", vae)
    if "decoder" in args.parts:
        vae = AutoencoderKL.from_pretrained(pipe_folder / "vae")
        vae = unclips.train_decoder(
            vae, pictures, steps=args.decoder_steps, batch=BATCH["decoder"], seed=SEED
        )
        unclips.save_part(pipe_folder / "vae", vae)
    if "unclip" in args.parts:
        train_pipeline(pictures, clip_folder, pipe_folder, args)
    if "refine" in args.parts:
        refine_pipeline(clip_folder, pipe_folder, args)
    if {"unclip", "refine", "measure"} & set(args.parts):
        write_provenance(args)


def train_pipeline(
    pictures: Pictures, clip_folder: Path, folder: Path, args: argparse.Namespace
) -> None:
    """Train what depends on the CLIP and the VAE, and save the whole pipeline."""
    from diffusers import AutoencoderKL
    from transformers import AutoTokenizer

    clip, _ = clips.load_clip(clip_folder)
    vae: Any = AutoencoderKL.from_pretrained(folder / "vae").eval()
    tokenizer = AutoTokenizer.from_pretrained(clip_folder)
    embeddings = clips.embed(clip, pictures)
    normaliser = unclips.make_normaliser(embeddings)
    text_encoder = unclips.make_text_encoder(tokenizer, seed=SEED)
    torch.manual_seed(SEED)
    halvings = len(vae.config.block_out_channels) - 1
    side = vae.config.sample_size // 2**halvings
    unet = unclips.make_unet(side, text_encoder.config.hidden_size)
    unet = teach(
        unet, vae, clip, tokenizer, text_encoder, normaliser, unclips.WHITE, args,
        steps=args.unet_steps, rate=2e-3,
    )  # fmt: skip
    image_encoder = unclips.train_image_encoder(
        pictures,
        embeddings,
        steps=args.image_encoder_steps,
        batch=BATCH["image_encoder"],
        seed=SEED,
    )
    unclips.save_pipeline(
        folder,
        half=("unet", "image_encoder"),
        vae=vae,
        unet=unet,
        image_normalizer=normaliser,
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
    )


def refine_pipeline(clip_folder: Path, folder: Path, args: argparse.Namespace) -> None:
    """Train the denoiser further on embeddings with such noise as predictions have."""
    from diffusers import StableUnCLIPImg2ImgPipeline

    torch.manual_seed(SEED)
    clip, _ = clips.load_clip(clip_folder)
    pipe: Any = StableUnCLIPImg2ImgPipeline.from_pretrained(folder)
    unet = teach(
        pipe.unet.train(), pipe.vae.eval(), clip, pipe.tokenizer, pipe.text_encoder,
        pipe.image_normalizer.requires_grad_(False), unclips.AS_PREDICTED, args,
        steps=args.refine_steps, rate=6e-4,
    )  # fmt: skip
    unclips.save_part(folder / "unet", unet.half())


def teach(
    unet: Any,
    vae: Any,
    clip: Any,
    tokenizer: Any,
    text_encoder: Any,
    normaliser: Any,
    noise: unclips.EmbeddingNoise,
    args: argparse.Namespace,
    **knobs: Any,
) -> Any:
    """Train the denoiser on scenes; returns it."""
    with torch.no_grad():
        context = text_encoder(clips.tokenize(tokenizer, [""]))[0]
    seen = Pictures.of(training_scenes(args.unet_scenes, seed=SEED))
    latents = unclips.encode(vae, seen, slice(None), scale=vae.config.scaling_factor)
    return unclips.train_unet(
        unet,
        latents,
        clips.embed(clip, seen),
        unclips.near_object(seen.scenes, latents.shape[-1]),
        context,
        normaliser,
        noise,
        batch=BATCH["unet"],
        seed=SEED,
        **knobs,
    )


def write_provenance(args: argparse.Namespace) -> None:
    """Measure the shipped folders on test scenes and write down how they were made."""
    record = args.out / "provenance.json"
    made = {
        "command": "python scripts/make_tiny_models.py",
        "trained_on": f"{args.scenes} drawn scenes of training combinations, seed {SEED}; the unet on "
        f"{args.unet_scenes}",
        "seed": SEED,
        "steps": {name: value for name, value in vars(args).items() if name.endswith("_steps")},
        "batch": BATCH,
        "measured_on": "300 and 50 drawn scenes of test combinations, seed 0",
        "measured": measure(args.out / "clip", args.out / "unclip"),
    }
    record.write_text(json.dumps(made, indent=2) + "\n")
    print(json.dumps(made["measured"], indent=2))


@torch.no_grad()
def measure(clip_folder: Path, folder: Path, *, n: int = 50) -> dict[str, float]:
    """Zero-shot accuracies of the CLIP, and how well n test pictures come back from the VAE, from
    their own embedding, and from somebody else's.
    """
    from diffusers import StableUnCLIPImg2ImgPipeline

    clip, tokenizer = clips.load_clip(clip_folder)
    out = clips.measure_clip(clip, tokenizer, Pictures.of(test_scenes(300, seed=0)))
    shown = Pictures.of(test_scenes(n, seed=0))
    pipe: Any = StableUnCLIPImg2ImgPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    truth = shown.images()
    again = pipe.vae.decode(pipe.vae.encode(truth).latent_dist.mean).sample
    embeddings = clips.embed(clip, shown)
    made = sample(pipe, embeddings)
    imitated = pipe.image_encoder(pixel_values=truth).image_embeds
    out["vae_pixcorr"] = _pixcorr(again, truth)
    out["sample_pixcorr"] = _pixcorr(made, truth)
    out["shuffled_sample_pixcorr"] = _pixcorr(made.roll(1, 0), truth)
    out["image_encoder_cosine"] = float(torch.cosine_similarity(imitated, embeddings).mean())
    drawn = Pictures(shown.scenes, ((made + 1) * 127.5).clamp(0, 255).byte())
    seen = clips.measure_clip(clip, tokenizer, drawn)
    return out | {f"sample_{k}": v for k, v in seen.items() if k.startswith("zero_shot")}


def sample(pipe: Any, embeddings: torch.Tensor, *, steps: int = 10, seed: int = 0) -> torch.Tensor:
    """Pictures from embeddings, (picture, 3, row, column) from -1 to 1."""
    made = pipe(
        prompt=[""] * len(embeddings),
        image_embeds=embeddings,
        num_inference_steps=steps,
        guidance_scale=1.0,
        noise_level=0,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
    ).images
    return made * 2 - 1


def _pixcorr(a: torch.Tensor, b: torch.Tensor) -> float:
    rows = zip(a.flatten(1).numpy(), b.flatten(1).numpy(), strict=True)
    return float(np.mean([np.corrcoef(x, y)[0, 1] for x, y in rows]))


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=Path(clips.__file__).parents[1] / "tiny")
    parser.add_argument("--scenes", type=int, default=12000, help="number of training scenes")
    parser.add_argument("--clip-steps", type=int, default=4000)
    parser.add_argument("--vae-steps", type=int, default=4000)
    parser.add_argument("--decoder-steps", type=int, default=6000)
    parser.add_argument("--unet-steps", type=int, default=10000)
    parser.add_argument("--refine-steps", type=int, default=3000)
    parser.add_argument(
        "--unet-scenes", type=int, default=24000, help="scenes the unet learns from"
    )
    parser.add_argument("--image-encoder-steps", type=int, default=800)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    args = parser.parse_args(argv)
    unknown = [part for part in args.parts if part not in PARTS]
    if unknown:
        parser.error(f"expected parts out of {', '.join(PARTS)}, got {unknown[0]!r}")
    args.parts = args.parts or list(PARTS)
    return args


if __name__ == "__main__":
    main()
