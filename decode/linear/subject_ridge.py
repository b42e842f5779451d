"""Ridge regression per subject as a layer: solved from batches, saved and loaded like weights."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from decode.core import Batch, InputError, Layout, Shape, Tensors, refusal
from decode.linear.dual import FixedDual, solve_dual
from decode.linear.ranking import rank_features
from decode.linear.ridge import (
    Factor,
    choose,
    factor,
    generalised_errors,
    left_out,
    left_out_errors,
    solve,
    strengths,
    validation_errors,
    variance,
)
from decode.networks.blocks import Passport, by_subject, numel, scatter
from decode.progress import progress
from decode.trainable import Held
from decode.vectors import Columns

Per = Literal["target", "name", "all"]
By = Literal["loo", "gcv", "validation"]
Time = Literal["flatten", "mean"]
Form = Literal["weights", "dual"]
BLOCK = 2**24  # numbers of targets held at once


@runtime_checkable
class Streamed(Protocol):
    """Batches whose targets can be read apart, a block of columns at a time."""

    def without_targets(self) -> Iterator[Batch]: ...

    def columns(self, names: Sequence[str], trial: Tensor) -> Columns: ...


@dataclass(frozen=True, slots=True)
class RidgeKnobs:
    """How a ridge is fitted; see `decode.encoders.ridge.Ridge` for what each means."""

    alphas: Sequence[float] | Mapping[str, Sequence[float]] | None = None
    select: int | None = None
    components: int = 10
    per: Per = "target"
    by: By = "loo"
    leave_out: Literal["trial", "stimulus"] = "trial"
    time: Time = "flatten"
    rescale: Literal["none", "train"] = "none"
    use_validation: bool = True
    form: Form = "weights"
    stream: bool = False

    def __post_init__(self) -> None:
        allowed = {
            "per": get_args(Per),
            "by": get_args(By),
            "leave_out": ("trial", "stimulus"),
            "time": get_args(Time),
            "rescale": ("none", "train"),
            "form": get_args(Form),
        }
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"encoder.{name}: expected one of {list(choices)}, got {getattr(self, name)!r}"
                    "; choose one of these"
                )
        if self.select is not None and self.select < 1:
            raise InputError(
                f"encoder.select: expected 1 voxel or more, or null, got {self.select}; raise it"
            )
        if self.select is not None and self.stream:
            raise refusal(
                "encoder.select",
                "null with stream, as it ranks voxels by all targets at once, which stream never holds",
                "both",
                "leave one out",
            )
        if isinstance(self.alphas, Mapping) and self.per == "all":
            raise refusal(
                "encoder.per",
                "name where alphas differ by target, as all shares one strength",
                "all",
                "use name",
            )


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """All trials of one subject: features (trial, feature), targets (trial, all targets joined)."""

    x: Tensor
    y: Tensor | Columns
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
            if knobs.form == "dual":
                # As many rows as there are training trials, known once fitted or loaded.
                self.register_buffer(f"mean_{i}", torch.zeros(kept))
                self.register_buffer(f"trials_{i}", torch.zeros(0, kept))
            rows = 0 if knobs.form == "dual" else kept
            self.register_buffer(f"weights_{i}", torch.zeros(rows, width))
            self.register_buffer(f"intercept_{i}", torch.zeros(width))
            self.register_buffer(f"alpha_{i}", torch.zeros(width))
        self.register_buffer("fitted", torch.zeros(len(features), dtype=torch.bool))

    def forward(self, batch: Batch) -> Tensors:
        self.passport.check(batch)
        if bool(self.fitted.any()):
            for s in batch.subject.unique().tolist():
                if not bool(self.fitted[s]):
                    raise refusal(
                        "encoder",
                        f"training trials of {self.passport.subjects[s]} in each fold, as ridge has "
                        "weights per subject",
                        "none",
                        "choose a split that has some",
                    )
        parts = []
        for s, row, x in self._windows(batch):
            if self.knobs.select is not None:
                x = x[:, self.get_buffer(f"chosen_{s}")]
            if self.knobs.form == "dual":
                x = (x - self.get_buffer(f"mean_{s}")) @ self.get_buffer(f"trials_{s}").T
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
                raise refusal(
                    "encoder.by",
                    f"validation trials of {self.passport.subjects[s]}, which by=validation reads",
                    "none",
                    "give the split a validation part or choose by=loo",
                )
            if self.knobs.by != "validation" and held is not None:
                rows, held = _stack(rows, held), None
            if self._fixed() and not honest:
                self._solve_fixed(s, rows)
                continue
            f, alpha = self._solve(s, rows, held)
            if honest:
                trials.append(rows.trial)
                y = rows.y[:, :]
                made.append(left_out(f, y, alpha, groups=self._groups(rows)))
        return (torch.cat(trials), torch.cat(made)) if honest else None

    def holds(self) -> frozenset[Held]:
        """The dual form keeps the training trials."""
        return frozenset({"signals"} if self.knobs.form == "dual" else ())

    def _needs_validation(self) -> bool:
        return self.knobs.by == "validation" or self.knobs.use_validation

    def _windows(self, batch: Batch) -> list[tuple[int, Tensor, Tensor]]:
        if self.knobs.time == "flatten":
            return by_subject(batch, self.passport.n_channels)
        pooled = replace(batch, brain=batch.brain.mean(2, keepdim=True))
        return by_subject(pooled, self.passport.n_channels)

    def _gather(self, batches: Iterable[Batch]) -> dict[int, Rows]:
        parts: dict[int, list[Rows]] = {}
        apart = batches if self.knobs.stream and isinstance(batches, Streamed) else None
        for batch in batches if apart is None else apart.without_targets():
            self.passport.check(batch)
            joined = self.join(batch.targets) if apart is None else None
            for s, row, x in self._windows(batch):
                y = batch.brain.new_empty(len(row), 0) if joined is None else joined[row]
                mine = Rows(x.float(), y, batch.stimulus[row], batch.trial[row])
                parts.setdefault(s, []).append(mine)
        found = {s: _stack(*parts[s]) for s in sorted(parts)}
        if apart is None:
            return found
        names = list(self.shapes)
        return {s: replace(r, y=apart.columns(names, r.trial)) for s, r in found.items()}

    def _groups(self, rows: Rows) -> Tensor | None:
        return rows.stimulus if self.knobs.leave_out == "stimulus" else None

    def _enough(self, s: int, rows: Rows) -> None:
        if len(rows.x) < 3:
            raise refusal(
                f"encoder ridge, {self.passport.subjects[s]}",
                "3 training trials or more",
                f"{len(rows.x)}",
                "choose a split that leaves more; where classes are decoded, protocol.train_repeats=single, "
                "since before makes one trial of all that show the same stimulus",
            )

    def _solve(self, s: int, rows: Rows, held: Rows | None) -> tuple[Factor, Tensor]:
        self._enough(s, rows)
        x = rows.x
        if self.knobs.select is not None:
            scores = rank_features(x, rows.y[:, :], components=self.knobs.components)
            best = scores.topk(len(self.get_buffer(f"chosen_{s}"))).indices.sort().values
            self.get_buffer(f"chosen_{s}").copy_(best)
            x = x[:, best]
            held = None if held is None else replace(held, x=held.x[:, best])
        f = factor(x)
        alpha = torch.cat([self._choose(f, rows, held, c, grid) for c, grid in self._grids(f)])
        self._fill(s, f, rows, alpha)
        return f, alpha

    def _fixed(self) -> bool:
        """Whether the shortest way is open: a dual of given strengths."""
        given, knobs = self.knobs.alphas, self.knobs
        if knobs.form != "dual" or knobs.select or knobs.leave_out != "trial" or given is None:
            return False
        grids = [given.get(n) or () for n in self.shapes] if isinstance(given, Mapping) else [given]
        return all(len(grid) == 1 and grid[0] > 0 for grid in grids)

    def _solve_fixed(self, s: int, rows: Rows) -> None:
        self._enough(s, rows)
        solver = FixedDual(rows.x)
        self._make_room(s, rows.x, solver.mean)
        for columns, (alpha,) in self._grids(None):
            self.get_buffer(f"alpha_{s}")[columns] = alpha
            for b in self._blocks(columns, len(rows.x), "ridge weights"):
                y = rows.y[:, b]
                weights, intercept = solver(y, alpha)
                if self.knobs.rescale == "train":
                    weights *= _gain(y, solver.left_out(y, weights, alpha)).to(weights)
                self._keep(s, b, weights, intercept)
        self._finish(s)

    def _make_room(self, s: int, x: Tensor, mean: Tensor) -> None:
        """Buffers of the dual form, as long as there are trials."""
        self.get_buffer(f"mean_{s}").copy_(mean)
        setattr(self, f"trials_{s}", x - mean.to(x))
        shape = len(x), sum(self.sizes)
        on_disk = self.knobs.stream and x.device.type == "cpu"
        weights = file_backed(shape) if on_disk else x.new_zeros(shape)
        setattr(self, f"weights_{s}", weights)

    def _fill(self, s: int, f: Factor, rows: Rows, alpha: Tensor) -> None:
        """Weights and intercept of one subject, a block of targets at a time."""
        dual = self.knobs.form == "dual"
        if dual:
            self._make_room(s, f.x, f.mean)
        for b in self._blocks(slice(0, len(alpha)), len(f.x), "ridge weights"):
            y = rows.y[:, b]
            weights, intercept = (solve_dual if dual else solve)(f, y, alpha[b])
            if self.knobs.rescale == "train":
                gain = _gain(y, left_out(f, y, alpha[b], groups=self._groups(rows)))
                weights = weights * gain.to(weights)
                if not dual:
                    mean = y.mean(0, dtype=torch.float64)
                    intercept = (mean + gain * (intercept.double() - mean)).to(intercept)
            self._keep(s, b, weights, intercept)
        self.get_buffer(f"alpha_{s}").copy_(alpha)
        self._finish(s)

    def _keep(self, s: int, block: slice, weights: Tensor, intercept: Tensor) -> None:
        self.get_buffer(f"weights_{s}")[:, block] = weights
        self.get_buffer(f"intercept_{s}")[block] = intercept.to(weights)

    def _finish(self, s: int) -> None:
        if not bool(self.get_buffer(f"intercept_{s}").isfinite().all()):
            raise refusal(
                "ridge",
                "finite targets",
                "NaN or infinite values",
                "take the rows out that hold them",
            )
        self.fitted[s] = True

    def _blocks(self, columns: slice, height: int, label: str) -> Iterator[slice]:
        step = max(1, BLOCK // height)
        starts = range(columns.start, columns.stop, step)
        for first in progress(starts, label, total=len(starts)) if len(starts) > 1 else starts:
            yield slice(first, min(first + step, columns.stop))

    def _grids(self, f: Factor | None) -> Iterator[tuple[slice, list[float]]]:
        """Columns that are chosen together, and the strengths to choose from."""
        given = self.knobs.alphas
        if self.knobs.per == "all":
            names = [("", sum(self.sizes))]
        else:
            names = list(zip(self.shapes, self.sizes, strict=True))
        first = 0
        for name, size in names:
            grid = given.get(name) if isinstance(given, Mapping) else given
            if grid is None:
                assert f is not None
                alphas = strengths(f)
            else:
                alphas = [float(a) for a in grid]
            yield slice(first, first + size), alphas
            first += size

    def _choose(
        self, f: Factor, rows: Rows, held: Rows | None, columns: slice, grid: list[float]
    ) -> Tensor:
        """The strength of each of these columns (column,), float64."""
        if len(grid) == 1:
            return torch.full((columns.stop - columns.start,), grid[0], dtype=torch.float64)
        errors, scales = [], []
        for b in self._blocks(columns, len(f.x), "ridge strengths"):
            y = rows.y[:, b]
            if held is not None:
                errors.append(validation_errors(f, y, grid, held.x, held.y[:, b]))
            elif self.knobs.by == "gcv":
                errors.append(generalised_errors(f, y, grid))
            else:
                errors.append(left_out_errors(f, y, grid, groups=self._groups(rows)))
            scales.append(variance(y, like=f.left))
        every = torch.cat(errors, 1)
        if bool(every.isnan().any()):
            raise refusal(
                "ridge",
                "finite targets",
                "NaN or infinite values",
                "take the rows out that hold them",
            )
        share = None if self.knobs.per == "target" else torch.zeros(every.shape[1])
        return choose(every, grid, share=share, scale=torch.cat(scales)).cpu()

    def _load_from_state_dict(self, state: Any, prefix: str, *args: Any) -> None:
        for i in range(len(self.passport.subjects)):
            for name in (f"trials_{i}", f"weights_{i}"):
                saved = state.get(prefix + name)
                if self.knobs.form == "dual" and saved is not None:
                    # taken as they are: a copy of what a file backs would fill the memory
                    setattr(self, name, saved.to(self.get_buffer(name)))
        super()._load_from_state_dict(state, prefix, *args)


def file_backed(shape: tuple[int, int]) -> Tensor:
    """Float32 zeros in a nameless file in TMPDIR, so that what does not fit in memory goes to disk;
    in memory where that folder has no room.
    """
    size = math.prod(shape)
    with tempfile.NamedTemporaryFile(prefix="decode-") as file:
        try:
            # a hole in the file would be found only when a write kills the process
            os.posix_fallocate(file.fileno(), 0, max(1, 4 * size))
        except OSError:
            return torch.zeros(shape)
        return torch.from_file(file.name, shared=True, size=size).view(shape)


def _gain(y: Tensor, honest: Tensor) -> Tensor:
    """(target,) what undoes the shrinkage of honest predictions; 1 for a constant target."""
    spread = variance(y, like=y)
    gain = (spread / variance(honest, like=y).clamp(min=1e-30)).sqrt()
    return torch.where(spread > 0, gain, 1)


def _stack(*parts: Rows) -> Rows:
    first = parts[0].y
    if isinstance(first, Tensor):
        y: Tensor | Columns = torch.cat([p.y for p in parts if isinstance(p.y, Tensor)])
    else:
        y = first
        for p in parts[1:]:
            assert isinstance(p.y, Columns)
            y = y.followed_by(p.y)
    return Rows(
        torch.cat([p.x for p in parts]),
        y,
        torch.cat([p.stimulus for p in parts]),
        torch.cat([p.trial for p in parts]),
    )
