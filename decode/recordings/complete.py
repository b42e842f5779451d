"""Whether a recording's files hold all that they promise, where a reading library does not look."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from decode import hdf5
from decode.content import lies_below
from decode.core import refusal
from decode.notices import tell
from decode.recordings.edf import VOLTS, no_unit

if TYPE_CHECKING:
    import mne

BYTES = {"INT_16": 2, "INT_32": 4, "IEEE_FLOAT_32": 4}
# Units that MNE converts; without any, a .vhdr means microvolts.
BRAINVISION_VOLTS = ("", "V", "mV", "\u00b5V", "uV", "nV")
AGAIN = "the file was cut short, fetch it again"
ELSEWHERE = "put or link the file there, or, where you trust it, set data.outside=true"


def check_beside(path: Path, named: Iterable[str | Path | None], *, outside: bool) -> None:
    """Refuse a recording that names files above its own folder, or HDF5 files that take values from
    others, unless they are to be followed.
    """
    if outside:
        return
    away = [n for n in named if n is not None and not lies_below(n, [path.parent])]
    away += hdf5.files_named(path)
    if away:
        raise refusal(path, "all that it is read from in its own folder", away[0], ELSEWHERE)


def brainvision_files(path: Path) -> list[Path]:
    """The data and the marker file that a .vhdr names."""
    header = _values(path)
    return [_beside(path, header[key]) for key in ("datafile", "markerfile") if header.get(key)]


def check_brainvision(path: Path) -> None:
    """Refuse a .vhdr whose data file ends within a sample, before DataPoints or before a marker, or is
    written with the most significant byte first, which MNE does not look at.
    """
    header = _values(path)
    if header.get("usebigendianorder", "").upper() == "YES":
        remedy = "export it with the least significant byte first"
        raise refusal(path, "UseBigEndianOrder=NO", "YES", remedy)
    data = _beside(path, header.get("datafile", ""))
    width, channels = (
        BYTES.get(header.get("binaryformat", "").upper()),
        header.get("numberofchannels"),
    )
    if not data.is_file() or width is None or not (channels or "").isdecimal():
        return  # text formats, and what MNE has its own words for
    frame = width * int(channels or 0)
    n, rest = divmod(data.stat().st_size, max(1, frame))
    if rest:
        raise refusal(
            data, f"whole samples of {frame} bytes", f"{rest} bytes beyond the last", AGAIN
        )
    promised = int(header["datapoints"]) if header.get("datapoints", "").isdecimal() else 0
    if n < promised:
        raise refusal(data, f"{promised} samples as {path.name} says", f"{n}", AGAIN)
    markers = _beside(path, header.get("markerfile", ""))
    if markers.is_file():
        _check_markers(markers, data, n)


def _check_markers(path: Path, data: Path, n_samples: int) -> None:
    found = re.findall(r"^Mk\d+=([^,\n]*),[^,\n]*,\s*(\d+)", _text(path), re.M)
    last = max((int(at) for _, at in found), default=0)
    if last > n_samples + 1:
        raise refusal(
            data, f"{last} samples, where {path.name} has a marker", f"{n_samples}", AGAIN
        )
    pauses = [int(at) for kind, at in found if kind == "New Segment" and int(at) > 1]
    if pauses:
        tell(path, f"the recording was paused {len(pauses)} times (first at sample {pauses[0]}): "
             "onsets have to count recorded samples, without the pauses")  # fmt: skip


def _beside(path: Path, name: str) -> Path:
    """The file that a header names, "$b" standing for its own name without the ending."""
    return path.parent / name.replace("$b", path.stem)


def _values(path: Path) -> dict[str, str]:
    """The `key=value` lines of a header, keys in lower case; the first of each counts."""
    pairs = re.findall(r"^(\w+)[ \t]*=[ \t]*(.*?)[ \t]*$", _text(path), re.M)
    return {key.lower(): value for key, value in reversed(pairs)}


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def brainvision_gains(path: Path, names: Collection[str], order: Sequence[str]) -> dict[str, float]:
    """What the numbers of channels are to be multiplied with to be volts, where MNE does not know the
    unit of the .vhdr and takes it for volts; `order` are the names of all channels.

    Raises InputError where nobody knows the unit of one of `names`.
    """
    header, found = _values(path), {}
    for i, name in enumerate(order, start=1):
        said = [*header.get(f"ch{i}", "").split(","), "", "", ""][3].strip()
        if said in BRAINVISION_VOLTS:
            continue
        if said.lower() in VOLTS:
            found[name] = VOLTS[said.lower()]
        elif name in names:
            raise no_unit(path, name, said)
    return found


def check_fdt(raw: mne.io.BaseRaw) -> None:
    """Refuse an EEGLAB recording whose .fdt is not as long as its .set says."""
    path = Path(raw.filenames[0])
    expected = 4 * len(raw.ch_names) * raw.n_times
    if path.suffix == ".fdt" and path.stat().st_size != expected:
        got = f"{path.stat().st_size}"
        raise refusal(path, f"{expected} bytes as the .set file says", got, AGAIN)


def tell_pauses(raw: mne.io.BaseRaw) -> None:
    """Say where an acquisition was paused; MNE keeps the time and fills the pause with zeros."""
    pauses = [a for a in raw.annotations if a["description"] == "BAD_ACQ_SKIP"]
    if pauses:
        lost = sum(float(a["duration"]) for a in pauses)
        tell(raw.filenames[0], f"{len(pauses)} pauses of {lost:g} s together are filled with zeros")
