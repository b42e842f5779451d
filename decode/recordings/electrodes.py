"""Where BIDS says that the contacts of an intracranial recording lie: electrodes.tsv and coordsystem.json.

Read here and not by MNE-BIDS, which takes millimetres for centimetres where the unit is n/a and finds no
positions where electrodes are given in two spaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from decode.core import refusal
from decode.notices import tell
from decode.recordings.json_files import read_json_object
from decode.recordings.names import meant
from decode.recordings.sidecars import sidecar
from decode.recordings.tables import check_columns, numbers, read_words

# What makes metres of a unit of BIDS; of the others nothing does.
METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3}
NO_LENGTH = ("pixels", "n/a")
# m; a head is smaller, and its contacts farther apart than in any unit that was taken for a larger one.
FARTHEST = 1.0
AXES = ["x", "y", "z"]
CONTACTS = ("seeg", "ecog", "dbs")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is wanted of electrodes.tsv: that of which `space` (None: the only one there is), and which
    columns say the region, the first that says anything.
    """

    space: str | None = None
    regions: tuple[str, ...] = ()


def contacts_of(path: Path, root: Path, asked: Asked) -> pd.DataFrame | None:
    """What electrodes.tsv says of the contacts of the recording at `path`; None where there is no such table.

    Raises InputError for a table without the columns that BIDS or `asked` want, for contacts named twice,
    an unknown unit, positions that no head has, and where something is asked for and there is no table.
    """
    file = electrodes_file(path, root, asked.space)
    if file is not None:
        return read_electrodes(file, path, root, asked)
    if asked.regions or asked.space is not None:
        raise refusal(
            path, "electrodes.tsv, of which data.region_columns or data.space speak", "none",
            "add it, or leave both out",
        )  # fmt: skip
    return None


def with_contacts(
    channels: pd.DataFrame, contacts: pd.DataFrame, path: Path, *, positions: bool
) -> pd.DataFrame:
    """The channel table of the recording at `path` with the region, the group (shaft, strip or grid) and,
    with `positions`, the place of each channel's contact.

    Channels without a contact keep nan and "", and the user is told.
    """
    made = channels.reset_index(drop=True)
    names = made["name"].astype(str)
    unknown = names[~names.isin(contacts.index) & made["kind"].isin(CONTACTS)]
    if len(unknown):
        some = ", ".join(unknown[:8]) + (", ..." if len(unknown) > 8 else "")
        tell(path, f"electrodes.tsv has no row for {some}: without position and region")
    found = contacts.reindex(names).reset_index(drop=True)
    if positions:
        made[AXES] = found[AXES].to_numpy(float)
    for column in ("roi", "group"):
        if column in found:
            made[column] = found[column].fillna("")
    return made


def read_electrodes(file: Path, path: Path, root: Path, asked: Asked) -> pd.DataFrame:
    """x, y, z (m), roi and, where the table has it, group of each contact, by name."""
    words = read_words(file)
    remedy = "add the column {}, n/a where nothing is known"
    check_columns(file, words, ["name", *AXES], remedy)
    check_columns(file, words, asked.regions, "correct data.region_columns")
    twice = words["name"][words["name"].duplicated()]
    if len(twice) or words["name"].isna().any():
        got = f"{twice.iloc[0]!r} twice" if len(twice) else "none in a row"
        raise refusal(file, "the name of each contact once", got, "correct the table")
    table = words.set_index("name", drop=False)
    made = pd.DataFrame({"roi": _first(table, asked.regions)}, index=table.index)
    if "group" in table:
        made["group"] = table["group"]
    factor = _metres(file, path, root)
    for axis in AXES:
        made[axis] = numbers(file, words, axis) * factor
    far = made[AXES].abs().max(axis=1) > FARTHEST
    if far.any():
        raise refusal(
            file, "contacts within a metre of the origin",
            f"{float(made[AXES].abs().to_numpy()[far].max()):g} m for {str(made.index[far][0])!r}",
            "correct iEEGCoordinateUnits in coordsystem.json",
        )  # fmt: skip
    return made


def _first(table: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """For each row the first of the columns that says anything, else ""."""
    rows = table[list(columns)].to_numpy(object)
    return [next((str(w) for w in row if w is not None), "") for row in rows]


def _metres(file: Path, path: Path, root: Path) -> float:
    """What makes metres of the positions in the table; nan where nothing does, and the user is told."""
    space = meant(file).get("space")
    place = sidecar(in_space(path, space), root, "coordsystem.json")
    if place is None:
        tell(file, "no coordsystem.json says its unit: positions are left out")
        return np.nan
    unit = read_json_object(place).get("iEEGCoordinateUnits")
    if unit in METRES:
        return METRES[unit]
    if unit not in NO_LENGTH:
        raise refusal(
            place, f"iEEGCoordinateUnits, one of {', '.join([*METRES, *NO_LENGTH])}", repr(unit),
            "write the unit of the positions there",
        )  # fmt: skip
    tell(place, f"positions are in {unit}, of which nothing makes metres: left out")
    return np.nan


def electrodes_file(path: Path, root: Path, space: str | None) -> Path | None:
    """The electrodes.tsv of that space that applies to the recording, if there is one.

    Raises InputError where several spaces are there and none is chosen, and where another is.
    """
    there = spaces(path, root)
    if space is None and "" not in there and len(there) > 1:
        raise refusal(
            path, "one space of electrodes.tsv", ", ".join(there), f"set data.space={there[0]}"
        )
    if space is not None and there and space not in there:
        known = ", ".join(s or "null" for s in there)
        raise refusal(path, f"electrodes.tsv in space {space}", known, "correct data.space")
    if space is None and "" not in there and there:
        space = there[0]
    return sidecar(in_space(path, space), root, "electrodes.tsv")


def spaces(path: Path, root: Path) -> list[str]:
    """The spaces of the electrodes.tsv that apply to a recording, "" for a name without one, in order."""
    own, found, folder = meant(path), set(), path.parent
    while True:
        for candidate in folder.glob("*electrodes.tsv"):
            theirs = meant(candidate)
            space = theirs.pop("space", "")
            if theirs.items() <= own.items():
                found.add(space)
        if folder in (root, folder.parent):
            return sorted(found)
        folder = folder.parent


def in_space(path: Path, space: str | None) -> Path:
    """A name for the recording by which sidecars of that space apply to it; no file need have it."""
    if space is None:
        return path
    head, _, suffix = path.name.rpartition("_")
    return path.with_name(f"{head}_space-{space}_{suffix}")
