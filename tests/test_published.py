"""Published results: only beside runs on the same pictures, never without their mark."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from worlds import config

from decode.core import InputError
from decode.report.content import Report, Score
from decode.report.page import page
from decode.report.published import (
    TESTS,
    UNKNOWN,
    beside_published,
    check_published,
    picture_scores,
    protocol_of,
    read_systems,
    trained_on,
)
from decode.sources import DECODER, Source, baseline
from decode.workshop import Run

METRICS = Path(__file__).parents[1] / "configs" / "metric"


def node(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((METRICS / f"{name}.yaml").read_text()))


DECLARED = {"_target_": "decode.splits.published.published", "_partial_": True}


def score(
    metric: str,
    value: float = 0.5,
    subject: str = "subj01",
    split: str = "published",
    source: Source = DECODER,
) -> Score:
    return Score(metric, subject, 1000, value, source.name, source.role, split=split)


def asked(
    test: str | None,
    metrics: dict[str, Any],
    splits: dict[str, Any] | None = None,
    **data: object,
) -> dict[str, Any]:
    """A composed config, as far as it matters here."""
    splits = splits or {"published": DECLARED}
    return {"published": test, "metrics": metrics, "splits": splits, "data": data}


def test_every_published_number_is_a_fraction_of_a_known_metric_with_a_mark() -> None:
    systems, subjects = read_systems()
    pairs = {"pixcorr", "ssim", "ssim_legacy_columns"}
    two_way = {f"two_way_{n}" for n in ("alexnet2", "alexnet5", "inception", "clip")}
    distances = {"distance_efficientnet_b1", "distance_swav"}
    found = {"retrieval_300way", "retrieval_brain_300way"}
    words = {"bleu1", "bleu4", "rouge_l", "cider", "clipscore", "ref_clipscore"}
    assert "1, 2, 5 and 7" in subjects
    assert picture_scores() == pairs | two_way | distances
    for s in systems:
        assert s.test in (*TESTS, UNKNOWN)
        assert s.protocol
        assert s.training
        assert s.paper
        assert "second-hand" in s.mark or "from memory" in s.mark
        assert set(s.scores) <= pairs | two_way | distances | found | words
        assert all(0 < v < 1 for v in s.scores.values())
        assert all(v > 0.5 for k, v in s.scores.items() if k in two_way)
    keys = [(s.system, s.training, s.protocol) for s in systems]
    assert len(set(keys)) == len(keys)


def test_names_of_columns_are_those_of_our_presets() -> None:
    """A preset renamed would empty the table silently."""
    from decode.building import build
    from decode.metrics.image import ImageSuite

    text = (METRICS / "image_mindeye_256.yaml").read_text().replace("${paths.data}", "/data")
    suite = build(yaml.safe_load(text), "metric")
    assert isinstance(suite, ImageSuite)
    ours = {*suite.pairs}
    ours |= {f"two_way_{n}" for network in suite.two_way for n in network.names}
    ours |= {f"distance_{n}" for network in suite.distance for n in network.names}
    mindeye2 = next(s for s in read_systems()[0] if s.system == "MindEye2")
    assert {m for m in mindeye2.scores if not m.startswith("retrieval")} == ours


def test_the_protocol_is_told_from_the_metrics() -> None:
    assert protocol_of({"a": node("retrieval"), "b": node("image_mindeye_256")}) == "mindeye-256"
    low_pass = node("image_mindeye_256_antialias")
    assert protocol_of({"b": low_pass}) == "mindeye-256-antialias"
    assert protocol_of({"b": node("image_braindiffuser_224")}) == "braindiffuser-224"
    for name in ("image_native", "image_tiny", "image_offline", "retrieval"):
        assert protocol_of({"x": node(name)}) == ""
    assert protocol_of({"b": {**node("image_mindeye_256"), "ssim": "columns_legacy"}}) == ""
    mixed = {**node("image_mindeye_256"), "two_way": low_pass["two_way"]}
    assert protocol_of({"b": mixed}) == ""
    default = {"_target_": "decode.scoring.picture_scores.Resize", "size": 256}
    assert protocol_of({"b": {**node("image_mindeye_256"), "first": default}}) == ""


def test_a_run_stands_beside_systems_with_its_test_pictures_only() -> None:
    metrics = {"b": node("image_mindeye_256"), "r": node("retrieval_mindeye")}
    own = [score("pixcorr"), score("retrieval_300way"), score("mse")]
    own.append(score("pixcorr", 0.1, source=baseline("ridge", "Ridge")))
    found = {t: beside_published(asked(t, metrics), own) for t in TESTS}
    names = {}
    for test, shown in found.items():
        assert shown is not None
        assert shown.columns == ["pixcorr", "retrieval_300way"]
        (row,) = shown.own
        assert row.scores == {"pixcorr": 0.5, "retrieval_300way": 0.5}
        assert {s.test for s in shown.systems} == {test}
        assert {s.test for s in shown.elsewhere} == {test, UNKNOWN}
        assert {s.protocol for s in shown.systems if "pixcorr" in s.scores} == {"mindeye-256"}
        names[test] = [s.system for s in shown.systems]
    assert "MindEye1" in names["shared982"]
    assert "MindEye2" in names["shared1000"]
    assert not set(names["shared982"]) & set(names["shared1000"])
    assert beside_published(asked(None, metrics), own) is None


def rows_of(html: str) -> list[list[str]]:
    """Cells of the rows of this run and of the systems that may be compared, without tags."""
    table = html.split("Beside published results")[1].split("</table>")[0]
    body = table.split("<tbody>")[1]
    return [
        [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in body.split("<tr>")[1:]
    ]


def test_every_split_has_a_row_with_its_sessions() -> None:
    """As in a ladder of training sessions, beside a split of other test pictures."""
    splits = {f"sessions_{n}": {**DECLARED, "sessions": n} for n in (1, 40)}
    splits |= {"shared1000": DECLARED, "kfold": {"_target_": "decode.splits.kfold.kfold"}}
    own = [score("pixcorr", 0.101 + i / 10, split=name) for i, name in enumerate(splits)]
    metrics = {"b": node("image_mindeye_256")}
    shown = beside_published(asked("shared1000", metrics, splits), own)
    rows = rows_of(page(Report("run", [], published=shown)))
    assert [r[:5] for r in rows[:3]] == [
        ["this run, sessions_1", "one session", "shared1000", "mindeye-256", "0.101"],
        ["this run, sessions_40", "first 40 sessions", "shared1000", "mindeye-256", "0.201"],
        ["this run, shared1000", "all sessions", "shared1000", "mindeye-256", "0.301"],
    ]
    assert not [r for r in rows[3:] if r[0].startswith("this run") or r[2] != "shared1000"]
    assert "0.401" not in page(Report("run", [], published=shown))
    trained = {r[1] for r in rows[3:]}
    assert {"all sessions", "one session"} <= trained


@pytest.mark.parametrize(
    ("split", "data", "words"),
    [
        ({}, {}, "all sessions"),
        ({}, {"sessions": 1}, "one session"),
        ({"sessions": 4}, {"sessions": 10}, "first 4 sessions"),
        ({"sessions": 10}, {"sessions": 4}, "first 4 sessions"),
        ({"sessions": 1, "of": "subj07"}, {}, "all sessions; one session of subj07"),
        ({"of": "subj07"}, {"sessions": None}, "all sessions"),
    ],
)
def test_training_is_said_in_sessions(
    split: dict[str, Any], data: dict[str, Any], words: str
) -> None:
    assert trained_on(split, data) == words


def test_a_shorter_test_set_stands_beside_nothing() -> None:
    metrics, own = {"b": node("image_mindeye_256")}, [score("pixcorr")]
    for test, last in (("shared1000", 37), ("shared982", 36)):
        shown = beside_published(asked(test, metrics, last_session=last), own)
        html = page(Report("run", [], published=shown))
        assert f"the first {last} sessions only" in html
        assert "0.309" not in html
        assert "0.322" not in html
    for test, last in (("shared1000", 40), ("shared982", 37)):
        shown = beside_published(asked(test, metrics, last_session=last), own)
        assert shown is not None
        assert shown.systems


def test_picture_scores_of_another_protocol_are_left_out() -> None:
    own = [score("pixcorr"), score("ssim"), score("retrieval_300way", 0.4)]
    shown = beside_published(asked("shared1000", {"b": node("image_native")}), own)
    assert shown is not None
    assert shown.columns == ["retrieval_300way"]
    html = page(Report("run", [], published=shown))
    assert "in a way of its own" in html
    assert "0.983" in html
    assert "0.322" not in html


def test_picture_scores_stand_beside_those_of_their_own_protocol_only() -> None:
    """And what a table says of retrieval stands beside any run on its pictures."""
    own = [score("two_way_clip"), score("retrieval_brain_300way")]
    for name in ("image_mindeye_256", "image_mindeye_256_antialias"):
        shown = beside_published(asked("shared1000", {"b": node(name)}), own)
        assert shown is not None
        assert {s.protocol for s in shown.systems if "two_way_clip" in s.scores} == {shown.protocol}
        (flow,) = (s for s in shown.systems if s.system == "NeuroFlow")
        assert flow.scores["retrieval_brain_300way"] == 0.806
        assert ("two_way_clip" in flow.scores) == name.endswith("antialias")
        apart = {s.system for s in shown.elsewhere}
        assert ("NeuroFlow" in apart) != name.endswith("antialias")
        assert all(s.test != "shared1000" or s.protocol != shown.protocol for s in shown.elsewhere)


def test_published_retrieval_stands_under_what_was_searched() -> None:
    """MindEye's code ranks `(brain @ image.T).T` along its second axis: brains for each picture. It calls
    that forward; .9718, .9710, .9067 and .8941 are what it printed for subjects 1, 2, 5 and 7.
    """
    import numpy as np

    from decode.metrics.retrieval import count_rivals, unit

    rng = np.random.default_rng(4)
    image = unit(rng.normal(size=(40, 6)), "cosine")
    brain = unit(image + rng.normal(size=(40, 6)) * np.linspace(0.1, 1.5, 40)[:, None], "cosine")
    forward = ((brain @ image.T).T.argmax(1) == np.arange(40)).mean()
    every, rival = np.arange(40), ~np.eye(40, dtype=bool)
    top1 = {
        name: (count_rivals(asks, among, every, rival)[0] == 0).mean()
        for name, asks, among in (("picture", brain, image), ("brain", image, brain))
    }
    assert top1["brain"] == forward != top1["picture"]
    mindeye1 = next(s for s in read_systems()[0] if s.system == "MindEye1")
    printed = np.mean([0.9718, 0.9710, 0.9067, 0.8941])
    assert mindeye1.scores["retrieval_brain_300way"] == round(printed, 3)
    assert mindeye1.scores["retrieval_300way"] < mindeye1.scores["retrieval_brain_300way"]


def test_figures_of_unknown_direction_are_in_no_column() -> None:
    brain_diffuser = next(s for s in read_systems()[0] if s.system == "Brain-Diffuser")
    assert not [m for m in brain_diffuser.scores if m.startswith("retrieval")]
    metrics = {"b": node("image_braindiffuser_224"), "r": node("retrieval_mindeye")}
    shown = beside_published(asked("shared982", metrics), [score("pixcorr")])
    html = page(Report("run", [], published=shown))
    assert ".303, direction not known" in html


def test_no_published_number_is_printed_without_mark_and_paper() -> None:
    metrics = {"b": node("image_mindeye_256")}
    shown = beside_published(asked("shared1000", metrics), [score("pixcorr", 0.123), score("ssim")])
    assert shown is not None
    html = page(Report("run", [], published=shown))
    table = html.split("Beside published results")[1].split("</table>")[0]
    rows = [r for r in table.split("<tr>")[2:] if "this run" not in r]
    assert len(rows) == len(shown.systems) >= 4
    for row in rows:
        assert "second-hand" in row or "from memory, not re-verified" in row
        assert "(20" in row
    assert "0.123" in table
    assert "None of them was checked" in html
    assert "Beside published" not in page(Report("run", []))


def test_results_on_other_pictures_are_refused(tmp_path: Path) -> None:
    check_published({"published": None, "data": {}})
    check_published({"published": "shared982", "data": {"test": "shared982"}})
    check_published({"data": {}})
    with pytest.raises(InputError, match=r"expected 'shared1000', the test pictures of data\.test"):
        check_published({"published": "shared982", "data": {"test": "shared1000"}})
    with pytest.raises(InputError, match="got 'nsd'"):
        Run(config(tmp_path, published="nsd"))
