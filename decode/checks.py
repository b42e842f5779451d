"""What can be found wrong in a config before any stage runs: kinds, names, numbers, devices, files."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from decode.building import PLACES, bound, build, check
from decode.core import ComparesPictures, Generator, InputError, Shape, about, refusal
from decode.kinds import defaults, fits, in_words, is_node, locate
from decode.knobs import cannot_be_text
from decode.scoring.rows import galleries
from decode.trainable import PRIOR, Objective, left_to_training
from decode.weights.reading import PACKAGE, choose_device, find_weights

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
# What stands in the keys of the config itself: plain values, one choice, perhaps one, and named ones.
PLAIN: Mapping[str, Any] = {
    "name": str,
    "notes": Sequence[str],
    "subjects": Sequence[str] | None,
    "force": Sequence[str],
    "until": str,
    "dry": bool,
    "debug": bool,
    "published": str | None,
    "paths": Mapping[str, str],
    "protocol": Mapping[str, Any],
    "compute": Mapping[str, str],
}
ONE = ("data", "preprocess", "scaler", "encoder", "trainer")
PERHAPS = ("generator", "voxel_model")
NAMED = ("splits", "targets", "baselines", "parts", "objectives", "metrics")
# Those whose function is called later, with arguments that only a stage has.
LATER = frozenset({"encoder", "splits", "baselines", "parts"})
CLASSES: Mapping[str, type] = {
    "data": object, "scaler": object, "trainer": object, "objectives": Objective, "generator": Generator,
}  # fmt: skip
GROUPS = {"splits": "split", "targets": "target", "baselines": "encoder", "parts": "part",
          "objectives": "objective", "metrics": "metric", "voxel_model": "target"}  # fmt: skip
CHOICES = {"data": "digits69", "preprocess": "betas", "scaler": "zscore", "trainer": "closed_form",
           "split": "kfold", "target": "pixels", "part": "regions", "objective": "mse",
           "metric": "retrieval", "generator": "pixels"}  # fmt: skip


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


def check_frame(config: Config) -> None:
    """Raise InputError where a key of the config itself holds something of another kind."""
    for key, kind in PLAIN.items():
        if key in config and not fits(config[key], kind):
            got, wanted = config[key], in_words(kind)
            listed = f"[{got if isinstance(got, str) else '...'}]"
            example = "true or false" if kind is bool else listed if "list" in wanted else "..."
            raise refusal(key, wanted, repr(got)[:200], f"write {key}={example}")
    for key in (*ONE, *PERHAPS):
        if config.get(key) is not None or key in ONE:
            _check_node(key, config.get(key), partial=key in LATER)
    for key in NAMED:
        named = config.get(key)
        if not isinstance(named, Mapping):
            raise refusal(
                key, "names, each with a choice", repr(named), f"add one by +{GROUPS[key]}@{key}.NAME=..."
            )  # fmt: skip
        for name, node in named.items():
            _check_node(f"{key}.{name}", node, partial=key in LATER)
    for key, kind in CLASSES.items():
        for where, node in _named(config, key):
            made = locate(node["_target_"], where)
            if not (isinstance(made, type) and issubclass(made, kind)):
                wanted = "a class" if kind is object else f"a class of {kind.__name__}s"
                raise refusal(f"{where}._target_", wanted, node["_target_"], "choose another one")
    if "device" not in config["compute"]:
        raise refusal(
            "compute.device", "auto, cpu, cuda or cuda:N", "none", "write compute.device=auto"
        )
    for key in ("data", "outputs"):
        _check_place(f"paths.{key}", config["paths"].get(key))


def _named(config: Config, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Key and node of a choice, or of each of named ones, not of those inside."""
    value = config.get(key)
    if isinstance(value, Mapping) and is_node(value):
        yield key, value
    elif value is not None:
        for name, node in value.items():
            yield f"{key}.{name}", node


def _check_node(where: str, node: Any, *, partial: bool) -> None:
    group = GROUPS.get(where.split(".")[0], where)
    if not is_node(node):
        raise refusal(
            where, "a choice with its arguments", repr(node)[:200],
            f"choose one by {group if where == group else f'{group}@{where}'}=..., for example "
            f"{CHOICES.get(group, 'ridge')}; decode --help lists them",
        )  # fmt: skip
    later = node.get("_partial_", False)
    wrong = later is not partial and where != "preprocess"  # which may be a class or a function
    if wrong or not isinstance(later, bool):
        raise refusal(
            f"{where}._partial_", str(partial).lower(), repr(later), "leave it as the choice has it"
        )
    if later:
        _check_given(where, node)


def _check_given(where: str, node: Mapping[str, Any]) -> None:
    """What stands in front of the knobs of a function that is called later is given by a stage."""
    for p in inspect.signature(locate(node["_target_"], where)).parameters.values():
        if p.name in node and p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty:
            key = f"{where}.{p.name}"
            raise refusal(key, "no value, the stage gives it", "one", f"leave {key} out")


def _check_place(where: str, place: Any) -> None:
    if not isinstance(place, str) or not place.strip() or cannot_be_text(place):
        raise refusal(where, "a folder", repr(place)[:120], f"write {where}=/path/to/folder")
    path = Path(place).expanduser()
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            raise refusal(
                where, "a folder", f"{place}, and {part} is a file", "choose another place"
            )


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
        raise refusal(key, "a list", repr(value), f"write {key}=[{value}]")


def check_subjects(asked: Any) -> None:
    """Raise InputError when the list of subjects is none, is empty, or names one twice."""
    check_list("subjects", asked)
    if not asked:
        raise refusal("subjects", "a list of one or more", "[]", "write subjects=null for all")
    twice = [s for i, s in enumerate(asked) if s in asked[:i]]
    if twice:
        raise refusal(
            "subjects", "each subject once", f"{twice[0]!r} twice", "leave one of them out"
        )


def check_filled(config: Config, stages: Collection[str]) -> None:
    """Raise InputError when nothing is named of what one of `stages` cannot do without."""
    for stage, key, example in (
        ("split", "splits", "+split@splits.kfold=kfold"),
        ("train", "targets", "+target@targets.image=tiny_clip"),
        ("evaluate", "metrics", "+metric@metrics.retrieval=retrieval"),
    ):
        if stage in stages and not config[key]:
            raise refusal(key, "one or more", "none", f"add one, for example {example}")


def check_encoders(config: Config) -> None:
    """Raise InputError for what an encoder refuses without seeing data."""
    for where, node in nodes(config, ("encoder", "baselines")):
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


def check_voxel_people(config: Config, manifest: pd.DataFrame) -> None:
    """Raise InputError, before training, when a model of the voxels has no training trials of someone."""
    if not config.get("voxel_model"):
        return
    for (split, fold), rows in manifest.groupby(["split", "fold"], sort=False):
        whose = {part: set(rows.loc[rows["part"] == part, "subject"]) for part in ("train", "test")}
        strangers = sorted(whose["test"] - whose["train"])
        if strangers:
            raise refusal(
                "voxel_model",
                "training trials of every tested subject, whose voxels it models",
                f"none of {strangers[0]} in fold {fold} of split {split}",
                "set voxel_model=null and leave brain_correlation out, or split within subjects",
            )


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


def check_learning(config: Config) -> None:
    """Raise InputError when an encoder would be scored with weights that nothing has fitted: neither
    `Encoder.initialise` nor an objective.
    """
    drawn = {name for names in (config["protocol"].get("drawn") or {}).values() for name in names}
    predicted = [name for name in config["targets"] if name not in drawn]
    taught: set[str] = set()
    for name, node in config["objectives"].items():
        of = locate(node["_target_"], f"objectives.{name}")
        if bound(node).get("weight") != 0:
            taught |= of.teaches(defaults(of) | node)
    for where, node in (*_named(config, "encoder"), *_named(config, "baselines")):
        asked = left_to_training(build(node, where), predicted)
        if not asked:
            continue
        encoder = f"{where} {short(node)}, which is trained step by step"
        if not config["trainer"].get("epochs", 1):
            raise refusal(
                "trainer.epochs", f"1 or more for {encoder}", 0,
                "choose trainer=default or set trainer.epochs, or choose an encoder that is solved in "
                "closed form, for example encoder=ridge",
            )  # fmt: skip
        for target, any_of in asked.items():
            if not any_of & taught:
                raise _untaught(encoder, target, any_of, config)


def _untaught(encoder: str, target: str, any_of: Collection[str], config: Config) -> InputError:
    needed = " or ".join(sorted(any_of))
    known = [name for name in any_of if name in config["targets"]]
    remedy = (
        f"add one, for example +objective@objectives.more=mse objectives.more.target={known[0]}, "
        f"or drop what it does not need (~target@targets.{known[0]})"
        if known
        else f"add the objective of {needed}, for example +objective@objectives.more="
        + ("prior" if PRIOR in any_of else "flow")
    )
    names = list(config["objectives"])
    return refusal(
        "objectives", f"one that teaches {needed}, for {target} of {encoder}",
        f"only {names}" if names else "none", remedy,
    )  # fmt: skip


def short(node: Mapping[str, Any]) -> str:
    """The name of a node's class."""
    return str(node["_target_"]).rpartition(".")[2]


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
