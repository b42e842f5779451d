"""Files from elsewhere do not decide which other files are read, and names lead out of no folder."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest
from worlds import config

import decode
from decode.core import InputError
from decode.pipeline import execute
from decode.recordings.places import check_place
from decode.store import as_file_name, from_file_name, read_json
from decode.workshop import Run


def test_a_symbolic_link_that_was_made_in_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "study" / "pictures").symlink_to(tmp_path / "store")
    table, study = tmp_path / "study" / "t.tsv", tmp_path / "study"
    check_place(table, study / "pictures" / "a.png", [study])
    check_place(table, study / "pictures" / ".." / "a.png", [study])
    for bad in ("../a.png", "pictures/../../a.png", "/etc/hostname", "../study2/a.png"):
        with pytest.raises(InputError, match=r"t\.tsv: expected files below .*outside=true"):
            check_place(table, study / bad, [study])


@pytest.mark.parametrize("name", ["../../x", "a/b", "", ".hidden", "..", "a\\b", "x" * 101])
@pytest.mark.parametrize("key", ["name", "splits", "targets", "baselines", "metrics"])
def test_a_name_that_leads_out_of_its_folder_is_refused(
    key: str, name: str, tmp_path: Path
) -> None:
    whole = config(tmp_path)
    value = name if key == "name" else {name: next(iter(whole[key].values()))}
    with pytest.raises(InputError, match=rf"{key}: expected a name of 1 to 100 bytes"):
        Run({**whole, key: value})


def test_names_of_regions_are_names_of_files_and_back(tmp_path: Path) -> None:
    letters = ["V3A/B", "..", ".x", "a.b", "50%", "%2F", "50%2F", "ü é", "a\\b", "region=V1", "\0"]
    names = letters + ["".join(pair) for pair in itertools.product(letters, letters)]
    files = [as_file_name(name) for name in names]
    assert len(set(files)) == len(set(names))
    for name, file in zip(names, files, strict=True):
        assert from_file_name(file) == name
        assert Path(file).name == file
        assert "\0" not in file
        assert not file.startswith(".")
    assert as_file_name("region=V1 (left)") == "region=V1 (left)"


@pytest.mark.slow
@pytest.mark.parametrize("roi", ["V3A/B", "../V1"])
def test_a_region_with_a_slash_is_decoded_and_reported(roi: str, tmp_path: Path) -> None:
    data = {"_target_": "worlds.PixelWorld", "root": str(tmp_path / "world"), "roi": roi}
    part = {"_target_": "decode.parts.regions.regions", "_partial_": True, "targets": ["pixels"]}
    run = Run(config(tmp_path, data=data, parts={"region": part}, generator=None))
    folder = execute(run, until="report", force=(), say=lambda s: None)
    rows = read_json(folder / "summary.json")
    scores = {(row["source"], row["part"], row["metric"]): row["value"] for row in rows}
    assert scores["region", roi, "retrieval_top1"] > 0.5
    assert roi in (folder / "report.html").read_text()
    assert not list(tmp_path.rglob("V1*"))


def test_models_from_a_hub_bring_no_code() -> None:
    """Every class that would run a model's own code is told not to."""
    kinds = ("Auto", "Pipeline")
    found = 0
    for path in Path(decode.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            owner = ast.unparse(call.func.value)
            chosen = owner.startswith(("getattr(transformers", "getattr(diffusers"))
            if call.func.attr == "from_pretrained" and (chosen or any(k in owner for k in kinds)):
                told = {k.arg: ast.unparse(k.value) for k in call.keywords}
                assert told.get("trust_remote_code") == "False", f"{path}:{call.lineno}"
                found += 1
    assert found >= 9
