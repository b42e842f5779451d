"""Whole-brain activity through a foundation encoder that comes from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from decode.core import Batch, InputError, Layout, Shape, Tensors, refusal
from decode.networks.blocks import Passport
from decode.networks.causal import CausalVolumes
from decode.networks.heads import Head, TokenHeads
from decode.trainable import Encoder
from decode.weights.pretrained import load_pretrained


class Wave(Encoder):
    """A pretrained network's tokens, pooled, then a linear head per target.

    `network` is called with the number of channels and must return a module that maps volumes (batch,
    time, channel) float32, each as it leaves preprocessing and scaler, to tokens (batch, token, width),
    one or more, and has `width`, an int: any encoder of that kind can be put here, and one with another
    embedding or output is wrapped in a module that has these. None is the causal one that WAVE (Wang et
    al. 2024) uses. `weights`, read when training begins, is a safetensors file, a folder or the name of
    a published model (`load_pretrained`), whose tensors are those of the module's `state_dict`; `names`
    and `skip` bring them there. `pool` takes the `first` (class) or `last` token or the `mean` of all;
    `freeze` trains the heads alone. The signal must be the network's own, for WAVE 1024 parcels
    (`preprocess=parcels`), alike for all subjects, so nothing here belongs to a subject.

    Raises InputError where subjects differ in channels, for a network that breaks the contract, which is
    tried on two windows of zeros before anything is read or trained, and for weights that do not fit.
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
            raise InputError(
                f"encoder.pool: expected first, last or mean, got {pool!r}; choose one of these"
            )
        self.passport = Passport(layouts)
        channels, _ = self.passport.one_size("encoder wave")
        if len(set(self.passport.n_channels)) > 1:
            raise refusal(
                "encoder wave",
                "as many channels in every subject",
                f"{self.passport.n_channels} {self.passport.unit}",
                "average the same parcels for all subjects or choose an encoder with layers per subject",
            )
        self.network = (network or CausalVolumes)(channels)
        width = getattr(self.network, "width", None)
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise refusal(
                "encoder.network",
                "a network that says its width, the features of a token, as an attribute `width`",
                f"{type(self.network).__name__} without it",
                "add it or wrap the network",
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
        self._try()
        self.heads.learn(train)
        if self.weights is not None:
            load_pretrained(self.network, self.weights, names=self.names, skip=self.skip)

    def forward(self, batch: Batch) -> Tensors:
        self.passport.check(batch)
        tokens = self.network(batch.brain.transpose(1, 2))
        self._check_tokens(tokens, len(batch))
        return self.heads(self.pooled(tokens))

    def _try(self) -> None:
        """InputError, in place of a crash in training, where the network breaks the contract."""
        channels, times = self.passport.n_channels[0], self.passport.n_times[0]
        zeros = torch.zeros(2, times, channels, device=self.passport.channels.device)
        training = self.network.training
        try:
            with torch.no_grad():
                tokens = self.network.eval()(zeros)
        except InputError:
            raise
        except Exception as e:
            reason = " ".join(str(e).split())[:200] or type(e).__name__
            raise InputError(
                f"encoder.network: expected {type(self.network).__name__} to take volumes (batch, time, "
                f"channel) {tuple(zeros.shape)}, got {reason}; wrap the network"
            ) from e
        finally:
            self.network.train(training)
        self._check_tokens(tokens, len(zeros))

    def _check_tokens(self, tokens: object, n: int) -> None:
        expected = f"tokens (batch, token, width) ({n}, 1 or more, {self.network.width})"
        shape = tuple(tokens.shape) if isinstance(tokens, Tensor) else None
        if (
            shape is None
            or len(shape) != 3
            or shape[1] < 1
            or shape[::2] != (n, self.network.width)
        ):
            raise InputError(
                f"encoder.network: expected {expected}, got {shape or type(tokens).__name__} from "
                f"{type(self.network).__name__}; wrap the network"
            )

    def pooled(self, tokens: Tensor) -> Tensor:
        """One vector (batch, width) for tokens (batch, token, width)."""
        if self.pool == "mean":
            return tokens.mean(1)
        return tokens[:, 0 if self.pool == "first" else -1]
