"""What published training is, counted at the size of NSD: pictures held out, steps of an epoch, weights."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_configs import composed

from decode.building import build
from decode.passes import Plan, padded, units
from decode.splitting import VALIDATION
from decode.training import Trainer

# Training and test pictures of one subject of the first 37 sessions, and of all 40.
OLD, NEW = (8859, 982), (9000, 1000)


@functools.cache
def table(subjects: int, sizes: tuple[int, int]) -> pd.DataFrame:
    """Three trials of each picture; training pictures are a subject's own."""
    rows = []
    for subject in range(subjects):
        names = [f"{subject}-{i}" for i in range(sizes[0])] + [f"t{i}" for i in range(sizes[1])]
        split = ["train"] * sizes[0] + ["test"] * sizes[1]
        rows.append(pd.DataFrame({"subject": f"subj{subject}", "stimulus": names, "split": split}))
    once = pd.concat(rows, ignore_index=True)
    return pd.concat([once] * 3, ignore_index=True)


def parts(name: str, subjects: int, sizes: tuple[int, int]) -> np.ndarray:
    config = composed(f"experiment=nsd/{name}")
    (node,) = config["splits"].values()
    (fold,) = build(node, "splits")(table(subjects, sizes))
    return fold.part


@pytest.mark.parametrize(
    ("name", "subjects", "sizes"),
    [
        ("mindeye1", 1, OLD), ("mindeye1_low_level", 1, OLD), ("umbrae", 4, OLD),
        ("mindeye2", 1, NEW), ("mindeye2_pretrain", 7, NEW), ("neuroflow", 1, NEW),
    ],
)  # fmt: skip
def test_all_training_pictures_train(name: str, subjects: int, sizes: tuple[int, int]) -> None:
    part = parts(name, subjects, sizes)
    assert int((part == "train").sum()) == 3 * subjects * sizes[0]
    assert not (part == VALIDATION).any()
    assert composed(f"experiment=nsd/{name}")["trainer"]["keep"] == "last"


@pytest.mark.parametrize("subjects", [1, 4])
def test_mindbridge_holds_out_three_hundred_of_8859(subjects: int) -> None:
    part = parts("mindbridge", subjects, OLD)
    held = table(subjects, OLD)[part == VALIDATION]
    assert held["stimulus"].nunique() == 300 * subjects
    assert int((part == "train").sum()) == 3 * 8559 * subjects


@pytest.mark.parametrize(
    ("name", "subjects", "pictures", "steps", "rows"),
    [
        ("mindeye1", 1, 8859, 277, 32),  # 8859 / 32, the last step with 27
        ("mindeye1_low_level", 1, 8859, 1108, 8),
        ("mindbridge", 4, 8559, 172, 4 * 50),
        ("umbrae", 4, 8859, 70, 2 * 128),
        ("umbrae_adapt", 1, 8859, 70, 128),
        ("mindeye2", 1, 9000, 1125, 24),  # all 27,000 trials
        ("mindeye2_pretrain", 7, 9000, 714, 42),
        ("mindbridge_adapt", 4, 8559, 172, 2 * 50),
    ],
)
def test_an_epoch_has_as_many_steps_as_published(
    name: str, subjects: int, pictures: int, steps: int, rows: int
) -> None:
    config: dict[str, Any] = composed(f"experiment=nsd/{name}")
    trainer = Trainer(**{k: v for k, v in config["trainer"].items() if k != "_target_"})
    repeats = {"one": "one", "mixed": "mixed"}.get(config["protocol"]["train_repeats"], "each")
    known = config["subjects"] or ["subj01"]
    assert len(known) == subjects
    subject = np.repeat(np.arange(subjects), 3 * pictures).tolist()
    stimulus = (np.arange(3 * pictures * subjects) // 3).tolist()
    members, _ = padded(units(subject, stimulus, repeats))  # type: ignore[arg-type]
    whose = torch.tensor(subject)[members[:, 0]]
    plan = Plan(whose, trainer.batch_size, trainer.way(repeats), known=known)  # type: ignore[arg-type]
    assert len(plan) == steps
    assert len(plan.batches(torch.Generator().manual_seed(0))[0]) == rows


def test_losses_weigh_what_they_weighed() -> None:
    """Latents are scaled by .18215; MindEye's L1 is of latents before that, MindEye2's after."""
    first, second = (
        composed(f"experiment=nsd/{n}")["objectives"] for n in ("mindeye1", "mindeye2")
    )
    assert first["lowlevel"]["weight"] == pytest.approx(1 / 0.18215, abs=1e-2)
    assert first["contrast"]["weight"] == 0.1
    assert second["lowlevel"]["weight"] == 0.5
    assert second["contrast"]["weight"] == pytest.approx(0.5 * 0.1)
    alone = composed("experiment=nsd/mindeye1_low_level")["objectives"]
    assert alone["lowlevel"]["weight"] == first["lowlevel"]["weight"]


def test_mindbridge_reads_one_of_three_captions_and_is_tested_on_their_mean() -> None:
    config = composed("experiment=nsd/mindbridge")
    names = config["protocol"]["drawn"]["text"]
    assert [config["targets"][name]["caption"] for name in names] == [0, 1, 2]
    assert config["targets"]["text"]["average"]


def test_a_new_subject_of_mindbridge_meets_the_others_and_is_tested_alone() -> None:
    config = composed("experiment=nsd/mindbridge_adapt")
    new = config["trainer"]["always"]
    assert config["subjects"] == [*config["encoder"]["trained"], new]
    assert config["encoder"]["inner"]["through"] == new
    (node,) = config["splits"].values()
    assert (node["of"], node["tested"]) == (new, [new])
    trials = table(3, (20, 5))
    (fold,) = build({**node, "of": "subj2", "tested": ["subj2"], "sessions": None}, "s")(trials)
    assert set(trials[fold.part == "test"]["subject"]) == {"subj2"}
    assert set(trials[fold.part == "train"]["subject"]) == {"subj0", "subj1", "subj2"}
