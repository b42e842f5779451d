"""A fold as stages see it: which trials, stimuli and features belong to which part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from decode.core import InputError
from decode.events import contents_of
from decode.passes import Repeats
from decode.trials import Trials
from decode.vectors import FeatureStore


@dataclass(frozen=True, slots=True)
class Protocol:
    """How repeats are used, and whether predictions may look at the test set as a whole.

    `train_repeats` and `test_repeats` are "single" (every trial by itself), "before" (average the
    brain, then predict) or, for the test part, "after" (predict single trials, then average). The
    training part may have "one" row per picture, an epoch showing one of its repeats at random, or
    "mixed" ones, means of the repeats with random weights (see `decode.passes`); what is solved in
    closed form still reads every trial.
    `rescale: transductive` gives predictions the mean and spread of the training targets using the
    statistics of all test predictions; such scores are stamped TEST-CONDITIONED. Encoders see the
    samples from `after` seconds after the stimulus on (None: all), parts of the signal see all.
    `drawn` names targets in whose place training by gradient reads one of others, drawn anew for each
    row of each epoch: single captions, changed pictures. Nothing else looks at those others.

    `unseen` says who reads a subject that a fold tests without training on: "shared" gives all
    subjects one layer, "mean" averages predictions through the layers of all training subjects,
    "refuse" leaves it to encoders that know no subjects. Such a subject is scaled by statistics over
    the trials of all training subjects or, with `unseen_scaling: own`, over its own trials without a
    look at what was shown; the latter is stamped TEST-CONDITIONED as well.
    """

    train_repeats: str = "single"
    test_repeats: str = "before"
    rescale: str = "none"
    after: float | None = None
    drawn: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unseen: str = "refuse"
    unseen_scaling: str = "training"

    def __post_init__(self) -> None:
        allowed = {
            "train_repeats": ("single", "before", "one", "mixed"),
            "test_repeats": ("single", "before", "after"),
            "rescale": ("none", "transductive"),
            "unseen": ("refuse", "shared", "mean"),
            "unseen_scaling": ("training", "own"),
        }
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"protocol.{name}: expected one of {list(choices)}, got {getattr(self, name)!r}"
                    "; choose one of these"
                )

    @property
    def repeats(self) -> Repeats:
        """What a row of a pass over the training trials is, see `decode.passes`."""
        drawn: dict[str, Repeats] = {"one": "one", "mixed": "mixed"}
        return drawn.get(self.train_repeats, "each")

    @property
    def test_conditioned(self) -> bool:
        return self.rescale == "transductive" or self.unseen_scaling == "own"


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What train and predict read: trials, their stimuli, the features of each target, the split."""

    trials: Trials
    digests: Mapping[str, str]
    features: Mapping[str, FeatureStore]
    manifest: pd.DataFrame
    drawn: Mapping[str, Sequence[FeatureStore]] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: store.shape for name, store in self.features.items()}

    def contents(self, trials: Trials) -> Sequence[str]:
        """What the targets of these trials are known by: of each stimulus once, unless trials differ."""
        by_trial = any(store.of_trials for store in self.features.values())
        table = trials.table if by_trial else trials.table.drop_duplicates("stimulus")
        return contents_of(table, self.digests, by_trial=by_trial)

    def folds(self) -> list[tuple[str, int]]:
        pairs = self.manifest[["split", "fold"]].drop_duplicates()
        return [(str(s), int(f)) for s, f in pairs.itertuples(index=False)]

    def part(self, split: str, fold: int, part: str) -> Trials:
        """The trials of one part of one fold, and nothing else."""
        m = self.manifest
        rows = m.loc[(m["split"] == split) & (m["fold"] == fold) & (m["part"] == part), "row"]
        return self.trials.take(rows.to_numpy())
