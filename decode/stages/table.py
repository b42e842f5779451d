"""The stages: one row each, which the plan, the checks and the command read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    `needs` must be finished before; the config keys `reads` (and the keys of what it needs) make its key;
    the files and networks of those in `opens` are opened. `each` says of which config key it fills a
    folder each, "" is one in all. What an interrupted run left in the folder is gone on from where
    `resumes`. Without the key `only_with` there is no such stage, without a name in the key `lacks`, of
    which `example` adds one, it cannot run. A `version` goes up when the same config leaves something else.
    """

    name: str
    needs: tuple[str, ...]
    reads: tuple[str, ...]
    version: int = 1
    opens: tuple[str, ...] = ()
    each: str = ""
    resumes: bool = True
    only_with: str = ""
    lacks: str = ""
    example: str = ""


STAGES = (
    Stage("preprocess", (), ("data", "preprocess"), 4, ("preprocess",), each="subjects", resumes=False),
    Stage("split", ("preprocess",), ("splits",), resumes=False,
          lacks="splits", example="+split@splits.kfold=kfold"),
    Stage("features", ("preprocess",), ("targets",), 3, ("targets",), each="targets"),
    Stage(
        "train",
        ("preprocess", "split", "features"),
        ("scaler", "encoder", "baselines", "parts", "objectives", "trainer", "protocol", "seed"),
        3,
        ("encoder", "baselines", "objectives", "generator"),  # does the generator fit? asked before training
        lacks="targets", example="+target@targets.image=tiny_clip",
    ),
    Stage("predict", ("train",), ("protocol",), 4),
    Stage("reconstruct", ("predict",), ("generator", "seed"), 2, ("generator",), only_with="generator"),
    Stage("respond", ("reconstruct",), ("voxel_model",), 2, ("voxel_model",), resumes=False,
          only_with="voxel_model"),
    Stage("evaluate", ("predict", "reconstruct", "respond"), ("metrics", "protocol", "seed"), 3,
          ("metrics",), resumes=False, lacks="metrics", example="+metric@metrics.retrieval=retrieval"),
    Stage("report", ("evaluate", "reconstruct"), ("name", "notes", "published"), 3, resumes=False),
)  # fmt: skip
NAMES = tuple(stage.name for stage in STAGES)


def up_to(name: str) -> tuple[Stage, ...]:
    """The stages up to one and with it."""
    return STAGES[: NAMES.index(name) + 1]
