"""Whether a value of a config is of the kind that an annotation asks for, and in which words."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from decode.core import refusal

SCALARS: Mapping[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    str: ((str, int), "text"),  # a name may look like a number
    Path: ((str, int), "a file or folder"),
    NoneType: ((NoneType,), "null"),
}
# Where classes lay before, and where they lie now: configs of older runs are read as well.
MOVED: Mapping[str, str] = {
    "decode.networks.energies.Energy": "decode.diffusion.energies.Energy",
    "decode.networks.energies.PictureDistance": "decode.diffusion.energies.PictureDistance",
    "decode.networks.energies.EmbeddingDistance": "decode.diffusion.energies.EmbeddingDistance",
    "decode.networks.energies.OpenClipTower": "decode.diffusion.energies.OpenClipTower",
    "decode.networks.energies.VersatileTower": "decode.diffusion.energies.VersatileTower",
    "decode.scalers.Unscaled": "decode.scalers.unscaled.Unscaled",
    "decode.scalers.ZScore": "decode.scalers.zscore.ZScore",
    "decode.scalers.Robust": "decode.scalers.robust.Robust",
    "decode.scalers.Whiten": "decode.scalers.whiten.Whiten",
    "decode.normalisation.ZScoreOfImages": "decode.scalers.averaged_images.ZScoreOfImages",
    "decode.normalisation.ZScoreWithTest": "decode.scalers.zscore.ZScoreWithTest",
    "decode.reliability.ReliableVoxels": "decode.scalers.reliable_voxels.ReliableVoxels",
    "decode.splits.published": "decode.splits.published.published",
    "decode.splits.kfold": "decode.splits.kfold.kfold",
    "decode.splits.leave_one_out": "decode.splits.leave_one_out.leave_one_out",
    "decode.parts.regions": "decode.parts.regions.regions",
    "decode.parts.windows": "decode.parts.windows.windows",
    "decode.parts.before_stimulus": "decode.parts.before_stimulus.before_stimulus",
    "decode.objectives.cycle.Cycle": "decode.objectives.own.Own",
    "decode.objectives.flow.Flow": "decode.objectives.own.Own",
    "decode.objectives.prior.Prior": "decode.objectives.own.Own",
}


def renewed(config: Any) -> Any:
    """A config in which every class is named as it is found today."""
    if isinstance(config, list):
        return [renewed(v) for v in config]
    if not isinstance(config, Mapping):
        return config
    new = {k: renewed(v) for k, v in config.items()}
    if isinstance(name := new.get("_target_"), str):
        new["_target_"] = MOVED.get(name, name)
    return new


def locate(path: Any, where: str) -> Any:
    """The object behind a dotted path."""
    if not isinstance(path, str):
        raise refusal(
            f"config.{where}", "text as _target_", repr(path),
            "write the dotted path of a class or function",
        )  # fmt: skip
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as e:
        raise refusal(
            f"config.{where}", "an importable _target_", f"{path!r} ({e})",
            "write the dotted path of a class or function",
        ) from e  # fmt: skip
    if not callable(found):
        raise refusal(
            f"config.{where}", "a _target_ that can be called", repr(path),
            "write the dotted path of a class or function",
        )  # fmt: skip
    return found


def hints(target: Any) -> dict[str, Any]:
    """What annotations say of the arguments; nothing where they name what only a checker imports."""
    # Fields of a dataclass may come from another module, where their names are known.
    plain = isinstance(target, type) and not is_dataclass(target)
    try:
        return get_type_hints(target.__init__ if plain else target)
    except (NameError, TypeError, AttributeError):
        return {}


def defaults(of: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of `of` that have a default, and these."""
    every = inspect.signature(of).parameters.values()
    return {p.name: p.default for p in every if p.default is not p.empty}


def is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _grouped(hint: Any, kind: type) -> bool:
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, kind)


def _is_made(hint: Any) -> bool:
    """Whether the annotation asks for something that only a node can make."""
    if get_origin(hint) is Callable or _grouped(hint, Callable):  # type: ignore[arg-type]
        return True
    return isinstance(hint, type) and hint not in (object, Any)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a config can be what the annotation says; yes where it cannot be told."""
    origin, inside = get_origin(hint), get_args(hint)
    if value == "???":
        return True  # another check's business
    if origin in (Union, UnionType):
        return any(fits(value, h) for h in inside)
    if hint in SCALARS:
        return isinstance(value, SCALARS[hint][0]) and isinstance(value, bool) <= (hint is bool)
    if origin is Literal:
        return any(value == word and type(value) is type(word) for word in inside)
    if _grouped(hint, Mapping):
        named = isinstance(value, Mapping) and not is_node(value)
        return named and all(fits(v, inside[1]) for v in value.values())
    if _grouped(hint, Sequence):
        each = inside[:1] if len(inside) == 1 or Ellipsis in inside else inside
        listed = isinstance(value, list | tuple)
        counted = listed and len(each) in (1, len(value))
        return counted and all(fits(v, each[i % len(each)]) for i, v in enumerate(value))
    return not _is_made(hint) or (is_node(value) and _makes(value, hint))


def _makes(node: Mapping[str, Any], hint: Any) -> bool:
    """Whether the class of a node is the one asked for; yes where a function or a protocol is."""
    target = locate(node["_target_"], "node")
    told = isinstance(hint, type) and isinstance(target, type)
    if not told or getattr(hint, "_is_protocol", False):
        return True
    return issubclass(target, hint)


def in_words(hint: Any) -> str:
    """The annotation as a refusal says it."""
    origin, inside = get_origin(hint), get_args(hint)
    if hint in SCALARS:
        return SCALARS[hint][1]
    if origin in (Union, UnionType):
        return " or ".join(in_words(h) for h in inside)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inside))
    if _grouped(hint, Mapping):
        return f"names, each with {in_words(inside[1])}"
    if _grouped(hint, Sequence):
        return f"a list of {in_words(inside[0])} in [brackets]"
    if isinstance(hint, type):
        return f"a choice that makes a {hint.__name__}"
    return "a choice with its arguments" if _is_made(hint) else "a value"


def as_annotated(value: Any, hint: Any) -> Any:
    """A whole number where the annotation asks for text or for a number with a fraction becomes one."""
    origin, inside = get_origin(hint), get_args(hint)
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and origin in (Union, UnionType):
        kept = int in inside
        return (
            value
            if kept
            else next((as_annotated(value, h) for h in inside if fits(value, h)), value)
        )
    if isinstance(value, int):
        return str(value) if hint is str else float(value) if hint is float else value
    if origin in (Union, UnionType):
        return next((as_annotated(value, h) for h in inside if fits(value, h)), value)
    if isinstance(value, list | tuple) and _grouped(hint, Sequence) and inside:
        each = inside[:1] if len(inside) == 1 or Ellipsis in inside else inside
        return [as_annotated(v, each[i % len(each)]) for i, v in enumerate(value)]
    if isinstance(value, Mapping) and _grouped(hint, Mapping) and not is_node(value):
        return {k: as_annotated(v, inside[1]) for k, v in value.items()}
    return value
