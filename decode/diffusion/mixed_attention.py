"""One place in a denoiser where two transformers read two conditions and their outputs are mixed."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class MixedTransformers(nn.Module):
    """What two transformers add to their input, weighed: `share` for the first, the rest for the second.

    Each reads its own tokens out of one context: the first the leading `length`, the second what
    follows. Takes the place of a transformer in diffusers' denoisers.
    """

    def __init__(self, first: nn.Module, second: nn.Module, *, share: float) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.share, self.length = share, 0

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, **given: Any
    ) -> tuple[Tensor]:
        given = {**given, "return_dict": False}
        tokens = encoder_hidden_states.split(
            [self.length, encoder_hidden_states.shape[1] - self.length], dim=1
        )
        first = self.first(hidden_states, encoder_hidden_states=tokens[0], **given)[0]
        second = self.second(hidden_states, encoder_hidden_states=tokens[1], **given)[0]
        return (self.share * first + (1 - self.share) * second,)


def mix(denoiser: nn.Module, other: nn.Module, kind: type[nn.Module], *, share: float) -> None:
    """Put into `denoiser`, for each of its modules of `kind`, a mixture with the one of the same name
    in `other`, which comes first.
    """
    for name, module in list(denoiser.named_modules()):
        if isinstance(module, kind):
            parent, _, place = name.rpartition(".")
            mixture = MixedTransformers(other.get_submodule(name), module, share=share)
            setattr(denoiser.get_submodule(parent), place, mixture)


def set_length(denoiser: nn.Module, length: int) -> None:
    """Tell every mixture how many tokens of the context belong to its first transformer."""
    for module in denoiser.modules():
        if isinstance(module, MixedTransformers):
            module.length = length
