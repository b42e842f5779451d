"""LLaVA answers a prompt from predicted image tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from decode.core import Media, Shape, Stimulus, Tensors, refusal
from decode.recordings.answers import about, name_of, read_answers
from decode.writer import Writer

PLACE, NAME = "<image>", "{category}"


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
    kept as it is written. With `categories` the prompt is asked once for each of them, which takes the
    place of `{category}` in it, and the text has a line `CATEGORY: ANSWER` for each, in their order.
    All rows are asked for all of them, whatever was shown, so that nothing about the stimulus is given
    away; the time grows with their number. `questions` is a table (.csv, see `read_answers`) whose
    questions about the shown stimulus take that place in turn; of the table nothing else is used, and
    what the questions themselves give away shows in the control `prior`. `template` is the
    conversation that the model was trained with, with `<image>` and `{prompt}` in their places. See
    `Writer` for the other knobs.
    """

    model: str = field(default="llava-hf/llava-1.5-7b-hf", kw_only=False)
    prompt: str = "Describe this image in one short sentence."
    categories: Sequence[str] = ()
    questions: str | None = None
    template: str = "USER: <image>\n{prompt} ASSISTANT:"
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self._asked: Callable[[Stimulus], Sequence[str]] | None = None
        if self.template.count(PLACE) != 1 or self.template.count("{prompt}") != 1:
            raise refusal(
                "generator.template",
                f"{PLACE} and {{prompt}} once each",
                f"{self.template!r}",
                "add the one that is missing or remove the second",
            )
        if PLACE in self.prompt:
            raise refusal(
                "generator.prompt", f"no {PLACE}, which belongs into template", "one", "remove it"
            )
        self.asks = self.questions is not None
        if self.categories and self.asks:
            raise refusal(
                "generator",
                "categories or questions, as both say what is asked",
                "both",
                "leave one out",
            )
        if (NAME in self.prompt) != (bool(self.categories) or self.asks):
            raise refusal(
                "generator.prompt",
                f"{NAME} in it just where there are categories or questions",
                f"the prompt {self.prompt!r}, {list(self.categories)} and {self.questions}",
                "correct one of them",
            )
        wrong = [c for c in self.categories if not c.strip() or ":" in c or "\n" in c]
        if wrong or len(set(self.categories)) < len(self.categories):
            raise refusal(
                "generator.categories",
                "different names without a colon or a line break",
                wrong or list(self.categories),
                "rename the ones that are not",
            )
        self.disclosure = self._disclosed()

    def _disclosed(self) -> str:
        if self.asks:
            return (
                f"Texts answer {self.prompt!r} with the questions that a table has about the shown "
                "stimulus: a question may give its answer away, which the control prior shows."
            )
        said = f"Texts answer the prompt {self.prompt!r}, the same for every trial."
        if self.categories:
            n = len(self.categories)
            said += f" It was asked for all of {n} categories, whatever was shown."
        return said

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

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Also read the table of questions, where there is one."""
        super().check(shapes)
        if self.questions is not None:
            self._asked = questions_of(Path(self.questions))

    def asked_of(self, shown: Stimulus) -> Sequence[str]:
        assert self.questions is not None
        if self._asked is None:
            self._asked = questions_of(Path(self.questions))
        return self._asked(shown)

    def replies(self, predicted: Tensors, asked: Sequence[Sequence[str]]) -> list[Media]:
        rows = [i for i, questions in enumerate(asked) for _ in questions]
        prompts = [self.prompt.replace(NAME, q) for questions in asked for q in questions]
        said = iter(self.written(
            predicted[self.image], rows,
            lambda seen, part: self.spelt(self.reply(seen, prompts[part])),
        ))  # fmt: skip
        lines = [[f"{question}: {next(said)}" for question in questions] for questions in asked]
        return [Media("text", "\n".join(one)) for one in lines]

    def answer(self, tokens: Tensor) -> list[str]:
        if not self.categories:
            return super().answer(tokens)
        asked = []
        for category in self.categories:
            words = self.reply(tokens, [self.prompt.replace(NAME, category)] * len(tokens))
            asked.append([f"{category}: {text}" for text in self.spelt(words)])
        return ["\n".join(lines) for lines in zip(*asked, strict=True)]

    def write(self, tokens: Tensor) -> Tensor:
        return self.reply(tokens, [self.prompt] * len(tokens))

    def open(self) -> Any:
        network = super().open()
        if self._tokeniser.pad_token is None:
            self._tokeniser.pad_token = self._tokeniser.eos_token
        return network

    def reply(self, tokens: Tensor, prompts: Sequence[str]) -> Tensor:
        """Image tokens (row, token, width) and a prompt for each row -> numbers (row, word)."""
        network, n = self._network, tokens.shape[1]
        texts = [self.template.replace("{prompt}", p).replace(PLACE, PLACE * n) for p in prompts]
        # Shorter ones begin later, so that all are continued at one place.
        read = self._tokeniser(texts, return_tensors="pt", padding=True, padding_side="left")
        words = read.input_ids.to(tokens.device)
        here = words == network.config.image_token_id
        if bool((here.sum(1) != n).any()):
            raise refusal(
                "generator.model",
                f"a tokeniser whose token {PLACE} has the number {network.config.image_token_id}, as "
                "config.json says",
                f"another in {self.model!r}",
                "copy the model's tokeniser files again",
            )
        seen = network.model.multi_modal_projector(tokens)
        embedded = network.get_input_embeddings()(words)
        embedded = embedded.masked_scatter(here[..., None], seen.to(embedded))
        mask = read.attention_mask.to(tokens.device)
        return network.generate(inputs_embeds=embedded, attention_mask=mask, **self.greedy())


def questions_of(file: Path) -> Callable[[Stimulus], Sequence[str]]:
    """What a table asks about a stimulus, in its order, each question once."""
    told = read_answers(file)
    asked: dict[str, dict[str, None]] = {}
    for name, question in zip(about(told), told["question"], strict=True):
        asked.setdefault(name, {})[question] = None
    return lambda shown: tuple(asked.get(name_of(told, shown), ()))
