"""Vision-language models of a few thousand weights, saved as the published ones are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
WORDS = [
    "a", "red", "blue", "green", "square", "disc", "star", "two", "small", "stripes", "there", "is",
    ".", ":", "user", "where",
]  # fmt: skip


def loud(network: Any, gain: float = 8.0) -> Any:
    """Fresh weights are so small that every picture gets the same words."""
    with torch.no_grad():
        for weights in network.parameters():
            if weights.ndim > 1:
                weights.mul_(gain)
    return network.eval()


def processor(folder: Path) -> Any:
    from transformers import CLIPImageProcessor

    made = CLIPImageProcessor(size=16, crop_size=16)
    made.save_pretrained(folder)
    return made


def tiny_git(folder: Path) -> tuple[Any, Any]:
    """(network, tokeniser) of a GIT that is also saved in `folder`."""
    from transformers import BertTokenizer, GitConfig, GitForCausalLM

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    tokeniser = BertTokenizer(vocab={w: i for i, w in enumerate([*special, *WORDS])})
    config = GitConfig(
        vision_config=VISION, vocab_size=len(special) + len(WORDS), hidden_size=32,
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    network = GitForCausalLM(config).eval()
    save(folder, network, tokeniser)
    return network, tokeniser


def tiny_llava(folder: Path, **changes: Any) -> tuple[Any, Any]:
    """(network, tokeniser) of a LLaVA that is also saved in `folder`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        PreTrainedTokenizerFast,
    )

    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    vocabulary = {w: i for i, w in enumerate([*special, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokeniser = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="<pad>", additional_special_tokens=["<image>"],
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION, projection_dim=8), text_config=text,
        image_token_index=vocabulary["<image>"], image_seq_length=4, **changes,
    )  # fmt: skip
    network = loud(LlavaForConditionalGeneration(config))
    network.generation_config.eos_token_id = 2
    network.generation_config.pad_token_id = 0
    save(folder, network, tokeniser)
    return network, tokeniser


def save(folder: Path, network: Any, tokeniser: Any) -> None:
    network.save_pretrained(folder)
    tokeniser.save_pretrained(folder)
    processor(folder)


# LLaVA 1.5's conversation: a picture, what is asked, and whose turn it is.
CHAT = (
    "{% for m in messages %}USER: {% for part in m['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}ASSISTANT:"
)


def tiny_describer(folder: Path) -> tuple[Any, Any]:
    """(network, processor) of a LLaVA that is saved in `folder` with its processor's chat template."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    network, tokeniser = tiny_llava(folder)
    made = LlavaProcessor(
        CLIPImageProcessor(size=16, crop_size=16), tokeniser, patch_size=VISION["patch_size"],
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=CHAT,
    )  # fmt: skip
    made.save_pretrained(folder)
    return network, made


def tiny_parser(
    folder: Path, answers: Mapping[str, Sequence[str]], steps: int = 80
) -> tuple[Any, Any]:
    """(network, tokeniser) of a T5 that has learnt, mostly, what to answer to each text, and is saved in
    `folder`. Parts of answers are single tokens to it.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    parts = sorted({part for answer in answers.values() for part in answer})
    vocabulary = {w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", *WORDS, *parts])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokeniser = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    config = T5Config(
        vocab_size=len(vocabulary), d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2,
        dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    network = T5ForConditionalGeneration(config)
    asked = tokeniser(list(answers), padding=True, return_tensors="pt")
    longest = 1 + max(map(len, answers.values()))
    learnt = [[*(vocabulary[p] for p in a), 1] for a in answers.values()]
    labels = torch.tensor([a + [-100] * (longest - len(a)) for a in learnt])
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        network(asked["input_ids"], asked["attention_mask"], labels=labels).loss.backward()
        optimiser.step()
    network.eval().save_pretrained(folder)
    tokeniser.save_pretrained(folder)
    return network, tokeniser
