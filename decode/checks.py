"""What can be found wrong in a config before any stage runs: kinds, names, numbers, devices, files."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from decode.building import PLACES, bound, build, check, locate
from decode.core import ComparesPictures, Generator, InputError, Shape, about, refusal
from decode.networks.weights import PACKAGE, choose_device, find_weights
from decode.scoring.rows import galleries

Config = Mapping[str, Any]
NODES = (
    "data", "preprocess", "scaler", "splits", "targets", "encoder", "baselines", "parts", "objectives",
    "trainer", "generator", "voxel_model", "metrics",
)  # fmt: skip
# Which nodes a stage opens; training checks that the generator fits before it begins.
OPENS: Mapping[str, tuple[str, ...]] = {
    "preprocess": ("preprocess",),
    "features": ("targets",),
    "train": ("encoder", "baselines", "objectives", "generator"),
    "reconstruct": ("generator",),
    "respond": ("voxel_model",),
    "evaluate": ("metrics",),
}
# Arguments of an objective that name a target, which is predicted or compared with.
NAMING = ("target", "other", "image", "latents", "text", "hint")
LARGEST_SEED = 2**32 - 1


def check_config(config: Config) -> None:
    """Raise InputError for a mistake that can be seen in the config alone."""
    for name in NODES:
        check(config.get(name), name)
    check({"_target_": "decode.folds.Protocol", **config["protocol"]}, "protocol")
    check_seed(config["seed"])
    build({"_target_": "decode.folds.Protocol", **config["protocol"]}, "protocol")
    for name in ("trainer", "scaler", "splits"):
        build(config[name], name)
    check_encoders(config)
    check_names(config)
    check_brain(config)
    check_tuning(config)


def nodes(value: Any, keys: Collection[str] | None = None, where: str = "") -> Iterator[Any]:
    """(key, node) of every node with a `_target_`, those inside others too; below `keys` only."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield where, value
        for key, inside in value.items():
            if keys is None or key in keys:
                yield from nodes(inside, None, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for number, inside in enumerate(value):
            yield from nodes(inside, None, f"{where}.{number}")


def check_seed(seed: Any) -> None:
    whole = isinstance(seed, int) and not isinstance(seed, bool)
    if not whole or not 0 <= seed <= LARGEST_SEED:
        raise InputError(
            f"seed: expected a whole number from 0 to {LARGEST_SEED}, got {seed!r}; correct it"
        )


def check_list(key: str, value: Any) -> None:
    """Raise InputError when one name stands where a list of names belongs."""
    if not isinstance(value, list | tuple):
        raise InputError(f"{key}: expected a list, got {value!r}; write {key}=[{value}]")


def check_encoders(config: Config) -> None:
    """Raise InputError for sizes below 0, and for what an encoder refuses without seeing data."""
    for where, node in nodes(config, ("encoder", "baselines")):
        for name, value in bound(node).items():
            for number in value if isinstance(value, list) else [value]:
                size = isinstance(number, float) and number.is_integer()
                if size and number < 0 and isinstance(node.get(name), int | list):
                    raise InputError(
                        f"{where}.{name}: expected 0 or more, got {node[name]!r}; correct it"
                    )
        refuses = getattr(locate(node["_target_"], where), "check_node", None)
        if refuses is not None:
            refuses(node, where)


def check_names(config: Config) -> None:
    """Raise InputError where an encoder, a part, an objective or a metric names no target."""
    known = list(config["targets"])
    known = [name for name in known if name not in _drawn(config, known)]
    for where, node in nodes(config, ("encoder", "baselines")):
        _check_target(f"{where}.target", bound(node).get("target"), known)
    for where, node in nodes(config, ("parts",)):
        for name in node.get("targets") or ():
            _check_target(f"{where}.targets", name, known)
    for where, node in nodes(config, ("objectives",)):
        for key in NAMING:
            _check_target(f"{where}.{key}", bound(node).get(key), known)
        if not getattr(locate(node["_target_"], where), "tunes", False):  # those open a generator
            _told(where, node)
    for name, node in config["metrics"].items():
        where = f"metrics.{name}"
        if getattr(locate(node["_target_"], where), "looks_at", None) == "predictions":
            _check_target(f"{where}.target", bound(node).get("target"), known)


def _drawn(config: Config, known: Sequence[str]) -> set[str]:
    """The targets that stand for others in training by gradient, and nowhere else."""
    drawn = config["protocol"].get("drawn") or {}
    for target, names in drawn.items():
        where = f"protocol.drawn.{target}"
        if not names or set(names) & set(drawn):
            raise refusal(
                where, "a list of other targets, which are drawn in its place", names, "correct it"
            )
        for name in (target, *names):
            _check_target(where, name, known)
    return {name for names in drawn.values() for name in names}


def _check_target(where: str, name: Any, known: Sequence[str]) -> None:
    if not isinstance(name, str) or name in known:
        return
    near = difflib.get_close_matches(name, known, 1)
    raise InputError(
        f"{where}: expected a target of the experiment, one of {sorted(known)}, got {name!r}; "
        + (f"did you mean {near[0]!r}?" if near else "correct it or add a target of that name")
    )


def _told(where: str, node: Mapping[str, Any]) -> Any:
    """The object of a node; what it refuses is told with the node's key."""
    try:
        return build(node, where)
    except InputError as e:
        raise e if where in str(e) else InputError(f"{where}: {e}") from e


def check_devices(config: Config) -> None:
    """Raise InputError for a device that is misspelt or not there."""
    choose_device(config["compute"]["device"], "compute.device")
    for where, node in nodes(config, NODES):
        if isinstance(node.get("device"), str):
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
        generator = _told("generator", config["generator"])
        Generator.check(generator, dict.fromkeys(config["targets"], ()))
    if "evaluate" in stages:
        for name, node in config["metrics"].items():
            _told(f"metrics.{name}", node)


def check_galleries(config: Config, trials: pd.DataFrame, manifest: pd.DataFrame) -> None:
    """Raise InputError, before training, when a metric asks for more rivals than a gallery has.

    `trials` is the table of single trials, `manifest` says which of its rows are in which part.
    """
    test = manifest[manifest["part"] == "test"]
    rows = trials.iloc[test["row"].to_numpy()].reset_index(drop=True)
    rows = rows.assign(split=test["split"].to_numpy(), fold=test["fold"].to_numpy())
    for name, node in config["metrics"].items():
        asked = max(bound(node).get("n_way") or [0])
        within = node.get("within", bound(node).get("within"))
        # Columns that only predictions have are left to the metric.
        if not asked or within is None or not len(rows) or not set(within) <= set(rows.columns):
            continue
        fewest = min(galleries(rows, within), key=lambda g: g.n_stimuli)
        if fewest.n_stimuli < asked:
            first = rows.iloc[fewest.rows[0]]
            here = ", ".join(f"{c} {first[c]}" for c in within)
            raise InputError(
                f"metrics.{name}.n_way: {asked:g}-way needs {asked:g} different test stimuli, {here} has "
                f"{fewest.n_stimuli}; lower n_way, use other columns in metrics.{name}.within or give "
                "the data more test trials"
            )


def check_picture_sizes(config: Config, stimuli: pd.DataFrame, shapes: Mapping[str, Shape]) -> None:
    """Raise InputError, before training, when a metric cannot compare pictures of the sizes that there
    are: those shown, `height` and `width` in the table of stimuli, and those that will be made.
    """
    pictures = stimuli[stimuli["height"] > 0]
    if not config["generator"] or pictures.empty:
        return
    pairs = pictures[["height", "width"]].drop_duplicates().itertuples(index=False)
    shown = {(int(height), int(width)) for height, width in pairs}
    generator: Generator = build(config["generator"], "generator")
    if generator.makes != "image":
        return
    made = generator.size_of(shapes)
    for name, node in config["metrics"].items():
        metric = build(node, f"metrics.{name}")
        if isinstance(metric, ComparesPictures):
            with about(f"metrics.{name}"):
                metric.check_sizes(shown, made)


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
