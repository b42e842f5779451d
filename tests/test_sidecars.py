"""What sidecars say about a run: which of them apply, and when its volumes were taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from decode.core import InputError
from decode.recordings.json_files import read_json_object
from decode.recordings.names import in_order
from decode.recordings.sidecars import Timing, check_seconds, said_of, sidecar, volume_timing

NAME = "sub-01_ses-2_task-look_run-03_bold.nii.gz"
VOLUMES = 5


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A run deep in a data set, whose header says 2.5 s."""
    return saved(tmp_path / "sub-01/ses-2/func" / NAME, 2.5)


def saved(path: Path, tr: float, unit: str = "sec") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = nibabel.Nifti1Image(np.zeros((2, 2, 2, VOLUMES), np.float32), np.eye(4))
    made.header.set_zooms((3, 3, 3, tr))
    made.header.set_xyzt_units("mm", unit)
    nibabel.save(made, path)
    return path


def write(path: Path, **content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_the_header_counts_where_no_sidecar_speaks(tmp_path: Path) -> None:
    assert volume_timing(saved(tmp_path / "a.nii.gz", 2.5)) == Timing(2.5)
    assert volume_timing(saved(tmp_path / "b.nii", 1500, "msec")) == Timing(1.5)
    none = saved(tmp_path / "no.nii", 0)
    with pytest.raises(
        InputError, match=r"no\.nii: expected a repetition time .*add Rep.* to no\.json"
    ):
        volume_timing(none)
    write(tmp_path / "no.json", RepetitionTime=0.8, TaskName="look")
    assert volume_timing(none) == Timing(0.8)


PLACES = [
    "bold.json",
    "task-look_bold.json",
    "sub-01/sub-01_bold.json",
    "sub-01/ses-2/sub-01_ses-2_task-look_bold.json",
    "sub-01/ses-2/sub-01_ses-2_task-look_run-3_bold.json",
    "sub-01/ses-2/func/sub-01_ses-2_task-look_bold.json",
    "sub-01/ses-2/func/sub-01_ses-2_task-look_run-03_bold.json",
]


@pytest.mark.parametrize("place", PLACES)
def test_a_repetition_time_is_found_wherever_bids_lets_it_stand(
    tmp_path: Path, image: Path, place: str
) -> None:
    write(tmp_path / place, RepetitionTime=2)
    assert volume_timing(image, tmp_path) == Timing(2.0)


OTHERS = ["task-rest_bold.json", "sub-02_bold.json", "sub-01/sub-01_run-4_bold.json",
          "sub-01/ses-2/sub-01_acq-fast_bold.json", "task-look_sbref.json", "mybold.json",
          "sub-01/ses-1/sub-01_task-look_bold.json"]  # fmt: skip


@pytest.mark.parametrize("place", OTHERS)
def test_what_speaks_of_others_does_not_count(tmp_path: Path, image: Path, place: str) -> None:
    write(tmp_path / place, RepetitionTime=2)
    assert volume_timing(image, tmp_path) == Timing(2.5)


def test_the_nearest_sidecar_comes_first_and_others_add_what_it_lacks(
    tmp_path: Path, image: Path
) -> None:
    for i, place in enumerate(PLACES):
        write(tmp_path / place, RepetitionTime=1 + i, **{f"only{i}": i}, Manufacturer=None)
        said = said_of(image, tmp_path)
        assert said["RepetitionTime"].value == 1 + i
        assert said["RepetitionTime"].file == tmp_path / place
        assert {f"only{k}" for k in range(i + 1)} | {"RepetitionTime"} == set(said)
    (tmp_path.parent / "bold.json").write_text("no JSON, and above the data set")
    assert said_of(image, tmp_path)["only0"].value == 0


def test_two_that_apply_equally_are_refused(tmp_path: Path, image: Path) -> None:
    write(tmp_path / "sub-01/sub-01_bold.json")
    write(tmp_path / "sub-01/task-look_bold.json")
    with pytest.raises(InputError, match=r"sub-01_bold\.json and task-look_bold\.json; keep one"):
        said_of(image, tmp_path)


def test_run_01_is_run_1_but_the_same_spelling_comes_first(tmp_path: Path) -> None:
    events = tmp_path / "sub-1_run-1_events.tsv"
    events.touch()
    assert sidecar(tmp_path / "sub-1_run-01_bold.nii", tmp_path, "events.tsv") == events
    assert sidecar(tmp_path / "sub-1_run-10_bold.nii", tmp_path, "events.tsv") is None
    assert sidecar(tmp_path / "sub-01_run-1_bold.nii", tmp_path, "events.tsv") is None
    same = tmp_path / "sub-1_run-01_events.tsv"
    same.touch()
    assert sidecar(tmp_path / "sub-1_run-01_bold.nii", tmp_path, "events.tsv") == same
    assert sidecar(tmp_path / "sub-1_run-1_bold.nii", tmp_path, "events.tsv") == events


def test_numbers_in_names_sort_as_numbers() -> None:
    names = ["ses-10", "ses-2", "ses-1", "ses-011", "ses-pre", "ses-²", "2", "10", ""]
    assert sorted(names, key=in_order) == [
        "", "2", "10", "ses-1", "ses-2", "ses-10", "ses-011", "ses-pre", "ses-²"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "value", ["n/a", "2.0", 0, [2.0], 2000, -2, True, float("inf"), float("nan")]
)
@pytest.mark.parametrize("key", ["RepetitionTime", "StartTime", "SliceTiming"])
def test_what_is_no_time_is_refused_by_name(
    tmp_path: Path, image: Path, key: str, value: object
) -> None:
    if (key, value) == ("StartTime", 0):
        return
    file = write(
        tmp_path / "task-look_bold.json", **{key: [0.0, value] if key[1] == "l" else value}
    )
    if (key, value) == ("SliceTiming", 0):
        assert volume_timing(image, tmp_path) == Timing(2.5)
        return
    with pytest.raises(
        InputError, match=rf"task-look_bold\.json: expected {key} .*, got .*; correct"
    ):
        volume_timing(image, tmp_path)
    assert file.is_file()


@pytest.mark.parametrize("content", [b"{", b"[2.0]", b'{"RepetitionTime": "\xe9"}', b"[" * 5000])
def test_a_damaged_sidecar_is_refused_by_name(tmp_path: Path, image: Path, content: bytes) -> None:
    (tmp_path / "task-look_bold.json").write_bytes(content)
    with pytest.raises(InputError, match=r"task-look_bold\.json: expected .*; correct the file"):
        volume_timing(image, tmp_path)


@pytest.mark.parametrize("unit", ["ms", "samples", 5])
def test_events_are_in_seconds(tmp_path: Path, unit: object) -> None:
    events = tmp_path / "sub-01/sub-01_task-look_events.tsv"
    write(tmp_path / "task-look_events.json", onset={"Units": "s"}, code={"Units": unit})
    check_seconds(events, tmp_path)
    write(tmp_path / "sub-01/sub-01_events.json", duration={"Units": unit}, onset="in seconds")
    with pytest.raises(InputError, match=r"sub-01_events\.json: expected duration in seconds, got"):
        check_seconds(events, tmp_path)


def test_start_time_is_the_moment_of_the_first_volume(tmp_path: Path, image: Path) -> None:
    write(image.with_name(NAME.replace(".nii.gz", ".json")), RepetitionTime=2.0, StartTime=0.955)
    assert volume_timing(image, tmp_path) == Timing(2.0, 0.955)


def test_evenly_spaced_volumes_have_a_repetition_time(tmp_path: Path, image: Path) -> None:
    file = tmp_path / "task-look_bold.json"
    write(file, VolumeTiming=[0.5, 3.5, 6.5, 9.5, 12.5])
    assert volume_timing(image, tmp_path) == Timing(3.0, 0.5)
    write(file, VolumeTiming=[0, 3, 6, 9, 12], RepetitionTime=2.0)
    with pytest.raises(InputError, match="in steps of RepetitionTime, 2 s, got 3 s"):
        volume_timing(image, tmp_path)
    for times, words in (
        ([0, 2, 4, 7, 9], "steps from 2 to 3 s"),
        ([0, 2, 4, 6], "5 numbers"),
        ([0, 2, 4, 6, "8"], "5 numbers"),
        ([8, 6, 4, 2, 0], "steps from -2 to -2 s"),
    ):
        write(file, VolumeTiming=times)
        with pytest.raises(InputError, match=words):
            volume_timing(image, tmp_path)


def test_derivatives_fall_back_on_the_raw_run(tmp_path: Path, image: Path) -> None:
    root = tmp_path / "derivatives/prep"
    made = saved(
        root / "sub-01/ses-2/func" / NAME.replace("_bold", "_space-T1w_desc-preproc_bold"), 0
    )
    write(tmp_path / "task-look_bold.json", RepetitionTime=2.0, StartTime=0.3)
    raw = tmp_path / made.relative_to(root), tmp_path
    assert volume_timing(made, root, raw) == Timing(
        2.0
    )  # the raw start is not that of the derivative
    write(root / "task-look_bold.json", StartTime=1.0)
    assert volume_timing(made, root, raw) == Timing(2.0, 1.0)
    write(root / "task-look_bold.json", RepetitionTime=4.0)
    assert volume_timing(made, root, raw) == Timing(4.0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"RepetitionTime": 2.0}, "the header says 2.5 s from volume to volume; taken is 2 s"),
        ({"SliceTimingCorrected": True}, "no StartTime says to which moment"),
        ({"RepetitionTime": 2.5001, "SliceTimingCorrected": True, "StartTime": 1.2}, ""),
    ],
)
def test_what_is_odd_is_told(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture, content: dict, words: str
) -> None:
    write(tmp_path / "task-look_bold.json", **content)
    volume_timing(image, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(words)
    assert not words or (words in lines[0] and NAME in lines[0])


@pytest.mark.parametrize(
    "text",
    [
        '{"RepetitionTime": 2.0, "RepetitionTime": 0.8}',
        '{"onset": {"RepetitionTime": 1, "RepetitionTime": 1}}',
    ],
)
def test_a_key_twice_is_refused_at_any_depth(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bold.json"
    path.write_text(text)
    with pytest.raises(
        InputError, match=r"bold\.json: expected each key once .*'RepetitionTime' twice"
    ):
        read_json_object(path)


def test_one_key_in_two_objects_is_no_key_twice(tmp_path: Path) -> None:
    path = tmp_path / "bold.json"
    path.write_text('\ufeff{"a": {"Units": "s"}, "b": {"Units": "m"}}', encoding="utf-8")
    assert read_json_object(path) == {"a": {"Units": "s"}, "b": {"Units": "m"}}
