"""Descriptions of pictures by a model that reads pictures and writes text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from decode.core import InputError
from decode.progress import progress
from decode.scoring.album import batches
from decode.scoring.picture_scores import eight_bit
from decode.weights.hub import opening
from decode.weights.reading import (
    Precision,
    check_complete,
    choose_device,
    choose_dtype,
    find_weights,
    quiet,
)
from decode.writer import no_nan


class Describer:
    """Answers to one prompt about pictures, by a chat model of transformers that reads pictures.

    `model` is a hub name or folder with a processor and its chat template, such as LLaVA 1.5 (Liu et
    al. 2023, arXiv:2310.03744). Writing is greedy, up to `tokens` tokens. Texts are kept, so that a
    picture is described once however often it is scored; the network is not.
    """

    def __init__(
        self,
        model: str = "llava-hf/llava-1.5-7b-hf",
        *,
        prompt: str = "Describe this image in detail.",
        tokens: int = 512,
        precision: Precision = "bfloat16",
        batch_size: int = 4,
        device: str = "auto",
    ) -> None:
        if min(tokens, batch_size) < 1 or not prompt.strip():
            raise InputError(
                "describer: expected a prompt, and tokens and batch_size of 1 or more, got "
                f"{prompt!r}, {tokens} and {batch_size}"
                "; raise the one below 1, or write a prompt"
            )
        choose_dtype(precision)
        self.model, self.prompt, self.tokens, self.precision = model, prompt, tokens, precision
        self.batch_size, self.device = batch_size, device
        self._known: dict[bytes, str] = {}

    def __call__(self, read: Callable[[int], Tensor], n: int) -> list[str]:
        """A text for each of `n` pictures; `read` gives the i-th as (3, h, w) in [0, 1]."""
        keys = [content(eight_bit(read(i))) for i in progress(range(n), "pictures", total=n)]
        new = {key: i for i, key in enumerate(keys) if key not in self._known}
        if new:
            self._describe(read, new)
        return [self._known[key] for key in keys]

    def _describe(self, read: Callable[[int], Tensor], new: dict[bytes, int]) -> None:
        network, processor, text = self._open()
        keys = list(new)
        for rows in batches(len(keys), self.batch_size, "descriptions"):
            part = [keys[row] for row in rows]
            texts = self._write(network, processor, text, [eight_bit(read(new[k])) for k in part])
            self._known.update(zip(part, texts, strict=True))

    def _open(self) -> tuple[Any, Any, str]:
        """(network, processor, prompt in the words of the chat template)."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        kind: Any = AutoModelForImageTextToText
        source = find_weights(self.model)
        with quiet(), opening(self.model):
            processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
            if not getattr(processor, "chat_template", None):
                raise InputError(
                    f"describer: expected a chat template among the processor's files of "
                    f"{self.model!r}, found none; copy the model with all its json and jinja files, or "
                    "choose one that was trained to chat about pictures"
                )
            network, found = kind.from_pretrained(
                source,
                dtype=choose_dtype(self.precision),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        check_complete(found, self.model, "copy or save the model again")
        asked = [{"type": "image"}, {"type": "text", "text": self.prompt}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False
        )
        # Answers continue the prompt, so what is padded is its beginning.
        processor.tokenizer.padding_side = "left"
        return network.to(choose_device(self.device)).eval(), processor, text

    @torch.inference_mode()
    def _write(self, network: Any, processor: Any, text: str, pictures: list[Tensor]) -> list[str]:
        from PIL import Image

        begun = text.startswith(processor.tokenizer.bos_token or "\0")
        inputs = processor(
            images=[[Image.fromarray(p.permute(1, 2, 0).numpy())] for p in pictures],
            text=[text] * len(pictures),
            padding=True,
            add_special_tokens=not begun,
            return_tensors="pt",
        ).to(network.device, choose_dtype(self.precision))
        words = network.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.tokens,
            logits_processor=[no_nan],
        )
        answers = words[:, inputs["input_ids"].shape[1] :]
        texts = processor.batch_decode(answers, skip_special_tokens=True)
        return [" ".join(t.split()) for t in texts]


def content(picture: Tensor) -> bytes:
    """A hash of the pixels of a picture (3, h, w) uint8."""
    shape = repr(tuple(picture.shape)).encode()
    return hashlib.sha256(shape + picture.contiguous().numpy().tobytes()).digest()
