"""What has become of finished folders since they were written is found before it is used."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import worlds
from worlds import config

from decode import checksums, plan
from decode.checksums import check_finished, check_folder, check_of, differs
from decode.core import InputError
from decode.pipeline import execute
from decode.runs import recorded_run
from decode.series import Clock, SeriesStore, write_clock, write_series
from decode.store import fill_folder, read_array, read_table, write_array
from decode.vectors import FeatureStore
from decode.workshop import Run


def flip(path: Path, at: int = -1) -> None:
    """Change one bit of one byte, at the same size and with the same time of writing."""
    state = path.stat()
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_every_flipped_byte_of_a_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(np.random.default_rng(0).integers(0, 256, 300, np.uint8).tobytes())
    known = check_of(path)
    assert differs(path, known) is None
    for at in range(300):
        flip(path, at)
        assert "checksum" in str(differs(path, known)), at
        flip(path, at)
    assert differs(path, known) is None


def test_large_files_are_sampled_unless_they_were_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "WHOLE_BYTES", 10_000)
    monkeypatch.setattr(checksums, "SAMPLES", 4)
    monkeypatch.setattr(checksums, "SAMPLE_BYTES", 1_000)
    path = tmp_path / "a"
    path.write_bytes(bytes(31_000))
    known = check_of(path)
    seen = []
    for at in range(0, 31_000, 100):  # blocks begin at 0, 10,000, 20,000 and 30,000
        flip(path, at)
        seen.append(differs(path, known) is not None)
        flip(path, at)
    assert [i for i, found in enumerate(seen) if found] == [
        start + i for start in (0, 100, 200, 300) for i in range(10)
    ]
    flip(path, 5_000)
    assert differs(path, known) is None
    os.utime(path, (1, 1))  # as after copying: read to its end
    assert "checksum" in str(differs(path, known))


def _filled(folder: Path) -> Path:
    def fill(out: Path) -> dict[str, str]:
        (out / "deep").mkdir()
        write_array(out / "deep" / "x.npy", np.arange(10.0))
        write_array(out / "y.npy", np.arange(5.0))
        return {"stage": "train"}

    fill_folder(folder, fill, keep=False)
    return folder


def test_a_damaged_array_is_not_read(tmp_path: Path) -> None:
    folder = _filled(tmp_path / "s")
    assert read_array(folder / "deep" / "x.npy")[3] == 3
    flip(folder / "y.npy")
    with pytest.raises(InputError, match=r"y\.npy: expected .* force=\[train\]"):
        read_array(folder / "y.npy")
    (folder / "z.npy").write_bytes((folder / "deep" / "x.npy").read_bytes())
    check_finished(folder / "z.npy")  # came later: nothing is known of it


def test_a_lost_or_shortened_file_is_missed(tmp_path: Path) -> None:
    folder = _filled(tmp_path / "s")
    check_folder(folder)
    (folder / "deep" / "x.npy").unlink()
    with pytest.raises(InputError, match=r"x\.npy: expected 208 bytes.*no such file"):
        check_folder(folder)


@pytest.mark.parametrize("what", ["lost", "flipped", "emptied"])
def test_a_folder_without_its_manifest_is_put_aside(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _filled(tmp_path / "s")
    manifest = folder / "manifest.json"
    if what == "flipped":
        flip(manifest, manifest.read_text().index("crc32") + 9)
    else:
        manifest.write_text("") if what == "emptied" else manifest.unlink()
    _filled(folder)
    check_folder(folder)
    assert (tmp_path / "s.old-1" / "y.npy").is_file()
    assert capsys.readouterr().err.count("put aside as s.old-1") == 1


def test_damaged_features_are_refused_and_made_again_when_deleted(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    for i, name in enumerate("abc"):
        store.append([name], np.full((1, 4), float(i)))
    flip(tmp_path / "values-0001.npy")
    again = FeatureStore(tmp_path)
    assert again.rows(["a", "c"])[:, 0].tolist() == [0, 2]
    for read in (again.rows, again.stored, lambda names: again.columns(names, slice(0, 2))):
        with pytest.raises(InputError, match=r"values-0001\.npy: .* shard-0001\.json"):
            read(["b"])
    for name in ("values-0001.npy", "shard-0001.json"):
        (tmp_path / name).unlink()
    last = FeatureStore(tmp_path)
    assert last.missing(["a", "b", "c"]) == ["b"]
    last.append(["b"], np.full((1, 4), 7.0))
    assert FeatureStore(tmp_path).rows(["a", "b", "c"])[:, 0].tolist() == [0, 7, 2]


@pytest.mark.parametrize("name", ["values-0001.npy", "shard-0001.json"])
@pytest.mark.parametrize("what", ["head", "cut", "emptied", "list", "unchecked", "gone"])
def test_what_a_refusal_of_features_says_mends_them_and_loses_one_shard(
    tmp_path: Path, name: str, what: str
) -> None:
    for i, digest in enumerate("abc"):
        FeatureStore(tmp_path).append([digest], np.full((1, 4), float(i)))
    path, content = tmp_path / name, (tmp_path / name).read_bytes()
    damaged = {"head": b"?" + content[1:], "cut": content[:20], "emptied": b"", "list": b"[1, 2]"}
    damaged["unchecked"] = b'{"digests": ["b"], "values": 3}'
    path.write_bytes(damaged[what]) if what in damaged else path.unlink()
    if (what, name) == ("gone", "shard-0001.json"):
        found = FeatureStore(tmp_path)  # vectors that nothing speaks of are no features
    else:
        with pytest.raises(InputError, match=rf"{name}: expected .*; delete .*run again") as told:
            FeatureStore(tmp_path)
        advice = str(told.value).rsplit("; ", 1)[1]
        for file in re.findall(r"[a-z]+-[0-9]{4}\.[a-z]+", advice):
            (tmp_path / file).unlink(missing_ok=True)
        found = FeatureStore(tmp_path)
    assert found.missing(["a", "b", "c"]) == ["b"]
    found.append(["b"], np.full((1, 4), 7.0))
    assert FeatureStore(tmp_path).rows(["a", "b", "c"])[:, 0].tolist() == [0, 7, 2]


@pytest.mark.parametrize("ending", ["npy", "json"])
@pytest.mark.parametrize("what", ["flipped", "cut", "emptied", "list", "gone"])
def test_what_a_refusal_of_a_series_says_mends_it_and_loses_no_other(
    tmp_path: Path, ending: str, what: str
) -> None:
    write_clock(tmp_path, Clock(rate=1.0, lag=0.0, rest=0.0))
    for i, key in enumerate("ab"):
        write_series(tmp_path, key, np.full((4, 2), i + 1.0))
    path, content = tmp_path / f"b.{ending}", (tmp_path / f"b.{ending}").read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    damaged = {"flipped": flipped, "cut": content[:20], "emptied": b"", "list": b"[1, 2]"}
    path.write_bytes(damaged[what]) if what in damaged else path.unlink()
    places = {"a": ("a", 0.0), "b": ("b", 0.0)}
    store = SeriesStore(tmp_path, places, (0.0, 2.0))
    assert store.stored(["a"]).numpy().tolist() == [[[1.0, 1.0], [1.0, 1.0]]]
    if store.missing(["a", "b"]) != ["b"]:
        with pytest.raises(InputError, match=rf"b\.{ending}: expected .*delete .*again") as told:
            store.stored(["b"])
        for file in re.findall(r"\bb\.(?:npy|json)", str(told.value).rsplit("delete ", 1)[1]):
            (tmp_path / file).unlink(missing_ok=True)
    assert store.missing(["a", "b"]) == ["b"]
    write_series(tmp_path, "b", np.full((4, 2), 5.0))
    again = SeriesStore(tmp_path, places, (0.0, 2.0))
    assert again.stored(["b", "a"])[:, 0, 0].tolist() == [5.0, 1.0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    execute(Run(config(folder)), until="report", force=(), say=lambda s: None)
    return folder


# A finished file -> the stage that reads it.
READ_BY = {
    "preprocess/*/signal.npy": "train",
    "preprocess/*/trials.parquet": "train",
    "preprocess/*/layout.json": "train",
    "split/*/manifest.parquet": "train",
    "features/*/values-0000.npy": "train",
    "train/*/*/decoder/encoder.safetensors": "predict",
    "train/*/*/baselines/ridge/encoder.safetensors": "predict",
    "train/*/*/scaler.safetensors": "predict",
    "predict/*/*/decoder/pixels.npy": "evaluate",
    "predict/*/*/truth/decoder/pixels.npy": "reconstruct",
    "predict/*/*/table.parquet": "evaluate",
    "reconstruct/*/*/decoder/00003.png": "evaluate",
    "evaluate/*/summary.json": "report",
    "evaluate/*/scores.parquet": "report",
    "evaluate/*/glossary.json": "report",
}


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "stage"), READ_BY.items(), ids=list(READ_BY))
def test_a_flipped_byte_is_found_by_the_stage_that_reads_it(
    finished: Path, pattern: str, stage: str, tmp_path: Path
) -> None:
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    path = next(iter(sorted((tmp_path / "outputs").glob(pattern))))
    flip(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match=f"{path.name}: .*(damaged|expected)"):
        execute(Run(config(tmp_path)), until="report", force=(stage,), say=lambda s: None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gone", "stage"),
    [
        ("predict/*/published-00", "evaluate"),
        ("predict/*/published-00/baselines/ridge/pixels.npy", "evaluate"),
        ("reconstruct/*/published-00/controls/nearest_image", "evaluate"),
        ("train/*/published-00/decoder/history.jsonl", "report"),
    ],
)
def test_what_is_missing_is_missed(finished: Path, gone: str, stage: str, tmp_path: Path) -> None:
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    path = next(iter(sorted((tmp_path / "outputs").glob(gone))))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match="no such file"):
        execute(Run(config(tmp_path)), until="report", force=(stage,), say=lambda s: None)


@pytest.mark.slow
def test_a_finished_run_is_opened_from_the_keys_it_recorded(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Run(config(finished))
    name = first.of("report")[0].folder.name
    trials = len(first.inputs.trials)
    shutil.copytree(finished / "outputs", tmp_path / "outputs")

    def gone(*_: object) -> None:
        raise InputError("the data are not there any more")

    monkeypatch.setattr(worlds.PixelWorld, "__init__", gone)
    newer = tuple(replace(stage, version=99) for stage in plan.STAGES)
    monkeypatch.setattr(plan, "STAGES", newer)
    opened = recorded_run(tmp_path / "outputs" / "report" / name, packages=["worlds"])
    assert [t.key for t in opened.tasks] == [t.key for t in first.tasks]
    assert opened.subjects == ("a", "b")
    assert len(opened.inputs.trials) == trials
    folder = opened.folder("evaluate")
    assert folder is not None
    assert folder.is_relative_to(tmp_path)
    assert len(read_table(folder / "scores.parquet"))
