"""Intracranial recordings in BIDS: where contacts lie, in which region, and what high gamma tells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
from ieeg_world import BAND, CONTACTS, REGIONS, SFREQ, positions, write_electrodes, write_ieeg
from test_configs import composed

from decode.building import build
from decode.core import InputError
from decode.data.bids import Bids
from decode.pipeline import execute
from decode.workshop import Run


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ieeg")
    write_ieeg(root, trials=4, runs=2)
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "set"))


def folder(root: Path) -> Path:
    return root / "sub-01" / "ieeg"


def study(root: Path, **knobs: object) -> Bids:
    asked = {"datatype": "ieeg", "kind": "event", "stim_column": "trial_type", **knobs}
    return Bids(str(root), **asked)  # type: ignore[arg-type]


def channels(root: Path, **knobs: object) -> pd.DataFrame:
    return next(study(root, **knobs).recordings("sub-01")).channels


def test_contacts_have_their_places_in_metres_and_their_regions(
    template: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = list(study(template, region_columns=["finer", "region"]).recordings("sub-01"))
    assert [(r.modality, r.sfreq, r.run) for r in runs] == [
        ("ieeg", 500.0, n) for n in ("01", "02")
    ]
    for run in runs:
        assert run.channels["name"].tolist() == CONTACTS
        assert set(run.channels["kind"]) == {"seeg"}
        np.testing.assert_allclose(run.channels[["x", "y", "z"]], positions() / 1000, atol=1e-9)
        assert run.channels["roi"].tolist() == ["FFA", *[r.replace("n/a", "") for r in REGIONS[1:]]]
        assert run.channels["bad"].tolist() == [False] * 11 + [True]
        assert 1e-6 < run.signal[:, :11].std() < 1e-3  # volts
    assert "coordinate" not in capsys.readouterr().err  # MNE-BIDS' doubts are not ours
    assert set(channels(template)["roi"]) == {""}


@pytest.mark.parametrize(("unit", "factor"), [("m", 1e-3), ("cm", 0.1), ("mm", 1.0)])
def test_units_of_the_coordinate_system_are_honoured(root: Path, unit: str, factor: float) -> None:
    write_electrodes(folder(root), unit=unit, factor=factor)
    np.testing.assert_allclose(channels(root)[["x", "y", "z"]], positions() / 1000, atol=1e-9)


@pytest.mark.parametrize("unit", ["pixels", "n/a", None])
def test_positions_of_no_known_length_are_left_out_and_told(
    root: Path, unit: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    write_electrodes(folder(root), unit=unit or "mm")
    if unit is None:
        (folder(root) / "sub-01_coordsystem.json").unlink()
    found = channels(root, region_columns=["region"])
    assert found[["x", "y", "z"]].isna().all(axis=None)
    assert found["roi"].tolist()[:2] == ["fusiform"] * 2
    assert "left out" in capsys.readouterr().err


def test_the_space_is_chosen_or_the_only_one(root: Path) -> None:
    for file in folder(root).glob("sub-01_[ec][lo]*[se].[tj]s*"):
        file.unlink()
    write_electrodes(folder(root), space="MNI152Lin", factor=2.0)
    np.testing.assert_allclose(channels(root)[["x", "y", "z"]], positions() / 500, atol=1e-9)
    write_electrodes(folder(root), space="ACPC", factor=100.0, unit="m").touch()
    said = folder(root) / "sub-01_space-ACPC_coordsystem.json"
    said.write_text(json.dumps({"iEEGCoordinateSystem": "ACPC", "iEEGCoordinateUnits": "mm"}))
    write_electrodes(folder(root), space="ACPC", factor=1.0)
    np.testing.assert_allclose(
        channels(root, space="ACPC")[["x", "y", "z"]], positions() / 1000, atol=1e-9
    )
    with pytest.raises(
        InputError, match=r"one space of electrodes\.tsv, got ACPC, MNI152Lin; set data\.space"
    ):
        channels(root)
    with pytest.raises(InputError, match="in space fsaverage, got ACPC, MNI152Lin"):
        channels(root, space="fsaverage")


def test_contacts_without_a_row_and_groups(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder(root) / "sub-01_electrodes.tsv"
    table = pd.read_csv(file, sep="\t", keep_default_na=False).assign(group="left")
    table[table["name"] != "LA3"].iloc[::-1].to_csv(file, sep="\t", index=False)
    found = channels(root, region_columns=["region"])
    assert "no row for LA3" in capsys.readouterr().err
    assert found["roi"].tolist()[1:4] == ["fusiform", "", "fusiform"]
    assert found[["x", "y", "z"]].isna().all(axis=1).tolist() == [i == 2 for i in range(12)]
    assert found["group"].tolist() == ["left", "left", "", *["left"] * 9]


def cut(root: Path, column: str) -> None:
    file = folder(root) / "sub-01_electrodes.tsv"
    pd.read_csv(file, sep="\t", keep_default_na=False).drop(columns=column).to_csv(
        file, sep="\t", index=False
    )


def twice(root: Path) -> None:
    file = folder(root) / "sub-01_electrodes.tsv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[-1]]) + "\n")


@pytest.mark.parametrize(
    ("change", "knobs", "message"),
    [
        (lambda r: cut(r, "y"), {}, r"electrodes\.tsv: expected a column 'y'.* add the column y"),
        (lambda r: None, {"region_columns": ["lobe"]}, r"a column 'lobe'.*region_columns"),
        (twice, {}, "the name of each contact once, got 'LB6' twice"),
        (lambda r: write_electrodes(folder(r), unit="inch"), {}, "one of m, cm, mm, .*'inch'"),
        (lambda r: write_electrodes(folder(r), unit="m"), {}, "within a metre of the origin, got 50 m"),
        (lambda r: (folder(r) / "sub-01_electrodes.tsv").unlink(), {"region_columns": ["region"]},
         r"expected electrodes\.tsv, of which data\.region_columns"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be(root: Path, change, knobs: dict, message: str) -> None:
    change(root)
    with pytest.raises(InputError, match=message) as caught:
        channels(root, **knobs)
    assert "\n" not in str(caught.value)


def test_the_recipe_finds_the_burst_where_and_when_it_is(tmp_path: Path) -> None:
    """White noise of 2 uV, and of the band as much again, which after a face is four times as large."""
    spectrum = lambda h: np.abs(np.fft.rfft(h, 8192)) ** 2  # noqa: E731
    passed = spectrum(mne.filter.create_filter(None, SFREQ, 70.0, 150.0, verbose="error"))
    white, band = passed.mean(), (passed * spectrum(BAND)).mean()
    stronger = np.log10((16 * band + white) / (band + white))
    write_ieeg(tmp_path, trials=20, runs=1, gain=4.0)
    node = composed("experiment=own_ieeg_classes")["preprocess"]
    (run,) = study(tmp_path, region_columns=["region"]).recordings("sub-01")
    made = build(node, "preprocess")(run)
    assert (made.layout.sfreq, made.layout.n_times, made.layout.start) == (100.0, 110, -0.3)
    assert made.layout.names == tuple(CONTACTS[:11])
    windows = made.signal[made.table["start"].to_numpy()[:, None] + np.arange(110)]
    windows = windows - windows[:, :30].mean(1, keepdims=True)
    face = (made.table["stimulus"] == "face").to_numpy()
    during, after = windows[:, 45:75].mean(1), windows[:, 95:].mean(1)
    assert during[face, :6].mean() == pytest.approx(stronger, abs=0.03)
    for quiet in (during[~face], during[face, 6:], after[face]):
        assert abs(quiet.mean()) < 0.05
    rises = windows[face][:, :, :6].mean((0, 2)) > 0.45
    first, last = np.flatnonzero(rises)[[0, -1]] / 100 - 0.3
    assert abs(first - 0.1) <= 0.02
    assert abs(last - 0.5) <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["average_by_group", "bipolar", "laplacian"])
def test_classes_are_told_from_the_region_that_answers(tmp_path: Path, reference: str) -> None:
    write_ieeg(tmp_path / "set", trials=40, runs=2)
    config = composed(
        "experiment=own_ieeg_classes", f"paths.data={tmp_path}/set", f"paths.outputs={tmp_path}/outputs",
        "data.region_columns=[region]", "targets.label.classes=[face,house]",
        f"step@preprocess.steps.reference={reference}",
    )  # fmt: skip
    run = Run(config)
    execute(run, until="evaluate", force=(), say=lambda s: None)
    summary = pd.read_json((run.folder("evaluate") or tmp_path) / "summary.json")
    summary = summary[summary["metric"] == "accuracy"].fillna({"part": ""})
    score = {(r.source, r.part): r.value for r in summary.itertuples()}
    assert score["decoder", ""] > 0.95
    assert score["region", "fusiform"] > 0.95
    assert score["window", "300ms"] > 0.9
    # Of 80 trials .36 to .64 lie within two and a half standard errors of chance.
    for quiet in (("shuffled", ""), ("region", "hippocampus"), ("prestimulus", "")):
        assert 0.36 <= score[quiet] <= 0.64, quiet
