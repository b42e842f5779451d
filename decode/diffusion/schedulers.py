"""Schedulers by name: any one of diffusers in place of the one that a model was published with."""

from __future__ import annotations

import inspect
from typing import Any

from decode.core import refusal

SPACINGS = ("leading", "linspace", "trailing")


def find_scheduler(name: str) -> type[Any]:
    """The scheduler class of diffusers called `name`; InputError for anything else."""
    import diffusers

    kind = getattr(diffusers, name, None) if name.isidentifier() else None
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise refusal(
            "generator.scheduler",
            "the name of a scheduler of diffusers",
            repr(name),
            "choose one, such as UniPCMultistepScheduler or DDIMScheduler, or null for the model's own",
        )
    return kind


def check_scheduler(name: str | None, spacing: str | None) -> None:
    """Raise InputError for what is no scheduler and for a spacing that is none, or none of its own."""
    if spacing is not None and spacing not in SPACINGS:
        raise refusal(
            "generator.spacing", f"null or one of {list(SPACINGS)}", repr(spacing), "choose one"
        )
    kind = None if name is None else find_scheduler(name)
    if kind is not None and spacing is not None:
        _check_spacing(kind, spacing)


def choose_scheduler(own: Any, name: str | None, spacing: str | None) -> Any:
    """The scheduler called `name` with the noise levels of the model's `own`, which null keeps;
    `spacing` says which of the training's steps are taken.

    What the model's folder leaves open is the named scheduler's default, not that of `own`; but latents
    are not clipped to [-1, 1], which some schedulers do unless told otherwise.
    """
    if name is None and spacing is None:
        return own
    kind = type(own) if name is None else find_scheduler(name)
    known = inspect.signature(kind.__init__).parameters
    said: dict[str, Any] = {}
    if "clip_sample" in known and "clip_sample" not in own.config:
        said["clip_sample"] = False
    if spacing is None:
        return kind.from_config(own.config, **said)
    _check_spacing(kind, spacing)
    return kind.from_config(own.config, **said, timestep_spacing=spacing)


def _check_spacing(kind: type[Any], spacing: str) -> None:
    if "timestep_spacing" not in inspect.signature(kind.__init__).parameters:
        raise refusal(
            "generator.spacing",
            f"null for {kind.__name__}, which spaces its steps in one way",
            repr(spacing),
            "set spacing to null or choose another scheduler",
        )
