"""MindEye2: subjects share everything behind one linear layer each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from decode.core import Batch, InputError, Layout, Shape, Tensors
from decode.networks.blocks import Passport, SubjectLinear, by_subject
from decode.networks.heads import Head, TokenHeads
from decode.networks.low_level import LowLevelHead, low_level_shapes, without
from decode.networks.mixers import LegacyMixer, ResidualMixer
from decode.trainable import Encoder, Learned


class MindEye2(Encoder):
    """Linear per subject, mixer blocks, then heads (Scotti et al. 2024, arXiv:2403.11207).

    `mixer: residual` has blocks that learn; `legacy` are the published ones, in which nothing between
    the two linear layers can: voxels to tokens is an affine map of rank `width`, see
    `decode.networks.mixers`. The projector of contrastive targets reads the tokens that predict
    `share` and is as wide as they are unless `projector` says otherwise. Targets called `latents`
    (channel, height, width) and `tokens` (place, feature) come from a head that enlarges a map of
    `channels` through `sizes`; one called `changed` is compared with and not predicted.
    `head: factorised` goes through `rank` numbers per token.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        width: int = 4096,
        mixer: Literal["residual", "legacy"] = "residual",
        blocks: int = 4,
        dropout: float = 0.15,
        contrastive: Sequence[str] = ("retrieval",),
        share: str | None = "image",
        projector: int | None = None,
        head: Head = "dense",
        rank: int = 128,
        latents: str = "lowlevel",
        tokens: str = "lowlevel_tokens",
        changed: str = "lowlevel_changed",
        channels: int = 64,
        sizes: Sequence[int] = (32, 64, 128),
    ) -> None:
        super().__init__()
        kinds = {"residual": ResidualMixer, "legacy": LegacyMixer}
        if mixer not in kinds:
            raise InputError(
                f"encoder.mixer: expected one of {list(kinds)}, got {mixer!r}; choose one of these"
            )
        made, read = low_level_shapes(shapes, latents, tokens)
        self.changed = changed
        self.passport = Passport(layouts)
        self.inputs = SubjectLinear(self.passport.features, width)
        self.mixer = kinds[mixer](width, blocks=blocks, dropout=dropout)
        self.heads = TokenHeads(
            width,
            {k: v for k, v in shapes.items() if k not in (latents, tokens, changed)},
            contrastive=contrastive,
            share=share,
            projector=projector,
            head=head,
            rank=rank,
        )
        self.low_level = None
        if made is not None:
            self.low_level = LowLevelHead(
                width, made, read, channels=channels, sizes=sizes, dropout=0.3, bias=True
            )

    @classmethod
    def learned(cls, targets: Collection[str], knobs: Mapping[str, Any]) -> Learned:
        return super().learned(set(targets) - {knobs["changed"]}, knobs)

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.heads.learn(train)
        if self.low_level is not None:
            self.low_level.scale.learn(train)

    def forward(self, batch: Batch) -> Tensors:
        self.passport.check(batch)
        trunk = self.mixer(self.inputs(by_subject(batch, self.passport.n_channels), len(batch)))
        made = self.heads(trunk)
        return made if self.low_level is None else made | self.low_level(trunk)

    def embed(self, targets: Tensors) -> Tensors:
        return without(targets, self.changed)
