"""From one vector to the latent picture of an autoencoder, and to tokens that describe it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from decode.core import InputError, Shape, Tensors, refusal
from decode.networks.blocks import TargetScale, numel

GROW = 4


class LowLevelHead(nn.Module):
    """(batch, width) -> latents (batch, channel, h, w) and, if asked, tokens (batch, token, feature).

    A linear layer makes a map of `channels` at a quarter of the size, which the blocks of a latent
    autoencoder's decoder with `sizes` channels enlarge; three 1 x 1 convolutions read the tokens, one
    per place, from the small map (MindEye, Scotti et al. 2023 and 2024). Latents come at the scale
    of the training targets, tokens have no scale.

    Raises InputError for latents that are no picture of multiples of four, and for tokens whose
    number is not that of the places of the small map.
    """

    def __init__(
        self,
        width: int,
        latents: tuple[str, Shape],
        tokens: tuple[str, Shape] | None,
        *,
        channels: int,
        sizes: Sequence[int],
        dropout: float,
        bias: bool,
    ) -> None:
        super().__init__()
        self.name, shape = latents
        if len(shape) != 3 or shape[1] % GROW or shape[2] % GROW:
            raise refusal(
                "encoder",
                f"target {self.name!r} of latents (channel, height, width) with sides that are multiples "
                f"of {GROW}",
                tuple(shape),
                "choose an autoencoder's latents",
            )
        self.small = (channels, shape[1] // GROW, shape[2] // GROW)
        self.enter = nn.Sequential(
            nn.Linear(width, numel(self.small), bias=bias), nn.Dropout(dropout)
        )
        self.norm = nn.GroupNorm(1, channels)
        self.enlarge = _decoder(channels, shape[0], sizes)
        self.token_name = tokens[0] if tokens else None
        if tokens:
            places = self.small[1] * self.small[2]
            if len(tokens[1]) != 2 or tokens[1][0] != places:
                raise refusal(
                    "encoder",
                    f"target {tokens[0]!r} of shape ({places}, feature), one token for each place of "
                    f"{self.small[1]} x {self.small[2]}",
                    tuple(tokens[1]),
                    "choose features of that grid",
                )
            self.read = _readers(channels, tokens[1][1])
        self.scale = TargetScale({self.name: tuple(shape)})

    def forward(self, trunk: Tensor) -> Tensors:
        small = self.norm(self.enter(trunk).unflatten(1, self.small))
        made = {self.name: self.scale.up(self.name, self.enlarge(small))}
        if self.token_name is not None:
            made[self.token_name] = self.read(small).flatten(2).transpose(1, 2)
        return made


def _decoder(inputs: int, outputs: int, sizes: Sequence[int]) -> nn.Module:
    from diffusers.models.autoencoders.vae import Decoder

    if len(sizes) != 3:
        raise InputError(
            f"encoder.low_level: expected 3 sizes, got {list(sizes)}; name the width of each of its "
            "three stages"
        )
    return Decoder(
        in_channels=inputs,
        out_channels=outputs,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=tuple(sizes),
        layers_per_block=1,
        norm_num_groups=min(32, math.gcd(*sizes)),
    )


def _readers(inputs: int, features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, features, 1, bias=False),
        nn.GroupNorm(1, features),
        nn.ReLU(),
        nn.Conv2d(features, features, 1, bias=False),
        nn.GroupNorm(1, features),
        nn.ReLU(),
        nn.Conv2d(features, features, 1),
    )


def low_level_shapes(
    shapes: Mapping[str, Shape], latents: str, tokens: str
) -> tuple[tuple[str, Shape] | None, tuple[str, Shape] | None]:
    """The latents and tokens among the experiment's targets, each as (name, shape) or None.

    Raises InputError for tokens without latents.
    """
    if latents in shapes:
        read = (tokens, tuple(shapes[tokens])) if tokens in shapes else None
        return (latents, tuple(shapes[latents])), read
    if tokens in shapes:
        raise refusal(
            "encoder",
            f"a target {tokens!r}, which is read from the map behind {latents!r}",
            sorted(shapes),
            "add a target of that name",
        )
    return None, None


def without(tensors: Tensors, name: str) -> Tensors:
    """All but one: a target of that name is compared with and not predicted."""
    return {k: v for k, v in tensors.items() if k != name}
