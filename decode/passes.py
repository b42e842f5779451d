"""What one pass over the training trials shows: which of them, in which batches, mixed of what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from decode.core import refusal

Repeats = Literal["each", "one", "mixed"]
# MindEye's low level (Scotti et al. 2023): this share of the batches holds means with random weights,
# those up to the second plain means, the others one repeat of each picture.
RANDOM_MEANS, MEANS = 0.5, 0.8


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the training rows.

    `repeats`: `each` trial is a row; `one` repeat, drawn anew in every pass, is the row of its
    stimulus and subject; or they are `mixed`, see `drawn`. `rows` is the length of a pass (None: every
    row once); more than there are come around again. With `per_subject` every batch has the batch size
    of each subject, and a pass ends with the rows of the smallest; at most so many `subjects` are drawn
    for each pass (None: all). The subject `always` is in every batch, beside it one of the others in
    turn, and a pass ends with its rows.
    """

    repeats: Repeats = "each"
    rows: int | None = None
    per_subject: bool = False
    subjects: int | None = None
    always: str | None = None

    def __post_init__(self) -> None:
        for name in ("subjects", "always"):
            value = getattr(self, name)
            if value is not None and not self.per_subject:
                raise refusal(
                    f"trainer.{name}", "null where per_subject is false", value,
                    "set trainer.per_subject to true or this to null",
                )  # fmt: skip
        if self.always is not None and (self.rows, self.subjects) != (None, None):
            raise refusal(
                "trainer.always", "null beside rows or subjects", self.always, "choose one of them"
            )


def units(subject: Sequence[int], stimulus: Sequence[int], repeats: Repeats) -> list[list[int]]:
    """The trials (numbers of rows) that each row of a pass is drawn from."""
    if repeats == "each":
        return [[i] for i in range(len(stimulus))]
    found: dict[tuple[int, int], list[int]] = {}
    for i, key in enumerate(zip(subject, stimulus, strict=True)):
        found.setdefault(key, []).append(i)
    return list(found.values())


class Plan:
    """The batches of a pass over rows that belong to `subject` (row,), numbers from 0."""

    def __init__(self, subject: Tensor, size: int, way: Pass, *, known: Sequence[str]) -> None:
        self.size, self.way, self.n = size, way, len(subject)
        self._of: Mapping[int, Tensor] = {
            int(s): (subject == s).nonzero()[:, 0] for s in subject.unique()
        }
        self._lead: int | None = None
        if way.always is not None:
            names = [known[s] for s in self._of]
            if way.always not in names:
                raise refusal(
                    "trainer.always", f"one of the training subjects {names}", way.always,
                    "correct it or add that subject to `subjects`",
                )  # fmt: skip
            self._lead = list(known).index(way.always)

    def __len__(self) -> int:
        """Number of batches, the same in every pass."""
        if not self.way.per_subject:
            return -(-(self.way.rows or self.n) // self.size)
        if self.way.rows is not None:
            return max(1, self.way.rows // (self.size * self._together()))
        sizes = {s: len(rows) for s, rows in self._of.items()}
        ends = min(sizes.values()) if self._lead is None else sizes[self._lead]
        return -(-ends // self.size)

    def _together(self) -> int:
        return min(self.way.subjects or len(self._of), len(self._of))

    def batches(self, draws: torch.Generator) -> list[Tensor]:
        """Row numbers of each batch of one pass."""
        if not self.way.per_subject:
            every = torch.arange(self.n)
            return list(_stream(every, self.way.rows or self.n, draws).split(self.size))
        if self._lead is not None:
            return self._beside(self._lead, draws)
        order = torch.randperm(len(self._of), generator=draws)[: self._together()].sort().values
        subjects = list(self._of)
        parts = [self._chunks(subjects[i], len(self), draws) for i in order.tolist()]
        return [torch.cat(chunks) for chunks in zip(*parts, strict=True)]

    def _chunks(self, subject: int, n: int, draws: torch.Generator) -> Sequence[Tensor]:
        """`n` batches of a subject's rows; without `rows`, those of the smallest are no more than it has."""
        rows = self._of[subject]
        wanted = n * self.size
        if self.way.rows is None and self._lead is None:
            wanted = min(wanted, len(rows))
        return _stream(rows, wanted, draws).split(self.size)

    def _beside(self, lead: int, draws: torch.Generator) -> list[Tensor]:
        """All rows of `lead`, each batch beside one of another subject, in turn."""
        mine = _stream(self._of[lead], len(self._of[lead]), draws).split(self.size)
        others = [s for s in self._of if s != lead]
        if not others:
            return list(mine)
        turns = -(-len(mine) // len(others))
        theirs = [self._chunks(s, turns, draws) for s in others]
        return [
            torch.cat([theirs[i % len(others)][i // len(others)], chunk])
            for i, chunk in enumerate(mine)
        ]


def _stream(rows: Tensor, n: int, draws: torch.Generator) -> Tensor:
    """`n` rows in random order, each once before any comes again."""
    rounds = max(1, -(-n // len(rows)))
    return torch.cat([rows[torch.randperm(len(rows), generator=draws)] for _ in range(rounds)])[:n]


def drawn(
    members: Tensor, count: Tensor, repeats: Repeats, draws: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Trials (row, of each) and, where they are mixed, their weights of the same shape, which add to 1.

    `members` (row, most repeats) numbers the trials of each row, `count` (row,) how many there are. A
    batch that is `mixed` holds, with the chances RANDOM_MEANS and MEANS, means with random weights,
    plain means or single repeats.
    """
    kind = float(torch.rand((), generator=draws)) if repeats == "mixed" else 1.0
    there = torch.arange(members.shape[1]) < count[:, None]
    if kind > MEANS:
        which = (torch.rand(len(count), generator=draws) * count).long()
        return members.gather(1, which[:, None]), None
    weights = there.float()
    if kind <= RANDOM_MEANS:
        # Never zero: a picture that was shown once keeps its only trial.
        weights = weights * (1 - torch.rand(members.shape, generator=draws))
    return members, weights / weights.sum(1, keepdim=True)


def padded(groups: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(row, most) numbers, the first repeated where a row has fewer, and how many it has (row,)."""
    count = torch.tensor([len(g) for g in groups], dtype=torch.int64)
    most = int(count.max()) if len(groups) else 1
    rows = [[*g, *[g[0]] * (most - len(g))] for g in groups]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(groups), most), count
