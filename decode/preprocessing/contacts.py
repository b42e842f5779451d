"""Which contacts belong together, and which of them are neighbours."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from decode.core import Recording, refusal

ELECTRODES = ("eeg", "ecog", "seeg", "dbs")
# As in LA12, A'3, TO-4 or grid_07: a shaft, strip or grid, and the number of a contact on it.
_CONTACT = re.compile(r"^(.*?)[\s_-]*(\d+)$")


def contact_of(name: str) -> tuple[str, int | None]:
    """The shaft, strip or grid that a contact's name says, and its number there, None where it has none."""
    found = _CONTACT.match(name)
    return (found[1], int(found[2])) if found else (name, None)


def group_names(channels: pd.DataFrame) -> np.ndarray:
    """(channel,) shaft, strip or grid of each: the column `group`, or what the name says."""
    by_name = [contact_of(str(name))[0] for name in channels["name"]]
    if "group" not in channels:
        return np.array(by_name, dtype=object)
    said = channels["group"].fillna("").astype(str)
    return np.array([g or n for g, n in zip(said, by_name, strict=True)], dtype=object)


def grouped(recording: Recording, by: str, mine: np.ndarray) -> dict[str, np.ndarray]:
    """Channel numbers of each value of `by` ("group", or a column of the channel table) among `mine`."""
    table = recording.channels
    if by != "group" and by not in table:
        raise refusal(
            "by", f"group or a column of the channels of {recording.where}, {', '.join(map(str, table))}",
            repr(by), "correct it",
        )  # fmt: skip
    values = group_names(table) if by == "group" else table[by].fillna("").astype(str).to_numpy()
    return {str(v): np.flatnonzero(mine & (values == v)) for v in pd.unique(values[mine])}


def places(channels: pd.DataFrame) -> np.ndarray:
    """(channel, 3) positions in metres, nan where unknown."""
    return channels[["x", "y", "z"]].to_numpy(float)


def distances(channels: pd.DataFrame) -> np.ndarray:
    """(channel, channel) in metres: infinite from a channel to itself, nan where a position is unknown."""
    xyz = places(channels)
    apart = np.linalg.norm(xyz[:, None] - xyz[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    return apart


def spacing(apart: np.ndarray) -> float:
    """Median distance (m) from a contact to the nearest other one, nan where distances say none."""
    nearest = np.where(np.isnan(apart), np.inf, apart).min(1, initial=np.inf)
    known = nearest[np.isfinite(nearest)]
    usual = float(np.median(known)) if len(known) else np.nan
    return usual if usual > 0 else np.nan


def following(channels: pd.DataFrame) -> np.ndarray:
    """(contact, contact) boolean: their numbers are one apart."""
    number = np.array([contact_of(str(n))[1] for n in channels["name"]], dtype=float)
    return np.abs(number[:, None] - number[None]) == 1


def neighbours(channels: pd.DataFrame, reach: float) -> np.ndarray:
    """(contact, contact) boolean within one group: no farther apart than `reach` times its spacing.

    Where positions are unknown, contacts whose numbers follow each other are neighbours.
    """
    apart = distances(channels)
    usual = spacing(apart)
    unknown = np.isnan(apart) | np.isnan(usual)
    return np.where(unknown, following(channels), apart <= reach * usual)
