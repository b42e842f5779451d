"""Read me first: the nouns of the house and the contracts of its rooms (more: trainable.py, division.py).

A *data* plug-in turns raw files into recordings and stimuli, a *target* turns stimuli into vectors,
an *encoder* turns windows of brain signal into predicted vectors, an *objective* says how wrong they
are, a *generator* turns predicted vectors into media, and a *metric* turns all of it into rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from decode.media.medium import Kind as Kind
from decode.refusals import InputError as InputError
from decode.refusals import about as about
from decode.refusals import reading as reading
from decode.refusals import refusal as refusal
from decode.stimuli import PARTS as PARTS
from decode.stimuli import Media as Media
from decode.stimuli import Reads as Reads
from decode.stimuli import Stimulus as Stimulus
from decode.stimuli import joint_digest as joint_digest

if TYPE_CHECKING:  # these take seconds to load, and a plan needs neither
    import pandas as pd
    import torch
    from torch import Tensor

Modality = Literal["fmri", "eeg", "meg", "ieeg"]
# What a row of scores is.
Unit = Literal["trial", "stimulus", "voxel", "sensor"]
Shape = tuple[int, ...]
Size = tuple[int, int]
Tensors = dict[str, "Tensor"]


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One run of one subject.

    `signal` is (time, channel) float32 in SI units (V, T) or percent signal change, maybe a memmap;
    `sfreq` in Hz is 1/TR for BOLD and 1.0 when each sample is one trial (beta maps).
    `channels` has one row per channel: name, kind, x, y, z (m; nan = unknown), roi ("" = none).
    `events` has one row per trial: onset (s), duration (s), stimulus (uid), split ("train", "test" or
    "" when nothing is published) and any label columns. The first sample stands for the moment
    `offset` s after the one that onsets count from. `source` is the file that it was read from. Filters
    have mixed each sample with others of up to `reach` s before and after it.
    """

    subject: str
    session: str
    run: str
    modality: Modality
    signal: np.ndarray
    sfreq: float
    channels: pd.DataFrame
    events: pd.DataFrame
    offset: float = 0.0
    source: Path | None = None
    reach: float = 0.0

    @property
    def where(self) -> str:
        """How messages name this recording."""
        names = f"subject {self.subject}, session {self.session or '-'}, run {self.run or '-'}"
        return names if self.source is None else f"{names} ({self.source})"


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The passport of a signal: all that an encoder needs to be built.

    `positions` is (channel, 3) in metres, nan where unknown; `rois` names a region per channel;
    windows begin `start` seconds after the stimulus.
    """

    modality: Modality
    names: tuple[str, ...]
    positions: np.ndarray
    rois: tuple[str, ...]
    sfreq: float
    n_times: int
    start: float = 0.0

    @property
    def n_channels(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True, eq=False)
class Mix:
    """Which rows of a batch are mixtures: row i is `share[i]` of itself and the rest of row
    `partner[i]`, (batch,) float and int64.
    """

    share: Tensor
    partner: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Trials on their way to an encoder.

    `brain` is (batch, channel, time) float32, zero-padded to the widest subject; `targets` maps a
    name to (batch, *shape) and is empty for self-supervision; `subject` and `stimulus` are
    (batch,) int64 - equal stimulus numbers are the same stimulus: positives, never negatives;
    `trial` is (batch,) int64, the row of `Trials.table`, or -1 for a brain that is a mixture of trials;
    `mix` is there while an objective mixes rows: brains alone, targets and stimuli are those of the row.
    """

    brain: Tensor
    targets: Tensors
    subject: Tensor
    stimulus: Tensor
    trial: Tensor
    mix: Mix | None = None

    def __len__(self) -> int:
        return len(self.brain)

    def _map(self, move: Any) -> Batch:
        held = [f.name for f in fields(self) if f.name not in ("targets", "mix")]
        new = {name: move(getattr(self, name)) for name in held}
        return replace(self, targets={k: move(v) for k, v in self.targets.items()}, **new)

    def to(self, device: torch.device | str) -> Batch:
        return self._map(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        return self._map(lambda x: x.pin_memory())


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What only a simulation knows: the noiseless response to each stimulus, and the noise.

    `stimuli` are uids; `response` is (stimulus, feature), the expected preprocessed response of a
    single trial; `noise` is (feature,), the noise variance of one such trial, after an orthogonal
    change of axes that makes the noise white where needed. `approximation` says what was left out.
    """

    stimuli: tuple[str, ...]
    response: np.ndarray
    noise: np.ndarray
    approximation: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Responses:
    """What the brain answered to the test stimuli, beside what a model of it expects of these, or of
    pictures that were made.

    `measured` and `expected` are (row, voxel), channel by channel and sample by sample where there are
    several, zero-padded to the widest subject; the model was fitted on training rows. `rois` and `names`
    say the region and the channel of each voxel of a subject, `times` its time (s after the stimulus, nan
    where there is but one sample); `ceiling` maps (subject, fold) to (voxel,), the correlation of a
    perfect model with `measured`, nan where it cannot be known. `without` holds what the model expects
    when it is fitted without one of the targets that it reads, by its name.
    """

    measured: Tensor
    expected: Tensor
    rois: Mapping[str, tuple[str, ...]]
    ceiling: Mapping[tuple[str, int], np.ndarray]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    times: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    without: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """Everything that a metric may look at: test rows only, pooled over folds.

    `trials` has one row per prediction (subject, stimulus, split, fold, label columns); `predicted`
    and `truth` map a target to (row, *shape); `shown` and `made` are aligned with the rows;
    `made` is None when nothing was generated, `brain` when no model of the brain was asked for.
    """

    trials: pd.DataFrame
    predicted: Tensors
    truth: Tensors
    shown: Sequence[Stimulus]
    made: Sequence[Media] | None = None
    brain: Responses | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a data set declares about itself and a test recomputes; None where it varies."""

    citation: str
    licence: str
    modality: Modality
    n_subjects: int | None = None
    n_channels: int | None = None
    sfreq: float | None = None
    n_stimuli: int | None = None
    n_trials: int | None = None
    simulated: bool = False


class Dataset(Protocol):
    """Raw files -> recordings and stimuli. Raises InputError for missing or broken files."""

    facts: ClassVar[Facts]
    subjects: tuple[str, ...]

    def recordings(self, subject: str) -> Iterator[Recording]: ...

    def stimuli(self) -> Mapping[str, Stimulus]: ...

    def files(self, subject: str) -> Iterable[Path]:
        """The files that a subject's recordings and the stimuli it saw are read from, wherever they lie.

        What is preprocessed is known by their names, sizes and times: a file that is read and not
        named here may change unseen, one that is named and not read has the work done again. A
        simulation names the folder that it writes, which counts by its name.
        """
        ...

    def truth(self, subject: str) -> Truth | None:
        """The noiseless response where it is known (simulations), else None."""
        ...


@runtime_checkable
class Narrowing(Protocol):
    """A Dataset whose stimuli are told by the tables of several subjects, and that can leave some out."""

    def only(self, subjects: Sequence[str]) -> Dataset:
        """The same data set without the other subjects: what their tables say is not looked at."""
        ...


class Target(Protocol):
    """Stimuli -> (n, *shape) on the CPU; the same input always gives the same output.

    `accepts` says which kinds of stimuli it takes, `reads` what of them it looks at and nothing else:
    features are kept by that, so that a picture has the same ones with and without captions. One that
    reads the "trial" is given an event for each trial, with the columns of its row as labels.
    """

    accepts: frozenset[Kind]
    reads: frozenset[Reads]

    def __call__(self, stimuli: Sequence[Stimulus]) -> Tensor: ...


@runtime_checkable
class SeriesTarget(Protocol):
    """A target that runs in time: a stretch of a continuous stimulus -> (time, *shape) on the CPU.

    Frame i stands for i / `rate` s after the beginning of the stretch. `lag` s is how long the brain lies
    behind the stimulus: what belongs to a window of the brain begins that much earlier. `rest` is the
    value where nothing is played.
    """

    accepts: frozenset[Kind]
    reads: frozenset[Reads]
    rate: float
    lag: float
    rest: float

    def series(self, stretch: Stimulus) -> Tensor: ...


class Generator:
    """Predictions -> one Media per row.

    `disclosure` is what a reader has to know about how its media were chosen or steered; the report
    prints it among the limits. `tunable` ones take weights that an objective has trained. One that
    `asks` answers questions that differ from stimulus to stimulus, and is not called otherwise.
    """

    makes: ClassVar[Kind] = "image"
    tunable: ClassVar[bool] = False
    asks: bool = False
    needs: tuple[str, ...] = ()
    disclosure: str = ""

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Raise InputError, before any training, when the targets' shapes do not fit."""
        missing = [name for name in self.needs if name not in shapes]
        if missing:
            raise refusal(
                f"generator {type(self).__name__}",
                f"targets {list(self.needs)}",
                sorted(shapes),
                f"add a target named {missing[0]!r} or choose another generator",
            )

    def size_of(self, shapes: Mapping[str, Shape]) -> Size | None:
        """(height, width) of the pictures that it makes from targets of these shapes; None where only
        the opened networks know.
        """
        return None

    def check_shown(self, kinds: Collection[Kind]) -> None:
        """Raise InputError, before any training, when it cannot learn from stimuli of these kinds."""

    def learn(self, shown: Sequence[Stimulus], truth: Tensors) -> None:
        """Learn from the fold's training stimuli and their targets (stimulus, *shape), if it must."""

    def kept(self) -> Tensors | None:
        """What `learn` keeps, for a decoder that is given to others: numbers learnt from training stimuli,
        never the stimuli themselves. None where there is no other way, or nothing is said of it.
        """
        return {} if type(self).learn is Generator.learn else None

    def recall(self, kept: Tensors) -> None:
        """Take what `kept` gave, in place of learning."""

    def tune(self, weights: Tensors) -> None:
        """Take what `Objective.tuned` gave in this fold; {} is the generator as it was published."""
        if weights:
            raise refusal(
                f"generator {type(self).__name__}",
                "no weights trained with the encoder",
                f"{len(weights)} such arrays",
                "choose the generator that the objective belongs to or drop the objective",
            )

    def __call__(self, predicted: Tensors, *, seeds: Sequence[int]) -> list[Media]:
        """One Media per row of `predicted`; row i depends on its prediction and seeds[i] only."""
        raise NotImplementedError(f"{type(self).__name__} must say how it generates")

    def asked_of(self, shown: Stimulus) -> Sequence[str]:
        """Where `asks`: the questions about this stimulus, and nothing else of it."""
        raise NotImplementedError(f"{type(self).__name__} must say what it asks")

    def replies(self, predicted: Tensors, asked: Sequence[Sequence[str]]) -> list[Media]:
        """Where `asks`: one text per row, a line `QUESTION: ANSWER` for each of its questions; an
        answer depends on the row's prediction and that question only.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how it answers")


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a score of retrieval ranks: given a prediction every distinct stimulus (`find` stimulus), or
    given a stimulus every prediction (`find` brain), among rows that agree in the columns `within`.

    The right one is among the first `k`; with k = None it wins among some that are drawn.
    """

    find: Literal["stimulus", "brain"]
    within: tuple[str, ...]
    k: int | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """What a metric says of one of its scores, so that nobody has to read it from the name.

    `meaning` is one sentence for readers of a report. `unit` is what a row is: a row of the predictions
    ("trial", which is called "stimulus" where repeats were averaged), a voxel or a sensor. `rows` says
    what a row's value depends on: on this row "alone", on a comparison "among" other rows, or on all
    of them "together", of which it is a contribution that means nothing by itself.

    `ceiling` says what nothing can beat: the ideal "observer" of a simulation, who ranks as `ranks` says,
    the "generator" driven by the true targets, or a column of the metric's own "rows"; None where it is
    not known. Examples in a report are chosen by the score that `chooses` most, and never by one whose
    rows mean nothing by themselves.
    """

    meaning: str
    better: Literal["higher", "lower"] = "higher"
    unit: Unit = "trial"
    rows: Literal["alone", "among", "together"] = "alone"
    ranks: Ranking | None = None
    ceiling: Literal["observer", "generator", "rows"] | None = None
    chooses: int = 0

    def __post_init__(self) -> None:
        if not self.meaning.strip():
            raise ValueError("a score says in a sentence what it means")
        if self.ceiling == "observer" and self.ranks is None:
            raise ValueError("an ideal observer needs to know what is ranked")


class Metric:
    """Results -> rows: metric (the score's name), subject, trial (row of results.trials), value, chance.

    `looks_at` says whether it reads predictions, made media or responses of the brain, `target` whose
    predictions, `accepts` media of which kinds. `measures` describes every score by its name; a name
    says nothing. A score is the mean of its rows. Rows of voxels or sensors have `channel` (its name),
    may have `time` (s after the stimulus), and split and fold instead of a trial.

    A column `ceiling` may say what nothing can beat, `bound` that chance is the most that can be had
    without the brain, not the mean of luck. Where rows count unequally in a score from 0 to 1,
    `influence` holds numbers with the same mean whose spread is that of the score: intervals are made
    of them; `worth` says how many independent trials each is worth at most. `by_trial` says that trials
    are independent though they share a stimulus, where each class is one. `share` False says that values
    are no shares of hits though they all lie between 0 and 1, as correlations may.
    """

    looks_at: ClassVar[Literal["predictions", "media", "brain"]] = "predictions"
    accepts: ClassVar[frozenset[Kind]] = frozenset()
    target: str | None = None

    def measures(self) -> Mapping[str, Measure]:
        """Every score that it may give, by name; the same before and after it has scored anything."""
        raise NotImplementedError(f"{type(self).__name__} must say what it measures")

    def __call__(self, results: Results) -> pd.DataFrame:
        raise NotImplementedError(f"{type(self).__name__} must say how it scores")


@runtime_checkable
class ComparesPictures(Protocol):
    """A metric of made pictures beside shown ones, which not all sizes suit."""

    def check_sizes(self, shown: Collection[Size], made: Size | None) -> None:
        """Raise InputError, before any training, where pictures of these sizes (height, width) cannot be
        compared; `made` is None where the size of what is made is not known yet.
        """
        ...
