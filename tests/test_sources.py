"""Sources are told apart by what they are, not by what somebody called them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from scored import means
from worlds import PixelWorld, config

from decode.artefacts.places import place_of, truth_of
from decode.checks.frame import check_file_names
from decode.core import Batch, InputError, Tensors
from decode.encoders.ridge import Ridge
from decode.pipeline import execute
from decode.scoring.tidy import COLUMNS
from decode.sources import (
    DECODER,
    LAST,
    MADE,
    TABLE,
    Source,
    baseline,
    check_sources,
    in_order,
)
from decode.stages.predict import differing
from decode.store import Frame, read_json, write_json
from decode.use.opened import open_run
from decode.workshop import Run

RIDGE: dict[str, Any] = {"_target_": "decode.encoders.ridge.Ridge", "_partial_": True}
BEFORE: dict[str, Any] = {
    "_target_": "decode.parts.regions.regions", "_partial_": True, "targets": ["pixels"],
}  # fmt: skip
# What folders, arrays and files of a fold are called, and what messages and pages call things.
TAKEN = (
    "truth", "encoder", "scaler", "generator", "history", "measured", "expected", "table", "once",
    "decoded", "written", "baselines", "controls", "parts", "ceilings", "encoder.generator", "all",
)  # fmt: skip


def test_every_source_has_a_place_of_its_own() -> None:
    names = [*TAKEN, "ridge", "prior"]
    sources = [
        *TABLE,
        *(baseline(name, "Ridge") for name in names),
        *(Source(name, "part", "") for name in names),
        *(Source(name, "part", "", part) for name in names for part in ("V1", "V1/V2", "prior")),
    ]
    places = [place_of(source) for source in sources]
    assert len(set(places)) == len(places)
    assert len({s.name for s in TABLE}) == len(TABLE)
    # Nor does one lie inside another, but for the labels of a part.
    for source, place in zip(sources, places, strict=True):
        inside = [p for p in places if p.startswith(f"{place}/")]
        assert not inside or source.role == "part"
    assert not any(place.split("/")[0] == "truth" for place in places)
    assert truth_of(sources[-1]).startswith("truth/parts/")


def test_tables_show_sources_in_one_order() -> None:
    ridge, other = baseline("ridge", "Ridge"), baseline("another", "MLP")
    early, area = Source("early", "control", "too early"), Source("area", "part", "", "V1")
    mixed = [LAST[1], early, area, MADE[2], other, LAST[0], DECODER, ridge, MADE[0]]
    assert in_order(mixed) == [DECODER, other, ridge, area, MADE[0], MADE[2], early, *LAST[:2]]


@pytest.mark.parametrize("name", [s.name for s in TABLE] + ["Prior", "DECODER"])
def test_a_name_of_the_table_is_refused_before_anything_runs(name: str, tmp_path: Path) -> None:
    """A baseline called `prior` would stand for the generator without a brain."""
    for changes, key in (
        ({"baselines": {name: RIDGE}}, f"baselines.{name}"),
        ({"parts": {name: BEFORE}}, f"parts.{name}"),
    ):
        with pytest.raises(InputError, match=f"{key}: expected a name that no other source has"):
            Run(config(tmp_path, **changes))
    assert not (tmp_path / "outputs").exists()


def test_a_part_and_a_baseline_of_one_name_are_refused() -> None:
    check_sources(["ridge", "linear"], ["V1"])
    with pytest.raises(InputError, match=r"parts\.Ridge: .*baselines\.ridge; choose another"):
        check_sources(["ridge"], ["Ridge"])
    for name in TAKEN:
        check_file_names({**config(Path()), "baselines": {name: RIDGE}})
        check_sources([name], [])


def top1(frame: Frame, place: str) -> float:
    """Share of rows whose own truth is the most similar of its subject's, by hand."""
    predicted, truth = frame.arrays[f"{place}/pixels"], frame.arrays["truth/decoder/pixels"]
    hits = []
    for rows in frame.table.groupby("subject").indices.values():
        p, t = (x[rows].reshape(len(rows), -1).astype(float) for x in (predicted, truth))
        cosine = p @ t.T / np.linalg.norm(p, axis=1)[:, None] / np.linalg.norm(t, axis=1)
        hits += [row.argmax() == i for i, row in enumerate(cosine)]
    return float(np.mean(hits))


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with one and the same baseline under all names that once stood for something else."""
    names = ["ridge", *TAKEN]
    run = Run(
        config(
            tmp_path_factory.mktemp("named"), baselines=dict.fromkeys(names, RIDGE), subjects=["a"]
        )
    )
    execute(run, until="report", force=(), say=lambda _: None)
    return run


def scores_of(run: Run) -> pd.DataFrame:
    return pd.read_parquet((run.folder("evaluate") or Path()) / "scores.parquet")


@pytest.mark.slow
def test_no_name_of_a_baseline_changes_a_score(named: Run, tmp_path: Path) -> None:
    """`truth` once made the decoder perfect, `scaler` was overwritten, `encoder` was shown as the decoder."""
    plain = Run(config(tmp_path, baselines={"ridge": RIDGE}, subjects=["a"]))
    execute(plain, until="evaluate", force=(), say=lambda _: None)
    value, expected = means(scores_of(named)), means(scores_of(plain))
    for source, found in expected.items():
        assert value[source] == found, source
    for name in TAKEN:
        assert value[name] == expected["ridge"], name
    assert value["decoder"] != value["ridge"]
    frame = Frame.read((named.folder("predict") or Path()) / "published-00")
    for source in (DECODER, baseline("truth", "Ridge")):
        assert value[source.name]["retrieval_top1"] == top1(frame, place_of(source))
    assert value["decoder"]["retrieval_top1"] < 1


@pytest.mark.slow
def test_rows_of_scores_say_what_they_are_in_columns(named: Run) -> None:
    scores = scores_of(named)
    assert list(scores.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert not scores["metric"].str.contains("[/=]").any()
    assert set(scores["unit"]) == {"stimulus"}  # repeats are averaged before they are decoded
    assert set(scores["role"]) == {"decoder", "baseline", "control"}
    assert scores["part"].isna().all()
    better = scores.groupby("metric")["better"].unique().map(list).to_dict()
    assert {k: v for k, v in better.items() if v != ["higher"]} == {"mse": ["lower"]}
    keys = ["split", "source", "metric", "subject", "trial"]
    assert not scores.duplicated(keys).any()
    # The oracle's own row is the ceiling of the decoder's and of every baseline's.
    pixcorr = scores[scores["metric"] == "pixcorr"].set_index(["source", "trial"])
    for source in ("decoder", "ridge", "truth"):
        assert pixcorr.loc[source]["ceiling"].tolist() == pixcorr.loc["oracle"]["value"].tolist()
    assert pixcorr.loc["prior"]["ceiling"].isna().all()


@pytest.mark.slow
def test_the_report_shows_each_source_once_with_its_meaning(named: Run) -> None:
    folder = named.folder("report") or Path()
    page = (folder / "report.html").read_text()
    glossary = read_json(folder / "glossary.json")
    shown = [s["name"] for s in glossary["sources"]]
    assert shown == list(dict.fromkeys(shown))
    for source in glossary["sources"][1:]:
        assert page.count(f"<dt>{source['name']}</dt><dd>{escape(source['meaning'])}</dd>") == 1
    for name, told in glossary["metrics"].items():
        assert f"<dt>{name}</dt><dd>{told['meaning']}</dd>" in page


class Mirrored(Ridge):
    """A two-sided model whose vectors are those of the targets turned round."""

    def forward(self, batch: Batch) -> Tensors:
        return {name: -value for name, value in super().forward(batch).items()}

    def embed(self, targets: Tensors) -> Tensors:
        return {name: -value for name, value in targets.items()}


@pytest.mark.slow
def test_a_source_is_judged_on_its_own_truth(tmp_path: Path) -> None:
    """Beside a decoder that leaves the targets as they are."""
    mirrored = {"_target_": f"{__name__}.Mirrored", "_partial_": True}
    node = config(
        tmp_path, encoder=RIDGE, generator=None, baselines={"mirrored": mirrored, "same": RIDGE}
    )
    node["metrics"].pop("image")
    run = Run(node)
    execute(run, until="evaluate", force=(), say=lambda _: None)
    value = means(scores_of(run))
    assert value["mirrored"] == pytest.approx(value["decoder"])
    assert value["decoder"]["retrieval_top1"] > 0.5
    fold = (run.folder("predict") or Path()) / "published-00" / "truth"
    assert sorted(p.relative_to(fold).as_posix() for p in fold.rglob("*.npy")) == [
        "baselines/mirrored/pixels.npy", "decoder/pixels.npy",
    ]  # fmt: skip


def test_truth_that_the_decoder_has_is_kept_once() -> None:
    a, b = np.arange(4.0), np.ones(4)
    known: Mapping[str, np.ndarray] = {f"{truth_of()}/a": a, f"{truth_of()}/b": b}
    assert set(differing({"a": a, "b": b}, {})) == {"a", "b"}
    assert set(differing({"a": a + 0, "b": b + 1, "c": b}, known)) == {"b", "c"}


def test_two_metrics_of_one_name_are_refused_before_anything_runs(tmp_path: Path) -> None:
    node = {"_target_": "decode.metrics.retrieval.Retrieval", "target": "pixels"}
    with pytest.raises(
        InputError, match=r"metrics\.two: .*'retrieval_top1', which metrics\.one gives"
    ):
        Run(config(tmp_path, metrics={"one": node, "two": node | {"k": [1]}}))
    Run(config(tmp_path, metrics={"one": node, "two": node | {"name": "wide"}}))


def test_a_run_of_an_older_version_is_refused_in_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "report" / "old-0123abcd"
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config(tmp_path))
    write_json(folder / "manifest.json", {"plan": ["preprocess:a:00000001"]})
    with pytest.raises(InputError, match=r"one of an older version.*run its experiment again"):
        open_run(folder, packages=["worlds"])


def test_what_is_no_metric_is_refused_before_anything_runs(tmp_path: Path) -> None:
    """One that says nothing of its scores could not be told from another."""
    with pytest.raises(InputError, match=r"metrics\.it\._target_: expected a class of Metrics"):
        Run(
            config(
                tmp_path, metrics={"it": {"_target_": "decode.targets.pixels.Pixels", "size": 8}}
            )
        )


def test_a_subject_is_not_called_as_all_of_them(tmp_path: Path) -> None:
    """The line of the table over all subjects would stand in place of that one's."""
    node = config(tmp_path)
    node["data"] = {"_target_": f"{__name__}.Crowd", "root": str(tmp_path / "world")}
    with pytest.raises(InputError, match="subjects: expected names of single people, got 'all'"):
        Run(node)
    assert Run({**node, "subjects": ["a"]}).subjects == ("a",)


class Crowd(PixelWorld):
    """With somebody called `all`."""

    subjects = ("a", "all")
