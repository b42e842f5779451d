"""Paired comparisons: coverage and p values by simulation, scipy as oracle, and the script."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from decode.core import InputError
from decode.scoring.compare import compare, holm, pair, sign_flip_p
from decode.store import write_json, write_table

SCRIPT = Path(__file__).parents[1] / "scripts" / "compare.py"


def table(
    value: np.ndarray,
    subject: Any = "a",
    stimulus: Any = None,
    metric: str = "r",
    source: str = "decoder",
    **more: Any,
) -> pd.DataFrame:
    n = len(value)
    stimulus = [f"s{i}" for i in range(n)] if stimulus is None else stimulus
    columns = {"metric": metric, "source": source, "part": None, "split": "test"}
    columns |= {"subject": subject, "stimulus": stimulus}
    columns |= {"trial": np.arange(n), "value": value, "better": "higher", **more}
    return pd.DataFrame(columns)


def differences(value: np.ndarray, subject: Any = "a", stimulus: Any = None) -> pd.DataFrame:
    return table(value, subject, stimulus)[["subject", "stimulus", "value"]]


def test_p_equals_scipy_exact_and_drawn() -> None:
    from scipy.stats import permutation_test

    rng = np.random.default_rng(0)
    for n in (7, 60):
        a, b = rng.normal(0.25, 1, n), rng.normal(0, 1, n)
        oracle = permutation_test(
            (a, b),
            lambda x, y, axis: (x - y).mean(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=10_000,
            rng=np.random.default_rng(1),
        )
        found = sign_flip_p(differences(a - b), seed=0)
        assert found == pytest.approx(oracle.pvalue, abs=1e-12 if n == 7 else 0.02)


def test_all_subjects_of_a_stimulus_are_flipped_together() -> None:
    # Ten copies of three stimuli are three observations, not thirty.
    item = np.array([1.0, 2.0, 3.0])
    rows = differences(
        np.tile(item, 10), np.repeat([f"p{i}" for i in range(10)], 3), list("xyz") * 10
    )
    assert sign_flip_p(rows, seed=0) == 2 / 8
    assert sign_flip_p(differences(np.zeros(40)), seed=0) == 1


def test_p_is_uniform_when_nothing_differs() -> None:
    rng = np.random.default_rng(2)
    subject, item = (x.ravel() for x in np.meshgrid(np.arange(4), np.arange(30), indexing="ij"))
    found = []
    for i in range(300):
        value = rng.normal(size=30)[item] + 0.5 * rng.normal(size=120)
        found.append(sign_flip_p(differences(value, subject, item), seed=i, n=400))
    for level in (0.05, 0.2, 0.5):
        rate = np.mean(np.array(found) <= level)
        assert abs(rate - level) < 4 * np.sqrt(level * (1 - level) / 300)


@pytest.mark.parametrize("subjects", [1, 12])
def test_the_interval_covers_the_true_difference(subjects: int) -> None:
    rng = np.random.default_rng(3)
    shape = (subjects, 40)
    subject, item = (x.ravel() for x in np.meshgrid(*map(np.arange, shape), indexing="ij"))
    hits, unpaired = 0, []
    for i in range(120):
        shared = 3 * rng.normal(size=40)[item]  # hard and easy items: pairing takes them away
        effect = 0.2 + 0.3 * rng.normal(size=40)[item]
        if subjects > 1:
            effect = effect + 0.2 * rng.normal(size=subjects)[subject]
        b = shared + 0.3 * rng.normal(size=len(item))
        a = shared + effect + 0.3 * rng.normal(size=len(item))
        (d,) = compare(table(a, subject, item), table(b, subject, item), seed=i, draws=300)
        hits += d.low < 0.2 < d.high
        unpaired.append((d.high - d.low) / (2 * 1.96 * a.std() * np.sqrt(2 / 40)))
    assert 0.87 <= hits / 120 <= 0.995
    assert np.mean(unpaired) < 0.5


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]).tolist() == [1, 1]
    rng = np.random.default_rng(4)
    alarms = [(holm(rng.random(8)) <= 0.05).any() for _ in range(2000)]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.02)


def test_rows_are_paired_by_trial_or_else_by_subject_and_stimulus() -> None:
    a = table(np.arange(6.0), stimulus=list("xxyyzz"))
    b = table(np.arange(6.0)[::-1].copy(), stimulus=list("xxyyzz")).sample(frac=1, random_state=0)
    both = pair(a, b)
    assert (both["a"] + both["b"] == 5).all()
    averaged = table(np.array([10.0, 20.0]), stimulus=["x", "y"])
    mixed = pair(a, averaged).set_index("stimulus")
    assert mixed["a"].to_dict() == {"x": 0.5, "y": 2.5}
    assert mixed["b"].to_dict() == {"x": 10, "y": 20}


def test_classes_are_compared_trial_by_trial() -> None:
    rng = np.random.default_rng(5)
    hit = (rng.random(200) < 0.8).astype(float)
    other = np.where(rng.random(200) < 0.2, 0, hit)
    labels = np.repeat(["face", "house"], 100)
    (d,) = compare(table(hit, stimulus=labels), table(other, stimulus=labels), draws=2000)
    assert d.n == 200
    assert d.p < 0.001
    assert d.low > 0


def test_several_metrics_and_sources_are_corrected_together_and_kept_apart() -> None:
    rng = np.random.default_rng(6)
    make = {("decoder", "good"): 0.6, ("decoder", "none"): 0.0, ("ridge", "good"): 0.2}
    a, b = (
        pd.concat([table(rng.normal(m, 1, 60), metric=k, source=s) for (s, k), m in means.items()])
        for means in (make, dict.fromkeys(make, 0.0))
    )
    found = {(d.source, d.metric): d for d in compare(a, b, draws=2000)}
    assert set(found) == set(make)
    good = found["decoder", "good"]
    assert good.p_holm == pytest.approx(3 * good.p)
    own = [x[(x["source"] == "decoder") & (x["metric"] == "good")]["value"].mean() for x in (a, b)]
    assert (good.a, good.b) == pytest.approx(own)
    assert good.value == pytest.approx(good.a - good.b)
    with pytest.raises(InputError, match="metric that both"):
        compare(a, table(np.ones(5), metric="else"))
    with pytest.raises(
        InputError, match=r"expected runs that share subjects .* got none in common"
    ):
        compare(a, table(np.ones(60), subject="b", metric="good"))


def test_voxels_are_paired_by_name_and_people_are_the_unit() -> None:
    """A thousand voxels of three people are three observations: p by all eight patterns of signs."""
    rng = np.random.default_rng(9)
    subject = np.repeat(["a", "b", "c"], 1000)
    channel = np.tile([f"v{i}" for i in range(1000)], 3)
    gain = np.repeat([0.1, 0.2, 0.4], 1000)
    base = rng.normal(size=3000)
    place = {"stimulus": None, "trial": None, "time": np.nan, "channel": channel}
    a = table(base + gain, subject=subject).assign(**place)
    b = table(base, subject=subject).assign(**place).sample(frac=1, random_state=0)
    (d,) = compare(a, b)
    assert (d.n, d.n_subjects) == (3000, 3)
    assert d.value == pytest.approx(0.7 / 3)
    assert d.p == 2 / 8
    from scipy.stats import t

    half = t.ppf(0.975, 2) * np.std([0.1, 0.2, 0.4], ddof=1) / np.sqrt(3)
    assert (d.low, d.high) == pytest.approx((d.value - half, d.value + half))
    (alone,) = compare(*(x[x["subject"] == "a"] for x in (a, b)))
    assert alone.value == pytest.approx(0.1)
    assert np.isnan(alone.low)


# the script


def finished(folder: Path, name: str, value: np.ndarray, **changes: Any) -> Path:
    """A run folder with the files that the script reads."""
    facts = {"hash": "0123456789ab", "conditioned": False, "simulated": True, **changes}
    out = folder / "report" / name
    out.mkdir(parents=True)
    rows = pd.concat([table(value), table(1 - value, metric="mse", better="lower")])
    write_table(out / "scores.parquet", rows)
    line = {"test_conditioned": facts["conditioned"], "source": "decoder"}
    write_json(out / "summary.json", [line] if facts.get("current", True) else [{"metric": "r"}])
    write_json(out / "split.json", {"hashes": {"test": facts["hash"]}})
    write_json(out / "config.json", {"metrics": facts.get("metrics", {"r": 1})})
    write_json(out / "manifest.json", {"facts": {"simulated": facts["simulated"]}})
    return out


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["compare_script"] = made
    spec.loader.exec_module(made)
    return made


@pytest.mark.slow
def test_the_script_prints_a_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    base = rng.random(50)
    a = finished(tmp_path, "better-11111111", base + 0.1 + 0.01 * rng.random(50))
    finished(tmp_path, "plain-22222222", base, metrics={"r": 2}, conditioned=True)
    done = script(str(a), "plain", "--outputs", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for words in ("better-11111111  simulated data", "TEST-CONDITIONED", "+0.105", "mse (lower is",
                  "careful: configured differently", "p (Holm)"):  # fmt: skip
        assert words in done.stdout, words


def test_what_cannot_be_compared_is_one_line(
    tmp_path: Path,
    module: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    value = np.random.default_rng(8).random(20)
    finished(tmp_path, "a-1", value)
    finished(tmp_path, "b-1", value, hash="ba9876543210")
    monkeypatch.setattr(sys, "argv", ["compare.py", "a", "b", "--outputs", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        module.main()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "0123456789ab" in line
    assert "ba9876543210" in line
    finished(tmp_path, "a-2", value)
    for names, metrics, message in (
        (("a", "b"), None, "means 2 runs"),
        (("c", "b"), None, "got 'c'"),
        (("a-1", "a-2"), ["ssim"], "got 'ssim'"),
    ):
        with pytest.raises(InputError, match=message):
            module.report(*names, tmp_path, metrics, 0)
    with pytest.raises(InputError, match=r"--source: expected one of \['decoder'\].*got 'ridge'"):
        module.report("a-1", "a-2", tmp_path, None, 0, ["ridge"])
    finished(tmp_path, "old-1", value, current=False)
    with pytest.raises(InputError, match="older version of decode; run the experiment again"):
        module.report("a-1", "old-1", tmp_path, None, 0)
