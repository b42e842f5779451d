"""A run: a plan, and what its stages are given, built when it is first used."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING

from decode.building import build, made
from decode.checks.frame import short
from decode.plan import Plan
from decode.sources import DECODER, Source, baseline
from decode.stages.table import NAMES
from decode.store import read_table

if TYPE_CHECKING:  # a run of which everything is done needs none of them
    from collections.abc import Mapping

    from decode.artefacts.trained import MakeEncoder
    from decode.core import Generator, Metric, Stimulus
    from decode.division import Part, Scaler, Split
    from decode.folds import Inputs, Protocol
    from decode.trainable import Objective
    from decode.training import Trainer


class Run(Plan):
    """A plan with its trials, encoders, generator and the rest, each built once, on demand."""

    @cached_property
    def device(self) -> str:
        import torch

        asked: str = self.config["compute"]["device"]
        return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked

    @cached_property
    def stimuli(self) -> Mapping[str, Stimulus]:
        """All that trials may name."""
        from decode.stimuli import with_nothing

        return with_nothing(self.dataset.stimuli())

    @cached_property
    def inputs(self) -> Inputs:
        from decode.folds import Inputs
        from decode.trials import open_trials

        trials = open_trials({str(t.item): t.folder for t in self.of("preprocess")})
        stores = {t.label: self.store(t, trials.window) for t in self.of("features")}
        drawn = {k: [stores[n] for n in names] for k, names in self.protocol.drawn.items()}
        aside = {n for names in self.protocol.drawn.values() for n in names}
        features = {k: store for k, store in stores.items() if k not in aside}
        manifest = read_table(self.of("split")[0].folder / "manifest.parquet")
        found = Inputs(trials, self.digests, features, manifest, drawn)
        if not self.recorded and NAMES.index(self.config["until"]) >= NAMES.index("evaluate"):
            self._check_inputs(found)
        return found

    def _check_inputs(self, inputs: Inputs) -> None:
        from decode.checks.trials import (
            check_answers,
            check_galleries,
            check_picture_sizes,
            check_voxel_people,
        )

        of_trials = {name for name, store in inputs.features.items() if store.of_trials}
        check_answers(self.config, of_trials)
        check_galleries(self.config, inputs.trials.singles, inputs.manifest)
        check_voxel_people(self.config, inputs.manifest)
        check_picture_sizes(self.config, self.stimuli_table, inputs.shapes)

    @cached_property
    def scaler(self) -> Scaler:
        made: Scaler = build(self.config["scaler"], "scaler")
        return made

    @cached_property
    def splits(self) -> dict[str, Split]:
        return {k: build(v, f"splits.{k}") for k, v in self.config["splits"].items()}

    @cached_property
    def generator(self) -> Generator | None:
        node = self.config["generator"]
        made: Generator | None = build(node, "generator") if node else None
        return made

    @cached_property
    def encoders(self) -> dict[Source, MakeEncoder]:
        """Constructors of the decoder and its baselines."""
        wanted = {DECODER: ("encoder", self.config["encoder"])}
        for name, node in self.config["baselines"].items():
            wanted[baseline(name, short(node))] = (f"baselines.{name}", node)
        return {k: partial(made, build(node, where), where) for k, (where, node) in wanted.items()}

    @cached_property
    def parts(self) -> dict[Source, MakeEncoder]:
        """Constructors of decoders of parts of the signal: windows, regions, what is before the stimulus."""
        if not self.config["parts"]:
            return {}
        from decode.linear.part_ridge import PartRidge
        from decode.parting import source_of

        found: dict[Source, MakeEncoder] = {}
        for name, node in self.config["parts"].items():
            parts: dict[str, Part] = build(node, f"parts.{name}")(self.inputs.trials.layouts)
            for label, part in parts.items():
                found[source_of(name, label, part)] = partial(PartRidge, part=part)
        return found

    def objectives(self) -> dict[str, Objective]:
        """Fresh objectives: they may hold parameters, and every fold starts anew."""
        return {k: build(v, f"objectives.{k}") for k, v in self.config["objectives"].items()}

    @cached_property
    def trainer(self) -> Trainer:
        made: Trainer = build(self.config["trainer"], "trainer")
        return made

    @cached_property
    def protocol(self) -> Protocol:
        from decode.folds import Protocol

        return Protocol(**self.config["protocol"])

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        return {k: build(v, f"metrics.{k}") for k, v in self.config["metrics"].items()}
