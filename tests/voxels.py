"""Simulated voxels for encoder tests: a linear code of known latents, and what can be read from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from test_configs import choice
from torch import Tensor
from torch.nn.functional import normalize

from decode.core import Batch, Layout, Shape
from decode.kinds import locate
from decode.trainable import Encoder, Objective
from decode.training import loss_terms

LATENTS = 8


class Voxels:
    """Trials (subject, stimulus) of `n` stimuli; voxels = latents x own matrix + `noise`.

    Every target is a linear map of the latents, or with `curved` of their sizes too, the same whatever
    the seed. Subject s has voxels[s]
    voxels and a matrix of its own; `first` is the number of the first subject, so that worlds can have
    other people. The same stimuli are shown to all.
    """

    def __init__(
        self,
        shapes: Mapping[str, Shape],
        *,
        voxels: Sequence[int] = (60, 45),
        times: int = 1,
        n: int = 200,
        noise: float = 2.0,
        seed: int = 0,
        first: int = 0,
        curved: bool = False,
    ) -> None:
        self.noise, self.voxels, self.times, self.first = noise, voxels, times, first
        self.layouts = {
            f"sub-{first + s}": Layout(
                "fmri", ("v",) * v, np.zeros((v, 3)), ("",) * v, 1.0, times
            )
            for s, v in enumerate(voxels)
        }  # fmt: skip
        g = torch.Generator().manual_seed(seed)
        self.z = torch.randn(n, LATENTS, generator=g)
        self.shapes = dict(shapes)
        self.curved = curved
        self.maps = {name: target_map(name, shape) for name, shape in shapes.items()}
        brain = torch.zeros(len(voxels), n, max(voxels), times)
        for s, v in enumerate(voxels):
            signal = self.z @ self.code(s)
            signal += noise * torch.randn(signal.shape, generator=g)
            brain[s, :, :v] = signal.reshape(n, v, times)
        subject = torch.arange(len(voxels)).repeat_interleave(n)
        stimulus = torch.arange(n).repeat(len(voxels))
        truth = {k: self.shown(self.z, k).reshape(n, *shapes[k])[stimulus] for k in shapes}
        trial = torch.arange(len(subject))
        self.batch = Batch(brain.flatten(0, 1), truth, subject, stimulus, trial)

    def code(self, s: int) -> Tensor:
        """(latent, voxel x time)."""
        g = torch.Generator().manual_seed(500 + self.first + s)
        return torch.randn(LATENTS, self.voxels[s] * self.times, generator=g)

    def shown(self, z: Tensor, target: str) -> Tensor:
        """Flat targets (row, feature) of latents (row, latent)."""
        straight = z @ self.maps[target]
        return straight + 2 * (straight.roll(1, 1).abs() - 2) if self.curved else straight

    def shuffled(self) -> Voxels:
        """The same brains with the targets of other trials."""
        order = torch.randperm(len(self.batch), generator=torch.Generator().manual_seed(3))
        other = Voxels.__new__(Voxels)
        other.__dict__.update(self.__dict__)
        targets = {k: v[order] for k, v in self.batch.targets.items()}
        other.batch = replace(self.batch, targets=targets, stimulus=torch.arange(len(order)))
        return other

    def __iter__(self) -> Iterator[Batch]:
        yield self.batch

    def best(self, target: str) -> Tensor:
        """A target (trial, *shape) of the posterior mean of the latents, codes and noise being known."""
        made = []
        for s, v in enumerate(self.voxels):
            code = self.code(s).double()
            x = self.batch.brain[self.batch.subject == s, :v].flatten(1).double()
            precision = code @ code.T / self.noise**2 + torch.eye(LATENTS)
            z = torch.linalg.solve(precision, code @ x.T / self.noise**2).T
            made.append(self.shown(z.float(), target))
        return torch.cat(made).reshape(-1, *self.shapes[target])

    def top1(self, made: Tensor, target: str) -> float:
        """Share of trials whose prediction is closest, by cosine, to its own of all stimuli."""
        gallery = normalize(self.shown(self.z, target), dim=1)
        likeness = normalize(made.flatten(1), dim=1) @ gallery.T
        return float((likeness.argmax(1) == self.batch.stimulus).float().mean())

    def ceiling(self, target: str) -> float:
        """Top-1 of the best that anyone could read."""
        return self.top1(self.best(target), target)

    def score(self, encoder: Encoder, target: str) -> float:
        with torch.no_grad():
            return self.top1(encoder.eval()(self.batch)[target], target)


def target_map(name: str, shape: Shape) -> Tensor:
    g = torch.Generator().manual_seed(sum(name.encode()))
    return torch.randn(LATENTS, int(np.prod(shape)), generator=g)


def train(
    encoder: Encoder,
    world: Voxels,
    objectives: Mapping[str, Objective],
    *,
    steps: int = 150,
    size: int = 64,
    rate: float = 3e-3,
    seed: int = 0,
    start: Callable[[], None] | None = None,
) -> Encoder:
    """`initialise`, then AdamW with a rate that falls along a cosine."""
    torch.manual_seed(seed)
    encoder.initialise(world, ())
    if start is not None:
        start()
    trained = [p for p in encoder.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    falls = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1)
    for step in range(steps):
        rows = torch.randint(len(world.batch), (size,))
        batch = world.batch._map(lambda x, rows=rows: x[rows])
        encoder.train()
        terms = loss_terms(encoder, objectives, batch, step / steps)
        loss = torch.stack(list(terms.values())).sum()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        falls.step()
    return encoder


def encodes(file: Path) -> bool:
    """Whether a yaml of an encoder goes from targets to the brain."""
    node = choice(file)
    of = locate(node["_target_"], file.stem)
    return isinstance(of, type) and issubclass(of, Encoder) and of.predicts_brain(node)
