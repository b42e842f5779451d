"""Running a plan: every folder that is not finished is filled by its stage."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from decode.building import build
from decode.checksums import check_folder
from decode.core import refusal
from decode.events import events_of
from decode.machine import DISTRIBUTION
from decode.notices import collected
from decode.plan import Task, check_stages
from decode.stages.table import NAMES
from decode.store import MANIFEST, fill_folder, read_json, set_aside
from decode.workshop import Run

PACKAGES = ("torch", "numpy", "mne", "nilearn", "diffusers", "open_clip_torch", DISTRIBUTION)


def execute(run: Run, *, until: str, force: Sequence[str], say: Callable[[str], None]) -> Path:
    """Do what is not yet done, up to `until`; returns the folder of the last stage."""
    check_stages("force", force)
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


def _do(run: Run, task: Task) -> None:
    if task.stage.name == "features":
        _features(run, task)
        return

    for before in _up_to(run, task)[:-1]:
        check_folder(before.folder)

    def fill(out: Path) -> dict[str, Any]:
        start = time.time()
        with collected() as told:
            facts = FILL[task.stage.name](run, task, out)
        return {
            **provenance(run, task),
            "facts": facts,
            "told": told,
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
        "plan": [f"{t.stage.name}:{t.item}:{t.key}" for t in _up_to(run, task)],
        "seed": run.config["seed"],
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": {p: _version(p) for p in PACKAGES},
        **_commit(),
    }


def _up_to(run: Run, task: Task) -> list[Task]:
    """The tasks of the plan up to this one."""
    return run.tasks[: 1 + [t.folder for t in run.tasks].index(task.folder)]


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
    return split.run(out, trials=trials, stimuli=run.stimuli_table, splits=run.splits)


def _features(run: Run, task: Task) -> None:
    from decode.stages import features

    target = build(run.config["targets"][task.label], f"targets.{task.label}")
    features.run(
        task.folder,
        target=target,
        stimuli=run.stimuli,
        table=run.stimuli_table,
        name=task.label,
        events=events_of(run.trials_table) if features.TRIAL in target.reads else None,
    )


def _train(run: Run, task: Task, out: Path) -> dict[str, Any]:
    from decode.stages import train

    return train.run(
        out,
        inputs=run.inputs,
        scaler=run.scaler,
        encoders=run.encoders,
        parts=run.parts,
        objectives=run.objectives,
        trainer=run.trainer,
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
        scaler=run.scaler,
        encoders=run.encoders,
        parts=run.parts,
        protocol=run.protocol,
        device=run.device,
    )


def _reconstruct(run: Run, task: Task, out: Path) -> dict[str, Any]:
    from decode.stages import reconstruct

    assert run.generator is not None  # there is no such task without one
    return reconstruct.run(
        out,
        inputs=run.inputs,
        predicted=run.of("predict")[0].folder,
        trained=run.of("train")[0].folder,
        stimuli=run.stimuli,
        generator=run.generator,
        sources=tuple(run.encoders),
        seed=run.config["seed"],
    )


def _respond(run: Run, task: Task, out: Path) -> dict[str, Any]:
    from decode.encoders.encoding_ridge import EncodingRidge
    from decode.stages import features, respond

    node = run.config["voxel_model"]
    target, kept = build(node, "voxel_model"), run.feature_task("voxel_model", node)
    if features.TRIAL in target.reads:
        raise refusal(
            "voxel_model", "a target that reads what was shown", "one that reads trials",
            "choose another, for example +target@voxel_model=pixels_8",
        )  # fmt: skip
    features.run(
        kept.folder,
        target=target,
        stimuli=run.stimuli,
        table=run.stimuli_table,
        name="voxel_model",
    )
    return respond.run(
        out,
        inputs=run.inputs,
        trained=run.of("train")[0].folder,
        scaler=run.scaler,
        protocol=run.protocol,
        made=run.of("reconstruct")[0].folder,
        sources=tuple(run.encoders),
        target=target,
        features=run.store(kept),
        make=EncodingRidge,
    )


def _evaluate(run: Run, task: Task, out: Path) -> dict[str, Any]:
    from decode.stages import evaluate

    return evaluate.run(
        out,
        predicted=run.of("predict")[0].folder,
        made=run.folder("reconstruct"),
        responses=run.folder("respond"),
        stimuli=run.stimuli,
        metrics=run.metrics,
        sources=(*run.encoders, *run.parts),
        split=read_json(run.of("split")[0].folder / "split.json"),
        dataset=run.dataset,
        test_conditioned=run.protocol.test_conditioned or run.scaler.test_conditioned,
        averaged=run.protocol.test_repeats != "single",
        seed=run.config["seed"],
    )


def _report(run: Run, task: Task, out: Path) -> dict[str, Any]:
    from decode.stages import report

    return report.run(
        out,
        config=run.config,
        dataset=run.dataset,
        stimuli=run.stimuli,
        folders={t.stage.name: t.folder for t in run.tasks},
        artefacts=[
            {"stage": t.stage.name, "folder": str(t.folder.relative_to(run.outputs)), "key": t.key}
            for t in run.tasks
        ],
        versions={k: v for k, v in ((p, _version(p)) for p in PACKAGES) if v},
        disclosure=run.generator.disclosure if run.generator else "",
        told=[line for t in run.tasks if t.done for line in _told(t)],
    )


def _told(task: Task) -> list[str]:
    """What the user was told while the folder of a task was filled."""
    told: list[str] = read_json(task.folder / MANIFEST).get("told", [])
    return told


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
