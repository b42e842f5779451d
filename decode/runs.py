"""Opening a finished run again, from Python or a notebook."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decode.checksums import MANIFEST, read_manifest
from decode.core import refusal
from decode.kinds import renewed
from decode.plan import short_name
from decode.store import is_finished, read_json
from decode.trust import check_trusted
from decode.workshop import Run

KEY = re.compile("[0-9a-f]{8}")
# What evaluate writes since sources lie apart; runs from before have none.
GLOSSARY = "glossary.json"


def recorded_run(folder: str | Path, *, packages: Sequence[str] = ()) -> Run:
    """The run whose folder the command printed: its config, data set, trials, features and folders.

    Its folders are found by the keys that it recorded: data that have changed or gone since, and newer
    code, lead to no others. It may come from a stranger: plug-ins of `packages`, and of those listed in
    the environment (see `decode.trust`), are built, others that do not come with this package are not.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise refusal(
            folder, "a run folder with config.json", "none", "give the path that `decode` prints"
        )
    config = renewed(read_json(path))
    check_trusted(config, path, packages)
    return Run(moved(config, Path(folder).resolve().parents[1]), recorded_plan(path.parent))


def check_current(folder: Path) -> None:
    """Raise InputError for a finished run of a version whose scores and files were called otherwise."""
    if is_finished(folder) and not (folder / GLOSSARY).is_file():
        raise refusal(
            folder,
            "a run of this version",
            "one of an older version, whose scores and files are called otherwise",
            "run its experiment again",
        )


def moved(config: Mapping[str, Any], outputs: Path) -> dict[str, Any]:
    """The config of a run that now lies in `outputs`, wherever it was made: what its data set writes
    (simulated recordings, pictures out of containers) is looked for, and written, there and nowhere else.
    """
    old, data = Path(str(config["paths"]["outputs"])), dict(config["data"])
    for key in {"root", "cache"} & set(data):
        place = Path(str(data[key]))
        if place.is_relative_to(old):
            data[key] = str(outputs / place.relative_to(old))
        elif key == "cache":
            data[key] = str(outputs / "stimuli" / short_name(data))
    return {**config, "data": data, "paths": {**config["paths"], "outputs": str(outputs)}}


def recorded_plan(folder: Path) -> list[str]:
    """The folders that a finished one came from, each as "stage:item:key"; [] where it does not say.

    Raises InputError for a key that is none, but would lead out of the outputs.
    """
    plan = [str(name) for name in (read_manifest(folder) or {}).get("plan", ())]
    for name in plan:
        key = name.rpartition(":")[2]
        if not KEY.fullmatch(key):
            raise refusal(
                folder / MANIFEST, "keys of 8 hexadecimal digits", repr(key), "run it again"
            )
    return plan


def newest_run(outputs: str | Path) -> Path:
    """The run folder that was finished last."""
    found = [p for p in (Path(outputs) / "report").glob("*-*") if is_finished(p)]
    if not found:
        raise refusal(outputs, "a finished run", "none", "run `decode` first")
    return max(found, key=lambda p: (p / "manifest.json").stat().st_mtime)
