"""The report page: what it must say, what it must not reach for, how galleries are chosen."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from decode.core import InputError, Measure, Ranking
from decode.report.charts import chart, ticks
from decode.report.classes import class_cards
from decode.report.content import (
    Artefact,
    Curve,
    Gallery,
    Report,
    RunCard,
    Score,
    Shot,
    SplitCard,
    choose,
    shown_beside,
)
from decode.report.curves import learning_curves, region_scores, session_curves, time_curves
from decode.report.page import beside, index_page, page
from decode.report.pictures import view
from decode.sources import (
    DECODER,
    MEAN_IMAGE,
    NEAREST_IMAGE,
    ORACLE,
    PRIOR,
    SHUFFLED,
    TABLE,
    Source,
    baseline,
)


def line(
    metric: str,
    value: float,
    chance: float,
    subject: str = "all",
    source: Source = DECODER,
    **more: Any,
) -> dict:
    """A line of a summary; `source` is whose score it is."""
    low, high = value - 0.04, value + 0.04
    return {
        "metric": metric,
        "source": source.name,
        "role": source.role,
        "part": source.part,
        "time": source.time,
        "subject": subject,
        "n": 120,
        "value": value,
        "chance": chance,
        "ci_low": low,
        "ci_high": high,
        "better": "higher",
        "split": "published",
        "split_hash": "0f3a9c12",
        "n_fits": 1,
        "test_conditioned": False,
        "ceiling": None,
        **more,
    }


RIDGE = baseline("ridge", "Ridge")
SOURCES = (DECODER, RIDGE, *TABLE[1:])
MEASURES = {
    "retrieval_top1": Measure("The first of the gallery.", rows="among"),
    "two_way_tiny_clip": Measure("Told apart by features.", rows="among", chooses=3),
    "mse": Measure("Squared difference; lower is better.", better="lower"),
}


def scene(seed: int, blur: float) -> np.ndarray:
    """A made-up picture: a disc on a coloured ground, uint8 (64, 64, 3)."""
    rng = np.random.default_rng(seed)
    ground, disc = rng.integers(30, 225, (2, 3))
    y, x = np.mgrid[:64, :64]
    cx, cy, r = (*rng.integers(18, 46, 2).tolist(), int(rng.integers(8, 16)))
    inside = 1 / (1 + np.exp((np.hypot(x - cx, y - cy) - r) / (0.5 + blur)))
    picture = ground + inside[..., None] * (disc.astype(int) - ground)
    noise = np.random.default_rng(seed + 999).normal(0, 12 * blur, picture.shape)
    return (picture + noise).clip(0, 255).astype(np.uint8)


def example(**changes: Any) -> Report:
    """A report on made-up numbers that shows every part of the page."""
    summary = []
    scores = {
        "retrieval_top1": (0.42, 0.005, 0.71),
        "retrieval_top5": (0.74, 0.025, 0.93),
        "pixcorr": (0.51, 0.12, 0.86),
        "ssim": (0.44, 0.25, 0.78),
        "two_way_tiny_clip": (0.91, 0.5, 0.99),
    }
    for metric, (value, chance, ceiling) in scores.items():
        for subject, shift in {"sub-01": 0.03, "sub-02": -0.03, "all": 0}.items():
            summary.append(line(metric, value + shift, chance, subject, ceiling=ceiling))
        summary.append(line(metric, value - 0.06, chance, source=RIDGE))
        summary.append(line(metric, chance + 0.003, chance, source=SHUFFLED))
        if not metric.startswith("retrieval"):
            summary.append(line(metric, value - 0.2, chance, source=NEAREST_IMAGE))
            summary.append(
                line(metric, value - 0.1 + (metric == "ssim") * 0.13, chance, source=MEAN_IMAGE)
            )
            summary.append(line(metric, chance + 0.02, chance, source=PRIOR))
            summary.append(line(metric, ceiling, chance, source=ORACLE))
    mse = {"better": "lower", "ceiling": 0.02}
    summary.append(line("mse", 0.06, 0.15, **{**mse, "ci_low": 0.05, "ci_high": 0.07}))
    summary.append(line("mse", 0.15, 0.15, source=SHUFFLED, **mse))
    summary.append(line("mse", 0.09, 0.15, source=MEAN_IMAGE, **mse))
    groups = {
        name: [
            Shot(
                f"sub-0{i % 2 + 1}",
                f"scene/test/{start + i}",
                top - 0.01 * i,
                {
                    "shown": scene(start + i, 0),
                    "decoder": scene(start + i, blur),
                    "ridge": scene(start + i, 2.5 * blur),
                },
            )
            for i in range(6)
        ]
        for name, (start, blur, top) in {
            "best": (0, 0.6, 0.98),
            "median": (10, 1.5, 0.92),
            "worst": (20, 4, 0.31),
        }.items()
    }
    epochs = np.arange(1, 31)
    train = {"train": (epochs, 2.4 * np.exp(-epochs / 9) + 0.6)}
    valid = {"validation": (epochs, 2.2 * np.exp(-epochs / 7) + 0.95 + epochs * 0.004)}
    times = np.linspace(-0.2, 0.8, 60)
    bump = 0.05 + 0.4 * np.exp(-(((times - 0.18) / 0.09) ** 2))
    content: dict[str, Any] = {
        "name": "quickstart",
        "summary": summary,
        "measures": MEASURES,
        "sources": SOURCES,
        "simulated": True,
        "about": {
            "what": "Simulated fMRI of two people looking at 200 scenes, decoded by an MLP",
            "data": "simulated_fmri, 2 subjects",
            "licence": "none needed",
            "generator": "tiny latent diffusion",
        },
        "galleries": [Gallery("Shown and reconstructed", "two_way_tiny_clip", groups)],
        "learning": [Curve("clip", "epoch", "loss", train | valid, note="mean of 2 fits")],
        "curves": [
            Curve("Retrieval over time", "s", "top-1", {"all": (times, bump)}, chance=0.005)
        ],
        "splits": [
            SplitCard(
                "published",
                "0f3a9c12d47be801",
                [
                    {"fold": 0, "part": part, "n_trials": n, "n_stimuli": n // 2}
                    for part, n in {"train": 2400, "validation": 200, "test": 600}.items()
                ],
                by="stimulus",
            )
        ],
        "config": "name: quickstart\nseed: 0\nencoder:\n  _target_: decode.encoders.mlp.MLP\n",
        "versions": {"python": "3.11.2", "torch": "2.15.0"},
        "artefacts": [Artefact("train", "outputs/train/quickstart-5a984e43", "5a984e43")],
        "approximations": ["the scanner's point spread is a Gaussian"],
        "limits": ["two simulated people say nothing about the population"],
    }
    return Report(**{**content, **changes})


class Reader(HTMLParser):
    """Collects addresses and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img", "br", "link", "input", "hr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert not reader.open
    return reader


def test_the_page_is_one_file_that_reaches_for_nothing() -> None:
    html = page(example())
    assert all(a.startswith("data:image/") for a in read(html).addresses)
    assert "http" not in html
    assert "@import" not in html
    assert "url(" not in html
    assert len(html) < 2_000_000


def test_everything_that_must_be_said_is_said() -> None:
    html = page(example())
    for words in (
        "simulated data",
        "0.740",
        "0.700 to 0.780",
        "0.930",
        "nearest_image",
        "ridge",
        "0f3a9c12d47be801",
        "the scanner&#39;s point spread",
        "never by eye",
        "two_way_tiny_clip",
        "Retrieval over time",
        "5a984e43",
        "encoder:",
    ):
        assert words in html, words
    assert html.count("<img") == 3 * 6 * 3
    assert html.count("simulated data") >= 6
    assert "TEST-CONDITIONED" not in html
    assert "simulated" not in page(
        example(simulated=False, about={}, limits=[], approximations=[], config="")
    )


def test_a_test_conditioned_score_is_stamped_wherever_it_stands() -> None:
    summary = [line("retrieval_top1", 0.9, 0.005, test_conditioned=True)]
    html = page(example(summary=summary))
    assert html.count("TEST-CONDITIONED") >= 4
    card = RunCard("run", "a/report.html", summary)
    assert "TEST-CONDITIONED" in index_page([card])


def test_text_is_escaped() -> None:
    bad = "<script>alert('x')</script>"
    html = page(
        example(
            name=bad,
            about={bad: bad},
            config=bad,
            limits=[bad],
            summary=[line(bad, 0.5, 0.1)],
            learning=[Curve(bad, bad, bad, {bad: ([1, 2], [1, 2])})],
        )
    )
    assert "<script" not in html
    assert "<script" not in index_page([RunCard(bad, bad, [line(bad, 0.5, 0.1)])])


def told(text: str) -> list[Gallery]:
    """Trials with a picture, what people wrote about it and what was made."""
    texts = {"decoder": f"{text} again", "oracle": ""}
    shots = [
        Shot("sub-01", f"scene/{i}", 0.5, {"shown": scene(i, 0)}, texts, text) for i in range(3)
    ]
    return [Gallery("Shown and told", "cider", {"best": shots[:2], "worst": shots[2:]})]


def test_texts_stand_beside_the_shown_picture() -> None:
    html = page(example(galleries=told("A dog & a <b>cat</b>")))
    read(html)
    assert html.count("<img") == html.count("<article>") == 3
    assert html.count("<dd>A dog &amp; a &lt;b&gt;cat&lt;/b&gt;</dd>") == 3
    assert html.count('<dd class="main">A dog &amp; a &lt;b&gt;cat&lt;/b&gt; again</dd>') == 3
    assert html.count('<dt>oracle</dt><dd><span class="soft">nothing</span></dd>') == 3
    assert "chosen by <code>cider</code>" in html
    card = RunCard("run", "a/report.html", [], pictures={"shown": scene(1, 0)}, text="<i>a dog")
    assert "<blockquote>&lt;i&gt;a dog</blockquote>" in index_page([card])
    assert "<blockquote>" not in index_page([RunCard("run", "a/report.html", [])])


def test_a_control_that_reaches_the_decoder_is_marked() -> None:
    summary = [
        line("ssim", 0.5, 0.1),
        line("ssim", 0.52, 0.1, source=MEAN_IMAGE),
        line("ssim", 0.3, 0.1, source=PRIOR),
        line("ssim", 0.9, 0.1, source=ORACLE),
        line("mse", 0.05, 0.1, better="lower"),
        line("mse", 0.07, 0.1, better="lower", source=MEAN_IMAGE),
        line("mse", 0.04, 0.1, better="lower", source=PRIOR),
    ]
    html = page(example(summary=summary))
    marked = re.findall(r'<td class="n pad[^"]*over">([^<]*)<', html)
    assert marked == ["0.520", "0.040"]


def test_shuffled_pairs_off_chance_are_called_out() -> None:
    good = [line("ssim", 0.5, 0.25), line("ssim", 0.26, 0.25, source=SHUFFLED)]
    assert "miss chance" not in page(example(summary=good))
    bad = [line("ssim", 0.5, 0.25), line("ssim", 0.4, 0.25, source=SHUFFLED)]
    assert "Shuffled pairs miss chance" in page(example(summary=bad))


def test_shuffled_pairs_below_a_chance_that_is_a_bound_are_no_fault() -> None:
    """Chance of accuracy is always to name the commonest class; other answers are right less often."""
    bound = {"chance_is_bound": True}
    below = [
        line("accuracy", 0.92, 0.875, **bound),
        line("accuracy", 0.7, 0.875, source=SHUFFLED, **bound),
    ]
    assert "miss chance" not in page(example(summary=below))
    above = [
        line("accuracy", 0.92, 0.5, **bound),
        line("accuracy", 0.7, 0.5, source=SHUFFLED, **bound),
    ]
    assert "Shuffled pairs miss chance" in page(example(summary=above))
    plain = [line("auc", 0.92, 0.5), line("auc", 0.3, 0.5, source=SHUFFLED)]
    assert "Shuffled pairs miss chance" in page(example(summary=plain))


def class_page(**changes: Any) -> str:
    """The page of a run that names classes: 40 cats and 10 dogs of two people."""
    table = pd.DataFrame({"subject": ["S1", "S2"] * 25, "split": "kfold"})
    table = table.assign(stimulus=["cat"] * 40 + ["dog"] * 10)
    truth = np.eye(3)[[0] * 40 + [1] * 10]
    named = np.eye(3)[[0] * 36 + [1] * 3 + [2] + [0] * 4 + [1] * 6]
    cards = class_cards(table, "label", named, truth, ["cat", "dog", "<emu>"])
    summary = [line("accuracy", 0.84, 0.8), line("accuracy", 0.66, 0.8, source=SHUFFLED)]
    bare: dict[str, Any] = {"galleries": [], "curves": [], "about": {}, "limits": [], "config": ""}
    return page(example(**{**bare, "summary": summary, "classes": cards, **changes}))


def test_classes_are_shown_by_name_with_their_trials_and_scores() -> None:
    html = class_page()
    read(html)
    rows = re.findall(r'<tr><th scope="row">(cat|dog|&lt;emu&gt;)</th>(.*?)</tr>', html)
    cells = [(name, re.findall(r">([^<>]+)</td>", row)) for name, row in rows]
    without_interval = [(name, [*row[:3], *row[4:]]) for name, row in cells[:3]]
    assert without_interval == [
        ("cat", ["40", "40", "0.900", "0.900"]),
        ("dog", ["10", "9", "0.600", "0.667"]),
        ("&lt;emu&gt;", ["0", "1", "–", "0.000"]),
    ]
    assert cells[3:6] == [
        ("cat", ["36", "3", "1"]),
        ("dog", ["4", "6", "0"]),
        ("&lt;emu&gt;", ["0", "0", "0"]),
    ]
    assert [h in html for h in ("label, all subjects", "label, S1", "label, S2")] == [True] * 3


def test_the_interval_of_a_class_is_that_of_its_trials() -> None:
    table = pd.DataFrame(
        {"subject": "S1", "split": "kfold", "stimulus": ["cat"] * 40 + ["dog"] * 10}
    )
    truth = np.eye(2)[[0] * 40 + [1] * 10]
    named = np.eye(2)[[0] * 36 + [1] * 4 + [0] * 4 + [1] * 6]
    (card,) = class_cards(table, "label", named, truth, ["cat", "dog"])
    for line, hits, n in zip(card.lines, (36, 6), (40, 10), strict=True):
        known = binomtest(hits, n).proportion_ci(method="wilson")
        assert (line.low, line.high) == pytest.approx((known.low, known.high))
    undecided = class_cards(table, "label", np.zeros((50, 2)), truth, ["cat", "dog"])[0]
    assert undecided.counts.tolist() == [[20, 20], [5, 5]]


def test_a_hundred_classes_have_their_lines_folded_and_no_matrix() -> None:
    names = [f"class {i}" for i in range(100)]
    table = pd.DataFrame({"subject": "S1", "split": "kfold", "stimulus": names})
    html = page(example(classes=class_cards(table, "label", np.eye(100), np.eye(100), names)))
    read(html)
    assert "<summary>100 classes</summary>" in html
    assert html.count('<th scope="row">class ') == 100
    assert 'class="matrix"' not in html


def test_a_page_of_classes_says_nothing_of_pictures() -> None:
    html = class_page(splits=[], versions={}, artefacts=[], simulated=False)
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL)
    for word in ("picture", "oracle", "shown", "ceiling"):
        assert word not in text, word


def test_controls_stand_beside_the_overall_score_of_their_split() -> None:
    summary = [
        line("pixcorr", 0.4, 0.1, "sub-01"),
        line("pixcorr", 0.5, 0.1, "all"),
        line("pixcorr", 0.3, 0.1, "all", source=RIDGE),
        line("pixcorr", 0.7, 0.1, "all", split="kfold"),
    ]
    scores = [Score(**row) for row in summary]
    rows = beside(scores, [RIDGE])
    assert rows["published"][0].score.value == 0.5
    assert rows["published"][0].controls[0] is not None
    assert rows["kfold"][0].controls == [None]
    linear, before = baseline("linear", "Ridge"), Source("early", "control", "too early")
    sources = (
        SHUFFLED,
        ORACLE,
        before,
        RIDGE,
        DECODER,
        linear,
        MEAN_IMAGE,
        Source("V1", "part", ""),
    )
    scores = [Score("a", "all", 1, 0.1, s.name, s.role) for s in sources]
    found = shown_beside(scores, [*sources, PRIOR])
    assert found == [RIDGE, linear, MEAN_IMAGE, before, SHUFFLED, ORACLE]


def test_missing_numbers_become_dashes() -> None:
    row = {**line("ssim", 0.5, 0.1), "chance": None, "ci_low": None, "ci_high": float("nan")}
    html = page(example(summary=[row]))
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", html), re.IGNORECASE)
    assert "–" in html
    assert "<main>" in page(Report("empty", []))


def rows_of(values: list[float], better: str = "higher") -> pd.DataFrame:
    n = len(values)
    return pd.DataFrame(
        {"metric": "m", "trial": np.arange(n) + 100, "value": values, "better": better}
    )


def test_galleries_are_chosen_by_rank_alone() -> None:
    values = list(np.random.default_rng(0).permutation(100) / 100)
    groups = choose(rows_of(values), "m", n=4)
    by_value = {k: sorted(values[t - 100] for t in v) for k, v in groups.items()}
    assert by_value["best"] == [0.96, 0.97, 0.98, 0.99]
    assert by_value["worst"] == [0, 0.01, 0.02, 0.03]
    assert by_value["median"] == [0.48, 0.49, 0.5, 0.51]
    assert values[groups["best"][0] - 100] == 0.99
    assert values[groups["worst"][0] - 100] == 0
    lower = choose(rows_of(values, "lower"), "m", n=4)
    assert lower["best"] == groups["worst"]
    shuffled = rows_of(values).sample(frac=1, random_state=1)
    assert choose(shuffled, "m", n=4) == groups
    assert choose(rows_of([0.5] * 9), "m", n=3)["best"] == [100, 101, 102]
    with pytest.raises(InputError, match="scores of 'x'"):
        choose(rows_of(values), "x")


@pytest.mark.parametrize("n_trials", range(1, 12))
def test_groups_never_share_a_trial(n_trials: int) -> None:
    groups = choose(rows_of([i / 20 for i in range(n_trials)]), "m", n=4)
    chosen = [t for group in groups.values() for t in group]
    assert len(chosen) == len(set(chosen))
    assert groups["best"][0] == 100 + n_trials - 1


def test_learning_curves_average_fits_and_skip_closed_forms() -> None:
    rows = [{"epoch": float(e), "train/clip": 2.0 - e, "validation/clip": 3.0} for e in range(3)]
    other = [{**row, "train/clip": 4.0} for row in rows]
    curves = learning_curves({"0": rows, "1": other})
    assert [c.title for c in curves] == ["clip"]
    assert curves[0].lines["train"][1] == [3.0, 2.5, 2.0]
    assert curves[0].note == "mean of 2 fits"
    assert learning_curves({"0": rows[:1]}) == []
    assert learning_curves({}) == []


def test_charts_survive_flat_and_short_lines() -> None:
    for x, y in (([1], [2.0]), ([1, 2], [0.0, 0.0]), ([0, 1, 2], [1.0, np.nan, 3.0])):
        svg = str(chart(Curve("t", "x", "y", {"a": (x, y)}, chance=None)))
        assert "nan" not in svg
        assert "inf" not in svg
    assert ticks(0, 1) == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_pictures_come_back_as_they_went_in(tmp_path: Path) -> None:
    import base64
    import io

    from PIL import Image

    picture = scene(1, 0)
    Image.fromarray(picture).save(tmp_path / "a.png")
    sources = [picture, picture.transpose(2, 0, 1) / 255, tmp_path / "a.png"]
    for source in sources:
        kind, _, code = view(source).partition('src="')[2].partition('"')[0].partition(";base64,")
        assert kind == "data:image/png"
        back = np.asarray(Image.open(io.BytesIO(base64.b64decode(code))))
        assert np.array_equal(back, picture)
    large = np.zeros((600, 500, 3), np.uint8)
    assert 'src="data:image/jpeg' in view(large)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"b\.png: expected a readable image"):
        view(tmp_path / "b.png")


def test_the_index_lists_every_run_with_a_link() -> None:
    pictures = {"shown": scene(1, 0), "decoder": scene(1, 2)}
    runs = [
        RunCard("quickstart", "report/a-1/report.html", example().summary, pictures=pictures),
        RunCard("digits69", "report/b-2/report.html", [line("pixcorr", 0.8, 0.4)]),
    ]
    html = index_page(runs)
    links = [a for a in read(html).addresses if not a.startswith("data:")]
    assert links == ["report/a-1/report.html", "report/b-2/report.html"]
    assert html.count("<img") == 2
    assert "0.760 to 0.840" in html
    assert "Nothing has finished" in index_page([])


def test_a_metric_is_explained_in_its_own_words() -> None:
    """However it is called: its name is like that of another, its meaning is not."""
    own = Measure("How alike all pairs of pictures are in both.")
    html = page(
        example(
            summary=[line("similarity_structure", 0.4, 0)], measures={"similarity_structure": own}
        )
    )
    assert f"<dt>similarity_structure</dt><dd>{own.meaning}</dd>" in html


def test_an_old_run_is_listed_without_its_scores() -> None:
    html = index_page([RunCard("old", "report/a-1/report.html", [], outdated=True)])
    read(html)
    assert "scores of an older version" in html
    assert "<table>" not in html


RANKED = {
    "retrieval_top1": Measure("First.", ranks=Ranking("stimulus", ("subject",), 1)),
    "turned_top1": Measure("First.", ranks=Ranking("brain", ("subject",), 1)),
}


def test_windows_become_curves_and_regions_a_table_but_no_controls() -> None:
    """Whatever the windows and regions are called in the config."""
    windows = {ms: Source("time", "part", "", f"{ms}ms", ms / 1000) for ms in (-100, 100, 50)}
    regions = {r: Source("area", "part", "", r) for r in ("V1", "V4")}
    before = Source("early", "control", "too early")
    scores = [
        Score(**line(metric, value, 0.01, subject, windows[ms]))
        for metric in RANKED
        for subject, values in (
            ("a", (0.01, 0.2, 0.3)),
            ("b", (0.02, 0.1, 0.4)),
            ("all", (0, 0, 0)),
        )
        for ms, value in zip(windows, values, strict=True)
    ]
    scores += [
        Score(**line(metric, v, 0.01, source=regions[r]))
        for metric in RANKED
        for r, v in (("V1", 0.2), ("V4", 0.5))
    ]
    scores.append(Score(**line("retrieval_top1", 0.01, 0.01, source=before)))
    (curve,) = time_curves(scores, RANKED)
    assert curve.lines == {
        "a": ([-0.1, 0.05, 0.1], [0.01, 0.3, 0.2]),
        "b": ([-0.1, 0.05, 0.1], [0.02, 0.4, 0.1]),
    }
    assert (curve.title, curve.chance) == ("retrieval_top1", 0.01)
    (table,) = region_scores(scores, RANKED)
    assert [s.part for s in table] == ["V4", "V1"]
    sources = [*windows.values(), *regions.values(), before]
    assert shown_beside(scores, sources) == [before]


def test_splits_by_sessions_become_a_curve() -> None:
    """By what the splits were told, not by what they are called."""
    sources = {DECODER: 0.2, RIDGE: 0.1, SHUFFLED: 0.0, Source("region", "part", "", "V1"): 0.1}
    scores = [
        Score(**line("retrieval_top1", value + 0.01 * n, 0.01, source=source, split=f"first{n}"))
        for source, value in sources.items()
        for n in (10, 2, 1)
    ]
    scores.append(Score(**line("pixcorr", 0.3, 0.1, split="first1")))
    scores.append(Score(**line("retrieval_top1", 0.3, 0.1, split="sessions_7")))
    scores.append(Score(**line("retrieval_top1", 0.9, 0.1, split="other")))
    splits = {f"first{n}": {"_target_": "some.split", "sessions": n} for n in (1, 2, 10)}
    splits["sessions_7"] = {"_target_": "some.split", "sessions": None}
    splits["other"] = {"_target_": "another.split", "sessions": 5}
    (curve,) = session_curves(scores, splits)
    assert curve.title == "retrieval_top1"
    assert set(curve.lines) == {"decoder", "ridge"}
    sessions, values = curve.lines["decoder"]
    assert sessions == [1.0, 2.0, 10.0]
    assert values == pytest.approx([0.21, 0.22, 0.3])
