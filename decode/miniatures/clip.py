"""Training of the tiny CLIP on drawn scenes, saved in open_clip's own folder format.

The image tower is the ResNet of the CLIP paper (Radford et al. 2021) with one block per stage. It
is trained with InfoNCE between pictures and captions, plus read-outs of the scene's attributes from
the image embedding; those are thrown away, but give colours their share of the embedding, and keep
exact positions in it that the words of a caption leave out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from decode.simulation.scenes import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    KINDS,
    PLACES,
    TEXTURES,
    Scene,
    attributes,
    draw,
)

EMBED_DIM = 128
CONTEXT_LENGTH = 24
# How much a read-out makes of a cosine of 1: a logit of a word, and a number from -1 to 1.
WORDS, NUMBERS = 10.0, 3.0
VISION = {"layers": [1, 1, 1, 1], "width": 16, "head_width": 32, "image_size": 64}
TEXT = {"context_length": CONTEXT_LENGTH, "width": 64, "heads": 2, "layers": 2}
PREPROCESS: dict[str, Any] = {
    "size": 64,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Drawn scenes: `pixels` is (picture, 3, row, column) uint8."""

    scenes: tuple[Scene, ...]
    pixels: Tensor

    @classmethod
    def of(cls, scenes: Sequence[Scene]) -> Pictures:
        drawn = np.stack([draw(s) for s in tqdm(scenes, desc="drawing", leave=False)])
        return cls(tuple(scenes), torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous())

    def __len__(self) -> int:
        return len(self.scenes)

    def images(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """(picture, 3, row, column) float32 from -1 to 1."""
        return self.pixels[rows].float() / 127.5 - 1


def batches(n: int, *, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """`steps` batches of row numbers out of n, reshuffled every epoch."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.cat([torch.randperm(n, generator=generator) for _ in range(-(-steps * size // n))])
    yield from rows[: steps * size].view(steps, size)


def make_tokenizer(captions: Sequence[str]) -> Any:
    """A CLIP tokenizer whose byte pairs are learnt from the captions; since every byte is in its
    vocabulary, it can spell any other text too.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    words = Counter(word for caption in captions for word in caption.lower().split())
    spelt = {word: (*word[:-1], f"{word[-1]}</w>") for word in words}
    merges: list[Any] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in spelt.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        spelt = {word: _merge(parts, best) for word, parts in spelt.items()}
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{c}</w>" for c in letters), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        model_max_length=CONTEXT_LENGTH,
    )


def _merge(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return tuple(out)


def tokenize(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Token numbers, (text, CONTEXT_LENGTH) int64, padded with the end token."""
    return tokenizer(
        list(texts),
        max_length=CONTEXT_LENGTH,
        padding="max_length",
        truncation=True,
        return_tensors="pt",
    ).input_ids


def train_clip(pictures: Pictures, folder: Path, *, steps: int, batch: int, seed: int) -> None:
    """Train the tiny CLIP and save it to `folder` for `create_model('local-dir:<folder>')`."""
    from open_clip.model import CLIP

    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    captions = [s.caption for s in pictures.scenes]
    tokenizer = make_tokenizer(captions)
    tokens = tokenize(tokenizer, captions)
    facts = torch.from_numpy(np.stack([attributes(s) for s in pictures.scenes]))
    text_cfg = {**TEXT, "vocab_size": len(tokenizer), "hf_tokenizer_name": "tiny"}
    model_cfg = {"embed_dim": EMBED_DIM, "vision_cfg": VISION, "text_cfg": text_cfg}
    model: Any = CLIP(EMBED_DIM, VISION, text_cfg)
    probe = Readout()
    parameters = [*model.parameters(), *probe.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps, pct_start=0.1)
    bar = tqdm(batches(len(pictures), size=batch, steps=steps, seed=seed), "clip", steps)
    for rows in bar:
        image = model.encode_image(_spoil(pictures.images(rows), generator))
        text = F.normalize(model.encode_text(tokens[rows]), dim=-1)
        logits = model.logit_scale.exp().clamp(max=50) * F.normalize(image, dim=-1) @ text.T
        same = torch.arange(len(rows))
        match = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
        read = attribute_loss(probe(image), facts[rows])
        optimiser.zero_grad()
        (match + read).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        bar.set_postfix(match=f"{match.item():.3f}", read=f"{read.item():.3f}", refresh=False)
    _rescale(model.eval(), pictures)
    _save(model, model_cfg, tokenizer, folder)


class Readout(nn.Module):
    """Attributes (picture, attribute) from image embeddings (picture, feature): `sharpness` times the
    cosine with a direction per attribute. Cosines cannot be scaled up, so every attribute gets a share of
    an embedding's length; a free linear map reads differences too small to be found in a brain.
    """

    sharpness: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(len(ATTRIBUTES), EMBED_DIM))
        self.register_buffer(
            "sharpness", torch.tensor([WORDS] * (len(ATTRIBUTES) - 3) + [NUMBERS] * 3)
        )

    def forward(self, image: Tensor) -> Tensor:
        cosines = F.normalize(image, dim=-1) @ F.normalize(self.directions, dim=-1).T
        return self.sharpness * cosines


def _spoil(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the pictures as they are, half of them coarser, fainter and noisy, so that the tower
    still sees the scene in an imperfect reconstruction of it.
    """
    half, size = len(images) // 2, images.shape[-1]
    side = int(torch.randint(size // 5, size, (), generator=generator))
    coarse = F.interpolate(images[:half], size=side, mode="bilinear", antialias=True)
    coarse = F.interpolate(coarse, size=size, mode="bilinear")
    contrast, noise = torch.rand(2, half, 1, 1, 1, generator=generator)
    grain = 0.15 * noise * torch.randn(coarse.shape, generator=generator)
    noisy = (1 - contrast / 2) * coarse + grain
    return torch.cat([noisy.clamp(-1, 1), images[half:]])


def attribute_loss(read: Tensor, facts: Tensor) -> Tensor:
    """Cross-entropy of words, squared error of size and place; both are (picture, attribute)."""
    loss, start = 4 * F.mse_loss(read[:, -3:], facts[:, -3:]), 0
    for values in (KINDS, COLOURS, TEXTURES, BACKGROUNDS):
        part = slice(start, start := start + len(values))
        loss = loss + F.cross_entropy(read[:, part], facts[:, part].argmax(1))
    return loss


@torch.no_grad()
def _rescale(model: Any, pictures: Pictures) -> None:
    """Give image embeddings an average length of sqrt(dimension): cosines stay as they are, and a
    model conditioned on unnormalised embeddings sees features of about unit size.
    """
    sample = model.encode_image(pictures.images(slice(0, 1000)))
    project = model.visual.attnpool.c_proj
    factor = EMBED_DIM**0.5 / sample.norm(dim=1).mean()
    project.weight *= factor
    project.bias *= factor


def _save(model: nn.Module, model_cfg: dict[str, Any], tokenizer: Any, folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model_cfg, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = {
        k: (v.half() if v.is_floating_point() else v).contiguous()
        for k, v in model.state_dict().items()
    }
    save_file(state, folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)


def load_clip(folder: Path) -> tuple[Any, Any]:
    """The trained CLIP and its tokenizer, through open_clip like any other model."""
    import open_clip

    name = f"local-dir:{folder}"
    return open_clip.create_model(name).eval(), open_clip.get_tokenizer(name)


@torch.no_grad()
def embed(clip: Any, pictures: Pictures) -> Tensor:
    """Unnormalised image embeddings, (picture, EMBED_DIM)."""
    parts = torch.arange(len(pictures)).split(256)
    return torch.cat([clip.encode_image(pictures.images(rows)) for rows in parts])


@torch.no_grad()
def measure_clip(clip: Any, tokenizer: Any, pictures: Pictures) -> dict[str, float]:
    """Zero-shot accuracy per attribute, by swapping one word of each picture's own caption, and
    top-1 retrieval of a picture's caption among all captions.
    """
    image = F.normalize(embed(clip, pictures), dim=-1)
    out = {}
    for name, values in {
        "kind": KINDS,
        "colour": tuple(COLOURS),
        "texture": TEXTURES,
        "background": BACKGROUNDS,
        "place": PLACES,
    }.items():
        texts = [t for s in pictures.scenes for t in _alternatives(s, name, values)]
        text = F.normalize(clip.encode_text(tokenizer(texts)), dim=-1)
        scores = torch.einsum("pd,pvd->pv", image, text.view(len(pictures), len(values), -1))
        truth = torch.tensor([values.index(s.labels[name]) for s in pictures.scenes])
        out[f"zero_shot_{name}"] = float((scores.argmax(1) == truth).float().mean())
    captions = [s.caption for s in pictures.scenes]
    text = F.normalize(clip.encode_text(tokenizer(captions)), dim=-1)
    found = (image @ text.T).argmax(1)
    hits = [captions[j] == captions[i] for i, j in enumerate(found.tolist())]
    return out | {"caption_top1": float(np.mean(hits)), "captions": float(len(set(captions)))}


def _alternatives(scene: Scene, name: str, values: Sequence[str]) -> list[str]:
    if name != "place":
        changes: list[Any] = [{name: v} for v in values]
        return [replace(scene, **change).caption for change in changes]
    thirds = (0.3, 0.5, 0.7)
    return [replace(scene, x=x, y=y).caption for y in thirds for x in thirds]
