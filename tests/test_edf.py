"""EDF and BDF written byte by byte: units, ends, pauses and rates are those of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from decode.core import InputError
from decode.recordings import edf
from decode.recordings.bids import Run
from decode.recordings.bids_meeg import read_runs

RANGE = 500.0


def write(
    path: Path, signals: list[np.ndarray], rates: list[int], names: list[str], **knobs
) -> Path:
    """Records of one second. `units`, `kind` (EDF+C, EDF+D), `starts` of records (s) add to it."""
    n_records = len(signals[0]) // rates[0]
    bdf = path.suffix == ".bdf"
    top = 2**23 - 1 if bdf else 2**15 - 1
    low = -top - 1
    starts = knobs.get("starts")
    stamps = 30 if starts is not None else 0
    labels = [*names, *(["BDF Annotations" if bdf else "EDF Annotations"] if stamps else [])]
    samples = [*rates, *([stamps] if stamps else [])]
    units = [*knobs.get("units", ["uV"] * len(names)), *([""] if stamps else [])]
    columns = [
        (labels, 16), ([""] * len(labels), 80), (units, 8), ([f"{-RANGE:g}"] * len(labels), 8),
        ([f"{RANGE:g}"] * len(labels), 8), ([low] * len(labels), 8), ([top] * len(labels), 8),
        ([""] * len(labels), 80), (samples, 8), ([""] * len(labels), 32),
    ]  # fmt: skip
    fixed = [("0", 8), ("X X X X", 80), ("Startdate X X X X", 80), ("01.01.20", 8), ("00.00.00", 8)]
    fixed += [(256 * (len(labels) + 1), 8), (knobs.get("kind", ""), 44), (n_records, 8), (1, 8)]
    text = "".join(str(v).ljust(w)[:w] for v, w in [*fixed, (len(labels), 4)])
    text += "".join(str(v).ljust(w)[:w] for values, w in columns for v in values)
    body = bytearray()
    width = 3 if bdf else 2
    for k in range(n_records):
        for x, rate in zip(signals, rates, strict=True):
            y = np.round((x[k * rate : (k + 1) * rate] + RANGE) / (2 * RANGE) * (top - low) + low)
            words = y.clip(low, top).astype("<i4").view(np.uint8).reshape(-1, 4)
            body += words[:, :width].tobytes()
        if starts is not None:
            body += f"+{starts[k]:g}\x14\x14\x00".encode().ljust(stamps * width, b"\x00")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("latin-1") + bytes(body))
    return path


def study(root: Path, *files: Path, channels: str = "") -> list[Run]:
    """Runs of one subject without events; `channels` are rows of name, type and units."""
    folder = root / "sub-01/eeg"
    rows = channels or "Fz\tEEG\tuV\nCz\tEEG\tuV\n"
    for path in files:
        stem = path.name.removesuffix("_eeg" + path.suffix)
        (folder / f"{stem}_channels.tsv").write_text("name\ttype\tunits\n" + rows)
    (root / "participants.tsv").write_text("participant_id\nsub-01\n")
    return [Run(p, p, "sub-01", "", p.name.split("run-")[1][:2]) for p in files]


EVENTS = pd.DataFrame({"onset": [1.0], "duration": [0.0], "stimulus": ["a"], "split": [""]})


def read(root: Path, *files: Path, channels: str = ""):
    runs = study(root, *files, channels=channels)
    return list(read_runs(runs, root, "eeg", "eeg", lambda _: EVENTS))


def where(root: Path, run: int = 1, ending: str = "edf") -> Path:
    return root / f"sub-01/eeg/sub-01_task-look_run-{run:02d}_eeg.{ending}"


def waves(seconds: int, rate: int) -> list[np.ndarray]:
    t = np.arange(seconds * rate) / rate
    return [20 * np.sin(2 * np.pi * 7 * t), 30 * np.sin(2 * np.pi * 3 * t + 1)]


@pytest.mark.parametrize("ending", ["edf", "bdf"])
def test_volts_are_those_that_were_written(tmp_path: Path, ending: str) -> None:
    signals = waves(6, 100)
    (run,) = read(tmp_path, write(where(tmp_path, 1, ending), signals, [100, 100], ["Fz", "Cz"]))
    np.testing.assert_allclose(run.signal.T * 1e6, signals, atol=2 * RANGE / 2**16)


def test_a_slow_channel_beside_a_fast_one_is_what_it_would_be_alone(
    tmp_path: Path, monkeypatch
) -> None:
    """Read in small pieces, each would be stretched on its own; the sine is known at every sample."""
    monkeypatch.setattr("decode.recordings.meeg.CHUNK_BYTES", 8 * 3 * 1000)
    signals = [*waves(40, 100), np.random.default_rng(0).normal(0, 30, 40 * 500)]
    path = write(where(tmp_path), signals, [100, 100, 500], ["Fz", "Cz", "EMG"])
    (run,) = read(tmp_path, path, channels="Fz\tEEG\tuV\nCz\tEEG\tuV\nEMG\tEMG\tuV\n")
    assert run.sfreq == 500
    fine = waves(40, 500)
    middle = slice(500, -500)
    np.testing.assert_allclose(1e6 * run.signal[middle, 0], fine[0][middle], atol=0.5)
    np.testing.assert_allclose(1e6 * run.signal[middle, 1], fine[1][middle], atol=0.5)
    np.testing.assert_allclose(1e6 * run.signal[:, 2], signals[2], atol=2 * RANGE / 2**16)


@pytest.mark.parametrize("lost", [1, 399, 400, 401, 2000])
def test_a_file_shorter_than_its_header_says_is_refused(tmp_path: Path, lost: int) -> None:
    path = write(where(tmp_path), waves(6, 100), [100, 100], ["Fz", "Cz"])
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(
        InputError, match=r"expected 6 records of 400 bytes .* the file was cut short"
    ):
        read(tmp_path, path)


def test_records_that_were_never_counted_are_read_when_they_are_whole(
    tmp_path: Path, capsys
) -> None:
    path = write(where(tmp_path), waves(6, 100), [100, 100], ["Fz", "Cz"])
    content = bytearray(path.read_bytes())
    content[236:244] = b"-1      "
    path.write_bytes(bytes(content))
    assert len(read(tmp_path, path)[0].signal) == 600
    assert "does not match the file size" in capsys.readouterr().err
    path.write_bytes(bytes(content[:-3]))
    with pytest.raises(InputError, match="whole records"):
        read(tmp_path, path)


def test_pauses_between_records_are_refused_and_stamps_without_pause_are_not(
    tmp_path: Path, capsys
) -> None:
    def one(kind: str, starts: list[float]) -> Path:
        knobs = {"kind": kind, "starts": starts}
        return write(where(tmp_path), waves(6, 100), [100, 100], ["Fz", "Cz"], **knobs)

    whole, paused = [0.25 + k for k in range(6)], [0, 1, 2, 9, 10, 11]
    assert len(read(tmp_path, one("EDF+D", whole))[0].signal) == 600
    with pytest.raises(InputError, match="a jump of 6 s after 3 s of signal; cut it there"):
        read(tmp_path, one("EDF+D", paused))
    assert "header says continuous" not in capsys.readouterr().err
    read(tmp_path, one("EDF+C", paused))
    assert (
        "a jump of 6 s after 3 s of signal, the header says continuous" in capsys.readouterr().err
    )
    with pytest.raises(InputError, match="the time of each record of an EDF"):
        path = write(where(tmp_path), waves(6, 100), [100, 100], ["Fz", "Cz"], kind="EDF+D")
        read(tmp_path, path)


def test_units_that_the_header_lacks_come_from_the_channel_table(tmp_path: Path, capsys) -> None:
    signals = waves(6, 100)
    path = write(where(tmp_path), signals, [100, 100], ["Fz", "Cz"], units=["", "uV"])
    (run,) = read(tmp_path, path, channels="Fz\tEEG\tmV\nCz\tEEG\tmV\n")
    np.testing.assert_allclose(run.signal[:, 0] * 1e3, signals[0], atol=2 * RANGE / 2**16)
    np.testing.assert_allclose(run.signal[:, 1] * 1e6, signals[1], atol=2 * RANGE / 2**16)
    said = capsys.readouterr().err
    assert "no unit in the header: that of channels.tsv for Fz" in said
    assert "other units than the header for Cz" in said


@pytest.mark.parametrize(
    ("unit", "table", "message"),
    [
        ("", "n/a", r"volts in channel 'Fz', got unit ''; write uV, mV or V into the column units"),
        ("mmHg", "uV", r"volts in channel 'Fz', got unit 'mmHg'; give the channel another type"),
    ],
)
def test_units_that_nobody_knows_are_refused(
    tmp_path: Path, unit: str, table: str, message: str
) -> None:
    path = write(where(tmp_path), waves(6, 100), [100, 100], ["Fz", "Cz"], units=[unit, "uV"])
    with pytest.raises(InputError, match=message):
        read(tmp_path, path, channels=f"Fz\tEEG\t{table}\nCz\tEEG\tuV\n")


def test_nanovolts_are_no_volts(tmp_path: Path) -> None:
    signals = waves(6, 100)
    path = write(where(tmp_path), signals, [100, 100], ["Fz", "Cz"], units=["nV", "uV"])
    (run,) = read(tmp_path, path)
    np.testing.assert_allclose(run.signal[:, 0] * 1e9, signals[0], atol=2 * RANGE / 2**16)


def test_channel_types_that_bids_does_not_have_are_refused_and_others_are_told(
    tmp_path: Path, capsys
) -> None:
    path = write(where(tmp_path), waves(6, 100), [100, 100], ["Fz", "Cz"])
    with pytest.raises(InputError, match=r"channel 'Cz' .*got 'Scalp'; correct channels.tsv"):
        read(tmp_path, path, channels="Fz\tEEG\tuV\nCz\tScalp\tuV\n")
    (run,) = read(tmp_path, path, channels="Fz\tEEG\tuV\nCz\tREF\tuV\n")
    assert run.channels["name"].tolist() == ["Fz"]
    assert 'channel type "REF"' in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"no header", b"0" * 5000])
def test_what_is_no_header_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.edf"
    path.write_bytes(content)
    with pytest.raises(InputError, match="the header of an EDF file"):
        edf.check_file(path)


def test_runs_are_brought_to_their_common_channels_in_one_order(tmp_path: Path, capsys) -> None:
    """Values follow their names, whatever the place of the channel in its file."""
    one = write(
        where(tmp_path, 1), [*waves(6, 100), np.arange(600) / 9], [100] * 3, ["Fz", "Cz", "Pz"]
    )
    signals = [np.arange(600) / 7, *waves(6, 100)[::-1]]
    two = write(where(tmp_path, 2), signals, [100] * 3, ["Oz", "Cz", "Fz"])
    rows = {
        1: "Fz\tEEG\tuV\nCz\tEEG\tuV\nPz\tEEG\tuV\n",
        2: "Oz\tEEG\tuV\nCz\tEEG\tuV\nFz\tEEG\tuV\n",
    }
    runs = study(tmp_path, one, two)
    for number, text in rows.items():
        table = where(tmp_path, number).with_name(f"sub-01_task-look_run-{number:02d}_channels.tsv")
        table.write_text("name\ttype\tunits\n" + text)
    found = list(read_runs(runs, tmp_path, "eeg", "eeg", lambda _: EVENTS))
    for run in found:
        assert run.channels["name"].tolist() == ["Fz", "Cz"]
        np.testing.assert_allclose(run.signal.T * 1e6, waves(6, 100), atol=2 * RANGE / 2**16)
    said = capsys.readouterr().err
    assert "Pz are not in all runs of the subject: left out" in said
    assert "Oz are not in all runs of the subject: left out" in said
    assert "another order than in the subject's first run: reordered" in said


@pytest.mark.parametrize("duration", ["0", "-1", "nan", "inf"])
def test_records_that_last_no_time_are_refused(tmp_path: Path, duration: str) -> None:
    path = write(where(tmp_path), waves(4, 100), [100, 100], ["Fz", "Cz"])
    content = bytearray(path.read_bytes())
    content[244:252] = duration.ljust(8).encode()
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match="expected records that last some time"):
        read(tmp_path, path)


def test_bdf_under_the_name_of_edf_is_refused(tmp_path: Path) -> None:
    path = write(where(tmp_path), waves(4, 100), [100, 100], ["Fz", "Cz"])
    path.write_bytes(b"\xffBIOSEMI" + path.read_bytes()[8:])
    with pytest.raises(InputError, match="a BDF file; name it as what it is"):
        read(tmp_path, path)


def test_a_status_that_bids_does_not_have_is_refused(tmp_path: Path) -> None:
    path = write(where(tmp_path), waves(4, 100), [100, 100], ["Fz", "Cz"])
    study(tmp_path, path)
    table = path.with_name("sub-01_task-look_run-01_channels.tsv")
    for status in ("Bad", '"bad"'):
        rows = f"Fz\tEEG\tuV\tgood\nCz\tEEG\tuV\t{status}\n"
        table.write_text("name\ttype\tunits\tstatus\n" + rows)
        run = Run(path, path, "sub-01", "", "01")
        if status == "Bad":
            (found,) = read_runs([run], tmp_path, "eeg", "eeg", lambda _: EVENTS)
            assert found.channels["bad"].tolist() == [False, True]
            continue
        with pytest.raises(InputError, match="expected good, bad or n/a as status of channel 'Cz'"):
            next(read_runs([run], tmp_path, "eeg", "eeg", lambda _: EVENTS))


def test_a_table_of_channels_is_spelt_as_its_run(tmp_path: Path) -> None:
    path = write(where(tmp_path), waves(4, 100), [100, 100], ["Fz", "Cz"])
    runs = study(tmp_path, path)
    table = path.with_name("sub-01_task-look_run-01_channels.tsv")
    table.rename(table.with_name("sub-01_task-look_run-1_channels.tsv"))
    with pytest.raises(InputError, match=r"run-1_channels\.tsv: expected run-01 or run-1 in all"):
        next(read_runs(runs, tmp_path, "eeg", "eeg", lambda _: EVENTS))
