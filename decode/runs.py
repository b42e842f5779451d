"""Opening a finished run again, from Python or a notebook."""

from __future__ import annotations

from pathlib import Path

from decode.checksums import read_manifest
from decode.core import InputError
from decode.plan import Run
from decode.store import is_finished, read_json


def open_run(folder: str | Path) -> Run:
    """The run whose folder the command printed: its config, data set, trials, features and folders.

    Its folders are found by the keys that it recorded: data that have changed or gone since, and newer
    code, lead to no others.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise InputError(
            f"expected a run folder with config.json, got {folder}; give the path that `decode` prints"
        )
    config = read_json(path)
    # The run may have been moved since: its outputs are the folder it lies in.
    config["paths"]["outputs"] = str(Path(folder).resolve().parents[1])
    return Run(config, recorded_plan(path.parent))


def recorded_plan(folder: Path) -> list[str]:
    """The folders that a finished one came from, each as "stage:item:key"; [] where it does not say."""
    return list((read_manifest(folder) or {}).get("plan", ()))


def newest_run(outputs: str | Path) -> Path:
    """The run folder that was finished last."""
    found = [p for p in (Path(outputs) / "report").glob("*-*") if is_finished(p)]
    if not found:
        raise InputError(f"{outputs} holds no finished run; run `decode` first")
    return max(found, key=lambda p: (p / "manifest.json").stat().st_mtime)
