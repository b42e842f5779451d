"""EEG, MEG and intracranial runs of a BIDS folder -> Recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from decode.core import InputError, Modality, Recording, refusal
from decode.notices import heard, tell
from decode.recordings import edf
from decode.recordings.bids import Run
from decode.recordings.complete import (
    brainvision_files,
    brainvision_gains,
    check_beside,
    check_brainvision,
    check_fdt,
    tell_pauses,
)
from decode.recordings.electrodes import Asked, contacts_of, with_contacts
from decode.recordings.json_files import read_json_object
from decode.recordings.meeg import KINDS, WHOLE, WRONG, as_recording, unreadable
from decode.recordings.names import entities
from decode.recordings.sidecars import said_of, sidecar
from decode.recordings.tables import check_columns, read_words

if TYPE_CHECKING:
    import mne

# Channel types of the BIDS standard (1.10); those that MNE has no name for become "misc" in a line.
TYPES = frozenset(
    (
        *("EEG", "EOG", "VEOG", "HEOG", "ECG", "EMG", "ECOG", "SEEG", "DBS", "REF", "MISC", "TRIG"),
        *("MEGMAG", "MEGGRAD", "MEGGRADAXIAL", "MEGGRADPLANAR", "MEGREFMAG", "MEGREFGRADAXIAL"),
        *("MEGREFGRADPLANAR", "MEGOTHER", "HLU", "FITERR", "RESP", "GSR", "TEMP", "PPG", "AUDIO"),
        *("SYSCLOCK", "EYEGAZE", "PUPIL", "PD", "ADC", "DAC", "OTHER"),
    )
)
# What MNE-BIDS says of positions of contacts, which are read from the table itself.
PLACES = "electrodes.tsv|coordsystem.json|coordinate (frame|unit)|channels without locations|fiducial point"


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """One run whose samples are not read yet; `header` is None for what is no EDF or BDF."""

    run: Run
    raw: mne.io.BaseRaw
    header: edf.Header | None
    channels: pd.DataFrame

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each channel that a Recording may hold, by name."""
        pairs = zip(self.raw.ch_names, self.raw.get_channel_types(), strict=True)
        return {name: kind for name, kind in pairs if kind in KINDS}


def read_runs(
    runs: Sequence[Run],
    root: Path,
    datatype: str,
    modality: Modality,
    trials_of: Callable[[Path | None], pd.DataFrame],
    electrodes: Asked = Asked(),  # noqa: B008 (frozen)
    *,
    outside: bool = False,
) -> Iterator[Recording]:
    """The runs of one subject in V and T, with what BIDS says about channels, electrodes and bad ones.

    Runs that differ in channels, their order or bad ones are brought to those that are good in all,
    in the order of the first, and the user is told. All are opened before the samples of any are
    read. Files that a recording names above its folder are read with `outside` only. Raises InputError
    for a file that is shorter than its header says or paused, for channels
    without a known unit, and for channel types that BIDS does not have.
    """
    # Before MNE-BIDS meets the same tables, which it leaves with fewer words.
    wanted = datatype == "ieeg" or bool(electrodes.regions)
    contacts = [contacts_of(run.path, root, electrodes) if wanted else None for run in runs]
    opened = [open_run(run, root, datatype, outside=outside) for run in runs]
    check_own_files(opened)
    names = common_channels(opened)
    for one, table in zip(opened, contacts, strict=True):
        recording = as_recording(
            one.raw,
            trials_of(one.run.events),
            subject=one.run.subject,
            session=one.run.session,
            run=one.run.run,
            modality=modality,
            only=names,
            gains=_gains(one),
            whole=one.header is not None and one.header.mixed_rates,
        )
        channels = _with_groups(recording.channels, one.channels)
        if table is not None:
            channels = with_contacts(channels, table, one.run.path, positions=datatype == "ieeg")
        yield replace(recording, channels=channels)


def _with_groups(channels: pd.DataFrame, told: pd.DataFrame) -> pd.DataFrame:
    """The channel table with the column `group` of channels.tsv, where that has one."""
    if "group" not in told:
        return channels
    groups = dict(zip(told["name"], told["group"], strict=True))
    return channels.assign(group=[groups.get(name, "") for name in channels["name"]])


def open_run(run: Run, root: Path, datatype: str, *, outside: bool = False) -> Opened:
    """The run's file, found whole, and its channels.tsv; its samples are not read yet."""
    path = run.path
    channels = read_channels(path, root)
    check_types(channels, path)
    check_status(channels, path)
    said_of(path, root)  # MNE-BIDS takes the last of two values of one key
    header = edf.check_file(path) if path.suffix.lower() in edf.ENDINGS else None
    named = brainvision_files(path) if path.suffix.lower() == ".vhdr" else []
    check_beside(path, named, outside=outside)
    if named:
        check_brainvision(path)
    raw = open_bids(path, root, datatype)
    check_beside(path, raw.filenames, outside=outside)
    if path.suffix.lower() == ".set":
        check_fdt(raw)
    tell_pauses(raw)
    if channels["status"].any():
        bad = set(channels["name"][channels["status"].str.lower() == "bad"])
        raw.info["bads"] = [name for name in raw.ch_names if name in bad]
    return Opened(run, raw, header, channels)


def files_of(run: Run, root: Path, datatype: str) -> list[Path]:
    """What a recording is read from as its headers say, wherever that lies; nothing where it cannot be."""
    try:
        raw = open_run(run, root, datatype, outside=True).raw
    except InputError:
        return []
    named = brainvision_files(run.path) if run.path.suffix.lower() == ".vhdr" else []
    return [*named, *(Path(name) for name in raw.filenames if name is not None)]


def check_own_files(opened: Sequence[Opened]) -> None:
    """InputError where two runs read the same samples, as a header does that was copied or renamed."""
    read_by: dict[Path, Path] = {}
    for one in opened:
        for file in {Path(name).resolve() for name in one.raw.filenames if name is not None}:
            other = read_by.setdefault(file, one.run.path)
            if other != one.run.path:
                remedy = "correct the name of the data file in its header, or leave one of them out"
                raise refusal(
                    one.run.path, "samples of its own", f"{file}, as {other.name}", remedy
                )


def common_channels(opened: Sequence[Opened]) -> list[str]:
    """Names that all runs have with one kind, in the first run's order; bad in one is bad in all."""
    first = opened[0]
    shared = [n for n, kind in first.kinds.items() if all(o.kinds.get(n) == kind for o in opened)]
    bad = {name for o in opened for name in o.raw.info["bads"]}
    for one in opened:
        missing = [n for n in one.kinds if n not in shared]
        good = [n for n in shared if n in bad and n not in one.raw.info["bads"]]
        if missing:
            tell(one.run.path, f"{_listed(missing)} are not in all runs of the subject: left out")
        if good:
            tell(
                one.run.path, f"{_listed(good)} are bad in another run of the subject: taken as bad"
            )
        if [n for n in one.kinds if n in shared] != shared:
            tell(
                one.run.path,
                "channels stand in another order than in the subject's first run: reordered",
            )
        one.raw.info["bads"] = [n for n in one.raw.ch_names if n in bad]
    if not shared:
        had = ", ".join(list(first.kinds)[:6])
        raise refusal(first.run.path, "channels that all runs of the subject have", f"none of {had}",
                      "rename them alike or leave runs out")  # fmt: skip
    return shared


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def open_bids(path: Path, root: Path, datatype: str) -> mne.io.BaseRaw:
    """The raw file with its sidecars; its samples are not read yet."""
    import mne_bids

    try:
        silent = PLACES if datatype == "ieeg" else "$."
        with heard(path, wrong=WRONG, expected=WHOLE, silent=silent):
            name = mne_bids.get_bids_path_from_fname(path, check=False)
            name = name.update(root=root, datatype=datatype)
            return mne_bids.read_raw_bids(name, verbose="warning")
    except InputError:
        raise
    except Exception as e:
        raise unreadable(path, e) from e


def read_channels(path: Path, root: Path) -> pd.DataFrame:
    """name, type, units and status of channels.tsv as text, without rows where there is no such file."""
    for ending in ("electrodes.tsv", "coordsystem.json", "channels.tsv"):
        place = sidecar(path, root, ending)
        # MNE-BIDS reads them by name and would find none.
        if place is not None and not entities(place).items() <= entities(path).items():
            remedy = f"spell its name as {path.name} does"
            raise refusal(place, "run-01 or run-1 in all names of a run", "both", remedy)
        if place is not None and ending.endswith(".json"):
            read_json_object(place)
    table = pd.DataFrame(columns=["name"]) if place is None else read_words(place)
    if place is not None:
        check_columns(place, table, ["name", "type"], "add the column {}")
    wanted = ["name", "type", "units", "status", *(["group"] if "group" in table else [])]
    return table.reindex(columns=wanted, fill_value="").fillna("")


def check_types(table: pd.DataFrame, path: Path) -> None:
    """Refuse types that BIDS does not have: such channels would be left out without a word."""
    for name, kind in zip(table["name"], table["type"], strict=True):
        if kind.upper() not in TYPES:
            remedy = "correct channels.tsv"
            raise refusal(
                path, f"a type of BIDS for channel {name!r} (EEG, EOG, ...)", repr(kind), remedy
            )


def check_status(table: pd.DataFrame, path: Path) -> None:
    """Refuse another status than good, bad or none: MNE-BIDS would take the channel as good."""
    for name, status in zip(table["name"], table["status"], strict=True):
        if status.lower() not in ("", "good", "bad"):
            remedy = "correct channels.tsv"
            raise refusal(path, f"good, bad or n/a as status of channel {name!r}", status, remedy)


def _gains(one: Opened) -> dict[str, float]:
    """What makes volts of channels by name; only electrophysiology that is not marked bad counts."""
    names, kinds = one.raw.ch_names, one.kinds
    bad = set(one.raw.info["bads"])
    kept = [i for i, n in enumerate(names) if n in kinds and n not in bad]
    if one.run.path.suffix.lower() == ".vhdr":
        return brainvision_gains(one.run.path, {names[i] for i in kept}, names)
    if one.header is None:
        return {}
    units = dict(zip(one.channels["name"], one.channels["units"], strict=True))
    found = edf.gains(one.header, kept, {i: units.get(n, "") for i, n in enumerate(names)})
    return {names[i]: factor for i, factor in found.items()}
