"""A training that is cut off goes on as if nothing had happened, however rarely it was saved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from voxels import Voxels

from decode import checkpoints
from decode.checkpoints import State, tidy
from decode.cli import CONFIGS
from decode.core import Batch
from decode.encoders.mlp import MLP
from decode.trainable import Encoder, Objective
from decode.training import Trainer, fit, set_pace

EPOCHS, CUT, KEPT_ROWS = 12, 8, 40


class Rows:
    """A loader over some rows of a batch, all at once."""

    device = torch.device("cpu")

    def __init__(self, batch: Batch, rows: slice) -> None:
        self.batch = batch._map(lambda x: x[rows])
        self.trials = range(len(self.batch))

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Batch]:
        yield self.batch

    def epoch(self, epoch: int) -> Iterator[Batch]:
        yield self.batch


class Squares(Objective):
    """Squared error with a momentum of its own; stops the run in the epoch `cut`."""

    def __init__(self, cut: int | None) -> None:
        super().__init__()
        self.cut = cut
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, encoder: Any, batch: Batch, progress: float) -> dict[str, Tensor]:
        if self.cut is not None and progress >= self.cut / EPOCHS:
            raise KeyboardInterrupt
        return {"squares": (self.scale * encoder(batch)["z"] - batch.targets["z"]).square().mean()}


def learn(folder: Path, keep: str, cut: int | None) -> tuple[Encoder, list[dict[str, float]]]:
    world = Voxels({"z": (6,)}, voxels=(30,), n=60, noise=6.0)
    torch.manual_seed(0)
    encoder = MLP(world.layouts, world.shapes, width=16, blocks=1, contrastive=())
    folder.mkdir(exist_ok=True)
    trainer = Trainer(epochs=EPOCHS, rate=0.1, keep=keep, patience=EPOCHS)
    train: Any = Rows(world.batch, slice(KEPT_ROWS))
    held: Any = Rows(world.batch, slice(KEPT_ROWS, None))
    history = fit(
        encoder, {"squares": Squares(cut)}, train, held, trainer, folder=folder, seed=1, label="x"
    )
    return encoder, history


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("saved", [(1,), (1, 2, 3, 4, 5, 6, 7), (1, 4)], ids=str)
def test_a_run_cut_off_ends_as_one_that_was_not(
    keep: str, saved: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, history = learn(tmp_path / "whole", keep, None)
    best = min(range(EPOCHS), key=lambda i: history[i]["validation"])
    assert 4 < best < CUT, "the best epoch must lie between a save and the cut"
    state, after = State, State.after_epoch

    def at(self: Any, row: dict[str, float], *rest: Any) -> None:
        due = int(row["epoch"]) + 1 in saved
        monkeypatch.setattr(checkpoints, "SAVED_EVERY", 0.0 if due else float("inf"))
        after(self, row, *rest)

    monkeypatch.setattr(state, "after_epoch", at)
    monkeypatch.setattr(checkpoints, "SAVING_SHARE", float("inf"))
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "cut", keep, CUT)
    left = [int(p.stem.split("-")[1]) for p in (tmp_path / "cut").glob("last-*.safetensors")]
    assert sorted(left) == list(saved[-2:])
    again, told = learn(tmp_path / "cut", keep, None)
    assert told == history
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    tidy(tmp_path / "cut")
    assert [p.name for p in (tmp_path / "cut").iterdir()] == ["history.jsonl"]


@pytest.mark.parametrize("seconds", [2**-10, 3.0])
def test_saving_takes_a_twentieth_of_the_time_at_most(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, saved = [0.0], []

    def save(self: Any, bundle: Any, optimiser: Any) -> None:
        saved.append(now[0])
        now[0] += seconds

    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(State, "_save", save)
    state = State(tmp_path)
    for epoch in range(1000):
        now[0] += 1.0
        row = {"epoch": float(epoch), "validation": 1.0}
        state.after_epoch(row, torch.nn.Linear(1, 1), None, keep_best=False)
    between = np.diff(saved) - seconds
    wanted = max(checkpoints.SAVED_EVERY, seconds / checkpoints.SAVING_SHARE)
    assert len(between) > 10
    assert (between >= wanted).all()
    assert (between < wanted + 2).all()


DAMAGES = ("last-7.safetensors", "last-7.json", "best-7.safetensors")


@pytest.mark.parametrize("what", [*DAMAGES, "all"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    what: str,
    how: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(checkpoints, "SAVED_EVERY", 0.0)
    monkeypatch.setattr(checkpoints, "SAVING_SHARE", float("inf"))
    whole, history = learn(tmp_path / "whole", "best", None)
    assert min(range(EPOCHS), key=lambda i: history[i]["validation"]) == 6
    folder = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        learn(folder, "best", CUT)
    assert sorted(p.name for p in folder.iterdir()) == [
        *("best-6.safetensors", "best-7.safetensors", "last-6.json", "last-6.safetensors"),
        *("last-7.json", "last-7.safetensors"),
    ]
    damaged = [folder / what] if what != "all" else list(folder.iterdir())
    for path in damaged:
        content = bytearray(path.read_bytes())
        if how == "gone":
            path.unlink()
            continue
        content[len(content) // 2] ^= 1
        path.write_bytes(content if how == "flipped" else content[:-9])
    capsys.readouterr()
    again, told = learn(folder, "best", None)
    assert told == history
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    said = capsys.readouterr().err
    silent = how == "gone" and what in ("last-7.json", "all")  # as if it had never been written
    assert said.count("training goes on after epoch") == (not silent)
    if not silent:
        assert f"after epoch {0 if what == 'all' else 6} instead" in said


@pytest.mark.parametrize(
    ("name", "epochs", "peak", "end"),
    [
        ("mindeye1", 240, 3e-4, 1000),
        ("mindeye1_low_level", 120, 5e-4, 1000),
        ("mindeye2", 150, 3e-4, 1000),
        ("mindeye2_pretrain", 150, 3e-4, 1000),
        ("mindbridge", 600, 1.5e-4, 100),
        ("mindbridge_adapt", 200, 1.5e-4, 100),
        ("umbrae", 300, 3e-4, 1000),
        ("umbrae_adapt", 240, 3e-4, 1000),
    ],
)
def test_published_schedules_are_those_of_one_cycle(
    name: str, epochs: int, peak: float, end: int
) -> None:
    """Rate and momentum of every step, against PyTorch's own schedule with two epochs of warm-up."""
    steps = 5 * epochs
    told = yaml.safe_load((CONFIGS / "trainer" / f"{name}.yaml").read_text())
    trainer = Trainer(**{k: v for k, v in told.items() if k != "_target_"})
    assert (trainer.epochs, trainer.keep) == (epochs, "last")
    ours, theirs = (torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]) for _ in range(2))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        theirs, max_lr=peak, total_steps=steps, final_div_factor=end, pct_start=2 / epochs
    )
    for done in range(steps):
        set_pace(ours, trainer, done, steps)
        (a,), (b,) = ours.param_groups, theirs.param_groups
        assert a["lr"] == pytest.approx(b["lr"], rel=3e-4)
        assert a["betas"] == pytest.approx(b["betas"], abs=1e-4)
        theirs.step()
        if done < steps - 1:
            schedule.step()
