"""LLaVA answers a prompt from predicted image tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from decode.core import InputError
from decode.networks.writer import Writer

PLACE = "<image>"


@dataclass(eq=False, kw_only=True)
class LlavaText(Writer):
    """Texts by a LLaVA-type model (Liu et al. 2023, arXiv:2304.08485), as UMBRAE has them
    (Xia et al. 2024, arXiv:2404.07202).

    The tokens of target `image` are what the model's image encoder gives in its
    `vision_feature_layer` (mostly the one before the last), without the class token unless the
    folder says "full"; the model's projector and language model read them. Which layer a target
    was made of cannot be seen in its shape: it is the experiment's to get right.

    `prompt` is the same for all rows: the wish for a caption, a question, or one for a place ("Where
    is the dog? Answer with a box."), which models trained for it answer with coordinates; the text is
    kept as it is written. `template` is the conversation that the model was trained with, with
    `<image>` and `{prompt}` in their places. See `Writer` for the other knobs.
    """

    model: str = field(default="llava-hf/llava-1.5-7b-hf", kw_only=False)
    prompt: str = "Describe this image in one short sentence."
    template: str = "USER: <image>\n{prompt} ASSISTANT:"
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template.count(PLACE) != 1 or self.template.count("{prompt}") != 1:
            raise InputError(
                f"llava_text generator: template holds {PLACE} and {{prompt}} once each, got "
                f"{self.template!r}"
            )
        if PLACE in self.prompt:
            raise InputError(
                f"llava_text generator: {PLACE} belongs into template, prompt has it too; remove it"
            )
        self.disclosure = f"Texts answer the prompt {self.prompt!r}, the same for every trial."

    def kind(self) -> Any:
        from transformers import LlavaForConditionalGeneration

        return LlavaForConditionalGeneration

    def reads(self, config: Any) -> tuple[int, int]:
        vision, layers = config.vision_config, config.vision_feature_layer
        patches = (vision.image_size // vision.patch_size) ** 2
        # Image encoders of other kinds have no class token, but lose their first all the same.
        first = vision.model_type == "clip_vision_model"
        dropped = config.vision_feature_select_strategy == "default"
        joined = 1 if isinstance(layers, int) else len(layers)
        return patches + first - dropped, vision.hidden_size * joined

    def write(self, tokens: Tensor) -> Tensor:
        network, (rows, n) = self._network, tokens.shape[:2]
        text = self.template.replace("{prompt}", self.prompt).replace(PLACE, PLACE * n)
        words = self._tokeniser(text, return_tensors="pt").input_ids.to(tokens.device)
        here = words == network.config.image_token_id
        if int(here.sum()) != n:
            raise InputError(
                f"llava_text generator: the tokeniser of {self.model!r} has no token {PLACE} with "
                f"the number {network.config.image_token_id} that config.json gives; copy the "
                "model's tokeniser files again"
            )
        seen = network.model.multi_modal_projector(tokens)
        words, here = words.expand(rows, -1), here.expand(rows, -1)
        embedded = network.get_input_embeddings()(words)
        embedded = embedded.masked_scatter(here[..., None], seen.to(embedded))
        return network.generate(
            inputs_embeds=embedded, attention_mask=here.new_ones(here.shape).long(), **self.greedy()
        )
