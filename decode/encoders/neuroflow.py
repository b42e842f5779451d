"""NeuroFlow: a flow carries the code of a voxel autoencoder to the tokens of a picture and back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from decode.core import Batch, Layout, Shape, Tensors, refusal
from decode.networks.blocks import Passport, Projector, TargetScale, by_subject
from decode.networks.flow import Averaged, SpeedTransformer, between, travel
from decode.networks.heads import as_tokens, make_head
from decode.networks.losses import soft_cross_entropy, unit
from decode.networks.voxel_autoencoder import (
    VoxelAutoencoder,
    divergence,
    drawn,
    squared_error,
)
from decode.trainable import Encoder, Learned, own


class NeuroFlow(Encoder):
    """Voxel autoencoder, then a flow from its code to the tokens of `target` in Euler steps.

    The code has the shape of the target, so that contrastive losses can compare them, and its scale: the
    flow goes between the code and the tokens as they are. A projector of width `projector` (None: that of
    the features) on the trunk, of which the code is drawn, predicts the targets in `contrastive` that
    have this shape. While training, `target` is the code itself, since no gradient passes through
    sampling; the own terms (objective `flow`) train autoencoder and flow: squared error of the rebuilt
    `voxels` summed per trial, `divergence` of the code, squared error of the `speed`, and SoftCLIP at
    `temperature` between the picture's tokens as they are and the code (`contrast`), and the code and
    projections of the rebuilt voxels (`cycle`). In the paper autoencoder and flow are trained one after
    the other; here at once, the flow without a say in the code. Sampling is by the mean of the flow's
    weights over its training, each step counting `average` times the next (0: by the last ones).
    `width`, `channels` and `blocks` shape the autoencoder, `depth` and `heads` the flow's transformer,
    whose width is `flow_width` (None: that of the features). Other targets get a linear head on the
    mean token.

    Published (Mai et al. 2026): tokens 256 x 1664, width 1024, channels 64, 2 blocks, depth 12, 13
    heads, 20 steps, average .9999. Raises InputError when the experiment has no such target.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        target: str = "image",
        width: int = 1024,
        channels: int = 64,
        blocks: int = 2,
        depth: int = 12,
        heads: int = 13,
        flow_width: int | None = None,
        steps: int = 20,
        average: float = 0.9999,
        contrastive: Sequence[str] = ("retrieval",),
        projector: int | None = None,
        temperature: float = 0.125,
    ) -> None:
        super().__init__()
        if target not in shapes:
            raise refusal(
                "encoder.target",
                "a target that the flow leads to",
                f"{target!r}, where the experiment has {sorted(shapes)}",
                "add a target of that name or name another one",
            )
        self.target, self.steps, self.temperature = target, steps, temperature
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.contrastive = frozenset(contrastive) - {target}
        tokens, features = as_tokens(self.shapes[target])
        inner = flow_width or features
        if inner % heads:
            raise refusal(
                "encoder.heads",
                f"a divisor of the flow's width {inner}",
                heads,
                "change one of them",
            )
        self.passport = Passport(layouts)
        self.autoencoder = VoxelAutoencoder(
            self.passport.features,
            tokens=tokens,
            features=features,
            width=width,
            channels=channels,
            blocks=blocks,
        )
        if not 0 <= average < 1:
            raise refusal(
                "encoder.average", "0 or more and below 1", average, "choose a decay such as 0.999"
            )
        self.flow = SpeedTransformer(tokens, features, width=inner, depth=depth, heads=heads)
        self.averaged = Averaged(self.flow, average) if average else None
        self.others = nn.ModuleDict(
            {
                name: Projector(features, projector or features)
                if name in self.contrastive and shape == self.shapes[target]
                else nn.Sequential(_Mean(), make_head(features, shape, head="dense", rank=1))
                for name, shape in self.shapes.items()
                if name != target
            }
        )
        self.projected = [n for n, head in self.others.items() if isinstance(head, Projector)]
        apart = {target, *self.contrastive}
        self.scale = TargetScale({k: v for k, v in self.shapes.items() if k not in apart})

    @classmethod
    def learned(cls, targets: Collection[str], knobs: Mapping[str, Any]) -> Learned:
        return {**super().learned(targets, knobs), knobs["target"]: frozenset({own("speed")})}

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.scale.learn(train)

    def forward(self, batch: Batch) -> Tensors:
        made = self.before_sampling(batch)
        return made if self.training else self.sampled(made)

    def sampled(self, made: Tensors) -> Tensors:
        code = self.clean(made)
        image = travel(self._speed(), code, steps=self.steps, start=1.0, end=0.0)
        return made | {self.target: image.reshape(len(image), *self.shapes[self.target])}

    def before_sampling(self, batch: Batch) -> Tensors:
        code, _, trunk = self._encoded(batch)
        made = {self.target: code.reshape(len(code), *self.shapes[self.target])}
        for name, head in self.others.items():
            made[name] = self._placed(name, head(trunk if name in self.projected else code))
        return {name: made[name] for name in self.shapes}

    def _placed(self, name: str, value: Tensor) -> Tensor:
        value = value.reshape(len(value), *self.shapes[name])
        return value if name in self.contrastive else self.scale.up(name, value)

    def code(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the voxels' code, each (batch, token, features)."""
        mean, logvar, _ = self._encoded(batch)
        return mean, logvar

    def _encoded(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        self.passport.check(batch)
        return self.autoencoder.encode(by_subject(batch, self.passport.n_channels), len(batch))

    def _speed(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The flow that is sampled by."""
        if self.averaged is None:
            return self.flow
        weights = self.averaged.weights(self.flow)
        return lambda x, time: functional_call(self.flow, weights, (x, time))

    def voxels(self, targets: Tensors, subject: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The other way: the response of `subject` (batch,) to pictures with these `targets`, as
        (rows, voxels (row, voxel)) for each subject.
        """
        clean = self.clean(targets)
        code = travel(self._speed(), clean, steps=self.steps, start=0.0, end=1.0)
        return self.autoencoder.decode(code, subject)

    def own_terms(self, batch: Batch, progress: float, predicted: Callable[[], Tensors]) -> Tensors:
        terms = self.flow_terms(batch, batch.targets)
        image = unit(self.clean(batch.targets))
        return {
            **{name: terms[name].mean() for name in ("voxels", "divergence", "speed")},
            "contrast": self._unlikeness(terms["code"], image),
            "cycle": torch.stack([self._unlikeness(x, image) for x in terms["again"]]).sum(),
        }

    def _unlikeness(self, code: Tensor, image: Tensor) -> Tensor:
        """SoftCLIP in both directions between codes and pictures' tokens of length 1."""
        labels = torch.softmax(image @ image.T / self.temperature, 1)
        logits = unit(code.float()) @ image.T / self.temperature
        return (soft_cross_entropy(logits, labels) + soft_cross_entropy(logits.T, labels)) / 2

    def flow_terms(self, batch: Batch, targets: Tensors) -> Tensors:
        """Errors per row (batch,): `voxels` rebuilt, `divergence` of the code, `speed` of the flow;
        `code` (batch, token, features), drawn while training; `again`, those of the rebuilt voxels: their
        code and what the projectors make of them, (1 + projector, batch, token, features).
        """
        rows = by_subject(batch, self.passport.n_channels)
        mean, logvar, _ = self._encoded(batch)
        code = drawn(mean, logvar) if self.training else mean
        rebuilt = self.autoencoder.decode(code, batch.subject)
        again, _, trunk = self.autoencoder.encode(
            [(s, row, value) for (s, row, _), (_, value) in zip(rows, rebuilt, strict=True)],
            len(batch),
        )
        # The flow learns between codes as they are: it must not pull them.
        clean, start = self.clean(targets), code.detach()
        if self.training and self.averaged is not None:
            self.averaged.add(self.flow)
        if self.training:
            time = torch.rand(len(batch), device=mean.device)
        else:
            time = (torch.arange(len(batch), device=mean.device) + 0.5) / len(batch)
        place, wanted = between(clean, start, time)
        speed = (self.flow(place, time) - wanted).square().flatten(1).mean(1)
        return {
            "voxels": squared_error(rebuilt, rows),
            "divergence": divergence(mean, logvar),
            "speed": speed,
            "code": code,
            "again": torch.stack([again, *(self.others[n](trunk) for n in self.projected)]),
        }

    def clean(self, targets: Tensors) -> Tensor:
        """The target's tokens as they are (batch, token, features)."""
        value = targets[self.target].float()
        return value.reshape(len(value), *as_tokens(self.shapes[self.target]))


class _Mean(nn.Module):
    """Mean token."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)
