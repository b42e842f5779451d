"""The stages, what each reads, the keys of their folders, and the plan.

A stage's key is a hash of its name and version, of the config nodes it reads with every default
written out, and of the keys of its inputs. Whatever a stage does not read - names, devices, where
things lie - does not change its key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd

from decode import hdf5
from decode.building import bound, build, made
from decode.checks.choices import check_config
from decode.checks.frame import (
    check_file_names,
    check_filled,
    check_frame,
    check_list,
    check_subjects,
    short,
)
from decode.checks.learning import check_learning
from decode.checks.resources import check_devices, check_files, check_made, check_rights
from decode.checks.trials import check_galleries, check_picture_sizes, check_voxel_people
from decode.checksums import identity
from decode.core import Dataset, InputError
from decode.kinds import renewed
from decode.report.published import check_published
from decode.sources import DECODER, Source, baseline, check_sources
from decode.store import FeatureStore, as_file_name, is_finished, read_table
from decode.trainable import Encoder, Objective

Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """One row of the table: what must be finished before, which config nodes are read, and whether
    what an interrupted run left in the folder is gone on from (`resumes`).
    """

    name: str
    needs: tuple[str, ...]
    reads: tuple[str, ...]
    version: int = 1
    resumes: bool = True


STAGES = (
    Stage("preprocess", (), ("data", "preprocess"), version=4, resumes=False),
    Stage("split", ("preprocess",), ("splits",), resumes=False),
    Stage("features", ("preprocess",), ("targets",), version=3),
    Stage(
        "train",
        ("preprocess", "split", "features"),
        ("scaler", "encoder", "baselines", "parts", "objectives", "trainer", "protocol", "seed"),
        version=2,
    ),
    Stage("predict", ("train",), ("protocol",), version=3),
    Stage("reconstruct", ("predict",), ("generator", "seed")),
    Stage("respond", ("reconstruct",), ("voxel_model",), version=2, resumes=False),
    Stage(
        "evaluate",
        ("predict", "reconstruct", "respond"),
        ("metrics", "protocol", "seed"),
        version=3,
        resumes=False,
    ),
    Stage(
        "report",
        ("evaluate", "reconstruct"),
        ("name", "notes", "published"),
        version=3,
        resumes=False,
    ),
)
NAMES = tuple(stage.name for stage in STAGES)


@dataclass(frozen=True, slots=True)
class Task:
    """One folder to fill."""

    stage: Stage
    label: str
    key: str
    folder: Path
    nodes: Mapping[str, Any] = field(repr=False)
    inputs: tuple[str, ...] = ()
    item: str | None = None

    @property
    def done(self) -> bool:
        return is_finished(self.folder)


def digest_of(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def short_name(node: Mapping[str, Any]) -> str:
    """`decode.data.simulated_fmri.SimulatedFMRI` -> `simulated_fmri`."""
    return str(node["_target_"]).split(".")[-2]


class Run:
    """One composed config, the folders it leads to, and the objects it describes (built when used).

    `recorded` are the folders that a finished run came from, each as "stage:item:key". It is opened from
    these, whatever has become of its data, of the code and of the devices since.
    """

    def __init__(self, config: Config, recorded: Sequence[str] = ()) -> None:
        self.config = config = renewed(config)
        self.recorded = dict(name.rsplit(":", 1) for name in recorded)
        check_frame(config)
        check_file_names(config)
        check_sources(list(config["baselines"]), list(config["parts"]))
        check_stages("until", [config["until"]])
        check_stages("force", config["force"])
        self.outputs = Path(config["paths"]["outputs"])
        if not recorded:
            check_config(config)
            check_published(config)
            asked = NAMES[: NAMES.index(config["until"]) + 1]
            check_filled(config, asked)
            if "train" in asked:
                check_learning(config)
        self.subjects: tuple[str, ...] = self._subjects()
        self.tasks = self._plan()
        if not recorded and (stages := self._to_do()):
            check_devices(config)
            check_files(config, stages)
            check_made(config, stages)

    @cached_property
    def dataset(self) -> Dataset:
        check_rights(self.config["data"].get("root"))
        made: Dataset = build(self.config["data"], "data")
        return made

    def _subjects(self) -> tuple[str, ...]:
        if self.recorded:
            places = (name.partition(":") for name in self.recorded)
            return tuple(item for stage, _, item in places if stage == "preprocess")
        asked = self.config["subjects"]
        if asked is not None:
            check_subjects(asked)
        known = tuple(self.dataset.subjects)
        unknown = [s for s in asked or () if s not in known]
        if unknown:
            explains = getattr(self.dataset, "check_subject", None)
            if explains is not None:
                explains(unknown[0])
            root = self.config["data"].get("root")
            raise InputError(
                f"subjects: expected some of {list(known)}, which {short_name(self.config['data'])} has"
                + (f" at {root}" if root else "")
                + f", got {unknown[0]!r}; correct the list or add that subject's files"
            )
        return tuple(asked) if asked else known

    def _to_do(self) -> list[str]:
        """Names of the stages up to `until` that are not done, or are to be done again."""
        force = self.config["force"]
        # What another preprocess will leave must not be read, and kept, before it has run.
        done = (lambda task: task.done) if "preprocess" in force else self.is_done
        names = {t.stage.name for t in self.tasks if t.stage.name in force or not done(t)}
        return [n for n in NAMES[: NAMES.index(self.config["until"]) + 1] if n in names]

    def _files(self, subject: str) -> str:
        """What tells the files that a subject's data are read from, as they are now, from any others."""
        if self.recorded:
            return ""
        files = list(self.dataset.files(subject))
        # Those that HDF5 files take values from are read as well.
        files += [other for file in files for other in hdf5.files_named(file)]
        return identity(files, Path(str(self.config["data"].get("root") or "")))

    def _plan(self) -> list[Task]:
        c = self.config
        tasks: list[Task] = []
        data = short_name(c["data"])
        for subject in self.subjects:
            files = self._files(subject)
            tasks.append(self._task("preprocess", f"{data}_{subject}", tasks, subject, files))
        tasks.append(self._task("split", f"{data}_{'_'.join(c['splits'])}", tasks))
        for name, node in c["targets"].items():
            tasks.append(self.feature_task(name, node))
        needs = {"reconstruct": c["generator"], "respond": c.get("voxel_model")}
        for stage in ("train", "predict", "reconstruct", "respond", "evaluate", "report"):
            if stage in needs and not needs[stage]:
                continue
            tasks.append(self._task(stage, c["name"], tasks))
        return tasks

    def _task(
        self, name: str, label: str, before: Sequence[Task], item: str | None = None, more: str = ""
    ) -> Task:
        stage = STAGES[NAMES.index(name)]
        nodes = {k: bound(self.config.get(k)) for k in stage.reads}
        inputs = tuple(
            f"{t.stage.name}:{t.item}:{t.key}" for t in before if t.stage.name in stage.needs
        )
        new = digest_of([name, stage.version, nodes, inputs, item, more])
        key = self.recorded.get(f"{name}:{item}", new)
        folder = self._place(name, label, key)
        return Task(stage, label, key, folder, nodes, inputs, item)

    def _place(self, stage: str, label: str, key: str) -> Path:
        """Folders are found by their key: another label, as after renaming, finds the same one."""
        found = sorted((self.outputs / stage).glob(f"*-{key}"))
        return found[0] if found else self.outputs / stage / f"{as_file_name(str(label))}-{key}"

    def feature_task(self, name: str, node: Mapping[str, Any]) -> Task:
        """Keyed by the target alone: every experiment that uses it shares one growing folder."""
        stage = STAGES[NAMES.index("features")]
        kept = {k: v for k, v in bound(node).items() if k != "batch_size"}
        new = digest_of(["features", stage.version, kept])
        key = self.recorded.get(f"features:{name}", new)
        folder = self._place("features", short_name(node), key)
        return Task(stage, name, key, folder, {"targets": kept}, (), name)

    def of(self, stage: str) -> list[Task]:
        return [t for t in self.tasks if t.stage.name == stage]

    def folder(self, stage: str) -> Path | None:
        tasks = self.of(stage)
        return tasks[0].folder if tasks else None

    @cached_property
    def stimuli_table(self) -> pd.DataFrame:
        tables = [read_table(t.folder / "stimuli.parquet") for t in self.of("preprocess")]
        return pd.concat(tables, ignore_index=True)

    @cached_property
    def digests(self) -> dict[str, str]:
        table = self.stimuli_table
        return dict(zip(table["uid"], table["digest"], strict=True))

    @cached_property
    def device(self) -> str:
        import torch

        asked = self.config["compute"]["device"]
        return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked

    @cached_property
    def inputs(self) -> Any:
        from decode.folds import Inputs
        from decode.trials import open_trials

        trials = open_trials({str(t.item): t.folder for t in self.of("preprocess")})
        stores = {t.label: self.store(t) for t in self.of("features")}
        drawn = {k: [stores[n] for n in names] for k, names in self.protocol.drawn.items()}
        aside = {n for names in self.protocol.drawn.values() for n in names}
        features = {k: store for k, store in stores.items() if k not in aside}
        manifest = read_table(self.of("split")[0].folder / "manifest.parquet")
        if not self.recorded and NAMES.index(self.config["until"]) >= NAMES.index("evaluate"):
            check_galleries(self.config, trials.singles, manifest)
            check_voxel_people(self.config, manifest)
            shapes = {name: store.shape for name, store in features.items()}
            check_picture_sizes(self.config, self.stimuli_table, shapes)
        return Inputs(trials, self.digests, features, manifest, drawn)

    @cached_property
    def generator(self) -> Any:
        node = self.config["generator"]
        return build(node, "generator") if node else None

    @cached_property
    def encoders(self) -> dict[Source, Callable[..., Encoder]]:
        """Constructors of the decoder and its baselines."""
        wanted = {DECODER: ("encoder", self.config["encoder"])}
        for name, node in self.config["baselines"].items():
            wanted[baseline(name, short(node))] = (f"baselines.{name}", node)
        return {k: partial(made, build(node, where), where) for k, (where, node) in wanted.items()}

    @cached_property
    def parts(self) -> dict[Source, Callable[..., Encoder]]:
        """Constructors of decoders of parts of the signal: windows, regions, what is before the stimulus."""
        if not self.config["parts"]:
            return {}
        from decode.linear.part_ridge import PartRidge
        from decode.parting import source_of

        layouts = self.inputs.trials.layouts
        found: dict[Source, Callable[..., Encoder]] = {}
        for name, node in self.config["parts"].items():
            for label, part in build(node, f"parts.{name}")(layouts).items():
                found[source_of(name, label, part)] = partial(PartRidge, part=part)
        return found

    def objectives(self) -> dict[str, Objective]:
        """Fresh objectives: they may hold parameters, and every fold starts anew."""
        return {k: build(v, f"objectives.{k}") for k, v in self.config["objectives"].items()}

    @cached_property
    def protocol(self) -> Any:
        from decode.folds import Protocol

        return Protocol(**self.config["protocol"])

    def missing_features(self, task: Task) -> bool:
        """Whether a target still lacks stimuli; unknown counts as yes."""
        if not all(t.done for t in self.of("preprocess")):
            return True
        return bool(self.store(task).missing(list(self.digests.values())))

    def store(self, task: Task) -> FeatureStore:
        """The features of a target, by the digests of stimuli."""
        from decode.stages.features import open_store

        return open_store(task.folder, self.stimuli_table)

    def is_done(self, task: Task) -> bool:
        return not self.missing_features(task) if task.stage.name == "features" else task.done


NAMED = ("splits", "targets", "baselines", "parts", "objectives", "metrics")


def check_stages(key: str, names: Sequence[str]) -> None:
    import difflib

    check_list(key, names)
    for name in names:
        if name not in NAMES:
            near = difflib.get_close_matches(str(name), NAMES, 1)
            raise InputError(
                f"{key}: expected a stage out of {list(NAMES)}, got {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else f"; name one of them in {key}")
            )
