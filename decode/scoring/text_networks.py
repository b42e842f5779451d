"""Networks that put texts into a space where alike texts lie close, each named after what it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from decode.core import InputError
from decode.scoring.caption_clip import CaptionClip
from decode.scoring.feature_networks import slug
from decode.weights.hub import opening
from decode.weights.reading import (
    PACKAGE,
    choose_device,
    find_weights,
    in_batches,
    quiet,
)


class TextNetwork(Protocol):
    """Texts -> embeddings (text, feature) float32; `name` ends the name of its score."""

    @property
    def name(self) -> str: ...

    def texts(self, texts: Sequence[str]) -> np.ndarray: ...


class ClipText:
    """The text tower of an open_clip model, with each text put into `prompt` first."""

    def __init__(
        self,
        model: str = "ViT-L-14-quickgelu",
        *,
        pretrained: str | None = "openai",
        prompt: str = "{}",
        batch_size: int = 64,
        device: str = "auto",
    ) -> None:
        self.clip = CaptionClip(
            model, pretrained=pretrained, prompt=prompt, batch_size=batch_size, device=device
        )

    @property
    def name(self) -> str:
        model = self.clip.model
        named = model.removeprefix(PACKAGE)
        if named == model and isinstance(find_weights(model), Path):
            named = Path(model).name
        return slug(f"clip {named} {self.clip.pretrained or ''}")

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(text, feature) float32."""
        return self.clip.texts(texts)


class Sentences:
    """Sentence embeddings by a text encoder of transformers: the mean of its last hidden states over
    the tokens of a text (Reimers & Gurevych 2019, arXiv:1908.10084).

    `model` is a hub name or a folder written by save_pretrained. It has to be one that was trained
    with mean pooling, as the MiniLM models of sentence-transformers were; for others, which read one
    token, this gives other numbers than theirs. Texts are cut after `most` tokens. Embeddings are
    kept, so that a text is read once however often it is scored.
    """

    def __init__(
        self,
        model: str = "sentence-transformers/all-MiniLM-L6-v2",
        *,
        most: int = 256,
        batch_size: int = 64,
        device: str = "auto",
    ) -> None:
        if most < 3:
            raise InputError(
                f"sentence network: expected `most` of 3 tokens or more, got {most}; raise it"
            )
        self.model, self.most = model, most
        self.batch_size, self.device = batch_size, device
        self._network: Any = None
        self._known: dict[str, np.ndarray] = {}

    @property
    def name(self) -> str:
        return slug(Path(self.model.removeprefix("package:")).name)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(text, feature) float32."""
        new = [t for t in dict.fromkeys(texts) if t not in self._known]
        if new:
            self._load()
            made = in_batches(new, self._embed, batch_size=self.batch_size, label="sentences")
            self._known.update(zip(new, made.numpy(), strict=True))
        return np.stack([self._known[t] for t in texts])

    def _load(self) -> None:
        if self._network is not None:
            return
        from transformers import AutoModel, AutoTokenizer

        source = find_weights(self.model)
        with quiet(), opening(self.model):
            self._tokenise = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            network = AutoModel.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False
            )
        self._place = choose_device(self.device)
        self._network = network.to(self._place).eval()

    def _embed(self, texts: Sequence[str]) -> torch.Tensor:
        # What the network was built for may be less than what is asked for.
        longest = getattr(self._network.config, "max_position_embeddings", self.most)
        tokens = self._tokenise(
            list(texts),
            padding=True,
            truncation=True,
            max_length=min(self.most, longest),
            return_tensors="pt",
        ).to(self._place)
        hidden = self._network(**tokens).last_hidden_state
        used = tokens["attention_mask"][:, :, None].to(hidden)
        return (hidden * used).sum(1) / used.sum(1)
