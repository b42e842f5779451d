"""Regions, windows and the time before the stimulus, decoded on their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds import config

from decode.core import Batch, InputError, Layout
from decode.division import Part
from decode.encoders.by_region import ByRegion
from decode.linear.part_ridge import PartRidge
from decode.linear.subject_ridge import RidgeKnobs, SubjectRidge
from decode.parts.before_stimulus import before_stimulus
from decode.parts.regions import regions
from decode.parts.windows import windows
from decode.pipeline import execute
from decode.store import read_json
from decode.workshop import Run

SHAPES = {"retrieval": (4,), "other": (3,)}
N_TIMES, SFREQ, START = 12, 20.0, -0.2


def layout(rois: tuple[str, ...]) -> Layout:
    names = tuple(f"c{i}" for i in range(len(rois)))
    return Layout("eeg", names, np.zeros((len(rois), 3)), rois, SFREQ, N_TIMES, START)


LAYOUTS = {
    "a": layout(("V1", "V4", "V1", "", "V4", "V1")),
    "b": layout(("V4", "V4", "V1", "V1", "FFA")),
}


def batch(n: int = 200, *, seed: int = 0, leak: bool = False) -> Batch:
    """V1 follows the target from 0.1 s on (with `leak` from the first sample on), the rest is noise."""
    rng = np.random.default_rng(seed)
    subject = torch.from_numpy(rng.integers(0, 2, n))
    target = torch.from_numpy(rng.normal(size=(n, 4))).float()
    brain = torch.from_numpy(rng.normal(size=(n, 6, N_TIMES))).float()
    weights = np.random.default_rng(9).normal(size=(2, 6, 4))
    first = 0 if leak else 6
    for s, name in enumerate(LAYOUTS):
        mine = subject == s
        for c, region in enumerate(LAYOUTS[name].rois):
            if region == "V1":
                drive = target[mine] @ torch.from_numpy(weights[s, c]).float()
                brain[mine, c, first:] += 3 * drive[:, None]
        brain[mine, len(LAYOUTS[name].rois) :] = 0
    other = torch.from_numpy(rng.normal(size=(n, 3))).float()
    numbers = torch.arange(n)
    return Batch(brain, {"retrieval": target, "other": other}, subject, numbers, numbers)


def skill(part: Part, **more: bool) -> float:
    """Correlation of predicted with true targets on new trials."""
    ridge = PartRidge(LAYOUTS, SHAPES, part=part)
    ridge.initialise([batch(**more)], [])
    new = batch(seed=1, **more)
    made = ridge(new)["retrieval"]
    assert set(ridge(new)) == {"retrieval"}
    return correlation(made, new.targets["retrieval"])


def correlation(a: Tensor, b: Tensor) -> float:
    return float(np.corrcoef(a.flatten(), b.flatten())[0, 1])


def test_only_regions_of_every_subject_are_parts() -> None:
    parts = regions(LAYOUTS, targets=["retrieval"], at_least=2)
    assert list(parts) == ["V1", "V4"]
    assert parts["V1"].channels(LAYOUTS["b"]).tolist() == [2, 3]
    with pytest.raises(InputError, match="10 channels"):
        regions(LAYOUTS, targets=["retrieval"])


def test_the_region_that_answers_is_found() -> None:
    parts = regions(LAYOUTS, targets=["retrieval"], at_least=2)
    assert skill(parts["V1"]) > 0.6
    assert abs(skill(parts["V4"])) < 0.15


def test_windows_carry_their_centre_and_the_time_of_the_answer() -> None:
    parts = windows(LAYOUTS, targets=["retrieval"], width=0.1, step=0.1)
    assert list(parts) == ["-150ms", "-50ms", "50ms", "150ms", "250ms", "350ms"]
    for label, part in parts.items():
        assert part.time == pytest.approx(float(label[:-2]) / 1000)
        assert (skill(part) > 0.6) == (part.time > 0.1), label
    with pytest.raises(InputError, match="width"):
        windows(LAYOUTS, targets=["retrieval"], width=1.0, step=0.1)


def test_windows_closer_than_a_millisecond_are_all_kept() -> None:
    fast = {
        name: replace(layout, sfreq=4000.0, n_times=12, start=-0.00125)
        for name, layout in LAYOUTS.items()
    }
    parts = windows(fast, targets=["retrieval"], width=0.0005, step=0.00025)
    assert len(parts) == 11
    assert list(parts)[:5] == ["-1ms", "-0.75ms", "-0.5ms", "-0.25ms", "0ms"]


def test_the_time_before_the_stimulus_tells_nothing_unless_it_leaks() -> None:
    (part,) = before_stimulus(LAYOUTS, targets=["retrieval"]).values()
    assert (part.first, part.end) == (0, 4)
    assert abs(skill(part)) < 0.15
    assert skill(part, leak=True) > 0.6
    late = {
        k: Layout("eeg", v.names, v.positions, v.rois, SFREQ, N_TIMES) for k, v in LAYOUTS.items()
    }
    with pytest.raises(InputError, match="before 0"):
        before_stimulus(late, targets=["retrieval"])


def test_a_part_is_the_ridge_of_the_cut_signal() -> None:
    part = Part(("retrieval",), 3, 9, ("V4",))
    made = PartRidge(LAYOUTS, SHAPES, part=part)
    train, new = batch(), batch(seed=1)
    made.initialise([train], [])
    for s, name in enumerate(LAYOUTS):
        kept = [i for i, r in enumerate(LAYOUTS[name].rois) if r == "V4"]

        def cut(b: Batch, s: int = s, kept: list[int] = kept) -> Batch:
            mine = b.subject == s
            brain = b.brain[mine][:, kept, 3:9]
            target = {"retrieval": b.targets["retrieval"][mine]}
            zero = torch.zeros(len(brain), dtype=torch.int64)
            return Batch(brain, target, zero, b.stimulus[mine], b.trial[mine])

        own = Layout("eeg", ("x", "y"), np.zeros((2, 3)), ("V4", "V4"), SFREQ, 6)
        alone = SubjectRidge({name: own}, {"retrieval": (4,)}, RidgeKnobs())
        alone.fit([cut(train)], [])
        torch.testing.assert_close(
            made(new)["retrieval"][new.subject == s], alone(cut(new))["retrieval"]
        )


def test_targets_read_the_regions_that_they_are_given() -> None:
    def skill_of(regions: dict[str, list[str]]) -> float:
        encoder = ByRegion(LAYOUTS, SHAPES, regions=regions)
        encoder.initialise([batch()], [])
        made = encoder(batch(seed=1))
        assert set(made) == set(SHAPES)
        return correlation(made["retrieval"], batch(seed=1).targets["retrieval"])

    assert skill_of({"retrieval": ["V1"]}) > 0.6
    assert skill_of({}) > 0.6
    assert abs(skill_of({"retrieval": ["V4"]})) < 0.15
    both = skill_of({"retrieval": ["V4", "V1"], "other": ["V4"]})
    assert both > 0.6
    with pytest.raises(InputError, match="'FFA'"):
        ByRegion(LAYOUTS, SHAPES, regions={"retrieval": ["FFA"]})


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(InputError, match="'clip'"):
        PartRidge(LAYOUTS, SHAPES, part=Part(("clip",), 0, 2))


def test_a_run_reports_its_regions(tmp_path: Path) -> None:
    node = {"_target_": "decode.parts.regions.regions", "_partial_": True, "targets": ["pixels"]}
    run = Run(config(tmp_path, parts={"region": node}))
    folder = execute(run, until="report", force=[], say=lambda s: None)
    summary = read_json(folder / "summary.json")
    found = {
        (r["source"], r["part"], r["metric"]): r["value"] for r in summary if r["subject"] == "all"
    }
    # the only region is the whole of this brain, and the baseline is the same ridge
    assert found["region", "V1", "retrieval_top1"] == found["ridge", None, "retrieval_top1"]
    assert {r["role"] for r in summary if r["part"] == "V1"} == {"part"}
    assert ("region", "V1", "pixcorr") not in found
    page = (folder / "report.html").read_text()
    assert "Over regions" in page
    assert '<th scope="row">V1</th>' in page
    assert '<th class="n pad">region' not in page
