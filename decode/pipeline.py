"""The stages, what each reads, the keys of their folders, the plan, and running it.

A stage's key is a hash of its name and version, of the config nodes it reads with every default
written out, and of the keys of its inputs. Whatever a stage does not read - names, devices, where
things lie - does not change its key.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from decode.building import bound, build, locate
from decode.core import InputError, Objective
from decode.report.published import check_published
from decode.store import (
    FeatureStore,
    fill_folder,
    fingerprint,
    is_finished,
    read_json,
    read_table,
    set_aside,
)

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
    Stage("preprocess", (), ("data", "preprocess"), version=2, resumes=False),
    Stage("split", ("preprocess",), ("splits",), resumes=False),
    Stage("features", ("preprocess",), ("targets",)),
    Stage(
        "train",
        ("preprocess", "split", "features"),
        ("scaler", "encoder", "baselines", "parts", "objectives", "trainer", "protocol", "seed"),
    ),
    Stage("predict", ("train",), ("protocol",)),
    Stage("reconstruct", ("predict",), ("generator", "seed")),
    Stage("respond", ("reconstruct",), ("voxel_model",), resumes=False),
    Stage(
        "evaluate",
        ("predict", "reconstruct", "respond"),
        ("metrics", "protocol", "seed"),
        resumes=False,
    ),
    Stage("report", ("evaluate", "reconstruct"), ("name", "notes", "published"), resumes=False),
)
NAMES = tuple(stage.name for stage in STAGES)
PACKAGES = ("torch", "numpy", "mne", "nilearn", "diffusers", "open_clip_torch", "decode")


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
    """One composed config, the folders it leads to, and the objects it describes (built when used)."""

    def __init__(self, config: Config) -> None:
        self.config = config
        _known("until", [config["until"]])
        _known("force", config["force"])
        self.outputs = Path(config["paths"]["outputs"])
        self.dataset = build(config["data"], "data")
        self.subjects: tuple[str, ...] = self._subjects()
        check_brain(config)
        check_tuning(config)
        check_published(config)
        self.tasks = self._plan()

    def _subjects(self) -> tuple[str, ...]:
        asked = self.config["subjects"]
        known = tuple(self.dataset.subjects)
        unknown = [s for s in asked or () if s not in known]
        if unknown:
            raise InputError(
                f"subjects: expected some of {list(known)}, got {unknown[0]!r}; correct the list"
            )
        return tuple(asked) if asked else known

    def _files(self) -> str:
        """What tells this data set's files from others; a simulation is told by its arguments."""
        root = self.config["data"].get("root")
        return "" if self.dataset.facts.simulated or root is None else fingerprint(Path(root))

    def _plan(self) -> list[Task]:
        c = self.config
        tasks: list[Task] = []
        data = short_name(c["data"])
        files = self._files()
        for subject in self.subjects:
            tasks.append(self._task("preprocess", f"{data}_{subject}", tasks, subject, files))
        tasks.append(self._task("split", f"{data}_{'_'.join(c['splits'])}", tasks))
        for name, node in c["targets"].items():
            tasks.append(self._feature_task(name, node))
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
        key = digest_of([name, stage.version, nodes, inputs, item, more])
        folder = self._place(name, label, key)
        return Task(stage, label, key, folder, nodes, inputs, item)

    def _place(self, stage: str, label: str, key: str) -> Path:
        """Folders are found by their key: another label, as after renaming, finds the same one."""
        found = sorted((self.outputs / stage).glob(f"*-{key}"))
        return found[0] if found else self.outputs / stage / f"{label}-{key}"

    def _feature_task(self, name: str, node: Mapping[str, Any]) -> Task:
        """Keyed by the target alone: every experiment that uses it shares one growing folder."""
        stage = STAGES[NAMES.index("features")]
        kept = {k: v for k, v in bound(node).items() if k != "batch_size"}
        key = digest_of(["features", stage.version, kept])
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
        features = {t.label: FeatureStore(t.folder) for t in self.of("features")}
        manifest = read_table(self.of("split")[0].folder / "manifest.parquet")
        return Inputs(trials, self.digests, features, manifest)

    @cached_property
    def generator(self) -> Any:
        node = self.config["generator"]
        return build(node, "generator") if node else None

    @cached_property
    def encoders(self) -> dict[str, Any]:
        made = {"encoder": build(self.config["encoder"], "encoder")}
        for name, node in self.config["baselines"].items():
            made[name] = build(node, f"baselines.{name}")
        return made

    @cached_property
    def parts(self) -> dict[str, Any]:
        """Encoders of parts of the signal: `window=100ms`, `region=V1`, `prestimulus`."""
        if not self.config["parts"]:
            return {}
        from decode.parts import PartRidge

        layouts = self.inputs.trials.layouts
        made = {}
        for name, node in self.config["parts"].items():
            for label, part in build(node, f"parts.{name}")(layouts).items():
                made[f"{name}={label}" if label else name] = partial(PartRidge, part=part)
        return made

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
        return bool(FeatureStore(task.folder).missing(list(self.digests.values())))

    def is_done(self, task: Task) -> bool:
        return not self.missing_features(task) if task.stage.name == "features" else task.done


def execute(run: Run, *, until: str, force: Sequence[str], say: Callable[[str], None]) -> Path:
    """Do what is not yet done, up to `until`; returns the folder of the last stage."""
    _known("force", force)
    last = run.tasks[0].folder
    aside: set[Path] = set()
    for task in run.tasks:
        if NAMES.index(task.stage.name) > NAMES.index(until):
            break
        last = task.folder
        if task.stage.name in force and task.folder.exists() and task.folder not in aside:
            set_aside(task.folder)
        aside.add(task.folder)
        if run.is_done(task):
            continue
        start = time.perf_counter()
        _do(run, task)
        if task.stage.name == "report":
            from decode.stages.report import write_index

            write_index(run.outputs)
        say(f"{task.stage.name:<12} {task.label:<32} {time.perf_counter() - start:7.1f} s")
    return last


def check_brain(config: Config) -> None:
    """Raise InputError when a metric needs a model of the voxels, or the model pictures, in vain."""
    for name, node in config["metrics"].items():
        looks_at = getattr(locate(node["_target_"], f"metrics.{name}"), "looks_at", None)
        if looks_at == "brain" and not config.get("voxel_model"):
            raise InputError(
                f"metrics.{name} needs a model of the voxels, voxel_model is null; set it to a target "
                "that takes pictures, for example +target@voxel_model=pixels_8"
            )
    if config.get("voxel_model") and not config["generator"]:
        raise InputError(
            "voxel_model: expects the pictures of a generator, generator is null; set one or leave "
            "voxel_model out"
        )


def check_tuning(config: Config) -> None:
    """Raise InputError when an objective trains weights that the generator does not take."""
    node = config["generator"]
    if not node or getattr(locate(node["_target_"], "generator"), "tunable", False):
        return
    for name, objective in config["objectives"].items():
        if getattr(locate(objective["_target_"], f"objectives.{name}"), "tunes", False):
            raise InputError(
                f"objectives.{name} trains weights of the generator, generator {node['_target_']} "
                "takes none; choose the one that the objective belongs to or set it to null"
            )


def _known(key: str, names: Sequence[str]) -> None:
    import difflib

    for name in names:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1)
            raise InputError(
                f"{key}: expected a stage out of {list(NAMES)}, got {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )


def _do(run: Run, task: Task) -> None:
    if task.stage.name == "features":
        _features(run, task)
        return

    def fill(out: Path) -> dict[str, Any]:
        start = time.time()
        facts = FILL[task.stage.name](run, task, out)
        return {
            **provenance(run, task),
            "facts": facts,
            "seconds": round(time.time() - start, 2),
            "finished": time.strftime("%Y-%m-%d %H:%M"),
        }

    fill_folder(task.folder, fill, keep=task.stage.resumes)


def provenance(run: Run, task: Task) -> dict[str, Any]:
    """What a manifest says about where a folder comes from."""
    return {
        "key": task.key,
        "stage": task.stage.name,
        "config": task.nodes,
        "inputs": task.inputs,
        "seed": run.config["seed"],
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": {p: _version(p) for p in PACKAGES},
        **_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    """The commit of the checkout that runs, if it is one."""
    here = Path(__file__).resolve().parent
    try:

        def git(*words: str) -> str:
            return subprocess.run(
                ["git", "-C", str(here), *words],
                capture_output=True,
                text=True,
                timeout=5,
                check=True,
            ).stdout.strip()

        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "-uno")),
        }
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def _preprocess(run: Run, task: Task, out: Path) -> dict[str, Any]:
    from decode.stages import preprocess

    step = build(run.config["preprocess"], "preprocess")
    return preprocess.run(out, dataset=run.dataset, preprocess=step, subject=str(task.item))


def _split(run: Run, task: Task, out: Path) -> dict[str, Any]:
    from decode.stages import split
    from decode.trials import open_trials

    trials = open_trials({str(t.item): t.folder for t in run.of("preprocess")})
    splits = {k: build(v, f"splits.{k}") for k, v in run.config["splits"].items()}
    return split.run(out, trials=trials, stimuli=run.stimuli_table, splits=splits)


def _features(run: Run, task: Task) -> None:
    from decode.stages import features

    target = build(run.config["targets"][task.label], f"targets.{task.label}")
    features.run(
        task.folder,
        target=target,
        stimuli=run.dataset.stimuli(),
        digests=run.digests,
        name=task.label,
    )


def _train(run: Run, task: Task, out: Path) -> dict[str, Any]:
    from decode.stages import train

    return train.run(
        out,
        inputs=run.inputs,
        scaler=build(run.config["scaler"], "scaler"),
        encoders=run.encoders,
        parts=run.parts,
        objectives=run.objectives,
        trainer=build(run.config["trainer"], "trainer"),
        protocol=run.protocol,
        generator=run.generator,
        seed=run.config["seed"],
        device=run.device,
    )


def _predict(run: Run, task: Task, out: Path) -> dict[str, Any]:
    from decode.stages import predict

    return predict.run(
        out,
        inputs=run.inputs,
        trained=run.of("train")[0].folder,
        scaler=build(run.config["scaler"], "scaler"),
        encoders=run.encoders,
        parts=run.parts,
        protocol=run.protocol,
        device=run.device,
    )


def _reconstruct(run: Run, task: Task, out: Path) -> dict[str, Any]:
    from decode.stages import reconstruct

    return reconstruct.run(
        out,
        inputs=run.inputs,
        predicted=run.of("predict")[0].folder,
        trained=run.of("train")[0].folder,
        stimuli=run.dataset.stimuli(),
        generator=run.generator,
        baselines=tuple(run.config["baselines"]),
        seed=run.config["seed"],
    )


def _respond(run: Run, task: Task, out: Path) -> dict[str, Any]:
    from decode.stages import features, respond

    node = run.config["voxel_model"]
    target, store = build(node, "voxel_model"), run._feature_task("voxel_model", node).folder
    features.run(
        store,
        target=target,
        stimuli=run.dataset.stimuli(),
        digests=run.digests,
        name="voxel_model",
    )
    return respond.run(
        out,
        inputs=run.inputs,
        trained=run.of("train")[0].folder,
        scaler=build(run.config["scaler"], "scaler"),
        protocol=run.protocol,
        made=run.of("reconstruct")[0].folder,
        target=target,
        features=FeatureStore(store),
    )


def _evaluate(run: Run, task: Task, out: Path) -> dict[str, Any]:
    from decode.scalers import is_test_conditioned
    from decode.stages import evaluate

    scaler = build(run.config["scaler"], "scaler")
    return evaluate.run(
        out,
        predicted=run.of("predict")[0].folder,
        made=run.folder("reconstruct"),
        responses=run.folder("respond"),
        stimuli=run.dataset.stimuli(),
        metrics=build(run.config["metrics"], "metrics"),
        baselines=tuple(run.config["baselines"]),
        parts=tuple(run.parts),
        split=read_json(run.of("split")[0].folder / "split.json"),
        dataset=run.dataset,
        test_conditioned=run.protocol.test_conditioned or is_test_conditioned(scaler),
        seed=run.config["seed"],
    )


def _report(run: Run, task: Task, out: Path) -> dict[str, Any]:
    from decode.stages import report

    return report.run(
        out,
        config=run.config,
        dataset=run.dataset,
        stimuli=run.dataset.stimuli(),
        folders={t.stage.name: t.folder for t in run.tasks},
        artefacts=[
            {"stage": t.stage.name, "folder": str(t.folder.relative_to(run.outputs)), "key": t.key}
            for t in run.tasks
        ],
        versions={k: v for k, v in ((p, _version(p)) for p in PACKAGES) if v},
        disclosure=getattr(run.generator, "disclosure", ""),
    )


FILL: dict[str, Callable[[Run, Task, Path], dict[str, Any]]] = {
    "preprocess": _preprocess,
    "split": _split,
    "train": _train,
    "predict": _predict,
    "reconstruct": _reconstruct,
    "respond": _respond,
    "evaluate": _evaluate,
    "report": _report,
}
