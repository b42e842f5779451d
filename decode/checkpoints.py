"""What a killed training needs to go on, written so that a damaged file is found and left out."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decode.checksums import check_of, differs, is_sealed, sealed
from decode.core import InputError
from decode.notices import tell
from decode.store import read_json, read_tensors, whole_file, write_json, write_tensors

# Seconds of training that a killed run may lose beside the epoch that it was in, and the share of the
# time that saving may take: MindEye2's state is 27 GB.
SAVED_EVERY, SAVING_SHARE = 2.0, 0.05


class State:
    """Everything that a killed training needs to go on: weights, optimiser, history, best so far.

    A checkpoint is `last-<epoch>.safetensors` and, written after it, `last-<epoch>.json`, which has the
    checksums of the tensors that count. The newest two are kept, so that a damaged one can be left out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.epoch, self.stale, self.best_epoch = 0, 0, 0
        self.best, self.saved, self.took = math.inf, -math.inf, 0.0
        self.history: list[dict[str, float]] = []

    @classmethod
    def resume(cls, folder: Path, bundle: nn.Module, optimiser: Any) -> State:
        """From the newest checkpoint that is whole; what lies beside the checkpoints goes."""
        state, damaged = cls(folder), []
        for number in sorted(_checkpoints(folder), reverse=True):
            try:
                saved = _whole_checkpoint(folder, number)
            except InputError as e:
                damaged.append(str(e))
                continue
            state.load(saved, bundle, optimiser)
            break
        if damaged:
            tell(folder, f"{damaged[0]}; training goes on after epoch {state.epoch} instead")
        state.keep([n for n in sorted(_checkpoints(folder)) if n <= state.epoch][-2:])
        return state

    def load(self, saved: Mapping[str, Any], bundle: nn.Module, optimiser: Any) -> None:
        """Take up what a checkpoint says."""
        self.epoch, self.stale = saved["epoch"], saved["stale"]
        self.best_epoch = saved["best_epoch"]
        self.best = math.inf if saved["best"] is None else saved["best"]
        self.history = saved["history"]
        tensors = read_tensors(self.folder / f"last-{self.epoch}.safetensors")
        bundle.load_state_dict(_under(tensors, "weights"))
        _load_optimiser(optimiser, _under(tensors, "optimiser"))

    def after_epoch(
        self, row: dict[str, float], bundle: nn.Module, optimiser: Any, keep_best: bool
    ) -> None:
        self.epoch = int(row["epoch"]) + 1
        self.history.append(row)
        score = row.get("validation", -math.inf)
        better = score < self.best or not math.isfinite(self.best)
        self.stale = 0 if better else self.stale + 1
        if better:
            self.best, self.best_epoch = score, self.epoch
            if keep_best:
                write_tensors(self._best_file(), bundle.state_dict())
        start = time.monotonic()
        if start - self.saved >= max(SAVED_EVERY, self.took / SAVING_SHARE):
            self._save(bundle, optimiser)
            self.saved = time.monotonic()
            self.took = self.saved - start

    def _best_file(self) -> Path:
        return self.folder / f"best-{self.best_epoch}.safetensors"

    def _save(self, bundle: nn.Module, optimiser: Any) -> None:
        # Before writing: at no time are there more than two checkpoints and the one being written.
        self.keep(sorted(_checkpoints(self.folder))[-1:])
        last = self.folder / f"last-{self.epoch}.safetensors"
        tensors = {f"weights/{k}": v for k, v in bundle.state_dict().items()}
        tensors |= {f"optimiser/{k}": v for k, v in _optimiser_tensors(optimiser).items()}
        write_tensors(last, tensors)
        counting = [p for p in (last, self._best_file()) if p.is_file()]
        saved = {
            "epoch": self.epoch,
            "stale": self.stale,
            "best": self.best if math.isfinite(self.best) else None,
            "best_epoch": self.best_epoch,
            "history": self.history,
            "files": {p.name: check_of(p) for p in counting},
        }
        write_json(self.folder / f"last-{self.epoch}.json", sealed(saved))

    def keep(self, epochs: Sequence[int]) -> None:
        """Remove all checkpoints but those of `epochs`, with the weights that only others need."""
        names = {self._best_file().name}
        for epoch in epochs:
            names |= {f"last-{epoch}.json", *_checkpoints(self.folder)[epoch]}
        for path in _saved(self.folder):
            if path.name not in names:
                path.unlink()

    def finish(self, bundle: nn.Module, keep_best: bool) -> None:
        """Put the kept weights into the model and write the history."""
        if keep_best and self._best_file().is_file():
            bundle.load_state_dict(read_tensors(self._best_file()))
        with whole_file(self.folder / "history.jsonl") as part:
            part.write_text("".join(json.dumps(row) + "\n" for row in self.history))


def _checkpoints(folder: Path) -> dict[int, list[str]]:
    """The epochs of the checkpoints of a folder, each with the names of its files of tensors."""
    found = {}
    for path in folder.glob("last-*.json"):
        try:
            names = list(read_json(path)["files"])
        except (InputError, KeyError, TypeError):
            names = []
        found[int(path.stem.removeprefix("last-"))] = names
    return found


def _whole_checkpoint(folder: Path, epoch: int) -> dict[str, Any]:
    """What a checkpoint says; InputError where it or one of its files is damaged."""
    path = folder / f"last-{epoch}.json"
    saved = read_json(path)
    if not is_sealed(saved):
        raise InputError(
            f"{path}: expected what was written, got something else; train again with force=[train]"
        )
    for name, check in saved["files"].items():
        file = folder / name
        fault = differs(file, check) if file.is_file() else "expected a file, found none"
        if fault:
            raise InputError(f"{file}: {fault}")
    return saved


def _saved(folder: Path) -> list[Path]:
    patterns = ("last-*.safetensors", "last-*.json", "best-*.safetensors")
    return [path for pattern in patterns for path in folder.glob(pattern)]


def tidy(folder: Path) -> None:
    """Remove the files that only resuming needs."""
    for path in _saved(folder):
        path.unlink(missing_ok=True)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) + 1 :]: v for k, v in tensors.items() if k.startswith(prefix + "/")}


def _optimiser_tensors(optimiser: Any) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {f"{i}/{k}": torch.as_tensor(v) for i, entry in state.items() for k, v in entry.items()}


def _load_optimiser(optimiser: Any, tensors: Mapping[str, Tensor]) -> None:
    state = copy.copy(optimiser.state_dict())
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition("/")
        entries.setdefault(int(index), {})[key] = value
    state["state"] = entries
    optimiser.load_state_dict(state)
