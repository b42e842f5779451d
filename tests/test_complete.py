"""Recordings that were cut short, wherever the cut lies, and epochs that are no recording."""

from __future__ import annotations

from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from decode.core import InputError, Recording
from decode.recordings.bids import Run
from decode.recordings.bids_meeg import read_runs

VOLTS = np.random.default_rng(0).normal(0, 1e-5, (3, 1000))
NAMES = ["Fz", "Cz", "Oz"]
TIMES = pd.DataFrame({"onset": [1.0], "duration": [0.0], "stimulus": ["a"], "split": [""]})


def read(path: Path, datatype: str = "eeg") -> Recording:
    root = path.parents[2]
    (root / "participants.tsv").write_text("participant_id\nsub-01\n")
    run = Run(path, path, "sub-01", "", "")
    (found,) = read_runs([run], root, datatype, datatype, lambda _: TIMES)
    return found


def place(root: Path, ending: str, datatype: str = "eeg") -> Path:
    folder = root / "sub-01" / datatype
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"sub-01_task-look_{datatype}.{ending}"


def brainvision(root: Path, *, points: int | None = None, markers: tuple[int, ...] = ()) -> Path:
    path = place(root, "vhdr")
    head = [
        "Brain Vision Data Exchange Header File Version 1.0", "[Common Infos]",
        "DataFile=$b.eeg", f"MarkerFile={path.stem}.vmrk", "DataFormat=BINARY",
        "DataOrientation=MULTIPLEXED", "NumberOfChannels=3", "SamplingInterval=5000",
        *([f"DataPoints={points}"] if points else []), "[Binary Infos]", "BinaryFormat=IEEE_FLOAT_32",
        "[Channel Infos]", *[f"Ch{i + 1}={n},,1,µV" for i, n in enumerate(NAMES)],
    ]  # fmt: skip
    path.write_text("\n".join(head).replace("$b", path.stem) + "\n", encoding="utf-8")
    rows = [f"Mk{i + 2}=Stimulus,S 1,{at},1,0" for i, at in enumerate(markers)]
    text = [
        "Brain Vision Data Exchange Marker File, Version 1.0", "[Common Infos]",
        f"DataFile={path.stem}.eeg", "[Marker Infos]", "Mk1=New Segment,,1,1,0", *rows,
    ]  # fmt: skip
    path.with_suffix(".vmrk").write_text("\n".join(text) + "\n")
    path.with_suffix(".eeg").write_bytes((VOLTS * 1e6).T.astype("<f4").tobytes())
    return path


def cut(path: Path, lost: int) -> None:
    path.write_bytes(path.read_bytes()[:-lost])


def test_a_whole_brainvision_file_is_read(tmp_path: Path) -> None:
    run = read(brainvision(tmp_path, points=1000, markers=(400, 1000)))
    np.testing.assert_allclose(run.signal.T, VOLTS, rtol=1e-6)


@pytest.mark.parametrize(
    ("lost", "knobs", "message"),
    [
        (1, {}, "expected whole samples of 12 bytes, got 11 bytes beyond the last"),
        (12 * 100, {"points": 1000}, "expected 1000 samples as .*vhdr says, got 900"),
        (
            12 * 100,
            {"markers": (10, 950)},
            "expected 950 samples, where .*vmrk has a marker, got 900",
        ),
    ],
)
def test_a_brainvision_file_that_was_cut_is_refused(
    tmp_path: Path, lost: int, knobs: dict[str, object], message: str
) -> None:
    path = brainvision(tmp_path, **knobs)  # type: ignore[arg-type]
    cut(path.with_suffix(".eeg"), lost)
    with pytest.raises(InputError, match=message):
        read(path)


ROWS = [" ".join(f"{v:.3f}" for v in row) for row in VOLTS.T * 1e6]


def in_text(
    root: Path, text: str, *, points: int | None = None, infos: str = "SkipLines=1"
) -> Path:
    path = brainvision(root, points=points, markers=(10,))
    _replaced(path, "DataFormat=BINARY", "DataFormat=ASCII")
    _replaced(path, "[Binary Infos]\nBinaryFormat=IEEE_FLOAT_32", f"[ASCII Infos]\n{infos}")
    path.with_suffix(".eeg").write_text(text)
    return path


def test_a_brainvision_file_in_text_is_read_whole(tmp_path: Path, capsys) -> None:
    text = "\n".join([" ".join(NAMES), *ROWS])
    for i, content in enumerate([text + "\n", text.replace("\n", "\r\n") + "\r\n"]):
        run = read(in_text(tmp_path / str(i), content, points=1000))
        np.testing.assert_allclose(run.signal.T, VOLTS, atol=6e-10)
    assert "last row" not in capsys.readouterr().err
    read(in_text(tmp_path / "2", text, points=1000))
    assert "whether the last number is whole" in capsys.readouterr().err


def test_a_brainvision_file_in_text_with_decimal_commas_is_read(tmp_path: Path) -> None:
    text = "\n".join(ROWS).replace(".", ",") + "\n"
    run = read(in_text(tmp_path, text, points=1000, infos="SkipLines=0\nDecimalSymbol=,"))
    np.testing.assert_allclose(run.signal.T, VOLTS, atol=6e-10)


@pytest.mark.parametrize(
    ("kept", "points", "message"),
    [
        (ROWS[:500], 1000, "expected 1000 samples as .*vhdr says, got 500"),
        ([*ROWS[:500], "1.0 2.0"], None, "line 502: expected a number for each of 3 .*got 2 num"),
        ([*ROWS[:500], "", *ROWS[500:]], None, "line 502: expected .* got 0 num"),
        (ROWS[:5], None, "expected 10 samples, where .*vmrk has a marker, got 5"),
    ],
)
def test_a_brainvision_file_in_text_that_was_cut_is_refused(
    tmp_path: Path, kept: list[str], points: int | None, message: str
) -> None:
    path = in_text(tmp_path, "\n".join([" ".join(NAMES), *kept]) + "\n", points=points)
    with pytest.raises(InputError, match=message):
        read(path)


def test_text_of_a_channel_per_row_is_refused_in_words(tmp_path: Path) -> None:
    path = in_text(tmp_path, "\n".join(ROWS) + "\n", infos="SkipLines=0")
    _replaced(path, "MULTIPLEXED", "VECTORIZED")
    with pytest.raises(
        InputError, match=r"DataOrientation=MULTIPLEXED .*got VECTORIZED; export it"
    ):
        read(path)


@pytest.mark.parametrize("points", [1000, 900, 1100])
def test_channel_after_channel_is_as_long_as_the_header_says(tmp_path: Path, points: int) -> None:
    path = _replaced(brainvision(tmp_path, points=points), "MULTIPLEXED", "VECTORIZED")
    path.with_suffix(".eeg").write_bytes((VOLTS * 1e6).astype("<f4").tobytes())
    if points == 1000:
        np.testing.assert_allclose(read(path).signal.T, VOLTS, rtol=1e-6)
        return
    with pytest.raises(InputError, match=f"expected {points} samples .* got 1000"):
        read(path)


def test_a_key_twice_in_a_sidecar_of_eeg_is_refused(tmp_path: Path) -> None:
    path = brainvision(tmp_path)
    path.with_suffix(".json").write_text('{"PowerLineFrequency": 50, "PowerLineFrequency": 60}')
    with pytest.raises(InputError, match=r"_eeg\.json: expected each key once .*'PowerLineFreq"):
        read(path)


def test_pauses_of_a_brainvision_recording_are_told(tmp_path: Path, capsys) -> None:
    path = brainvision(tmp_path)
    with path.with_suffix(".vmrk").open("a") as file:
        file.write("Mk2=New Segment,,501,1,0\n")
    read(path)
    assert "paused 1 times (first at sample 501)" in capsys.readouterr().err


def eeglab(root: Path, *, trials: int = 1) -> Path:
    path = place(root, "set")
    places = np.zeros(3, dtype=[("labels", object)])
    places["labels"] = NAMES
    none = np.zeros((0, 0))
    content = {
        **{"setname": "x", "nbchan": 3.0, "trials": float(trials), "pnts": 1000.0 / trials},
        **{"srate": 200.0, "xmin": 0.0, "xmax": 4.995, "data": f"{path.stem}.fdt"},
        **{"chanlocs": places, "event": none, "epoch": none},
        **{"icawinv": none, "icasphere": none, "icaweights": none},
    }
    savemat(path, {"EEG": content}, appendmat=False)
    path.with_suffix(".fdt").write_bytes((VOLTS * 1e6).T.astype("<f4").tobytes())
    return path


def test_an_eeglab_file_is_as_long_as_its_header_says(tmp_path: Path) -> None:
    path = eeglab(tmp_path)
    np.testing.assert_allclose(read(path).signal.T, VOLTS, rtol=1e-6)
    cut(path.with_suffix(".fdt"), 24)
    with pytest.raises(
        InputError, match=r"fdt: expected 12000 bytes as the .set file says, got 11976"
    ):
        read(path)


def test_eeglab_epochs_are_said_to_be_epochs(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"a continuous recording, got epochs .*export the continuous"
    ):
        read(eeglab(tmp_path, trials=5))


@pytest.mark.parametrize("share", [0.35, 0.6, 0.85, 0.9999])
def test_a_fif_file_that_was_cut_is_refused(tmp_path: Path, share: float) -> None:
    path = place(tmp_path, "fif", "meg")
    info = mne.create_info(["MEG0111", "MEG0121", "MEG0131"], 200.0, "mag")
    mne.io.RawArray(VOLTS * 1e-7, info, verbose="error").save(path, verbose="error")
    np.testing.assert_allclose(read(path, "meg").signal.T, VOLTS * 1e-7, rtol=1e-5, atol=1e-18)
    cut(path, round((1 - share) * path.stat().st_size) or 1)
    with pytest.raises(InputError, match="fetch the file again"):
        read(path, "meg")


def _replaced(path: Path, old: str, new: str) -> Path:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("unit", "volts"),
    [("\u00b5V", 1e-6), ("\u03bcV", 1e-6), ("UV", 1e-6), ("mv", 1e-3), ("", 1e-6)],
)
def test_units_of_brainvision_are_volts_however_they_are_spelt(
    tmp_path: Path, unit: str, volts: float
) -> None:
    path = _replaced(brainvision(tmp_path), ",,1,µV", f",,1,{unit}")
    (tmp_path / "sub-01/eeg/sub-01_task-look_channels.tsv").write_text(
        "name\ttype\tunits\n" + "".join(f"{n}\tEEG\tµV\n" for n in NAMES), encoding="utf-8"
    )
    np.testing.assert_allclose(read(path).signal.T, VOLTS * 1e6 * volts, rtol=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",,1,µV", ",,1,ADU", "expected volts in channel 'Fz', got unit 'ADU'"),
        ("IEEE_FLOAT_32", "IEEE_FLOAT_32\nUseBigEndianOrder=YES", "UseBigEndianOrder=NO, got YES"),
        ("DataFile=", "DataFile=../../", "expected all that it is read from in its own folder"),
        ("SamplingInterval=5000", "SamplingInterval=-5000", "samples per second above 0, got -200"),
    ],
)
def test_headers_of_brainvision_that_nobody_can_follow(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = _replaced(brainvision(tmp_path), old, new)
    (tmp_path / "sub-01/eeg/sub-01_task-look_channels.tsv").write_text(
        "name\ttype\n" + "".join(f"{n}\tEEG\n" for n in NAMES)
    )
    with pytest.raises(InputError, match=message):
        read(path)


def test_a_header_that_names_the_data_of_another_run_is_refused(tmp_path: Path) -> None:
    first = brainvision(tmp_path)
    second = first.with_name("sub-01_task-look_run-2_eeg.vhdr")
    second.write_bytes(first.read_bytes())
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-01\n")
    runs = [Run(p, p, "sub-01", "", r) for p, r in ((first, ""), (second, "2"))]
    with pytest.raises(InputError, match=r"run-2_eeg\.vhdr: expected samples of its own"):
        list(read_runs(runs, tmp_path, "eeg", "eeg", lambda _: TIMES))
