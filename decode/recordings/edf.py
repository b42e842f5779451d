"""EDF and BDF files: what the header promises against what the file holds, which MNE does not compare.

Standards: EDF (Kemp et al. 1992, doi:10.1016/0013-4694(92)90009-7), EDF+ (Kemp & Olivan 2003,
doi:10.1016/S1388-2457(03)00123-8); BDF is the same with three bytes a sample.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from decode.core import InputError, refusal
from decode.notices import tell

ENDINGS = (".edf", ".bdf")
ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
# The widths, in characters, of what the header holds once per channel.
FIELDS = {
    **{"label": 16, "transducer": 80, "unit": 8, "low": 8, "high": 8},
    **{"digital_low": 8, "digital_high": 8, "filter": 80, "samples": 8, "reserved": 32},
}
VOLTS = {"v": 1.0, "mv": 1e-3, "uv": 1e-6, "\u00b5v": 1e-6, "\u03bcv": 1e-6, "nv": 1e-9}
# What MNE turns into volts by itself; with any other unit it takes the numbers as they are.
CONVERTED = ("uV", "\u00b5V", "\u03bcV", "\x83\xcaV", "mV", "V")


@dataclass(frozen=True, slots=True)
class Header:
    """The header of one file; `samples` is how many each channel has in a record of `duration` s."""

    path: Path
    size: int
    length: int
    kind: str
    n_records: int
    duration: float
    columns: Mapping[str, tuple[str, ...]]
    width: int

    @property
    def samples(self) -> np.ndarray:
        return np.array([int(n) for n in self.columns["samples"]], np.int64)

    @property
    def signals(self) -> list[int]:
        """Numbers of the channels that are no annotations."""
        return [i for i, name in enumerate(self.columns["label"]) if name not in ANNOTATIONS]

    @property
    def record_bytes(self) -> int:
        return int(self.samples.sum()) * self.width

    @property
    def mixed_rates(self) -> bool:
        return len({int(self.samples[i]) for i in self.signals}) > 1


def read_header(path: Path) -> Header:
    """The header of an EDF or BDF file; InputError where it cannot be one."""
    with path.open("rb") as file:
        fixed = file.read(256).decode("latin-1")
        try:
            length, n_records = int(fixed[184:192]), int(fixed[236:244])
            duration, n_channels = float(fixed[244:252]), int(fixed[252:256])
            rest = file.read(256 * n_channels).decode("latin-1")
            columns = _columns(rest, n_channels)
            wrong = min(int(n) for n in columns["samples"]) < 0 or not any(columns["samples"])
        except ValueError as e:
            raise refusal(path, "the header of an EDF file", str(e), "fetch the file again") from e
    if not 0 < duration < np.inf:
        remedy = "correct its header or fetch the file again"
        raise refusal(path, "records that last some time", f"{duration:g} s", remedy)
    if path.suffix.lower() == ".edf" and fixed[0] != "0":
        got = f"{fixed[:8]!r} in front" + (": a BDF file" if fixed[1:7] == "BIOSEM" else "")
        raise refusal(path, "an EDF file, which begins with 0", got, "name it as what it is")
    if wrong or length != 256 * (n_channels + 1) or len(rest) < 256 * n_channels:
        got = f"{length} bytes of header for {n_channels} channels"
        raise refusal(path, "the header of an EDF file", got, "fetch the file again")
    width = 3 if path.suffix.lower() == ".bdf" else 2
    size = path.stat().st_size
    return Header(path, size, length, fixed[192:197].strip(), n_records, duration, columns, width)


def _columns(text: str, n_channels: int) -> dict[str, tuple[str, ...]]:
    columns, first = {}, 0
    for name, width in FIELDS.items():
        begins = range(first, first + width * n_channels, width)
        columns[name] = tuple(text[b : b + width].strip() for b in begins)
        first += width * n_channels
    return columns


def check_file(path: Path) -> Header:
    """Refuse a file that is shorter than its header says, or whose records leave gaps in time."""
    header = read_header(path)
    held = header.size - header.length
    promised = header.n_records * header.record_bytes
    if held < promised:
        raise refusal(
            path,
            f"{header.n_records} records of {header.record_bytes} bytes as its header says",
            f"{held / header.record_bytes:.2f} records",
            "the file was cut short, fetch it again",
        )
    if header.n_records < 0 and held % header.record_bytes:
        got = f"{held % header.record_bytes} bytes beyond the last"
        raise refusal(path, "whole records", got, "the file was cut short, fetch it again")
    _check_times(header)
    return header


def _check_times(header: Header) -> None:
    """The times that EDF+ gives for each record are those of a recording without pause."""
    discontinuous = header.kind in ("EDF+D", "BDF+D")
    starts = record_starts(header)
    if starts is None:
        if discontinuous:
            remedy = "write it anew as EDF+C, or as a run for each stretch"
            raise refusal(header.path, "the time of each record of an EDF+D file", "none", remedy)
        return
    late = starts - starts[0] - header.duration * np.arange(len(starts))
    # Half a sample of the fastest channel, and no less than what writers round to.
    allowed = max(1e-3, header.duration / 2 / max(1, int(header.samples[header.signals].max())))
    jumps = np.flatnonzero(np.abs(late) > allowed)
    if discontinuous and np.isnan(late).any():
        jumps = np.flatnonzero(np.isnan(late))
    if not len(jumps):
        return
    k = int(jumps[0])
    got = f"a jump of {late[k]:g} s after {k * header.duration:g} s of signal"
    if discontinuous:
        expected = "a recording without pause (onsets count from its start)"
        remedy = "cut it there into runs with events of their own, or fill the pause and save EDF+C"
        raise refusal(header.path, expected, got, remedy)
    tell(header.path, f"its records are stamped with {got}, the header says continuous: read so")


def record_starts(header: Header) -> np.ndarray | None:
    """(record,) seconds at which each record begins, nan where its stamp is no number; None without
    stamps.
    """
    stamped = [i for i, name in enumerate(header.columns["label"]) if name in ANNOTATIONS]
    n = (header.size - header.length) // max(1, header.record_bytes)
    if not stamped or n < 1:
        return None
    edges = np.r_[0, np.cumsum(header.samples)] * header.width
    first, last = int(edges[stamped[0]]), int(edges[stamped[0] + 1])
    shape = (int(n), header.record_bytes)
    records = np.memmap(header.path, np.uint8, "r", offset=header.length, shape=shape)
    return np.array([_seconds(bytes(record[first:last])) for record in records])


def _seconds(stamps: bytes) -> float:
    try:
        return float(stamps.split(b"\x14", 1)[0].split(b"\x15", 1)[0])
    except ValueError:
        return float("nan")


def gains(header: Header, kept: Collection[int], said: Mapping[int, str]) -> dict[int, float]:
    """What the numbers of kept signals (by their order among the signals) are to be multiplied with to
    be volts, where MNE does not do it; `said` are the units of channels.tsv, by the same order.

    Raises InputError for a kept signal whose unit or range nobody knows.
    """
    found, silent, other = {}, [], []
    for k in sorted(kept):
        i = header.signals[k]
        _check_range(header, i)
        name, unit, theirs = header.columns["label"][i], header.columns["unit"][i], said.get(k, "")
        factor = VOLTS.get((unit or theirs).lower())
        if unit in CONVERTED:
            other += [name] if VOLTS.get(theirs.lower(), factor) != factor else []
            continue
        if factor is None:
            raise no_unit(header.path, name, unit or theirs)
        found[k] = factor
        silent += [] if unit else [name]
    if silent:
        tell(header.path, f"no unit in the header: that of channels.tsv for {', '.join(silent)}")
    if other:
        tell(header.path, f"channels.tsv has other units than the header for {', '.join(other)}: "
             "read as the header says")  # fmt: skip
    return found


def _check_range(header: Header, i: int) -> None:
    for low, high in (("low", "high"), ("digital_low", "digital_high")):
        if header.columns[low][i] == header.columns[high][i]:
            got = f"{header.columns[low][i]} for both ends"
            where = f"a range of channel {header.columns['label'][i]!r}"
            remedy = "mark it bad in channels.tsv or write the file anew"
            raise refusal(header.path, where, got, remedy)


def no_unit(path: Path, name: str, unit: str) -> InputError:
    """The refusal of a channel whose numbers nobody can turn into volts."""
    remedy = "write uV, mV or V into the column units of channels.tsv, or mark the channel bad"
    if unit:
        remedy = "give the channel another type in channels.tsv, mark it bad, or correct the unit"
    return refusal(path, f"volts in channel {name!r}", f"unit {unit!r}", remedy)
