"""The plan: from a config to the folders that it leads to, and their keys. It opens nothing.

A stage's key is a hash of its name and version, of the config nodes it reads with every default
written out, and of the keys of its inputs. Whatever a stage does not read - names, devices, where
things lie - does not change its key.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decode.building import bound, build
from decode.checks.frame import (
    check_file_names,
    check_filled,
    check_frame,
    check_list,
    check_seed,
    check_subjects,
)
from decode.checks.resources import check_devices, check_files, check_rights
from decode.checksums import identity
from decode.core import Dataset, InputError, Narrowing
from decode.kinds import renewed
from decode.memory import Memory
from decode.sources import check_people, check_sources
from decode.stages.table import NAMES, STAGES, Stage, up_to
from decode.store import as_file_name, is_finished, read_table
from decode.vectors import FeatureStore

if TYPE_CHECKING:
    import pandas as pd

Config = dict[str, Any]
# What no class is told, so that a config is as sound with another value there.
APART = frozenset(
    {"name", "notes", "subjects", "seed", "force", "dry", "debug", "paths", "compute"}
)


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
    """Hash of a config node: arguments have names, and no order; targets, steps and other things that
    are listed by name are in the order that they are used in.
    """
    text = json.dumps(in_one_order(value), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def in_one_order(node: Any) -> Any:
    """A node with the arguments of everything that it builds sorted by name."""
    if isinstance(node, Mapping):
        items = sorted(node.items()) if "_target_" in node else node.items()
        return {name: in_one_order(value) for name, value in items}
    return [in_one_order(value) for value in node] if isinstance(node, list | tuple) else node


def short_name(node: Mapping[str, Any]) -> str:
    """`decode.data.simulated_fmri.SimulatedFMRI` -> `simulated_fmri`."""
    return str(node["_target_"]).split(".")[-2]


class Plan:
    """One composed config and the folders it leads to.

    `recorded` are the folders that a finished run came from, each as "stage:item:key". It is opened from
    these, whatever has become of its data, of the code and of the devices since. `memory` knows which
    configs were found sound before.
    """

    def __init__(
        self, config: Config, recorded: Sequence[str] = (), memory: Memory | None = None
    ) -> None:
        self.config = config = renewed(config)
        self.recorded = dict(name.rsplit(":", 1) for name in recorded)
        self.memory = memory or Memory()
        check_frame(config)
        check_file_names(config)
        check_sources(list(config["baselines"]), list(config["parts"]))
        check_stages("until", [config["until"]])
        check_stages("force", config["force"])
        self.outputs = Path(config["paths"]["outputs"])
        judged = {k: v for k, v in config.items() if k not in APART}
        known = bool(recorded) or self.memory.is_sound(judged)
        if not recorded:
            check_seed(config["seed"])
        if not known:
            self._check_choices()
        self.subjects: tuple[str, ...] = self._subjects()
        self.tasks = self._plan()
        if not recorded and (stages := self._to_do()):
            self._check_opened([key for stage in stages for key in stage.opens], known)
        if not known:
            self.memory.add(judged)
        self.memory.keep()

    def _check_choices(self) -> None:
        """What can only be said once the classes of all choices are loaded."""
        from decode.checks.choices import check_config
        from decode.checks.learning import check_learning
        from decode.report.published import check_published

        check_config(self.config)
        check_published(self.config)
        asked = up_to(self.config["until"])
        check_filled(self.config, asked)
        if "train" in [stage.name for stage in asked]:
            check_learning(self.config)

    def _check_opened(self, opened: Sequence[str], known: bool) -> None:
        """What a run is going to open, of which some may be gone since the config was `known` as sound."""
        check_devices(self.config)
        check_files(self.config, opened)
        if known and self.config["dry"]:
            return
        from decode.checks.made import check_made

        if known:
            self._check_choices()
        check_made(self.config, opened)

    @cached_property
    def dataset(self) -> Dataset:
        """The data, of the subjects asked for: those of others do not stop a run."""
        made, asked = self.whole_dataset, self.config["subjects"] or self._recorded_subjects()
        chosen = [s for s in asked or () if s in made.subjects]
        return made.only(chosen) if chosen and isinstance(made, Narrowing) else made

    @cached_property
    def whole_dataset(self) -> Dataset:
        """The data with all its subjects."""
        check_rights(self.config["data"].get("root"))
        made: Dataset = build(self.config["data"], "data")
        return made

    def _recorded_subjects(self) -> tuple[str, ...]:
        places = (name.partition(":") for name in self.recorded)
        return tuple(item for stage, _, item in places if stage == "preprocess")

    def _subjects(self) -> tuple[str, ...]:
        if self.recorded:
            return self._recorded_subjects()
        asked = self.config["subjects"]
        if asked is not None:
            check_subjects(asked)
        known = tuple(self.whole_dataset.subjects)
        unknown = [s for s in asked or () if s not in known]
        if unknown:
            explains = getattr(self.whole_dataset, "check_subject", None)
            if explains is not None:
                explains(unknown[0])
            root = self.config["data"].get("root")
            raise InputError(
                f"subjects: expected some of {list(known)}, which {short_name(self.config['data'])} has"
                + (f" at {root}" if root else "")
                + f", got {unknown[0]!r}; correct the list or add that subject's files"
            )
        chosen = tuple(asked) if asked else known
        check_people(chosen)
        return chosen

    def _to_do(self) -> list[Stage]:
        """The stages up to `until` that are not done, or are to be done again."""
        force = self.config["force"]
        # What another preprocess will leave must not be read, and kept, before it has run.
        done = (lambda task: task.done) if "preprocess" in force else self.is_done
        names = {t.stage.name for t in self.tasks if t.stage.name in force or not done(t)}
        return [stage for stage in up_to(self.config["until"]) if stage.name in names]

    def _files(self, subject: str) -> str:
        """What tells the files that a subject's data are read from, as they are now, from any others."""
        if self.recorded:
            return ""
        data = self.config["data"]
        files = list(self.dataset.files(subject))
        if data.get("outside"):  # what HDF5 files take from other files is read as well
            from decode import hdf5

            files += [other for file in files for other in hdf5.files_named(file)]
        return identity(files, Path(str(data.get("root") or "")))

    def _plan(self) -> list[Task]:
        tasks: list[Task] = []
        for stage in STAGES:
            if not stage.only_with or self.config.get(stage.only_with):
                tasks += self._tasks(stage, tasks)
        return tasks

    def _tasks(self, stage: Stage, before: Sequence[Task]) -> list[Task]:
        """The folders of one stage."""
        data = short_name(self.config["data"])
        if stage.each == "subjects":
            return [
                self._task(stage, f"{data}_{subject}", before, subject, self._files(subject))
                for subject in self.subjects
            ]
        if stage.each == "targets":
            return [self.feature_task(k, node) for k, node in self.config["targets"].items()]
        splits = f"{data}_{'_'.join(self.config['splits'])}"
        return [self._task(stage, splits if stage.name == "split" else self.config["name"], before)]

    def _task(
        self,
        stage: Stage,
        label: str,
        before: Sequence[Task],
        item: str | None = None,
        more: str = "",
    ) -> Task:
        nodes = {k: self._bound(self.config.get(k)) for k in stage.reads}
        inputs = tuple(
            f"{t.stage.name}:{t.item}:{t.key}" for t in before if t.stage.name in stage.needs
        )
        new = digest_of([stage.name, stage.version, nodes, inputs, item, more])
        key = self.recorded.get(f"{stage.name}:{item}", new)
        folder = self._place(stage.name, label, key)
        return Task(stage, label, key, folder, nodes, inputs, item)

    def _bound(self, node: Any) -> Any:
        return bound(node, self.memory.defaults)

    def _place(self, stage: str, label: str, key: str) -> Path:
        """Folders are found by their key: another label, as after renaming, finds the same one."""
        found = sorted((self.outputs / stage).glob(f"*-{key}"))
        return found[0] if found else self.outputs / stage / f"{as_file_name(str(label))}-{key}"

    def feature_task(self, name: str, node: Mapping[str, Any]) -> Task:
        """Keyed by the target alone: every experiment that uses it shares one growing folder."""
        stage = STAGES[NAMES.index("features")]
        kept = {k: v for k, v in self._bound(node).items() if k != "batch_size"}
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
        import pandas as pd

        tables = [read_table(t.folder / "stimuli.parquet") for t in self.of("preprocess")]
        return pd.concat(tables, ignore_index=True)

    @cached_property
    def trials_table(self) -> pd.DataFrame:
        """Every trial of every subject, as `open_trials` has them."""
        import pandas as pd

        folders = {str(t.item): t.folder for t in self.of("preprocess")}
        tables = [read_table(f / "trials.parquet").assign(subject=s) for s, f in folders.items()]
        return pd.concat(tables, ignore_index=True)

    @cached_property
    def digests(self) -> dict[str, str]:
        """Hash of the content of each stimulus that the trials name, by uid."""
        table = self.stimuli_table
        return dict(zip(table["uid"], table["digest"], strict=True))

    def missing_features(self, task: Task) -> bool:
        """Whether a target still lacks stimuli; unknown counts as yes."""
        if not all(t.done for t in self.of("preprocess")):
            return True
        from decode.events import trial_keys

        store = self.store(task)
        asked = trial_keys(self.trials_table) if store.of_trials else list(self.digests.values())
        return bool(store.missing(asked))

    def store(self, task: Task, window: tuple[float, float] | None = None) -> FeatureStore:
        """The features of a target, by the digests of stimuli; those in time for windows of the brain."""
        from decode.stages.features import open_store

        return open_store(task.folder, self.stimuli_table, window)

    def is_done(self, task: Task) -> bool:
        return not self.missing_features(task) if task.stage.name == "features" else task.done


def check_stages(key: str, names: Sequence[str]) -> None:
    """Raise InputError for what is no list of names of stages."""
    check_list(key, names)
    for name in names:
        if name not in NAMES:
            near = difflib.get_close_matches(str(name), NAMES, 1)
            raise InputError(
                f"{key}: expected a stage out of {list(NAMES)}, got {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else f"; name one of them in {key}")
            )
