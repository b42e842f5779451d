"""Descriptions -> facts about a picture, sentence by sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from decode.core import InputError
from decode.scoring.album import batches
from decode.scoring.scene_graphs import Item, facts
from decode.weights.hub import opening
from decode.weights.reading import check_complete, choose_device, find_weights, quiet

# What the published parsers were trained with.
TASK = "Generate Scene Graph: "


class SceneParser:
    """Triples that a FACTUAL parser (Li et al. 2023, arXiv:2305.17497) reads in each sentence.

    `model` is a sequence-to-sequence model of transformers that answers "Generate Scene Graph: A black
    cat sits on a mat." with "( cat , is , black ) , ( cat , sit on , mat )"; its answers are found by
    `beams` beams, and sentence and answer have up to `tokens` tokens each. Answers are kept, so that a
    sentence is parsed once however often it is scored; the network is not.
    """

    def __init__(
        self,
        model: str = "lizhuang144/flan-t5-base-VG-factual-sg",
        *,
        beams: int = 5,
        tokens: int = 128,
        batch_size: int = 32,
        device: str = "auto",
    ) -> None:
        if min(beams, tokens, batch_size) < 1:
            raise InputError(
                "scene parser: expected beams, tokens and batch_size of 1 or more, got "
                f"{beams}, {tokens} and {batch_size}"
                "; raise the one below 1"
            )
        self.model, self.beams, self.tokens = model, beams, tokens
        self.batch_size, self.device = batch_size, device
        self._known: dict[str, str] = {}

    def __call__(self, texts: Sequence[str]) -> list[list[Item]]:
        """The facts of each text, see `decode.scoring.scene_graphs.facts`."""
        split = [sentences(text) for text in texts]
        every = dict.fromkeys(s for part in split for s in part)
        self._parse([s for s in every if s not in self._known])
        return [[fact for s in part for fact in facts(self._known[s])] for part in split]

    def answers(self, text: str) -> list[str]:
        """What the parser wrote about each sentence of a text that it has been given."""
        return [self._known[s] for s in sentences(text)]

    def _parse(self, new: Sequence[str]) -> None:
        if not new:
            return
        network, tokeniser = self._open()
        for rows in batches(len(new), self.batch_size, "scene graphs"):
            part = [new[row] for row in rows]
            self._known.update(zip(part, self._answer(network, tokeniser, part), strict=True))

    def _open(self) -> tuple[Any, Any]:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        source = find_weights(self.model)
        with quiet(), opening(self.model):
            tokeniser = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            network, found = AutoModelForSeq2SeqLM.from_pretrained(
                source, use_safetensors=True, output_loading_info=True, trust_remote_code=False
            )
        check_complete(found, self.model, "give a model that was trained to parse sentences")
        return network.to(choose_device(self.device)).eval(), tokeniser

    @torch.inference_mode()
    def _answer(self, network: Any, tokeniser: Any, asked: Sequence[str]) -> list[str]:
        inputs = tokeniser(
            [TASK + sentence for sentence in asked],
            padding=True,
            truncation=True,
            max_length=self.tokens,
            return_tensors="pt",
        ).to(network.device)
        words = network.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=False,
            num_beams=self.beams,
            max_new_tokens=self.tokens,
        )
        return list(tokeniser.batch_decode(words, skip_special_tokens=True))


def sentences(text: str) -> list[str]:
    """The sentences of a plain text: they end with . ! or ? before a space."""
    return [s for s in re.split(r"(?<=[.!?])\s+", text.strip()) if re.search(r"\w", s)]
