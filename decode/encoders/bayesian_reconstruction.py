"""Reconstruct pictures by asking which of many plausible ones explains the brain response best."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from decode.core import Batch, InputError, Layout, Shape, Tensors, refusal
from decode.inversion.image_bank import warped_pictures
from decode.inversion.picture_consensus import Crowd, consensus
from decode.inversion.voxel_model import PictureKernel, ResponseModel, fit_responses
from decode.linear.ranking import rank_features
from decode.networks.blocks import Passport, by_subject, scatter
from decode.progress import progress
from decode.trainable import Encoder, Held, Learned

_LEARNT = ("bank", "source", "values")
_LEARNT_PER_SUBJECT = ("chosen", "centre", "spread", "reading", "loadings", "offsets", "setting")

_INNER_VERSIONS = 40


@dataclass(frozen=True, slots=True, eq=False)
class _Trials:
    """One subject's fitted trials: responses (trial, voxel) and the row of each one's picture."""

    brain: Tensor
    picture: Tensor


class BayesianReconstruction(Encoder):
    """Voxel-wise encoding model turned round with Bayes' rule, over a bank of warped pictures.

    A Gaussian process predicts each voxel's response to any picture, with correlated voxel noise.
    The training pictures and random warps of them, `bank` in all, are the prior; a response gives
    each its posterior probability, and the prediction is the picture of the highest expected score,
    `structure` x structural similarity + the rest x correlation. Any target other than `picture`
    is predicted as the posterior mean of the training stimuli's values.

    One model is fitted for each number of `voxels`, those that alone explain most of the training
    pictures' first `components` principal components, and their log likelihoods are averaged.
    `noise` (variance in units of the kernel) and `temperature` (power of the likelihood, below one
    because no noise model is perfect) are those of the highest score in `inner_folds`-fold
    cross-validation over the fitted stimuli, voxels being chosen again in each inner fold and warps
    of a left-out picture kept out. `blur` (pixels) and `reach` shape the kernel, `shrinkage` pulls
    the correlations of the noise towards none, `warp` is the strength of the warps, `steps` 0
    predicts the posterior mean. Validation rows are fitted too.

    Raises InputError for a picture target that is no picture and for too few trials.

    Naselaris et al. 2009, doi:10.1016/j.neuron.2009.09.006.
    """

    per_subject = True
    bank: Tensor
    source: Tensor
    values: Tensor

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        picture: str = "image",
        voxels: Sequence[int] = (300, 500, 1000),
        components: int = 10,
        noise: Sequence[float] = (0.1, 0.3, 1.0),
        temperature: Sequence[float] = (0.03, 0.05, 0.08, 0.12, 0.18, 0.27, 0.4),
        shrinkage: float = 0.5,
        blur: float = 1.0,
        reach: float = 1.5,
        bank: int = 12000,
        warp: float = 0.7,
        structure: float = 0.5,
        steps: int = 40,
        inner_folds: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        shape = tuple(shapes.get(picture, ()))
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise InputError(
                f"encoder.picture: expected a target of pictures (1 or 3, h, w) named {picture!r}, "
                f"got {dict(shapes)}; add targets.{picture} or name another"
            )
        if not 0 < shrinkage <= 1:
            raise InputError(
                f"encoder.shrinkage: expected above 0, at most 1, got {shrinkage}; choose a share such as 0.5"
            )
        self.passport = Passport(layouts)
        self.shapes = {name: tuple(s) for name, s in shapes.items()}
        self.picture = picture
        self.voxels, self.noise = [int(v) for v in voxels], [float(x) for x in noise]
        self.temperature = [float(t) for t in temperature]
        self.components, self.shrinkage, self.blur, self.reach = components, shrinkage, blur, reach
        self.n_bank, self.warp, self.seed = bank, warp, seed
        self.structure, self.steps, self.inner_folds = structure, steps, inner_folds
        for name in self._learnt():
            self.register_buffer(name, torch.zeros(0))

    def _learnt(self) -> list[str]:
        subjects = range(len(self.passport.subjects))
        return [*_LEARNT, *(f"{name}_{s}" for s in subjects for name in _LEARNT_PER_SUBJECT)]

    def holds(self) -> frozenset[Held]:
        """The bank is made of the training pictures, the reading of the training responses."""
        return frozenset({"signals", "stimuli"})

    def _load_from_state_dict(self, state: Any, prefix: str, *args: Any) -> None:
        # How much was learnt depends on the fold, so the buffers take the saved sizes.
        for name in self._learnt():
            saved = state.get(prefix + name)
            if saved is not None:
                setattr(self, name, torch.zeros_like(saved, device=getattr(self, name).device))
        super()._load_from_state_dict(state, prefix, *args)

    @classmethod
    def learned(cls, targets: Collection[str], knobs: Mapping[str, Any]) -> Learned:
        return {}

    @torch.no_grad()
    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        """Fit the response models of each subject; settings are chosen on the fitted rows."""
        subjects, targets = self._gather([*train, *validation])
        pictures = targets.pop(self.picture).clamp(0, 1)
        kernel = PictureKernel(pictures, blur=self.blur, reach=self.reach)
        versions = max(0, self.n_bank // len(pictures) - 1)
        made = warped_pictures(pictures, versions, strength=self.warp, seed=self.seed)
        self.bank = made.flatten(0, 1)
        self.source = torch.arange(len(pictures), device=pictures.device).repeat_interleave(
            versions + 1
        )
        self.values = torch.cat([v.flatten(1) for v in [pictures[:, :0], *targets.values()]], 1)
        similar = kernel(self.bank.float() / 255)
        for s, trials in subjects.items():
            learnt = self._models(s, trials, pictures, similar)
            for name, value in learnt.items():
                setattr(self, f"{name}_{s}", value if name == "chosen" else value.float())

    def _models(self, s: int, trials: _Trials, pictures: Tensor, similar: Tensor) -> Tensors:
        """The models of all numbers of voxels, laid side by side: evidence is linear in them."""
        own = similar[:: len(similar) // len(pictures)]
        settings = self._choose(s, trials, pictures, similar)
        fits = [_Fit(trials, pictures, own, v, noise, self) for v, noise, _ in settings]
        powers = [temperature / len(settings) for *_, temperature in settings]
        loadings = [fit.loadings(similar) for fit in fits]
        offsets = [
            t * fit.model.offsets(w) for t, fit, w in zip(powers, fits, loadings, strict=True)
        ]
        return {
            "chosen": torch.cat([fit.chosen for fit in fits]),
            "centre": torch.cat([fit.centre for fit in fits]),
            "spread": torch.cat([fit.spread for fit in fits]),
            "reading": torch.block_diag(*[fit.model.reading for fit in fits]),
            "loadings": torch.cat([t * w for t, w in zip(powers, loadings, strict=True)], 1),
            "offsets": torch.stack(offsets).sum(0),
            "setting": torch.tensor(settings, device=similar.device),
        }

    def _gather(self, batches: Sequence[Batch]) -> tuple[dict[int, _Trials], Tensors]:
        """Trials of each subject and the targets of each distinct stimulus, in a stable order."""
        if not batches:
            raise InputError("encoder: expected training trials, got none; check the split")
        for batch in batches:
            self.passport.check(batch)
        trial = torch.cat([b.trial for b in batches])
        order = trial.argsort()
        stimulus = torch.cat([b.stimulus for b in batches])[order]
        known, picture = stimulus.unique(return_inverse=True)
        first = torch.stack([(picture == i).nonzero()[0, 0] for i in range(len(known))])
        targets = {
            name: torch.cat([b.targets[name] for b in batches])[order][first].float()
            for name in self.shapes
        }
        parts: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for batch in batches:
            for s, row, x in by_subject(batch, self.passport.n_channels):
                parts.setdefault(s, []).append((x.float(), batch.trial[row]))
        subjects = {}
        for s in sorted(parts):
            mine = torch.cat([number for _, number in parts[s]])
            places = torch.searchsorted(trial[order], mine)
            sort = mine.argsort()
            subjects[s] = _Trials(torch.cat([x for x, _ in parts[s]])[sort], picture[places][sort])
        return subjects, targets

    def _choose(
        self, s: int, trials: _Trials, pictures: Tensor, similar: Tensor
    ) -> list[tuple[int, float, float]]:
        """Voxels, noise and temperature of each model: the highest inner score of its mean."""
        voxels = sorted({min(v, trials.brain.shape[1]) for v in self.voxels})
        shown = trials.picture.unique()
        folds = min(self.inner_folds, len(shown))
        if folds < 2 or len(trials.brain) < 4:
            raise InputError(
                f"encoder: expected 4 training trials with 2 pictures or more of "
                f"{self.passport.subjects[s]}, got {len(trials.brain)}; choose another split"
            )
        pairs = list(product(self.noise, self.temperature))
        scores = torch.zeros(len(voxels), len(pairs))
        if len(pairs) > 1:
            fold = torch.arange(len(shown), device=shown.device) % folds
            shuffle = torch.randperm(len(shown), generator=torch.Generator().manual_seed(self.seed))
            fold = fold[shuffle.to(shown.device)]
            for f in progress(range(folds), "inner folds", total=folds):
                out = torch.isin(trials.picture, shown[fold == f])
                scores += self._inner_scores(trials, out, voxels, pictures, similar)
        best = [pairs[int(row.argmax())] for row in scores]
        return [(v, *pair) for v, pair in zip(voxels, best, strict=True)]

    def _inner_scores(
        self, trials: _Trials, out: Tensor, voxels: list[int], pictures: Tensor, similar: Tensor
    ) -> Tensor:
        """Summed scores (model, noise x temperature) of trials left `out` of an inner fold."""
        held, kept = _rows(trials, out), _rows(trials, ~out)
        versions = len(self.bank) // len(pictures)
        # A thinner bank ranks settings as well as the whole one, for a fraction of the time.
        thin = torch.arange(len(self.bank), device=self.bank.device) % versions < _INNER_VERSIONS
        usable = thin & ~torch.isin(self.source, held.picture)
        bank, near, own = self.bank[usable].float() / 255, similar[usable], similar[::versions]
        truth = Crowd(pictures[held.picture].unsqueeze(1))
        scores = torch.zeros(len(voxels), len(self.noise), len(self.temperature))
        for i, j in product(range(len(voxels)), range(len(self.noise))):
            fit = _Fit(kept, pictures, own, voxels[i], self.noise[j], self)
            log = fit.evidence(held.brain, near)
            for k, temperature in enumerate(self.temperature):
                mean = (temperature * log).softmax(1).float() @ bank.flatten(1)
                made = mean.view(-1, *bank.shape[1:])
                scores[i, j, k] = truth.score(made, self.structure).sum()
        return scores.flatten(1)

    def posterior(self, batch: Batch) -> Tensor:
        """Probability (batch, picture) of each picture of the bank given the response."""
        parts = []
        for s, row, x in by_subject(batch, self.passport.n_channels):
            at = {name: getattr(self, f"{name}_{s}") for name in _LEARNT_PER_SUBJECT}
            if not len(at["chosen"]):
                raise refusal(
                    "encoder",
                    f"training trials of {self.passport.subjects[s]} in each fold, as the response model is "
                    "fitted per subject",
                    "none",
                    "choose a split that has some",
                )
            brain = (x[:, at["chosen"]] - at["centre"]) / at["spread"]
            log = brain @ at["reading"] @ at["loadings"].T + at["offsets"]
            parts.append((row, log.softmax(1)))
        return scatter(parts, len(batch))

    def forward(self, batch: Batch) -> Tensors:
        self.passport.check(batch)
        if not len(self.bank):
            return {n: batch.brain.new_zeros(len(batch), *s) for n, s in self.shapes.items()}
        weights = self.posterior(batch)
        found = {
            self.picture: consensus(
                self.bank.float() / 255, weights, structure=self.structure, steps=self.steps
            )
        }
        by_source = weights.new_zeros(len(weights), len(self.values))
        by_source.index_add_(1, self.source, weights)
        others = {n: s for n, s in self.shapes.items() if n != self.picture}
        sizes = [torch.Size(s).numel() for s in others.values()]
        means = (by_source @ self.values).split(sizes, 1) if others else ()
        for (name, shape), mean in zip(others.items(), means, strict=True):
            found[name] = mean.reshape(len(mean), *shape)
        return found


class _Fit:
    """The response model of some trials on their best voxels."""

    def __init__(
        self,
        trials: _Trials,
        pictures: Tensor,
        own: Tensor,
        voxels: int,
        noise: float,
        knobs: BayesianReconstruction,
    ) -> None:
        shown = pictures[trials.picture].flatten(1)
        ranks = rank_features(trials.brain, shown, components=knobs.components)
        self.chosen = ranks.topk(min(voxels, len(ranks))).indices.sort().values
        self.picture = trials.picture
        brain = trials.brain[:, self.chosen].double()
        self.centre, self.spread = brain.mean(0), brain.std(0).clamp_min(1e-12)
        kernel = own[trials.picture][:, trials.picture].double()
        self.model: ResponseModel = fit_responses(
            kernel, (brain - self.centre) / self.spread, noise=noise, shrinkage=knobs.shrinkage
        )

    def loadings(self, similar: Tensor) -> Tensor:
        return self.model.loadings(similar[:, self.picture].double())

    def evidence(self, brain: Tensor, similar: Tensor) -> Tensor:
        """Log likelihood (trial, picture) of responses under pictures of this kernel."""
        loadings = self.loadings(similar)
        scaled = (brain[:, self.chosen] - self.centre) / self.spread
        return self.model.evidence(scaled, loadings, self.model.offsets(loadings))


def _rows(trials: _Trials, keep: Tensor) -> _Trials:
    return _Trials(trials.brain[keep], trials.picture[keep])
