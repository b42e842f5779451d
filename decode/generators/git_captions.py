"""GIT writes a caption from predicted image tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from decode.core import Shape, refusal
from decode.writer import Writer


@dataclass(eq=False, kw_only=True)
class GitCaptions(Writer):
    """Captions by GIT (Wang et al. 2022, arXiv:2205.14100), as Brain Captioning has them
    (Ferrante et al. 2023, arXiv:2305.11560).

    The tokens of target `image` are what GIT's image encoder gives after its final norm, class
    token first; the model's own projection into the language model reads them. See `Writer` for the
    other knobs.
    """

    model: str = field(default="microsoft/git-large-coco", kw_only=False)

    def kind(self) -> Any:
        from transformers import GitForCausalLM

        return GitForCausalLM

    def reads(self, config: Any) -> tuple[int, int]:
        vision = config.vision_config
        return (vision.image_size // vision.patch_size) ** 2 + 1, vision.hidden_size

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Compare target and length with the folder's configuration; no weights are read."""
        super().check(shapes)
        config = self.told()
        if config is not None and self.max_new_tokens >= config.max_position_embeddings:
            raise refusal(
                "generator.max_new_tokens",
                f"less than the {config.max_position_embeddings} places of {self.model!r}, of which the "
                "first is taken",
                self.max_new_tokens,
                "lower it",
            )

    def open(self) -> Any:
        network = super().open()
        network.git.image_encoder = Given()
        return network

    def write(self, tokens: Tensor) -> Tensor:
        first = self._network.generation_config.bos_token_id
        begin = torch.full((len(tokens), 1), first, device=tokens.device)
        return self._network.generate(
            input_ids=begin, pixel_values=tokens[:, None], **self.greedy()
        )


class Given(torch.nn.Module):
    """Stands where the image encoder stood: its "pictures" (row, 1, token, width) are tokens."""

    def forward(self, tokens: Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=tokens[:, 0])
