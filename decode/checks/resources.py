"""Whether the devices, files and networks are there that the stages to be run will open."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from decode.building import PLACES
from decode.checks.choices import told
from decode.checks.frame import NODES, Config, nodes
from decode.core import Generator, InputError, Metric, refusal
from decode.media.medium import KINDS
from decode.weights.reading import PACKAGE, choose_device, find_weights

# Which nodes a stage opens; training checks that the generator fits before it begins.
OPENS: Mapping[str, tuple[str, ...]] = {
    "preprocess": ("preprocess",),
    "features": ("targets",),
    "train": ("encoder", "baselines", "objectives", "generator"),
    "reconstruct": ("generator",),
    "respond": ("voxel_model",),
    "evaluate": ("metrics",),
}


def check_devices(config: Config) -> None:
    """Raise InputError for a device that is misspelt or not there."""
    choose_device(config["compute"]["device"], "compute.device")
    for where, node in nodes(config, NODES):
        if node.get("device") is not None:
            choose_device(node["device"], f"{where}.device")


def check_files(config: Config, stages: Collection[str]) -> None:
    """Raise InputError when a file or folder that one of `stages` opens is not there."""
    data = f"{config['paths']['data']}/"
    for stage in stages:
        for where, node in nodes(config, OPENS.get(stage, ())):
            for name, value in node.items():
                if not isinstance(value, str) or name.startswith("_") or name in PLACES:
                    continue
                if value.startswith(PACKAGE):
                    find_weights(value)
                local = value.startswith(("/", "./", "../", "~", data))
                if local and not Path(value).expanduser().exists():
                    raise InputError(
                        f"{where}.{name}: expected a file or folder at {value}, found none; put it "
                        "there or correct the path"
                    )


def check_made(config: Config, stages: Collection[str]) -> None:
    """Raise InputError when a generator or metric that one of `stages` uses refuses its arguments, or
    the generator needs a target that the experiment has not. Networks are opened later.
    """
    if config["generator"] and {"train", "reconstruct"} & set(stages):
        generator = told("generator", config["generator"])
        if generator.makes not in KINDS:
            raise refusal(
                "generator",
                f"one that makes one of {list(KINDS)}",
                generator.makes,
                "choose another",
            )
        Generator.check(generator, dict.fromkeys(config["targets"], ()))
    if "evaluate" in stages:
        from decode.scoring.tidy import measures_of

        metrics = {k: told(f"metrics.{k}", node) for k, node in config["metrics"].items()}
        measures_of(metrics)
        for name, metric in metrics.items():
            _check_scored(f"metrics.{name}", metric, config)


def _check_scored(where: str, metric: Metric, config: Config) -> None:
    """Refuse a metric that cannot score what the generator makes."""
    if metric.looks_at != "media" or not config["generator"]:
        return
    makes = told("generator", config["generator"]).makes
    if makes not in metric.accepts:
        wanted = " or ".join(sorted(metric.accepts))
        raise refusal(
            where, f"a generator of {wanted}, which it scores", f"one of {makes}",
            f"drop it (~{where}) or choose a metric of {makes}",
        )  # fmt: skip


def check_rights(root: str | None) -> None:
    """Raise InputError for a folder of data, or one directly in it, that may not be read: readers would
    take what lies there for missing.
    """
    place = Path(str(root or ""))  # a folder may be called 7
    if root is None or not place.is_dir():
        return
    folders = (
        [place, *(p for p in sorted(place.iterdir()) if p.is_dir())] if _open(place) else [place]
    )
    if closed := [p for p in folders if not _open(p)]:
        raise refusal(
            f"data.root: {closed[0]}",
            "a folder that may be read",
            "no permission",
            "ask its owner for it (chmod g+rX)",
        )


def _open(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)
