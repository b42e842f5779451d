"""Ridge regression of all targets and all strengths from one factorisation.

`factor` decomposes the centred features once, through the Gram matrix of the smaller side. From it
follow the held-out error of every strength (`left_out_errors`, `generalised_errors`,
`validation_errors`), the chosen strengths (`choose`), the weights (`solve`) and honest predictions
of the training rows themselves (`left_out`). `ridge` does all of it. Targets pass in blocks of
columns, so that memory grows with the features and the weights, never with strengths x targets.

The penalty follows scikit-learn: |y - xw - b|^2 + alpha |w|^2, the intercept is free.
Golub, Heath & Wahba 1979; Cook & Weisberg 1982 for leaving several rows out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from decode.core import InputError, refusal

Array = Tensor | np.ndarray
BLOCK = 2 * 2**20  # numbers in one temporary block
SAME = 1e-5  # held-out errors this near each other, relatively, are equal up to rounding


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """Features after `factor`: centred x = left @ diag(sqrt(values)) @ right.T.

    `x` is (trial, feature) as given, `mean` (feature,), `left` (trial, rank), `values` (rank,)
    float64 in falling order; `right` is (feature, rank), or None where there are fewer trials than
    features and the features are better reached through `x`.
    """

    x: Tensor
    mean: Tensor
    left: Tensor
    values: Tensor
    right: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A solved ridge: prediction = x @ weights + intercept.

    `weights` is (feature, target), `intercept` and `alpha` are (target,), `errors` is
    (strength, target): the mean squared held-out error of every strength.
    """

    weights: Tensor
    intercept: Tensor
    alpha: Tensor
    errors: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weights + self.intercept


def blocks(width: int, height: int) -> Iterator[slice]:
    """Slices over `width` so that height x slice stays within BLOCK numbers."""
    step = max(1, BLOCK // max(height, 1))
    for first in range(0, width, step):
        yield slice(first, min(first + step, width))


def _columns(y: Array, block: slice, like: Tensor) -> Tensor:
    """One block of target columns on the device and in the precision of `like`."""
    part = y[:, block]
    part = torch.from_numpy(np.array(part)) if isinstance(part, np.ndarray) else part
    return part.to(device=like.device, dtype=like.dtype)


def _projected(f: Factor, y: Array, block: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Column means in float64, the centred columns, and their coordinates on `left`."""
    columns = _columns(y, block, f.left)
    mean = columns.mean(0, dtype=torch.float64)
    centred = columns - mean.to(columns)
    return mean, centred, f.left.T @ centred


def _kept(f: Factor, alphas: Sequence[float] | Tensor) -> Tensor:
    """(rank, strength): the share of each component that survives the penalty."""
    alpha = torch.as_tensor(alphas, dtype=torch.float64, device=f.values.device)
    return f.values[:, None] / (f.values[:, None] + alpha)


def _lost(f: Factor, alphas: Sequence[float] | Tensor) -> Tensor:
    """(rank, strength): 1 - `_kept`, exact where nearly everything is kept."""
    alpha = torch.as_tensor(alphas, dtype=torch.float64, device=f.values.device)
    return alpha / (f.values[:, None] + alpha)


def _complete(f: Factor) -> bool:
    """Whether features span all that trials can differ in, so that no penalty leaves no residual."""
    return len(f.values) == len(f.x) - 1


def _unreached(f: Factor, centred: Tensor, coordinates: Tensor) -> Tensor:
    """What of the centred targets (trial, target) features cannot reach: nothing, not its rounding,
    where they span everything.
    """
    return centred.new_zeros(1, 1) if _complete(f) else centred - f.left @ coordinates


def _check(x: Tensor, rows: int, alphas: Sequence[float] | None) -> None:
    if x.ndim != 2 or len(x) < 2:
        raise InputError(
            f"ridge: expected features (trial, feature) of at least 2 trials, got {tuple(x.shape)}"
            "; give one row per trial"
        )
    if rows != len(x):
        raise refusal(
            "ridge",
            "as many trials of features as of targets",
            f"{len(x)} and {rows}",
            "align them",
        )
    if alphas is not None and (not len(alphas) or min(alphas) < 0):
        raise refusal(
            "ridge.alphas",
            "a list of numbers of at least 0",
            list(alphas),
            "leave negative ones out",
        )


def centred_gram(x: Tensor, *, of: Literal["trials", "features"]) -> tuple[Tensor, Tensor]:
    """Inner products of centred trials (trial, trial), or of centred features, float64, and the
    mean (feature,) that was taken off. Raises InputError for features that are not finite.
    """
    if x.ndim != 2:
        raise InputError(
            f"ridge: expected features (trial, feature), got {tuple(x.shape)}; give one row per trial"
        )
    if not bool(torch.isfinite(x).all()):
        raise refusal(
            "ridge",
            "finite features",
            "NaN or infinite values",
            "take the channels out that hold them",
        )
    n, p = x.shape
    mean = x.mean(0, dtype=torch.float64)
    size = n if of == "trials" else p
    gram = torch.zeros(size, size, dtype=torch.float64, device=x.device)
    for b in blocks(p, n) if of == "trials" else blocks(n, p):
        if of == "trials":
            part = x[:, b].to(torch.float64, copy=True).sub_(mean[b])
        else:
            part = x[b].to(torch.float64, copy=True).sub_(mean).T
        gram.addmm_(part, part.T)
    return gram, mean


def factor(x: Array) -> Factor:
    """Decompose features (trial, feature) once; float64 inside, precision of `x` outside."""
    x = torch.as_tensor(x)
    dual = x.ndim == 2 and x.shape[0] < x.shape[1]
    gram, mean = centred_gram(x, of="trials" if dual else "features")
    n, p = x.shape
    values, vectors = torch.linalg.eigh(gram)
    del gram
    values, vectors = values.flip(0), vectors.flip(1)
    # Below this the eigenvalues are rounding noise of the Gram matrix itself.
    rank = int((values > values[0].clamp(min=0) * max(n, p) * 2.3e-16).sum())
    values, vectors = values[:rank], vectors[:, :rank]
    if dual:
        return Factor(x, mean, vectors.to(x.dtype), values, None)
    left = torch.empty(n, rank, dtype=x.dtype, device=x.device)
    for b in blocks(n, p):
        rows = x[b].to(torch.float64, copy=True).sub_(mean)
        left[b] = (rows @ vectors).div_(values.sqrt()).to(x.dtype)
    return Factor(x, mean, left, values, vectors.to(x.dtype))


def strengths(f: Factor, *, n: int = 21, span: float = 6.0) -> list[float]:
    """A logarithmic grid of `n` strengths, `span` decades on each side of the mean eigenvalue.

    Its last digits, which turn with the order of a sum, are left out.
    """
    centre = float(f"{float(f.values.mean()):.12g}") if len(f.values) else 1.0
    return [centre * 10.0**e for e in np.linspace(-span, span, n)]


def _same_size(groups: Array | None, n: int, device: torch.device) -> list[Tensor]:
    """Row numbers (group, row) of what is left out together, one tensor per group size."""
    if groups is None:
        return [torch.arange(n, device=device)[:, None]]
    labels = torch.as_tensor(groups).to(device)
    if len(labels) != n:
        raise refusal(
            "ridge",
            "a group label per trial",
            f"{len(labels)} labels of {n} trials",
            "give one per trial",
        )
    _, inverse, counts = labels.unique(return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise refusal(
            "ridge",
            "trials of two groups or more, so that one can be left out",
            "one group",
            "choose strengths by=loo",
        )
    order = inverse.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    return [
        order[starts[counts == m][:, None] + torch.arange(int(m), device=device)]
        for m in counts.unique()
    ]


def _leverage(f: Factor, rows: Tensor, lost: Tensor) -> Tensor:
    """I - H within each group (strength, group, row, row), float64; `lost` is (rank, strength)."""
    n, m = rows.shape
    gap = torch.empty(lost.shape[1], n, m, m, dtype=torch.float64, device=f.left.device)
    eye = torch.eye(m, dtype=gap.dtype, device=gap.device) - 1 / len(f.left)
    for b in blocks(n, m * f.left.shape[1]):
        left = f.left[rows[b]].double()
        if m == 1:
            power = left[:, 0].square_()
            unreached = 0.0 if _complete(f) else eye[0, 0] - power.sum(1)
            gap[:, b, 0, 0] = (power @ lost).T + unreached
            continue
        unreached = 0.0 if _complete(f) else eye - left @ left.transpose(1, 2)
        for i, k in enumerate(lost.T):
            gap[i, b] = unreached + (left * k) @ left.transpose(1, 2)
    return gap


def _inflate(residual: Tensor, rows: list[Tensor], leverage: list[Tensor]) -> Tensor:
    """Residuals of each group as they would be had the group not been in the fit.

    Where a group determines its own prediction (no penalty, as many features as trials) nothing is
    known about it, and the residual is infinite.
    """
    out = torch.empty_like(residual)
    for r, m in zip(rows, leverage, strict=True):
        if r.shape[1] == 1:
            gap = m[:, 0, 0]
            made = residual[r[:, 0]].div_(gap.to(residual)[:, None])
            made[gap <= 1e-7] = torch.inf
            out[r[:, 0]] = made
        else:
            solved = torch.linalg.solve_ex(m, residual[r].double()).result
            out[r] = torch.nan_to_num(solved, nan=torch.inf).to(out)
    return out


def left_out_errors(
    f: Factor, y: Array, alphas: Sequence[float], *, groups: Array | None = None
) -> Tensor:
    """Exact mean squared leave-one-out errors (strength, target), float64.

    `groups` (trial,) names rows that are left out together, such as repeats of one stimulus.
    """
    rows = _same_size(groups, len(f.x), f.left.device)
    lost = _lost(f, alphas)
    leverage = [_leverage(f, r, lost) for r in rows]
    out = torch.empty(len(alphas), y.shape[1], dtype=torch.float64, device=f.left.device)
    for b in blocks(y.shape[1], len(f.x)):
        _, centred, coordinates = _projected(f, y, b)
        unreached = _unreached(f, centred, coordinates)
        for i, k in enumerate(lost.T):
            residual = f.left @ (coordinates * k[:, None].to(coordinates))
            residual = _inflate(residual.add_(unreached), rows, [every[i] for every in leverage])
            out[i, b] = residual.square().mean(0, dtype=torch.float64)
    return out


def generalised_errors(f: Factor, y: Array, alphas: Sequence[float]) -> Tensor:
    """Generalised cross-validation errors (strength, target); far cheaper than leave-one-out."""
    n = len(f.x)
    lost = _lost(f, alphas).T
    freedom = (n - 1 - len(f.values) + lost.sum(1)) / n
    out = torch.empty(len(alphas), y.shape[1], dtype=torch.float64, device=f.left.device)
    for b in blocks(y.shape[1], n):
        _, centred, coordinates = _projected(f, y, b)
        power = coordinates.double().square()
        unreached = _unreached(f, centred, coordinates).double().square().sum(0)
        error = (unreached + lost.square() @ power) / n / freedom[:, None].square()
        out[:, b] = torch.where(freedom[:, None] > 1e-7, error, torch.inf)
    return out


def validation_errors(
    f: Factor, y: Array, alphas: Sequence[float], x: Array, truth: Array
) -> Tensor:
    """Mean squared errors (strength, target) on other rows `x` (row, feature) with `truth`."""
    new = torch.as_tensor(x).to(f.x)
    if new.shape[1:] != f.x.shape[1:] or len(new) != len(truth) or not len(new):
        raise refusal(
            "ridge",
            f"validation rows with the features and targets of training, {tuple(f.x.shape)}",
            f"features {tuple(new.shape)}, targets {tuple(truth.shape)}",
            "give aligned rows with the same features",
        )
    scores = _scores(f, new)
    kept = _kept(f, alphas)
    out = torch.empty(len(alphas), y.shape[1], dtype=torch.float64, device=f.left.device)
    for b in blocks(y.shape[1], len(f.x) + len(new)):
        mean, _, coordinates = _projected(f, y, b)
        wanted = _columns(truth, b, f.left) - mean.to(f.left)
        for i, k in enumerate(kept.T):
            error = wanted - scores @ (coordinates * k[:, None].to(coordinates))
            out[i, b] = error.square().mean(0, dtype=torch.float64)
    return out


def _scores(f: Factor, x: Tensor) -> Tensor:
    """Coordinates (row, rank) of new rows in the units of `left`."""
    total = torch.zeros(len(x), len(f.values), dtype=torch.float64, device=x.device)
    for b in blocks(x.shape[1], len(f.x)):
        part = x[:, b].double() - f.mean[b]
        if f.right is None:
            total += (part @ (f.x[:, b].double() - f.mean[b]).T) @ f.left.double() / f.values
        else:
            total += part @ f.right[b].double() / f.values.sqrt()
    return total.to(f.left)


def choose(
    errors: Tensor,
    alphas: Sequence[float],
    *,
    share: Array | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """The best strength of each target (target,), float64: of those whose errors differ by no more
    than rounding, the largest.

    Targets of equal `share` (target,) get one strength; their errors are divided by `scale` (the
    variance of each) before they are added, so that no target rules by its unit.
    """
    alpha = torch.as_tensor(list(alphas), dtype=torch.float64, device=errors.device)
    if share is None:
        return _best(errors, alpha)
    if scale is not None:
        errors = errors / torch.where(scale > 0, scale, 1).to(errors)
    _, member = torch.as_tensor(share).to(errors.device).unique(return_inverse=True)
    total = errors.new_zeros(len(errors), int(member.max()) + 1).index_add_(1, member, errors)
    return _best(total, alpha)[member]


def _best(errors: Tensor, alpha: Tensor) -> Tensor:
    worse = errors > errors.amin(0) * (1 + SAME)
    return alpha[:, None].masked_fill(worse, -1).amax(0)


def solve(f: Factor, y: Array, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (feature, target) and intercept (target,) for one strength per target `alpha`."""
    n, p = f.x.shape
    alpha = alpha.to(f.values).expand(y.shape[1])
    weights = torch.empty(p, y.shape[1], dtype=f.x.dtype, device=f.x.device)
    intercept = torch.empty(y.shape[1], dtype=torch.float64, device=f.x.device)
    for b in blocks(y.shape[1], max(n, p)):
        mean, _, coordinates = _projected(f, y, b)
        shrunk = coordinates.double() / (f.values[:, None] + alpha[b])
        if f.right is None:
            carried = (f.left.double() @ shrunk).to(f.x)
            for c in blocks(p, n):
                weights[c, b] = (f.x[:, c] - f.mean[c].to(f.x)).T @ carried
        else:
            weights[:, b] = f.right @ (shrunk * f.values.sqrt()[:, None]).to(f.x)
        intercept[b] = mean - f.mean @ weights[:, b].double()
    return weights, intercept.to(f.x)


def left_out(f: Factor, y: Array, alpha: Tensor, *, groups: Array | None = None) -> Tensor:
    """Predictions (trial, target) of every training row by the model fitted without it."""
    n = len(f.x)
    rows = _same_size(groups, n, f.left.device)
    alpha = alpha.to(f.values).expand(y.shape[1])
    used = alpha.unique()
    lost = _lost(f, used)
    leverage = [_leverage(f, r, lost) for r in rows]
    out = torch.empty(n, y.shape[1], dtype=f.left.dtype, device=f.left.device)
    for b in blocks(y.shape[1], n):
        mean, centred, coordinates = _projected(f, y, b)
        unreached = _unreached(f, centred, coordinates).expand(centred.shape)
        for i, (a, k) in enumerate(zip(used, lost.T, strict=True)):
            mine = alpha[b] == a
            if not bool(mine.any()):
                continue
            within = f.left @ (coordinates[:, mine] * k[:, None].to(coordinates))
            residual = unreached[:, mine] + within
            residual = _inflate(residual, rows, [every[i] for every in leverage])
            place = torch.arange(b.start, b.stop, device=out.device)[mine]
            out[:, place] = centred[:, mine] - residual + mean[mine].to(out)
    return out


def ridge(
    x: Array,
    y: Array,
    *,
    alphas: Sequence[float] | None = None,
    by: Literal["loo", "gcv"] = "loo",
    groups: Array | None = None,
    share: Array | None = None,
    validation: tuple[Array, Array] | None = None,
) -> Fit:
    """Fit targets (trial, target) from features (trial, feature), strength chosen per target.

    `alphas` None means a grid around the mean eigenvalue. The strength has the smallest error:
    leave-one-out (`by` loo, with `groups` of rows left out together), generalised (gcv), or on
    `validation` rows (features, targets) where they are given. Targets of equal `share` get one
    strength. Raises InputError for shapes that do not fit or features that are not finite.
    """
    x = torch.as_tensor(x)
    _check(x, len(y), alphas)
    f = factor(x)
    grid = strengths(f) if alphas is None else [float(a) for a in alphas]
    if validation is not None:
        errors = validation_errors(f, y, grid, *validation)
    elif by == "gcv":
        errors = generalised_errors(f, y, grid)
    else:
        errors = left_out_errors(f, y, grid, groups=groups)
    if bool(errors.isnan().any()):
        raise refusal(
            "ridge", "finite targets", "NaN or infinite values", "take the rows out that hold them"
        )
    scale = None if share is None else variance(y, like=f.left)
    alpha = choose(errors, grid, share=share, scale=scale)
    weights, intercept = solve(f, y, alpha)
    return Fit(weights, intercept, alpha, errors)


def variance(y: Array, *, like: Tensor) -> Tensor:
    """Variance (target,) float64 of the columns, block by block, on the device of `like`."""
    out = torch.empty(y.shape[1], dtype=torch.float64, device=like.device)
    for b in blocks(y.shape[1], len(y)):
        out[b] = _columns(y, b, like).double().var(0, unbiased=False)
    return out
