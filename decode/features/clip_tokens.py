"""All tokens of OpenAI's CLIP in transformers' format, at the scale that Versatile Diffusion expects."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def versatile_image(encoder: Any, pixels: Tensor) -> Tensor:
    """(picture, token, width) of a CLIPVisionModelWithProjection, class token first.

    Every token goes through the last layer norm and the projection, which CLIP itself does to the
    class token only, and is divided by the norm that the class token then has (Xu et al. 2023,
    arXiv:2211.08332).
    """
    hidden = encoder.vision_model(pixels).last_hidden_state
    tokens = encoder.visual_projection(encoder.vision_model.post_layernorm(hidden))
    return tokens / tokens[:, :1].norm(dim=-1, keepdim=True)


def versatile_text(encoder: Any, words: Tensor) -> Tensor:
    """(text, token, width) of a CLIPTextModelWithProjection for token numbers (text, token).

    Every token is projected and divided by the norm of the text's own embedding.
    """
    found = encoder(words)
    tokens = encoder.text_projection(found.last_hidden_state)
    return tokens / found.text_embeds[:, None].norm(dim=-1, keepdim=True)


def words_of(tokeniser: Any, texts: list[str]) -> Tensor:
    """Token numbers (text, token), padded and cut to the length that the tokeniser names."""
    return tokeniser(
        texts,
        padding="max_length",
        max_length=tokeniser.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
