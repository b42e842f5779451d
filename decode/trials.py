"""Trials: a table of trials over continuous signals, and the way from there to batches."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from decode.batches import from_one_of, joined, numbered, one_ahead, weighed
from decode.core import Batch, Layout, Tensors, refusal
from decode.division import Scaler
from decode.events import contents_of
from decode.passes import Pass, Plan, drawn, padded, units
from decode.splitting import Spans, spans_of
from decode.store import read_array, read_json, read_table
from decode.vectors import Columns, FeatureStore

RESIDENT_BYTES = 4 * 2**30
EVERYONE = "everyone"
# Trials (row, of each), their weights where they are mixed, and one number per row that says which of
# several targets is drawn.
Chunk = tuple[Tensor, Tensor | None, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class SubjectSignal:
    """One subject's preprocessed signal (time, channel), read from disk when a window is asked for.

    `reach`, `timed` and `baseline` are those of `Prepared`; recordings begin at the samples `runs`.
    """

    signal: np.ndarray
    layout: Layout
    baseline: tuple[int, int] | None
    reach: float = 0.0
    timed: bool = True
    runs: tuple[int, ...] = (0,)

    def windows(self, starts: np.ndarray) -> np.ndarray:
        """(trial, channel, time) float32: the windows that begin at `starts`, baseline subtracted."""
        offsets = np.arange(self.layout.n_times)
        windows = self.signal[starts[:, None] + offsets].transpose(0, 2, 1).astype(np.float32)
        if self.baseline is not None:
            before = self.signal[starts[:, None] + np.arange(*self.baseline)]
            windows -= before.mean(axis=1, dtype=np.float64).astype(np.float32)[:, :, None]
        return windows


@dataclass(frozen=True, slots=True, eq=False)
class Trials:
    """Trials of one or many subjects.

    `singles` has one row per recorded trial (subject, session, run, stimulus, split, start and label
    columns); `members[i]` names the rows of `singles` whose mean is trial i, so that averaging copies
    nothing. `scaled` holds the scaler and its state per subject once it has been fitted. Samples
    earlier than `after` seconds from the stimulus are left out of what is read; scalers see them.
    With `as_one` encoders meet all subjects as one, named EVERYONE.
    """

    singles: pd.DataFrame
    members: tuple[np.ndarray, ...]
    signals: Mapping[str, SubjectSignal]
    scaled: tuple[Scaler, Mapping[str, dict[str, np.ndarray]]] | None = None
    after: float | None = None
    as_one: bool = False
    _first: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        first = np.array([m[0] for m in self.members], np.int64)
        object.__setattr__(self, "_first", first)

    @classmethod
    def of(cls, singles: pd.DataFrame, signals: Mapping[str, SubjectSignal]) -> Trials:
        """Every recorded trial by itself."""
        singles = singles.reset_index(drop=True)
        return cls(singles, tuple(np.array([i]) for i in range(len(singles))), signals)

    @property
    def table(self) -> pd.DataFrame:
        """One row per trial; an averaged trial shows its first member, and `repeats` their number."""
        table = self.singles.iloc[self._first].reset_index(drop=True)
        return table.assign(repeats=[len(m) for m in self.members])

    @property
    def layouts(self) -> dict[str, Layout]:
        found = {name: self._shortened(s.layout) for name, s in self.signals.items()}
        return {EVERYONE: next(iter(found.values()))} if self.as_one else found

    @property
    def window(self) -> tuple[float, float] | None:
        """Where windows begin after their stimulus and how long they are, in seconds; None where they
        differ between subjects.
        """
        layouts = [s.layout for s in self.signals.values()]
        found = {(x.start, x.n_times / x.sfreq) for x in layouts}
        return found.pop() if len(found) == 1 else None

    def numbers(self) -> dict[str, int]:
        """The number by which encoders know each subject."""
        return {name: 0 if self.as_one else i for i, name in enumerate(self.signals)}

    def _shortened(self, layout: Layout) -> Layout:
        first = self._first_sample(layout)
        start = layout.start + first / layout.sfreq
        return replace(layout, n_times=layout.n_times - first, start=start)

    def _first_sample(self, layout: Layout) -> int:
        if self.after is None:
            return 0
        first = max(0, round((self.after - layout.start) * layout.sfreq))
        if first >= layout.n_times:
            raise refusal(
                "protocol.after",
                f"less than where windows end, {layout.start + layout.n_times / layout.sfreq:g} s after "
                "the stimulus",
                f"{self.after:g}",
                "lower it or lengthen preprocess.trials.window",
            )
        return first

    def __len__(self) -> int:
        return len(self.members)

    def take(self, rows: Sequence[int] | np.ndarray) -> Trials:
        return replace(self, members=tuple(self.members[int(i)] for i in rows))

    def since(self, after: float | None) -> Trials:
        """The same trials, read from `after` seconds after the stimulus on; None: all samples."""
        return replace(self, after=after)

    def where(self, query: str) -> Trials:
        """The trials whose table row satisfies a pandas query."""
        return self.take(np.flatnonzero(np.asarray(self.table.eval(query), bool)))

    def average(self, by: str = "stimulus") -> Trials:
        """One trial per subject and value of `by`; means are taken when the signal is read."""
        table = self.table
        groups = table.groupby(["subject", by], sort=False).indices
        merged = [np.concatenate([self.members[i] for i in rows]) for rows in groups.values()]
        return replace(self, members=tuple(merged))

    def scale(self, scaler: Scaler, states: Mapping[str, dict[str, np.ndarray]]) -> Trials:
        return replace(self, scaled=(scaler, states))

    def fit_scaler(self, scaler: Scaler) -> dict[str, dict[str, np.ndarray]]:
        """State per subject, from the single trials behind these rows and no others, unless the
        scaler is declared to look at the test part too.
        """
        states = {}
        rows = np.unique(np.concatenate(self.members))
        if scaler.test_conditioned:
            rows = np.arange(len(self.singles))
        for subject in self.signals:
            table = self.singles.iloc[rows]
            table = table[table["subject"] == subject]
            if table.empty:
                continue
            windows = self.signals[subject].windows(table["start"].to_numpy(np.int64))
            states[subject] = scaler.fit(windows, table)
        return states

    def brain(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """(row, channel, time) float32 of trials of subjects with the same channels."""
        rows = np.asarray(rows, np.int64)
        whose = self.singles["subject"].to_numpy()[self._first[rows]]
        places = [np.flatnonzero(whose == name) for name in dict.fromkeys(whose)]
        if len(places) == 1:
            return self._brain(rows)
        order = np.argsort(np.concatenate(places))
        return np.concatenate([self._brain(rows[some]) for some in places])[order]

    def _brain(self, rows: np.ndarray) -> np.ndarray:
        """The same of trials that belong to one subject."""
        members = [self.members[int(i)] for i in rows]
        flat = np.concatenate(members)
        table = self.singles.iloc[flat]
        subject = str(table["subject"].iloc[0])
        windows = self.signals[subject].windows(table["start"].to_numpy(np.int64))
        if self.scaled is not None:
            scaler, states = self.scaled
            windows = scaler.apply(windows, table, states[subject])
        windows = windows[:, :, self._first_sample(self.signals[subject].layout) :]
        counts = np.array([len(m) for m in members])
        if (counts == 1).all():
            return np.ascontiguousarray(windows, np.float32)
        ends = np.cumsum(counts)[:-1]
        sums = np.add.reduceat(windows, np.r_[0, ends], axis=0, dtype=np.float64)
        return (sums / counts[:, None, None]).astype(np.float32)

    def __getitem__(self, row: int) -> np.ndarray:
        """(channel, time) of one trial, read now."""
        return self.brain([row])[0]

    def spans(self) -> Spans:
        """Where the window of every recorded trial lies."""
        made = {}
        for subject, signal in self.signals.items():
            ends = signal.baseline or (0, 0)
            first, stop = min(0, ends[0]), max(signal.layout.n_times, ends[1])
            rate = signal.layout.sfreq
            made[subject] = (first, stop, rate, signal.reach, signal.timed, signal.runs)
        return spans_of(self.singles, made)

    def loader(
        self,
        features: Mapping[str, FeatureStore],
        digests: Mapping[str, str],
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        resident_bytes: int = RESIDENT_BYTES,
    ) -> Loader:
        """Batches of these trials; `digests` maps a stimulus uid to the digest of its content."""
        return Loader(self, features, digests, batch_size, shuffle, seed, device, resident_bytes)


class Loader:
    """Batches, epoch after epoch; the same seed and epoch give the same batches either way.

    *Resident* when all windows and each stimulus' targets fit in `resident_bytes`: they are read
    once, kept on `device`, and a batch is an index select. *Streaming* otherwise: a thread reads the
    next batch from disk while this one is used. Targets stay in the precision of their store, read
    once where two names share one, until the batch that needs them as float32.
    """

    def __init__(
        self,
        trials: Trials,
        features: Mapping[str, FeatureStore],
        digests: Mapping[str, str],
        batch_size: int,
        shuffle: bool,
        seed: int,
        device: torch.device | str,
        resident_bytes: int,
    ) -> None:
        self.trials, self.features = trials, features
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.device = torch.device(device)
        table = trials.table
        numbers = trials.numbers()
        self._subject = torch.tensor([numbers[s] for s in table["subject"]], dtype=torch.int64)
        self._by_trial = any(store.of_trials for store in features.values())
        contents = contents_of(table, digests, by_trial=self._by_trial)
        _, self._stimulus = numbered([digests[uid] for uid in table["stimulus"]])
        self._digests, self._content = numbered(contents)
        self._follow(Pass())
        layouts = trials.layouts.values()
        self._width = max(layout.n_channels for layout in layouts)
        self._times = max(layout.n_times for layout in layouts)
        self._resident_bytes = resident_bytes
        self._read_from({})

    def _read_from(self, drawn: Mapping[str, Sequence[FeatureStore]]) -> None:
        self._drawn = {name: tuple(stores) for name, stores in drawn.items()}
        plain = [store for name, store in self.features.items() if name not in drawn]
        self._stores = {str(store.folder): store for store in plain}
        every = [*self._stores.values(), *(s for stores in self._drawn.values() for s in stores)]
        windows = len(self.trials) * self._width * self._times * 4
        targets = len(self._digests) * sum(store.bytes_each for store in every)
        self.resident = windows + targets <= self._resident_bytes
        self._kept: tuple[Batch, Tensors] | None = None

    def showing(
        self, way: Pass, drawn: Mapping[str, Sequence[FeatureStore]] | None = None
    ) -> Loader:
        """The same trials in other passes, if they are shuffled. A target named in `drawn` is read, row
        by row, from one of several stores in place of its own.
        """
        other = copy.copy(self)
        other._follow(way)
        if drawn:
            other._read_from(drawn)
        return other

    def _follow(self, way: Pass) -> None:
        subjects, stimuli = self._subject.tolist(), self._stimulus.tolist()
        self._members, self._count = padded(units(subjects, stimuli, way.repeats))
        self._repeats = way.repeats
        whose = self._subject[self._members[:, 0]]
        self._plan = Plan(whose, self.batch_size, way, known=tuple(self.trials.signals))

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of one epoch, on the device."""
        chunks = self._chunks(number)
        if self.resident:
            trials, stored = self._resident()
            for rows, weights, chance in chunks:
                here = rows.flatten().to(self.device)
                batch = trials._map(lambda x, here=here: x.index_select(0, here))
                batch = weighed(batch, weights)
                content = self._content_of(batch)
                place = dict.fromkeys(self._stores, content)
                for name, stores in self._drawn.items():
                    one = (chance % len(stores)).to(self.device)
                    place[name] = one * len(self._digests) + content
                yield self._named(
                    batch, {k: stored[k].index_select(0, i) for k, i in place.items()}
                )
            return
        for batch, stored in one_ahead(self._read, chunks):
            there = {k: v.to(self.device, non_blocking=True) for k, v in stored.items()}
            yield self._named(batch.to(self.device), there)

    def _chunks(self, number: int) -> Iterator[Chunk]:
        """What the batches of one epoch are made of."""
        if not self.shuffle:
            for rows in torch.arange(len(self.trials)).split(self.batch_size):
                yield rows, None, rows
            return
        draws = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        for rows in self._plan.batches(draws):
            picked: tuple[Tensor, Tensor | None] = (rows, None)
            if self._repeats != "each":
                picked = drawn(self._members[rows], self._count[rows], self._repeats, draws)
            chance = rows
            if self._drawn:
                chance = torch.randint(2**31, (len(rows),), generator=draws)
            yield *picked, chance

    def without_targets(self) -> Iterator[Batch]:
        """All trials in order, with empty `targets`: read them with `columns`."""
        for rows in torch.arange(len(self.trials)).split(self.batch_size):
            yield self._windows(rows).to(self.device)

    def columns(self, names: Sequence[str], trial: Tensor) -> Columns:
        """Targets of the given trials, read from disk a block of columns at a time."""
        digests = [self._digests[int(i)] for i in self._content[trial.cpu()]]
        return Columns([self.features[name] for name in names], digests)

    def _content_of(self, batch: Batch) -> Tensor:
        """(batch,) numbers of what the targets of each row are known by: its stimulus, unless there are
        targets of trials, which are never mixed.
        """
        if not self._by_trial:
            return batch.stimulus
        return self._content.to(batch.trial.device)[batch.trial]

    def _windows(self, rows: Tensor) -> Batch:
        """The given trials without targets, on the CPU, from disk."""
        brain = torch.zeros(len(rows), self._width, self._times)
        subject = self._subject[rows]
        for number in subject.unique().tolist():
            mine = torch.nonzero(subject == number).flatten()
            windows = torch.from_numpy(self.trials.brain(rows[mine].numpy()))
            brain[mine, : windows.shape[1], : windows.shape[2]] = windows
        return Batch(brain, {}, subject, self._stimulus[rows], rows.clone())

    def _read(self, chunk: Chunk) -> tuple[Batch, Tensors]:
        """The given trials and, by store, their targets as they are stored; pinned for a GPU."""
        rows, weights, chance = chunk
        batch = weighed(self._windows(rows.flatten()), weights)
        names = [self._digests[int(i)] for i in self._content_of(batch)]
        stored = {key: store.stored(names) for key, store in self._stores.items()}
        for name, stores in self._drawn.items():
            stored[name] = from_one_of(stores, names, chance)
        if self.device.type == "cuda":
            return batch.pin_memory(), {k: v.pin_memory() for k, v in stored.items()}
        return batch, stored

    def _named(self, batch: Batch, stored: Tensors) -> Batch:
        """The batch with its targets by name, float32."""
        wide = {key: values.float() for key, values in stored.items()}
        places = {name: str(store.folder) for name, store in self.features.items()}
        targets = {k: wide[k if k in self._drawn else place] for k, place in places.items()}
        return replace(batch, targets=targets)

    def _resident(self) -> tuple[Batch, Tensors]:
        if self._kept is None:
            parts = [self._windows(rows) for rows in torch.arange(len(self.trials)).split(512)]
            stored = {k: store.stored(self._digests) for k, store in self._stores.items()}
            for name, stores in self._drawn.items():
                stored[name] = torch.cat([store.stored(self._digests) for store in stores])
            there = {k: v.to(self.device) for k, v in stored.items()}
            self._kept = (joined(parts).to(self.device), there)
        return self._kept


def open_trials(folders: Mapping[str, Path]) -> Trials:
    """Trials of the subjects whose preprocess folders are given."""
    tables, signals = [], {}
    for subject, folder in folders.items():
        meta = read_json(folder / "layout.json")
        layout = Layout(
            modality=meta["modality"],
            names=tuple(meta["names"]),
            positions=np.array(meta["positions"], np.float64).reshape(-1, 3),
            rois=tuple(meta["rois"]),
            sfreq=meta["sfreq"],
            n_times=meta["n_times"],
            start=meta["start"],
        )
        baseline = tuple(meta["baseline"]) if meta["baseline"] else None
        # Folders of older versions know of no filter's reach.
        more = (meta.get("reach", 0.0), meta.get("timed", True), tuple(meta.get("runs", (0,))))
        signals[subject] = SubjectSignal(read_array(folder / "signal.npy"), layout, baseline, *more)
        tables.append(read_table(folder / "trials.parquet").assign(subject=subject))
    return Trials.of(pd.concat(tables, ignore_index=True), signals)
