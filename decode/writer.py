"""The parent of the generators in which a language model reads predicted image tokens and writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from decode.core import Generator, Kind, Media, Shape, Stimulus, Tensors, refusal
from decode.diffusion.pipelines import (
    Offload,
    agreed_width,
    check_place,
    mean_norm,
    with_norm,
)
from decode.progress import progress
from decode.weights.hub import opening
from decode.weights.reading import (
    Precision,
    check_complete,
    choose_dtype,
    find_weights,
    loading,
    quiet,
    read_config,
)


@dataclass(eq=False)
class Writer(Generator):
    """A vision-language model that reads predictions where it would read its image encoder.

    `model` is a hub name or folder, `image` the target with image tokens (token, width). `tokens`
    and `width` are those of a published model, so that a wrong target is found before anything is
    fetched; a folder says them itself. `norm` "train" gives all tokens of a picture the mean norm of
    the training ones, "keep" leaves them.

    Writing is greedy: seeds do not matter, and a row's text depends on its prediction only (up to
    rounding where two words are equally likely). The image encoder is not read, though a published
    model is fetched as a whole. `offload` "model" keeps the network on the GPU only while it
    writes, "sequential" moves layer by layer: little memory, and every word waits for all weights.
    """

    makes: ClassVar[Kind] = "text"

    model: str
    _: KW_ONLY
    image: str = "image"
    tokens: int | None = None
    width: int | None = None
    norm: Literal["train", "keep"] = "keep"
    max_new_tokens: int = 20
    precision: Precision = "float32"
    offload: Offload = "none"
    batch_size: int = 8
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.norm not in ("train", "keep"):
            raise refusal("generator.norm", "train or keep", f"{self.norm!r}", "choose one")
        if self.offload not in ("none", "model", "sequential"):
            raise refusal(
                "generator.offload", "none, model or sequential", f"{self.offload!r}", "choose one"
            )
        if min(self.batch_size, self.max_new_tokens) < 1:
            raise refusal(
                "generator",
                "batch_size and max_new_tokens of at least 1",
                f"{self.batch_size} and {self.max_new_tokens}",
                "raise the one that is below 1",
            )
        choose_dtype(self.precision)
        self.needs = (self.image,)
        self._norm: float | None = None
        self._network: Any = None

    def kind(self) -> Any:
        """The transformers class of the whole model."""
        raise NotImplementedError(f"{type(self).__name__} must name its model")

    def reads(self, config: Any) -> tuple[int, int]:
        """(token, width) of what a model of this configuration reads per picture."""
        raise NotImplementedError(f"{type(self).__name__} must say what it reads")

    def write(self, tokens: Tensor) -> Tensor:
        """Image tokens (row, token, width) -> numbers (row, word) of the words written."""
        raise NotImplementedError(f"{type(self).__name__} must say how it writes")

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Compare the target with the folder's configuration; no weights are read."""
        super().check(shapes)
        find_weights(self.model)
        check_place(self)
        config = self.told()
        tokens, width = (None, None) if config is None else self.reads(config)
        if self.tokens is not None and tokens not in (None, self.tokens):
            raise refusal(
                "generator.tokens",
                f"{tokens}, which the folder {self.model!r} reads",
                self.tokens,
                "remove tokens or correct model",
            )
        tokens = self.tokens if tokens is None else tokens
        width = agreed_width(width, self.width, self.model)
        shape = tuple(shapes[self.image])
        fits = len(shape) == 2 and tokens in (None, shape[0]) and width in (None, shape[1])
        if not fits:
            raise refusal(
                "generator.image",
                f"image tokens of shape ({tokens or 'token'}, {width or 'width'}), which {self.model!r} "
                "reads",
                f"target {self.image!r} of shape {shape}",
                "choose the target made by the model's own image encoder",
            )

    def told(self) -> Any:
        """The configuration of a local folder; None for a published model (nothing fetched)."""
        raw = read_config(self.model)
        if raw is None:
            return None
        known = self.kind().config_class
        if raw.get("model_type") != known.model_type:
            raise refusal(
                "generator.model",
                f"a model of type {known.model_type!r} in {self.model!r}",
                f"{raw.get('model_type')!r} in its config.json",
                "correct model",
            )
        with loading(self.model):
            return known.from_dict(raw)

    def learn(self, shown: Sequence[Stimulus], truth: Tensors) -> None:
        """Remember the mean norm of the training tokens."""
        self._norm = mean_norm(truth[self.image])

    def __call__(self, predicted: Tensors, *, seeds: Sequence[int]) -> list[Media]:
        """One text per row; seeds do not matter."""
        tokens = predicted[self.image]
        texts = self.written(tokens, range(len(tokens)), lambda seen, _: self.answer(seen))
        return [Media("text", text) for text in texts]

    @torch.no_grad()
    def written(
        self, tokens: Tensor, rows: Sequence[int], write: Callable[[Tensor, slice], list[str]]
    ) -> list[str]:
        """Texts of rows of predicted tokens, by `write` of some rows' tokens and their places in
        `rows`, with the network in place.
        """
        tokens = self._conditioned(tokens.float())
        if self._network is None:
            self._network = self.open()
        made: list[str] = []
        with at_work(self._network, self.offload, check_place(self)) as device, quiet():
            starts = range(0, len(rows), self.batch_size)
            for start in progress(starts, "texts", total=len(starts)):
                part = slice(start, start + self.batch_size)
                seen = tokens[list(rows[part])]
                made += write(seen.to(device, choose_dtype(self.precision)), part)
        return made

    def answer(self, tokens: Tensor) -> list[str]:
        """Image tokens (row, token, width) -> a text per row."""
        return self.spelt(self.write(tokens))

    def spelt(self, words: Tensor) -> list[str]:
        """Numbers (row, word) -> a text per row, on one line."""
        texts = self._tokeniser.batch_decode(words, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def _conditioned(self, tokens: Tensor) -> Tensor:
        if not bool(torch.isfinite(tokens).all()):
            raise refusal(
                "generator",
                f"finite predictions of target {self.image!r}",
                "NaN or infinite ones",
                "look for dead channels in the signal or a fit that diverged",
            )
        if self.norm == "keep":
            return tokens
        if self._norm is None:
            raise refusal(
                "generator.norm",
                "training tokens, which norm=train needs",
                "none yet",
                "call learn(shown, truth) first or set norm to keep",
            )
        return with_norm(tokens, self._norm)

    def open(self) -> Any:
        """The network without its image encoder, in place, and its tokeniser."""
        from transformers import AutoTokenizer

        with quiet(), opening(self.model):
            self._tokeniser: Any = AutoTokenizer.from_pretrained(
                find_weights(self.model), trust_remote_code=False
            )
        network = open_without_eyes(self.kind(), self.model, self.precision)
        return place_network(network, self.offload, check_place(self))

    def greedy(self) -> dict[str, Any]:
        """What `generate` is told beside its input."""
        return {
            "do_sample": False,
            "num_beams": 1,
            "max_new_tokens": self.max_new_tokens,
            "logits_processor": [no_nan],
        }


def open_without_eyes(kind: Any, model: str, precision: Precision) -> Any:
    """A vision-language model whose image encoder has no layers; InputError when others lack weights."""
    source = find_weights(model)
    with quiet(), opening(model):
        config = kind.config_class.from_pretrained(source)
        config.vision_config.num_hidden_layers = 0
        network, found = kind.from_pretrained(
            source,
            config=config,
            dtype=choose_dtype(precision),
            use_safetensors=True,
            output_loading_info=True,
        )
    check_complete(found, model, "copy or save the model again")
    return network.eval()


def place_network(network: Any, offload: Offload, device: torch.device) -> Any:
    """Put a network where it rests between calls."""
    if offload == "none":
        return network.to(device)
    if offload == "sequential":
        from accelerate import cpu_offload

        cpu_offload(network, execution_device=device)
    return network


@contextmanager
def at_work(network: Any, offload: Offload, device: torch.device) -> Iterator[torch.device]:
    """The device to send inputs to, with a network offloaded as a whole on it meanwhile."""
    if offload != "model":
        yield device
        return
    network.to(device)
    try:
        yield device
    finally:
        network.to("cpu")


def no_nan(words: Tensor, scores: Tensor) -> Tensor:
    """Scores as they are; InputError where half precision has overflowed, which would go unseen."""
    if bool(scores.isnan().any()):
        raise refusal(
            "generator", "a score for each word", "NaN", "set precision to bfloat16 or float32"
        )
    return scores
