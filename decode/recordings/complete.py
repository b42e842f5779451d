"""Whether a recording's files hold all that they promise, where a reading library does not look."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
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
    """Refuse a .vhdr whose data file, binary or text, ends within a sample, before DataPoints or before a
    marker, or is written with the most significant byte first, which MNE does not look at.
    """
    header = _values(path)
    if header.get("usebigendianorder", "").upper() == "YES":
        remedy = "export it with the least significant byte first"
        raise refusal(path, "UseBigEndianOrder=NO", "YES", remedy)
    data = _beside(path, header.get("datafile", ""))
    n = _samples(path, header, data) if data.is_file() else None
    if n is None:
        return  # what MNE has its own words for
    promised = int(header["datapoints"]) if header.get("datapoints", "").isdecimal() else 0
    # Channel after channel, every one begins where the samples of those before it end.
    by_channel = header.get("dataorientation", "").upper() == "VECTORIZED"
    if n < promised or (by_channel and n > promised > 0):
        raise refusal(data, f"{promised} samples as {path.name} says", f"{n}", AGAIN)
    markers = _beside(path, header.get("markerfile", ""))
    if markers.is_file():
        _check_markers(markers, data, n)


def _samples(path: Path, header: Mapping[str, str], data: Path) -> int | None:
    """How many samples a data file holds, found whole; None where its header does not say how to count."""
    said = header.get("numberofchannels", "")
    channels = int(said) if said.isdecimal() else 0
    if not channels:
        return None
    if header.get("dataformat", "").upper() == "ASCII":
        return _samples_of_text(path, header, data, channels)
    width = BYTES.get(header.get("binaryformat", "").upper())
    if width is None:
        return None
    frame = width * channels
    n, rest = divmod(data.stat().st_size, frame)
    if rest:
        raise refusal(
            data, f"whole samples of {frame} bytes", f"{rest} bytes beyond the last", AGAIN
        )
    return n


def _samples_of_text(path: Path, header: Mapping[str, str], data: Path, channels: int) -> int:
    """How many rows of a number per channel stand below the lines that the header says to skip."""
    if header.get("dataorientation", "").upper() != "MULTIPLEXED":
        remedy = "export it multiplexed, or in binary format"
        got = header.get("dataorientation", "none")
        raise refusal(path, "DataOrientation=MULTIPLEXED of data in text", got, remedy)
    above = int(header["skiplines"]) if header.get("skiplines", "").isdecimal() else 0
    comma = header.get("decimalsymbol", ".") == ","
    n, line = 0, b"\n"
    with data.open("rb") as file:
        for line in islice(file, above, None):
            n += 1
            # As MNE parts them: by commas where there is no blank and the comma is no decimal sign.
            text = line.strip()
            numbers = (
                text.split(b",")
                if b"," in text and b" " not in text and not comma
                else text.split()
            )
            if len(numbers) != channels:
                where, got = f"{data}, line {above + n}", f"{len(numbers)} numbers"
                raise refusal(where, f"a number for each of {channels} channels", got, AGAIN)
    if not line.endswith((b"\n", b"\r")):
        tell(data, "no line break ends its last row: whether the last number is whole is not known")
    return n


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
