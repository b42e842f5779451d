"""A CLIP that puts pictures and captions into one space, for CLIPScore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from decode.core import Stimulus
from decode.pictures import open_image
from decode.scoring.feature_networks import slug
from decode.weights.hub import opening
from decode.weights.reading import (
    choose_device,
    in_batches,
    load_open_clip,
    open_clip_name,
)

# The network of the paper, Hessel et al. 2021, arXiv:2104.08718.
PUBLISHED = ("ViT-B-32-quickgelu", "openai")


class CaptionClip:
    """Embeddings of pictures and captions by one open_clip model.

    Its score is called `clipscore` only for OpenAI's ViT-B/32, which the paper used; any other model
    carries its own name (`clipscore_tiny_clip`). Each text is put into `prompt` first. Embeddings are
    kept, so that a picture or a text is read once however often it is scored.
    """

    def __init__(
        self,
        model: str = PUBLISHED[0],
        *,
        pretrained: str | None = PUBLISHED[1],
        prompt: str = "A photo depicts {}",
        batch_size: int = 64,
        device: str = "auto",
    ) -> None:
        self.model, self.pretrained, self.prompt = model, pretrained, prompt
        self.batch_size, self.device = batch_size, device
        self._network: Any = None
        self._texts: dict[str, np.ndarray] = {}
        self._pictures: dict[str, np.ndarray] = {}

    @property
    def name(self) -> str:
        if (self.model, self.pretrained) == PUBLISHED:
            return "clipscore"
        plain = f"{self.model.removeprefix('package:')} {self.pretrained or ''}"
        return f"clipscore_{slug(plain)}"

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(text, feature) float32."""
        new = [t for t in dict.fromkeys(texts) if t not in self._texts]
        if new:
            self._load()
            made = in_batches(new, self._embed, batch_size=self.batch_size, label="captions")
            self._texts.update(zip(new, made.numpy(), strict=True))
        return np.stack([self._texts[t] for t in texts])

    def pictures(self, shown: Sequence[Stimulus]) -> np.ndarray:
        """(picture, feature) float32."""
        new = {s.uid: s for s in shown if s.uid not in self._pictures}
        if new:
            self._load()
            made = in_batches(
                list(new.values()), self._see, batch_size=self.batch_size, label="shown pictures"
            )
            self._pictures.update(zip(new, made.numpy(), strict=True))
        return np.stack([self._pictures[s.uid] for s in shown])

    def _load(self) -> None:
        if self._network is not None:
            return
        import open_clip

        network, self._transform = load_open_clip(self.model, self.pretrained)
        with opening(self.model):
            self._tokenise = open_clip.get_tokenizer(open_clip_name(self.model))
        self._place = choose_device(self.device)
        self._network = network.to(self._place).eval()

    def _embed(self, texts: Sequence[str]) -> torch.Tensor:
        words = self._tokenise([self.prompt.format(t) for t in texts])
        return self._network.encode_text(words.to(self._place))

    def _see(self, shown: Sequence[Stimulus]) -> torch.Tensor:
        pixels = torch.stack([self._transform(open_image(s)) for s in shown])
        return self._network.encode_image(pixels.to(self._place))
