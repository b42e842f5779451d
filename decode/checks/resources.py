"""Whether the devices and files are there that the stages to be run will open."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from decode.building import PLACES
from decode.checks.frame import nodes
from decode.core import InputError, refusal
from decode.keys import NODES, Config
from decode.weights.reading import PACKAGE, choose_device, find_weights


def check_devices(config: Config) -> None:
    """Raise InputError for a device that is misspelt or not there."""
    _check_device(config["compute"]["device"], "compute.device")
    for where, node in nodes(config, NODES):
        if node.get("device") is not None:
            _check_device(node["device"], f"{where}.device")


def _check_device(device: Any, where: str) -> None:
    if device not in ("auto", "cpu"):  # which are always there
        choose_device(device, where)


def check_files(config: Config, opened: Collection[str]) -> None:
    """Raise InputError when a file or folder that a node of the keys `opened` names is not there."""
    data = f"{config['paths']['data']}/"
    for where, node in nodes(config, opened):
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
