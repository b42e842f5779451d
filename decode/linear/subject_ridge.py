"""Ridge regression per subject as a layer: solved from batches, saved and loaded like weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from decode.core import Batch, InputError, Layout, Shape, Tensors
from decode.linear.ridge import (
    Factor,
    choose,
    factor,
    generalised_errors,
    left_out,
    left_out_errors,
    rank_features,
    solve,
    strengths,
    validation_errors,
    variance,
)
from decode.networks.blocks import Passport, by_subject, numel, scatter
from decode.progress import progress

Per = Literal["target", "name", "all"]
By = Literal["loo", "gcv", "validation"]
Time = Literal["flatten", "mean"]


@dataclass(frozen=True, slots=True)
class RidgeKnobs:
    """How a ridge is fitted; see `decode.encoders.ridge.Ridge` for what each means."""

    alphas: Sequence[float] | None = None
    select: int | None = None
    components: int = 10
    per: Per = "target"
    by: By = "loo"
    leave_out: Literal["trial", "stimulus"] = "trial"
    time: Time = "flatten"
    rescale: Literal["none", "train"] = "none"
    use_validation: bool = True

    def __post_init__(self) -> None:
        allowed = {
            "per": get_args(Per),
            "by": get_args(By),
            "leave_out": ("trial", "stimulus"),
            "time": get_args(Time),
            "rescale": ("none", "train"),
        }
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"encoder.{name}: expected one of {list(choices)}, got {getattr(self, name)!r}"
                )
        if self.select is not None and self.select < 1:
            raise InputError(
                f"encoder.select: expected 1 voxel or more, or null, got {self.select}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """All trials of one subject: features (trial, feature), targets (trial, all targets joined)."""

    x: Tensor
    y: Tensor
    stimulus: Tensor
    trial: Tensor


class SubjectRidge(nn.Module):
    """Linear maps of each subject's own voxels to all targets, with an intercept.

    Weights are zero until `fit`. Predictions are (batch, *shape) at the scale of the targets.
    """

    fitted: Tensor

    def __init__(
        self, layouts: Mapping[str, Layout], shapes: Mapping[str, Shape], knobs: RidgeKnobs
    ) -> None:
        super().__init__()
        self.passport = Passport(layouts)
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.sizes = [numel(s) for s in self.shapes.values()]
        self.knobs = knobs
        width = sum(self.sizes)
        pooled = knobs.time == "mean"
        features = self.passport.n_channels if pooled else self.passport.features
        for i, available in enumerate(features):
            kept = min(knobs.select or available, available)
            if knobs.select is not None:
                self.register_buffer(f"chosen_{i}", torch.arange(kept))
            self.register_buffer(f"weights_{i}", torch.zeros(kept, width))
            self.register_buffer(f"intercept_{i}", torch.zeros(width))
            self.register_buffer(f"alpha_{i}", torch.zeros(width))
        self.register_buffer("fitted", torch.zeros(len(features), dtype=torch.bool))

    def forward(self, batch: Batch) -> Tensors:
        self.passport.check(batch)
        if bool(self.fitted.any()):
            for s in batch.subject.unique().tolist():
                if not bool(self.fitted[s]):
                    raise InputError(
                        f"encoder: {self.passport.subjects[s]} had no training trials in this "
                        "fold, and ridge has weights per subject; choose a split that has some"
                    )
        parts = []
        for s, row, x in self._windows(batch):
            if self.knobs.select is not None:
                x = x[:, self.get_buffer(f"chosen_{s}")]
            weights, intercept = self.get_buffer(f"weights_{s}"), self.get_buffer(f"intercept_{s}")
            parts.append((row, x @ weights + intercept))
        return self.split(scatter(parts, len(batch)))

    def split(self, joined: Tensor) -> Tensors:
        """(row, all targets joined) -> one (row, *shape) per target."""
        parts = joined.split(self.sizes, dim=1)
        pairs = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape(len(joined), *shape) for (name, shape), part in pairs}

    def join(self, targets: Tensors) -> Tensor:
        """One (row, *shape) per target -> (row, all targets joined)."""
        return torch.cat([targets[name].flatten(1).float() for name in self.shapes], 1)

    @torch.no_grad()
    def fit(
        self, train: Iterable[Batch], validation: Iterable[Batch], *, honest: bool = False
    ) -> tuple[Tensor, Tensor] | None:
        """Solve the weights of every subject that has trials.

        With `honest`, returns the trial numbers (trial,) of all fitted rows and, for each, the
        prediction (trial, all targets joined) by weights fitted without it; the strengths and the
        chosen voxels are those of the whole fit.
        """
        trials, made = [], []
        known = self._gather(train)
        other = self._gather(validation) if self._needs_validation() else {}
        for s in progress(sorted(known), "ridge", total=len(known)):
            rows, held = known[s], other.get(s)
            if self.knobs.by == "validation" and held is None:
                raise InputError(
                    f"encoder.by=validation: {self.passport.subjects[s]} has no validation trials; "
                    "give the split a validation part or choose by=loo"
                )
            if self.knobs.by != "validation" and held is not None:
                rows, held = _stack(rows, held), None
            f, alpha = self._solve(s, rows, held)
            if honest:
                trials.append(rows.trial)
                made.append(left_out(f, rows.y, alpha, groups=self._groups(rows)))
        return (torch.cat(trials), torch.cat(made)) if honest else None

    def _needs_validation(self) -> bool:
        return self.knobs.by == "validation" or self.knobs.use_validation

    def _windows(self, batch: Batch) -> list[tuple[int, Tensor, Tensor]]:
        if self.knobs.time == "flatten":
            return by_subject(batch, self.passport.n_channels)
        pooled = replace(batch, brain=batch.brain.mean(2, keepdim=True))
        return by_subject(pooled, self.passport.n_channels)

    def _gather(self, batches: Iterable[Batch]) -> dict[int, Rows]:
        parts: dict[int, list[Rows]] = {}
        for batch in batches:
            self.passport.check(batch)
            y = self.join(batch.targets)
            for s, row, x in self._windows(batch):
                mine = Rows(x.float(), y[row], batch.stimulus[row], batch.trial[row])
                parts.setdefault(s, []).append(mine)
        return {s: _stack(*parts[s]) for s in sorted(parts)}

    def _groups(self, rows: Rows) -> Tensor | None:
        return rows.stimulus if self.knobs.leave_out == "stimulus" else None

    def _share(self) -> Tensor | None:
        if self.knobs.per == "target":
            return None
        names = torch.arange(len(self.sizes)) * (self.knobs.per == "name")
        return names.repeat_interleave(torch.tensor(self.sizes))

    def _solve(self, s: int, rows: Rows, held: Rows | None) -> tuple[Factor, Tensor]:
        x, y = rows.x, rows.y
        if len(x) < 3:
            raise InputError(
                f"ridge needs 3 training trials of {self.passport.subjects[s]}, got {len(x)}"
            )
        if self.knobs.select is not None:
            scores = rank_features(x, y, components=self.knobs.components)
            best = scores.topk(len(self.get_buffer(f"chosen_{s}"))).indices.sort().values
            self.get_buffer(f"chosen_{s}").copy_(best)
            x = x[:, best]
            held = None if held is None else replace(held, x=held.x[:, best])
        f = factor(x)
        alpha = self._choose(f, rows, held)
        weights, intercept = solve(f, y, alpha)
        if self.knobs.rescale == "train":
            mean = y.mean(0, dtype=torch.float64)
            honest = left_out(f, y, alpha, groups=self._groups(rows))
            gain = (variance(y, like=y) / variance(honest, like=y).clamp(min=1e-30)).sqrt()
            gain = torch.where(variance(y, like=y) > 0, gain, 1)
            weights = weights * gain.to(weights)
            intercept = (mean + gain * (intercept.double() - mean)).to(intercept)
        self.get_buffer(f"weights_{s}").copy_(weights)
        self.get_buffer(f"intercept_{s}").copy_(intercept)
        self.get_buffer(f"alpha_{s}").copy_(alpha)
        self.fitted[s] = True
        return f, alpha

    def _choose(self, f: Factor, rows: Rows, held: Rows | None) -> Tensor:
        grid = strengths(f) if self.knobs.alphas is None else [float(a) for a in self.knobs.alphas]
        if held is not None:
            errors = validation_errors(f, rows.y, grid, held.x, held.y)
        elif self.knobs.by == "gcv":
            errors = generalised_errors(f, rows.y, grid)
        else:
            errors = left_out_errors(f, rows.y, grid, groups=self._groups(rows))
        if bool(errors.isnan().any()):
            raise InputError("ridge: targets hold NaN or infinite values; clean them first")
        return choose(errors, grid, share=self._share(), scale=variance(rows.y, like=f.left))


def _stack(*parts: Rows) -> Rows:
    return Rows(
        torch.cat([p.x for p in parts]),
        torch.cat([p.y for p in parts]),
        torch.cat([p.stimulus for p in parts]),
        torch.cat([p.trial for p in parts]),
    )
