"""Pictures whose VGG features are those predicted from the brain, found by going down the gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor

from decode.core import Generator, Media, Shape, Size, Stimulus, Tensors, refusal
from decode.diffusion.pipelines import row_generators, row_slices
from decode.features.vgg import MEAN, STD, check_size, load_vgg, map_shape, maps, packed
from decode.pictures import normalised, resize
from decode.progress import progress
from decode.weights.reading import choose_device, quiet


@dataclass(eq=False)
class FeatureInversion(Generator):
    """An image prior by optimisation (Shen et al. 2019, doi:10.1371/journal.pcbi.1006633, whose
    pictures Takagi & Nishimoto 2023, arXiv:2306.11536, take for a start).

    `features` maps targets made by `targets/vgg` of the same `model` and `size` to their scale, 1 to 5
    or null for all five as tokens. Pixels, kept in [0, 1] by a sigmoid, are moved by `steps` of Adam
    at `rate` to lessen the sum over targets of strength times squared error, as a share of the
    variance of the training features, plus `smooth` times the mean absolute difference of neighbours
    (total variation). `strengths` weighs targets by name, 1 where it is silent. Sampling begins with
    noise of the row's seed, or with `start`, a target of pictures (1 or 3, h, w).

    Without a generator network behind it, it draws edges and colours, not photographs.
    """

    model: str = "torchvision"
    _: KW_ONLY
    features: Mapping[str, int | None] = field(default_factory=lambda: {"features": None})
    strengths: Mapping[str, float] = field(default_factory=dict)
    start: str | None = None
    size: int = 112
    steps: int = 500
    rate: float = 0.05
    smooth: float = 0.1
    batch_size: int = 8
    device: str = "auto"

    def __post_init__(self) -> None:
        check_size(self.size, "feature_inversion generator")
        wrong = [s for s in self.features.values() if s not in (None, 1, 2, 3, 4, 5)]
        if wrong or not self.features:
            raise refusal(
                "generator.features",
                "targets, each with a scale from 1 to 5 or null",
                dict(self.features),
                "correct the scale",
            )
        unknown = sorted(set(self.strengths) - set(self.features))
        if unknown:
            raise refusal(
                "generator.strengths",
                f"names out of features, {sorted(self.features)}",
                f"{unknown[0]!r}",
                "correct one of them",
            )
        if min(self.steps, self.batch_size) < 1 or self.rate <= 0 or self.smooth < 0:
            raise refusal(
                "generator",
                "steps and batch_size of at least 1, a positive rate and smooth of at least 0",
                f"{self.steps}, {self.batch_size}, {self.rate} and {self.smooth}",
                "raise the one that is too low",
            )
        self.needs = (*self.features, *([] if self.start is None else [self.start]))
        self._spread: dict[str, float] = {}
        self._network: Any = None

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Compare the targets' shapes with those of the network's maps; no weights are read."""
        super().check(shapes)
        for name, scale in self.features.items():
            expected, found = map_shape(scale, self.size), tuple(shapes[name])
            if found != expected:
                raise refusal(
                    "generator.features",
                    f"a target of shape {expected}, that of scale {scale} of pictures of {self.size} pixels",
                    f"{name!r} of shape {found}",
                    "give target and generator the same scale and size",
                )
        if self.start is not None:
            shape = tuple(shapes[self.start])
            if len(shape) != 3 or shape[0] not in (1, 3):
                raise refusal(
                    "generator.start",
                    "a target of pictures (1 or 3, h, w)",
                    f"{self.start!r} of shape {shape}",
                    "name a pixels target or null",
                )

    def learn(self, shown: Sequence[Stimulus], truth: Tensors) -> None:
        """Remember how much the training features vary, so that scales weigh alike."""
        for name in self.features:
            values = truth[name].float()
            self._spread[name] = float((values - values.mean(0)).pow(2).mean().clamp_min(1e-12))

    def kept(self) -> Tensors | None:
        return {k: torch.tensor(v, dtype=torch.float64) for k, v in self._spread.items()}

    def recall(self, kept: Tensors) -> None:
        self._spread = {name: float(value) for name, value in kept.items()}

    def size_of(self, shapes: Mapping[str, Shape]) -> Size | None:
        return self.size, self.size

    def __call__(self, predicted: Tensors, *, seeds: Sequence[int]) -> list[Media]:
        """One picture (3, size, size) per row."""
        if not self._spread:
            raise refusal(
                "feature_inversion generator",
                "training features",
                "none yet",
                "call learn(shown, truth) first",
            )
        for name in self.needs:
            if not bool(torch.isfinite(predicted[name]).all()):
                raise refusal(
                    "generator",
                    f"finite predictions of target {name!r}",
                    "NaN or infinite ones",
                    "look at the losses of train (history.jsonl) and lower trainer.rate",
                )
        if self._network is None:
            with quiet():
                network = load_vgg(self.model).eval().requires_grad_(False)
            self._network = network.to(choose_device(self.device))
        made: list[Media] = []
        for rows in row_slices(len(seeds), self.batch_size):
            part = {name: predicted[name][rows].float() for name in self.needs}
            pictures = self.invert(part, self.begin(part, seeds[rows]))
            made += [Media("image", picture.clone()) for picture in pictures.cpu()]
        return made

    def begin(self, predicted: Tensors, seeds: Sequence[int]) -> Tensor:
        """Pictures (row, 3, size, size) from which the steps start."""
        if self.start is not None:
            low = resize(predicted[self.start].clamp(0, 1), (self.size, self.size))
            return low.expand(-1, 3, -1, -1)
        shape = (3, self.size, self.size)
        noise = [torch.randn(shape, generator=g) for g in row_generators(seeds)]
        return torch.sigmoid(0.2 * torch.stack(noise))

    def invert(self, predicted: Tensors, start: Tensor) -> Tensor:
        """Pictures (row, 3, size, size) after all steps; rows do not touch each other."""
        place = next(self._network.parameters()).device
        wanted = {name: predicted[name].to(place) for name in self.features}
        with torch.enable_grad():
            hidden = torch.logit(start.to(place), eps=0.02).requires_grad_()
            # Gradients of order one beside this eps: rounding errors do not become whole steps.
            adam = torch.optim.Adam([hidden], lr=self.rate, eps=1e-3)
            for _ in progress(range(self.steps), "feature inversion", total=self.steps):
                adam.zero_grad()
                pictures = torch.sigmoid(hidden)
                loss = self.energy(pictures, wanted) + self.smooth * variation(pictures)
                (loss.sum() * pictures[0].numel()).backward()
                adam.step()
        return torch.sigmoid(hidden).detach()

    def energy(self, pictures: Tensor, wanted: Tensors) -> Tensor:
        """(row,): how far the features of the pictures are from those wanted; 1 is as far as the
        mean of the training features is, on average.
        """
        last = max(scale or 5 for scale in self.features.values())
        found = maps(self._network, normalised(pictures, self.size, MEAN, STD), last=last)
        total = pictures.new_zeros(len(pictures))
        for name, scale in self.features.items():
            mine = packed(found) if scale is None else found[scale - 1]
            error = (mine - wanted[name]).pow(2).flatten(1).mean(1) / self._spread[name]
            total = total + self.strengths.get(name, 1.0) * error
        return total


def variation(pictures: Tensor) -> Tensor:
    """(row,): mean absolute difference of neighbouring pixels, across and down."""
    across = (pictures[..., 1:] - pictures[..., :-1]).abs().flatten(1).mean(1)
    down = (pictures[..., 1:, :] - pictures[..., :-1, :]).abs().flatten(1).mean(1)
    return across + down
