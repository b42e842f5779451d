"""Models of the brain as a layer: features of stimuli to every voxel or sensor, solved per subject."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn

from decode.core import Batch, Layout, Shape, Tensors, refusal
from decode.linear.banded import banded_ridge, candidates
from decode.networks.blocks import Passport, by_subject, numel
from decode.progress import progress
from decode.trainable import Encoder, Learned

BRAIN = "brain"


class BrainModel(Encoder):
    """A model of the brain that is solved in closed form: nothing is left to training, and what it is held
    against is the brain itself.
    """

    @classmethod
    def learned(cls, targets: Collection[str], knobs: Mapping[str, Any]) -> Learned:
        return {}

    @classmethod
    def predicts_brain(cls, knobs: Mapping[str, Any]) -> bool:
        return True

    def truth(self, batch: Batch) -> Tensors:
        return {BRAIN: batch.brain}


@dataclass(frozen=True, slots=True)
class EncodingKnobs:
    """How a model of the brain is fitted; see `decode.encoders.banded_ridge.BandedRidge`."""

    alphas: Sequence[float] | None = None
    by: Literal["loo", "gcv"] = "gcv"
    leave_out: Literal["trial", "stimulus"] = "trial"
    use_validation: bool = True
    draws: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = {"by": ("loo", "gcv"), "leave_out": ("trial", "stimulus")}
        for name, choices in allowed.items():
            value = {"by": self.by, "leave_out": self.leave_out}[name]
            if value not in choices:
                raise refusal(
                    f"encoder.{name}", f"one of {list(choices)}", repr(value), "correct it"
                )
        if self.leave_out == "stimulus" and self.by == "gcv":
            raise refusal(
                "encoder.leave_out", "trial with by=gcv, which leaves nothing out", "stimulus",
                "set by=loo",
            )  # fmt: skip
        if self.alphas is not None and (not self.alphas or min(self.alphas) < 0):
            raise refusal("encoder.alphas", "numbers of 0 or more", self.alphas, "correct them")
        if self.draws < 0:
            raise refusal("encoder.draws", "0 or more", self.draws, "correct it")


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """All trials of one subject: features (trial, feature), responses (trial, channel x time)."""

    x: Tensor
    y: Tensor
    stimulus: Tensor


class SubjectEncoding(nn.Module):
    """Per subject, a ridge from the features of `bands` to all channels and samples.

    `bands` are lists of targets, each list with a penalty of its own. Features are brought to mean zero
    and unit spread by the training rows first; constant ones count for nothing. Predictions are zero
    until `fit`, and zero in the padding of narrower subjects.
    """

    per_subject = True
    fitted: Tensor

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        bands: Sequence[Sequence[str]],
        knobs: EncodingKnobs,
    ) -> None:
        super().__init__()
        self.passport = Passport(layouts)
        self.names = list(chain(*bands))
        self.sizes = [sum(numel(shapes[name]) for name in band) for band in bands]
        self.knobs = knobs
        for i, width in enumerate(self.passport.features):
            self.register_buffer(f"mean_{i}", torch.zeros(sum(self.sizes)))
            self.register_buffer(f"spread_{i}", torch.ones(sum(self.sizes)))
            self.register_buffer(f"weights_{i}", torch.zeros(sum(self.sizes), width))
            self.register_buffer(f"intercept_{i}", torch.zeros(width))
            self.register_buffer(f"alpha_{i}", torch.zeros(width))
            self.register_buffer(f"share_{i}", torch.zeros(len(self.sizes), width))
        self.register_buffer("fitted", torch.zeros(len(layouts), dtype=torch.bool))

    def forward(self, batch: Batch) -> Tensor:
        """(batch, channel, time), padded as the batch is."""
        self.passport.check(batch)
        x = self._features(batch.targets)
        made = batch.brain.new_zeros(batch.brain.shape)
        for s in batch.subject.unique().tolist():
            self._check_fitted(s)
            rows = (batch.subject == s).nonzero()[:, 0]
            z = (x[rows] - self.get_buffer(f"mean_{s}")) / self.get_buffer(f"spread_{s}")
            flat = z @ self.get_buffer(f"weights_{s}") + self.get_buffer(f"intercept_{s}")
            n_channels = self.passport.n_channels[s]
            made[rows, :n_channels] = flat.reshape(len(rows), n_channels, -1)
        return made

    @torch.no_grad()
    def fit(self, train: Iterable[Batch], validation: Iterable[Batch], label: str) -> None:
        """Solve the weights of every subject that has trials."""
        more = validation if self.knobs.use_validation else ()
        known = self._gather(chain(train, more))
        for s in progress(sorted(known), label, total=len(known)):
            self._solve(s, known[s])

    def _solve(self, s: int, rows: Rows) -> None:
        if len(rows.x) < 3:
            raise refusal(
                f"encoder, {self.passport.subjects[s]}", "3 training trials or more",
                len(rows.x), "choose a split that leaves more",
            )  # fmt: skip
        knobs = self.knobs
        mean, spread = rows.x.mean(0), rows.x.std(0, unbiased=False)
        spread = torch.where(spread > 0, spread, 1)
        fit = banded_ridge(
            (rows.x - mean) / spread,
            self.sizes,
            rows.y,
            shares=candidates(len(self.sizes), draws=knobs.draws, seed=knobs.seed),
            alphas=knobs.alphas,
            by=knobs.by,
            groups=rows.stimulus if knobs.leave_out == "stimulus" else None,
        )
        found = {"mean": mean, "spread": spread, "weights": fit.weights,
                 "intercept": fit.intercept, "alpha": fit.alpha, "share": fit.share}  # fmt: skip
        for name, value in found.items():
            self.get_buffer(f"{name}_{s}").copy_(value)
        self.fitted[s] = True

    def _gather(self, batches: Iterable[Batch]) -> dict[int, Rows]:
        parts: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
        for batch in batches:
            self.passport.check(batch)
            x = self._features(batch.targets)
            for s, rows, y in by_subject(batch, self.passport.n_channels):
                parts.setdefault(s, []).append((x[rows], y.float(), batch.stimulus[rows]))
        return {
            s: Rows(*(torch.cat(column) for column in zip(*mine, strict=True)))
            for s, mine in parts.items()
        }

    def _features(self, targets: Tensors) -> Tensor:
        """(batch, feature) of all bands."""
        missing = [name for name in self.names if name not in targets]
        if missing:
            raise refusal(
                "encoder", f"features of {self.names}", f"{sorted(targets)}",
                f"add targets.{missing[0]}, from which the brain is predicted",
            )  # fmt: skip
        return torch.cat([targets[name].flatten(1).float() for name in self.names], 1)

    def _check_fitted(self, s: int) -> None:
        if bool(self.fitted.any()) and not bool(self.fitted[s]):
            raise refusal(
                "encoder",
                f"training trials of {self.passport.subjects[s]} in each fold, as a model of the brain "
                "has weights per subject",
                "none",
                "choose a split that has some",
            )

    def _load_from_state_dict(self, state: Any, prefix: str, *args: Any) -> None:
        saved = state.get(f"{prefix}mean_0")
        if saved is not None and len(saved) != sum(self.sizes):
            raise refusal(
                "encoder",
                f"the {len(saved)} features of {self.names} that the saved model reads",
                f"{sum(self.sizes)} in the targets",
                "choose the targets it was trained on or train again",
            )
        super()._load_from_state_dict(state, prefix, *args)


def inputs_of(
    shapes: Mapping[str, Shape], inputs: Sequence[str] | None, where: str = "encoder.inputs"
) -> list[str]:
    """The targets that a model of the brain reads: all, or those named; InputError for unknown ones."""
    unknown = [name for name in inputs or () if name not in shapes]
    if unknown or not shapes or (inputs is not None and not inputs):
        raise refusal(
            where,
            f"names out of {sorted(shapes)}",
            unknown or inputs,
            "correct the list or add targets",
        )
    return list(shapes if inputs is None else inputs)
