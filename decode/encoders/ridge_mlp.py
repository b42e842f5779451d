"""A small network that corrects a ridge: y = ridge(x) + mlp(ridge(x)).

With a thousand or two trials, a network on raw voxels overfits before it passes a good ridge.
Here the ridge of each subject is solved first and fixed; its predictions live in the same space
for every subject, and one network, shared by all, learns what a linear map cannot do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from decode.core import Batch, Layout, Shape, Tensors, refusal
from decode.linear.subject_ridge import RidgeKnobs, SubjectRidge
from decode.networks.blocks import Residual, TargetScale
from decode.trainable import Encoder, Learned


class RidgeMLP(Encoder):
    """Ridge per subject, then a residual network on its standardised predictions.

    While training, the network sees each training trial as the ridge predicts it without that
    trial (leave-one-out, as in stacking, Wolpert 1992): in-sample predictions are far too good and
    would teach the network to do nothing. Rows that are no training trial (mixed ones, new ones)
    are predicted from their signal. The correction starts at exactly zero.

    `correct` names the targets that the network corrects (None: all), the others stay as ridge has
    them: a contrastive target gains more than a regressed one, for which ridge is hard to pass.
    `width`, `blocks`, `dropout` shape the network; the other knobs are those of the ridge.
    """

    place: Tensor
    honest: Tensor

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        width: int = 512,
        blocks: int = 1,
        dropout: float = 0.3,
        correct: Sequence[str] | None = None,
        alphas: Sequence[float] | None = None,
        select: int | None = None,
        per: Literal["target", "name", "all"] = "name",
        leave_out: Literal["trial", "stimulus"] = "trial",
        time: Literal["flatten", "mean"] = "flatten",
    ) -> None:
        super().__init__()
        knobs = RidgeKnobs(
            alphas=alphas,
            select=select,
            per=per,
            leave_out=leave_out,
            time=time,
            use_validation=False,
        )
        self.ridge = SubjectRidge(layouts, shapes, knobs)
        total = sum(self.ridge.sizes)
        self.scale = TargetScale(self.ridge.shapes)
        self.trunk = nn.Sequential(
            nn.Linear(total, width),
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Dropout(dropout),
            *(Residual(width, dropout=dropout) for _ in range(blocks)),
        )
        wanted = [k for k in shapes if correct is None or k in correct]
        if not wanted:
            raise refusal(
                "encoder.correct",
                f"targets out of {sorted(shapes)}",
                list(correct or ()),
                "name some of these",
            )
        sizes = dict(zip(self.ridge.shapes, self.ridge.sizes, strict=True))
        self.corrected = {name: i for i, name in enumerate(wanted)}
        self.heads = nn.ModuleList(_zero(nn.Linear(width, sizes[name])) for name in wanted)
        # Rebuilt by `initialise` and needed only while training, hence not saved: trial number ->
        # row of `honest` (or -1), and the leave-one-out prediction of each training trial.
        self.register_buffer("place", torch.full((1,), -1), persistent=False)
        self.register_buffer("honest", torch.zeros(1, total), persistent=False)

    @classmethod
    def learned(cls, targets: Collection[str], knobs: Mapping[str, Any]) -> Learned:
        return {}  # the ridge is solved, and its correction starts at zero

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.scale.learn(train)
        fitted = self.ridge.fit(train, validation, honest=True)
        assert fitted is not None
        trials, honest = fitted
        place = torch.full((int(trials.max()) + 1,), -1, device=trials.device)
        place[trials] = torch.arange(len(trials), device=trials.device)
        self.place, self.honest = place.to(self.place.device), honest.to(self.honest.device)

    def forward(self, batch: Batch) -> Tensors:
        linear = self.ridge(batch)
        if self.training:
            linear = self._without_own_trial(linear, batch.trial)
        inputs = [self.scale.down(name, value).flatten(1) for name, value in linear.items()]
        trunk = self.trunk(torch.cat(inputs, 1))
        made = dict(linear)
        for name, i in self.corrected.items():
            change = self.heads[i](trunk).reshape(linear[name].shape)
            made[name] = linear[name] + self.scale.spread(name) * change
        return made

    def _without_own_trial(self, linear: Tensors, trial: Tensor) -> Tensors:
        inside = (trial >= 0) & (trial < len(self.place))
        row = torch.where(inside, self.place[trial.clamp(0, len(self.place) - 1)], -1)
        known, own = (row >= 0)[:, None], self.ridge.join(linear)
        return self.ridge.split(torch.where(known, self.honest[row.clamp(min=0)], own))


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
