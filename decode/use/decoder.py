"""A trained decoder of one fold: all that is needed to read new windows, and nothing of the training data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from decode.building import build, made
from decode.core import Generator, Layout, Shape, Tensors, refusal
from decode.division import Scaler, State
from decode.folds import Protocol
from decode.scaling import MISSING
from decode.stages.predict import BATCH, predict, repeats_of
from decode.store import Frame
from decode.strangers import MeanOfSubjects, has_own_layers
from decode.trainable import Encoder
from decode.trials import SubjectSignal, Trials

# Nodes of a run's config that a decoder is built from.
NODES = ("preprocess", "scaler", "encoder", "targets", "generator", "protocol", "seed")


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """What a decoder knows of one subject: the layout of its windows, the samples of their baseline, and
    the median over channels of the standard deviation of its training windows (nan: unknown).
    """

    layout: Layout
    baseline: tuple[int, int] | None
    spread: float = float("nan")


@dataclass(frozen=True, eq=False)
class Decoder:
    """`people` are the subjects of the encoder in its order, `known` those whom the fold was trained on;
    `states` are the scaler's per subject, and `pooled` gives that over all training subjects, for others.
    `teach` lets a new generator learn and be tuned as in training, `tuned` gives what it is tuned with;
    `facts` say where it all comes from.
    """

    name: str
    nodes: Mapping[str, Any]
    people: Mapping[str, Person]
    known: tuple[str, ...]
    states: Mapping[str, State]
    pooled: Callable[[], State]
    shapes: Mapping[str, Shape]
    weights: Tensors
    teach: Callable[[Generator], None]
    tuned: Callable[[], Tensors]
    facts: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    @cached_property
    def protocol(self) -> Protocol:
        return Protocol(**self.nodes["protocol"])

    @cached_property
    def scaler(self) -> Scaler:
        scaler: Scaler = build(self.nodes["scaler"], "scaler")
        return scaler

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder with its weights, ready to predict."""
        make = build(self.nodes["encoder"], "encoder")
        encoder: Encoder = made(make, "encoder", self._of_people().layouts, dict(self.shapes))
        try:
            encoder.load_state_dict(self.weights)
        except RuntimeError as e:
            reason = " ".join(str(e).split())[:300]
            raise refusal(
                self.name, "weights that fit its encoder", reason, "train again with this version"
            ) from e
        return encoder.to(self.device).eval()

    @cached_property
    def generator(self) -> Generator | None:
        """The generator as it was when the run reconstructed, None where the run has none."""
        node = self.nodes["generator"]
        if not node:
            return None
        generator: Generator = build(node, "generator")
        self.teach(generator)
        return generator

    def target(self, name: str) -> Any:
        """What turns stimuli into vectors of one of its targets."""
        if name not in self.shapes:
            raise refusal(
                "target", f"one of {sorted(self.shapes)}", repr(name), "name one of the decoder's"
            )
        return build(self.nodes["targets"][name], f"targets.{name}")

    def layout_for(self, subject: str) -> Layout:
        """The layout that recordings of a subject must have."""
        return self.person(subject).layout

    def person(self, subject: str) -> Person:
        """Of the subject itself, or of the first one trained on, for one who was not."""
        return self.people.get(subject) or self.people[self.known[0]]

    def usual_spread(self, subject: str) -> float:
        """How large its training windows are, or for others the median of those trained on."""
        mine = self.person(subject).spread if subject in self.known else float("nan")
        every = [self.people[name].spread for name in self.known]
        return mine if np.isfinite(mine) else float(np.nanmedian(every))

    def reads(self, subject: str) -> str:
        """In words, how it reads a subject; raises InputError where nobody has said how."""
        if subject in self.known:
            return "trained on"
        if not self.reads_others():
            raise refusal(
                f"subjects: {subject}",
                f"one of {list(self.known)}, whom {self.name} was trained on",
                "someone else, and its encoder has layers of each subject",
                f"if it is one of them, say which: known_as={{{subject}: {self.known[0]}}}, or train "
                "with protocol.unseen=shared or mean",
            )
        how = {
            "mean": "read through the layers of all training subjects, averaged",
            "shared": "read by the one layer for all",
            "refuse": "read by an encoder that knows no subjects",
        }[self.protocol.unseen]
        scaled = "its own trials" if self._own_scaling(subject) else "training subjects"
        return f"not trained on: {how}, scaled by {scaled}"

    def reads_others(self) -> bool:
        """Whether people who were not trained on can be read: the run says how, or its encoder knows no
        subjects, as it must where their channels differ.
        """
        alike = {(p.layout.names, p.layout.n_times) for p in self.people.values()}
        return self.protocol.unseen != "refuse" or not (
            len(alike) > 1 or has_own_layers(self.encoder)
        )

    def _own_scaling(self, subject: str) -> bool:
        return subject not in self.known and self.protocol.unseen_scaling == "own"

    def _of_people(self, more: Mapping[str, SubjectSignal] | None = None) -> Trials:
        """No trials, of all subjects that the encoder knows, and of more."""
        empty = {
            name: SubjectSignal(
                np.zeros((0, p.layout.n_channels), np.float32), p.layout, p.baseline
            )
            for name, p in self.people.items()
        }
        none = pd.DataFrame({"subject": pd.Series(dtype=str)})
        trials = Trials.of(none, {**empty, **(more or {})}).since(self.protocol.after)
        return replace(trials, as_one=self.protocol.unseen == "shared")

    def windows(self, new: Trials) -> Trials:
        """New trials as the encoder is to meet them: its numbers of subjects, scaled as in training."""
        every = self._of_people(new.signals)
        states = {s: self._state(s, new) for s in new.signals}
        placed = replace(every, singles=new.singles, members=new.members)
        return placed.scale(self.scaler, states)

    def _state(self, subject: str, new: Trials) -> State:
        if self._own_scaling(subject):
            table = new.singles[new.singles["subject"] == subject]
            windows = new.signals[subject].windows(table["start"].to_numpy(np.int64))
            unlabelled = table[[c for c in ("session", "run", MISSING) if c in table]]
            return self.scaler.fit(windows, unlabelled.assign(subject=subject, stimulus=""))
        if subject in self.known or subject in self.states:
            return self.states.get(subject, {})  # a scaler without state keeps nothing
        return self.pooled()

    def predict(self, new: Trials, *, repeats: str | None = None) -> Frame:
        """A row per trial, or per subject and stimulus where `repeats` (None: as in the run) are averaged
        "before" or "after" reading, with an array per target.
        """
        how = self.protocol.test_repeats if repeats is None else repeats
        windows = self.windows(new)
        if how == "before":
            windows = windows.average("stimulus")
        table = windows.table
        groups = repeats_of(table) if how == "after" else None
        digests = {uid: uid for uid in table["stimulus"]}
        loader = windows.loader({}, digests, batch_size=BATCH, device=self.device)
        predicted, _ = predict(self._for(windows), loader, groups)
        if groups is not None:
            table = table.iloc[[g[0] for g in groups]].reset_index(drop=True)
            table = table.assign(repeats=[len(g) for g in groups])
        return Frame(table.drop(columns="start"), predicted)

    def _for(self, windows: Trials) -> Encoder:
        """The encoder as it reads these subjects."""
        order = list(windows.signals)
        new = [s for s in windows.table["subject"].unique() if s not in self.known]
        if windows.as_one or not new:
            return self.encoder
        known = self.known if self.protocol.unseen == "mean" else self.known[:1]
        return MeanOfSubjects(
            self.encoder, [order.index(s) for s in known], [order.index(s) for s in new]
        ).eval()

    def embed(self, name: str, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors (stimulus, *shape) of a target as the encoder predicts them."""
        with torch.no_grad():
            given: Tensors = {name: vectors.to(self.device)}
            return self.encoder.embed(given)[name].float().cpu()
