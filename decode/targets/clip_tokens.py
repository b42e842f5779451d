"""Token sequences of CLIP in transformers' format: what dual-guided and text-to-image models read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from decode.core import Kind, Reads, Stimulus, refusal
from decode.features.clip_tokens import versatile_image, versatile_text, words_of
from decode.features.network import NetworkTarget
from decode.pictures import open_image
from decode.weights.hub import opening
from decode.weights.reading import find_weights, quiet


@dataclass(eq=False, kw_only=True)
class ClipTokens(NetworkTarget):
    """Tokens (token, width) of a CLIP (Radford et al. 2021, arXiv:2103.00020) of transformers.

    `output` "image" reads the picture, "text" the caption. `scaling` "versatile" projects every
    token and divides by the norm of the embedding, as Versatile Diffusion wants it; "none" gives
    the hidden state of `layer`, negative from the end: -1 is the last (for text after the final
    norm: the context of Stable Diffusion 1), -2 the one before, which LLaVA reads. `class_token`
    false leaves the image's first token out. `average` takes the mean over all captions of a
    stimulus, else its first is read, or the one with the number `caption` (from
    0, counted around where there are fewer).

    `tower` and `prepared` are subfolders of the network and of its image processor or tokeniser, for
    models that carry a CLIP beside other networks; `prepared_by` is the model whose folder holds
    `prepared`, where that is another. Captions longer than the context are cut.
    """

    output: Literal["image", "text"] = "image"
    scaling: Literal["versatile", "none"] = "versatile"
    layer: int = -1
    class_token: bool = True
    average: bool = False
    caption: int | None = None
    tower: str = ""
    prepared: str = ""
    prepared_by: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output not in ("image", "text") or self.scaling not in ("versatile", "none"):
            raise refusal(
                "clip_tokens target",
                "output of image or text and scaling of versatile or none",
                f"{self.output!r} and {self.scaling!r}",
                "choose among these",
            )
        if self.caption is not None and (self.average or self.caption < 0):
            raise refusal(
                "clip_tokens target: caption", "0 or more, without average, or null", self.caption,
                "correct it or set average to false",
            )  # fmt: skip
        if self.scaling == "versatile" and self.layer != -1:
            raise refusal(
                "clip_tokens target",
                "layer=-1 with scaling=versatile, which reads the last layer",
                self.layer,
                "set layer to -1 or scaling to none",
            )

    @property
    def accepts(self) -> frozenset[Kind]:  # type: ignore[override]
        """Pictures, or whatever has a text."""
        return frozenset(get_args(Kind)) if self.output == "text" else frozenset({"image"})

    @property
    def reads(self) -> frozenset[Reads]:  # type: ignore[override]
        """The file, or what was said of it."""
        return frozenset({"text"} if self.output == "text" else {"file"})

    def open(self) -> Any:
        import transformers

        kinds = {
            "image": ("CLIPVisionModelWithProjection", "CLIPImageProcessor"),
            "text": ("CLIPTextModelWithProjection", "CLIPTokenizer"),
        }
        network, prepared = (getattr(transformers, name) for name in kinds[self.output])
        source = find_weights(self.model)
        with quiet(), opening(self.model):
            told = source if self.prepared_by is None else find_weights(self.prepared_by)
            self._prepare: Any = prepared.from_pretrained(told, subfolder=self.prepared)
            return network.from_pretrained(source, subfolder=self.tower, use_safetensors=True)

    def forward(self, stimuli: Sequence[Stimulus]) -> Tensor:
        return self._texts(stimuli) if self.output == "text" else self._images(stimuli)

    def _images(self, stimuli: Sequence[Stimulus]) -> Tensor:
        pictures = [open_image(s) for s in stimuli]
        pixels = self._prepare(pictures, return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self._place, self.dtype)
        if self.scaling == "versatile":
            tokens = versatile_image(self._network, pixels)
        else:
            tokens = self._hidden(self._network(pixels, output_hidden_states=True))
        return tokens if self.class_token else tokens[:, 1:]

    def _hidden(self, found: Any) -> Tensor:
        hidden = found.hidden_states[1:]
        if not -len(hidden) <= self.layer < len(hidden):
            raise refusal(
                "targets.*.layer",
                f"-{len(hidden)} to {len(hidden) - 1}, the layers of {self.model!r}",
                self.layer,
                "name one of them",
            )
        if self.output == "text" and self.layer in (-1, len(hidden) - 1):
            return found.last_hidden_state
        return hidden[self.layer]

    def _texts(self, stimuli: Sequence[Stimulus]) -> Tensor:
        texts = [captions_of(s, self.average, self.caption) for s in stimuli]
        words = words_of(self._prepare, [t for several in texts for t in several])
        words = words.to(self._place)
        if self.scaling == "versatile":
            tokens = versatile_text(self._network, words)
        else:
            tokens = self._hidden(self._network(words, output_hidden_states=True))
        several = tokens.float().split([len(t) for t in texts])
        return torch.stack([part.mean(0) for part in several])


def captions_of(stimulus: Stimulus, every: bool, number: int | None = None) -> list[str]:
    """All captions of a stimulus, one by its number, or its first one alone."""
    found = [t for t in stimulus.texts if t.strip()]
    if not found:
        raise refusal(
            "clip_tokens target",
            f"a caption of stimulus {stimulus.uid!r}",
            "none",
            "choose output=image or data that carry captions",
        )
    return found if every else [found[(number or 0) % len(found)]]
