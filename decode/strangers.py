"""People whom a fold tests and never trained on: who reads their signal, and what scales it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn

from decode.core import Batch, Layout, Tensors, refusal
from decode.division import Scaler, State
from decode.folds import Inputs, Protocol
from decode.linear.subject_ridge import SubjectRidge
from decode.networks.blocks import Passport, scatter
from decode.scaling import MISSING
from decode.splitting import TEST, TRAIN, VALIDATION
from decode.trainable import Encoder
from decode.trials import Trials

KEY = "protocol.unseen"


@dataclass(frozen=True, slots=True)
class People:
    """Subjects of one fold: those with training trials, and those with test or validation trials only."""

    split: str
    fold: int
    known: tuple[str, ...]
    tested: tuple[str, ...]
    validated: tuple[str, ...]

    @property
    def strangers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.tested, *self.validated]))


def people(inputs: Inputs, split: str, fold: int) -> People:
    """Who is trained on, and who is met for the first time."""
    subjects = {
        part: _subjects(inputs.part(split, fold, part)) for part in (TRAIN, VALIDATION, TEST)
    }
    known = subjects[TRAIN]
    new = {part: tuple(s for s in subjects[part] if s not in known) for part in (VALIDATION, TEST)}
    return People(split, fold, known, new[TEST], new[VALIDATION])


def _subjects(trials: Trials) -> tuple[str, ...]:
    return tuple(dict.fromkeys(trials.table["subject"].astype(str)))


def first_strangers(inputs: Inputs, protocol: Protocol) -> People | None:
    """The first fold that meets someone it does not train on, None where there is none.

    Raises InputError where strangers and training subjects differ in channels, or where `protocol.unseen`
    cannot be had with this split.
    """
    found = [
        met for split, fold in inputs.folds() if (met := people(inputs, split, fold)).strangers
    ]
    layouts = inputs.trials.since(protocol.after).layouts
    if protocol.unseen == "shared":
        check_alike(layouts)
    for met in found:
        check_alike({s: layouts[s] for s in (*met.known, *met.strangers)})
        if protocol.unseen == "mean" and met.validated:
            raise refusal(
                KEY,
                "shared, or validation trials of people who are trained on",
                f"mean, and {met.validated[0]} only validates split {met.split}",
                f"set splits.{met.split}.validation=0 or protocol.unseen=shared",
            )
    return found[0] if found else None


def check_reads(protocol: Protocol, met: People, name: str, encoder: nn.Module) -> None:
    """Raise InputError where nobody has said who reads a stranger and the encoder does not know it."""
    if protocol.unseen == "refuse" and has_own_layers(encoder):
        raise refusal(
            KEY,
            f"who reads {met.strangers[0]}, on whom fold {met.fold} of split {met.split} does not train",
            f"refuse, and {name} {type(encoder).__name__} has layers of each subject",
            "set protocol.unseen=shared (one layer for all) or mean (predictions through the layers of "
            "all training subjects, averaged), or split within subjects",
        )


def has_own_layers(encoder: nn.Module) -> bool:
    """Whether anything in an encoder belongs to single subjects, besides the count of their channels."""
    return any(
        isinstance(m, SubjectRidge)
        or (getattr(m, "per_subject", False) and not isinstance(m, Passport))
        for m in encoder.modules()
    )


def check_alike(layouts: Mapping[str, Layout]) -> None:
    """Raise InputError unless all subjects have the same channels and samples, in one order."""
    (first, expected), *others = layouts.items()
    for name, layout in others:
        if (layout.names, layout.n_times, layout.sfreq) == (
            expected.names,
            expected.n_times,
            expected.sfreq,
        ):
            continue
        odd = [c for c in layout.names if c not in set(expected.names)]
        odd += [c for c in expected.names if c not in set(layout.names)]
        raise refusal(
            KEY,
            f"the same channels and samples of {first} and {name}",
            f"{expected.n_channels} x {expected.n_times} and {layout.n_channels} x {layout.n_times}"
            + (f" ({', '.join(odd[:4])} only in one)" if odd else ""),
            "name the common ones in preprocess.steps.pick.names, or split within subjects",
        )


def fit_scaler(scaler: Scaler, inputs: Inputs, met: People, how: str) -> dict[str, State]:
    """A state per subject: from the own training trials of those who have some.

    The others are scaled by statistics over the trials of all training subjects (`how` "training")
    or over their own trials without a look at what was shown ("own").
    """
    train = inputs.part(met.split, met.fold, TRAIN)
    states = train.fit_scaler(scaler)
    if not met.strangers or scaler.test_conditioned:
        return states
    if how == "own":
        if scaler.reads_stimuli:
            raise refusal(
                "protocol.unseen_scaling",
                f"training, since {type(scaler).__name__} looks at what was shown",
                "own",
                "set it to training or take another scaler, for example zscore",
            )
        parts = [inputs.part(met.split, met.fold, part) for part in (VALIDATION, TEST)]
        for name in met.strangers:
            windows, table = _windows([p for p in parts if name in _subjects(p)], [name])
            unlabelled = table[[c for c in ("session", "run", MISSING) if c in table]]
            states[name] = scaler.fit(windows, unlabelled.assign(subject=name, stimulus=""))
        return states
    return {**states, **dict.fromkeys(met.strangers, pooled_state(scaler, train, met.known))}


def pooled_state(scaler: Scaler, train: Trials, known: Sequence[str]) -> State:
    """A state for people who were not trained on: over the training trials of all who were."""
    windows, table = _windows([train], known)
    # Without sessions and runs: those of others mean nothing to a stranger.
    return scaler.fit(windows, table[[c for c in ("stimulus", MISSING) if c in table]])


def _windows(parts: Sequence[Trials], subjects: Sequence[str]) -> tuple[np.ndarray, pd.DataFrame]:
    """Unscaled windows (trial, channel, time) and table of the single trials behind these rows."""
    found, tables = [], []
    for trials in parts:
        singles = trials.singles.iloc[np.unique(np.concatenate(trials.members))]
        for name in subjects:
            table = singles[singles["subject"] == name]
            found.append(trials.signals[name].windows(table["start"].to_numpy(np.int64)))
            tables.append(table)
    return np.concatenate(found), pd.concat(tables, ignore_index=True)


class MeanOfSubjects(Encoder):
    """Reads strangers through the layers of all training subjects and averages what comes out.

    `known` and `strangers` are subjects' numbers. For a linear encoder this is the mean layer.
    """

    def __init__(self, inner: Encoder, known: Sequence[int], strangers: Sequence[int]) -> None:
        super().__init__()
        self.inner, self.known, self.strangers = inner, tuple(known), tuple(strangers)

    def forward(self, batch: Batch) -> Tensors:
        return self.sampled(self.before_sampling(batch))

    def before_sampling(self, batch: Batch) -> Tensors:
        return self._read(batch, self.inner.before_sampling)

    def ablated(self, batch: Batch) -> dict[str, Tensors]:
        few = batch._map(lambda x: x[:1])
        known = replace(few, subject=torch.full_like(few.subject, self.known[0]))
        names = self.inner.ablated(known)
        return {name: self._read(batch, partial(self._without, name)) for name in names}

    def _without(self, name: str, batch: Batch) -> Tensors:
        return self.inner.ablated(batch)[name]

    def _read(self, batch: Batch, read: Callable[[Batch], Tensors]) -> Tensors:
        """What `read` says of each row, for strangers the mean over the known."""
        new = torch.isin(batch.subject, torch.tensor(self.strangers, device=batch.subject.device))
        parts = []
        for chosen, by in ((~new, read), (new, partial(self._mean, read))):
            rows = chosen.nonzero()[:, 0]
            if len(rows):
                parts.append((rows, by(batch._map(lambda x, rows=rows: x.index_select(0, rows)))))
        names = parts[0][1]
        return {k: scatter([(rows, made[k]) for rows, made in parts], len(batch)) for k in names}

    def sampled(self, made: Tensors) -> Tensors:
        return self.inner.sampled(made)

    def _mean(self, read: Callable[[Batch], Tensors], batch: Batch) -> Tensors:
        every = [
            read(replace(batch, subject=torch.full_like(batch.subject, number)))
            for number in self.known
        ]
        return {k: torch.stack([made[k] for made in every]).mean(0) for k in every[0]}

    def embed(self, targets: Tensors) -> Tensors:
        return self.inner.embed(targets)

    def truth(self, batch: Batch) -> Tensors:
        return self.inner.truth(batch)

    def own_terms(self, batch: Batch, progress: float, predicted: Callable[[], Tensors]) -> Tensors:
        return self.inner.own_terms(batch, progress, predicted)


def with_strangers(
    encoder: Encoder, inputs: Inputs, split: str, fold: int, protocol: Protocol
) -> Encoder:
    """The encoder as it reads the test part of a fold."""
    met = people(inputs, split, fold)
    if protocol.unseen != "mean" or not met.strangers:
        return encoder
    number = list(inputs.trials.signals).index
    known, strangers = ([number(s) for s in names] for names in (met.known, met.strangers))
    return MeanOfSubjects(encoder, known, strangers)
