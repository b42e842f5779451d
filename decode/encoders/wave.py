"""Whole-brain activity through a foundation encoder that comes from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from decode.core import Batch, Encoder, InputError, Layout, Shape, Tensors
from decode.networks.blocks import Passport
from decode.networks.causal import CausalVolumes
from decode.networks.heads import Head, TokenHeads
from decode.networks.pretrained import load_pretrained


class Wave(Encoder):
    """A pretrained network's tokens, pooled, then a linear head per target.

    `network` is called with the number of channels and must return a module that maps volumes (batch,
    time, channel) to tokens (batch, token, width), and has `width`: any encoder of that kind can be
    put here. None is the causal one that WAVE (Wang et al. 2024) uses. `weights`, read when training
    begins, is a safetensors file, a folder or the name of a published model (`load_pretrained`);
    `names` and `skip` bring its tensors to the network's own. `pool` takes the `first` (class) or
    `last` token or the `mean` of all; `freeze` trains the heads alone. The signal must be the
    network's own, for WAVE the means of 1024 parcels (`preprocess=parcels`), alike for all subjects,
    so nothing here belongs to a subject.

    Raises InputError where subjects differ in channels, for a network that breaks the contract and for
    weights that do not fit.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        network: Callable[[int], nn.Module] | None = None,
        weights: str | None = None,
        names: Mapping[str, str] | None = None,
        skip: Sequence[str] = (),
        pool: Literal["first", "last", "mean"] = "last",
        freeze: bool = False,
        contrastive: Sequence[str] = ("retrieval",),
        share: str | None = None,
        projector: int = 0,
        head: Head = "dense",
        rank: int = 128,
    ) -> None:
        super().__init__()
        if pool not in ("first", "last", "mean"):
            raise InputError(f"encoder.pool: expected first, last or mean, got {pool!r}")
        self.passport = Passport(layouts)
        channels, _ = self.passport.one_size("encoder wave")
        if len(set(self.passport.n_channels)) > 1:
            raise InputError(
                f"encoder wave: subjects have {self.passport.n_channels} {self.passport.unit}; average "
                "the same parcels for all subjects or choose an encoder with layers per subject"
            )
        self.network = (network or CausalVolumes)(channels)
        width = getattr(self.network, "width", None)
        if not isinstance(width, int):
            raise InputError(
                f"encoder.network: {type(self.network).__name__} must say its width, the features of "
                "a token, as an attribute `width`; add it or wrap the network"
            )
        self.weights, self.pool = weights, pool
        self.names, self.skip = names, tuple(skip)
        if freeze:
            self.network.requires_grad_(False)
        self.heads = TokenHeads(
            width,
            shapes,
            contrastive=contrastive,
            share=share,
            projector=projector,
            head=head,
            rank=rank,
        )

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.heads.scale.learn(train)
        if self.weights is not None:
            load_pretrained(self.network, self.weights, names=self.names, skip=self.skip)

    def forward(self, batch: Batch) -> Tensors:
        self.passport.check(batch)
        return self.heads(self.pooled(self.network(batch.brain.transpose(1, 2))))

    def pooled(self, tokens: Tensor) -> Tensor:
        """One vector (batch, width) for tokens (batch, token, width)."""
        if tokens.ndim != 3:
            raise InputError(
                "encoder.network: expected tokens (batch, token, width), got "
                f"{tuple(tokens.shape)} from {type(self.network).__name__}; wrap the network"
            )
        if self.pool == "mean":
            return tokens.mean(1)
        return tokens[:, 0 if self.pool == "first" else -1]
