"""Answers in made texts: a line for each question, and whether one agrees with people's."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from decode.core import InputError

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
DROPPED = {"a", "an", "the"}
# Answers of other people that make an answer right (Antol et al. 2015, arXiv:1505.00468).
ENOUGH = 3


def answer_lines(
    texts: Sequence[str], asked: Sequence[Collection[str]], metric: str
) -> list[dict[str, str]]:
    """What each text says on its lines `NAME: ANSWER`, of the names that it was asked for.

    Raises InputError when all texts answer for something, but one not for all that it was asked;
    texts that are no answers, such as the captions of a control, are let through.
    """
    said = [_lines(text.splitlines(), names) for text, names in zip(texts, asked, strict=True)]
    if all(found or not names for found, names in zip(said, asked, strict=True)):
        for found, names in zip(said, asked, strict=True):
            missing = [name for name in names if name not in found]
            if missing:
                raise InputError(
                    f"metric {metric}: expected a line for {missing[0]!r} in the made texts, got one "
                    f"that answers for {sorted(found)}; let the generator ask for what is scored here"
                )
    return said


def _lines(lines: Sequence[str], names: Collection[str]) -> dict[str, str]:
    """The answer of the first line of each name that has one."""
    found = {}
    for name in names:
        mine = [line for line in lines if line.startswith(f"{name}:")]
        if mine:
            found[name] = mine[0].removeprefix(f"{name}:").strip()
    return found


def plain(answer: str) -> str:
    """An answer in the form in which answers are compared: small letters, no signs, no articles,
    numbers up to ten in digits.
    """
    words = re.sub(r"[^\w\s]", " ", answer.lower().replace("'", "")).split()
    kept = [str(NUMBERS.index(w)) if w in NUMBERS else w for w in words if w not in DROPPED]
    return " ".join(kept)


def agreement(answer: str, given: Sequence[str]) -> float:
    """How right a plain answer is beside those `given` by people, in [0, 1].

    With more than three of them it is the accuracy of VQA: the share of three others that it agrees
    with, mean over leaving out each person in turn. With fewer it is 1 when anyone gave it.
    """
    same = given.count(answer)
    if len(given) <= ENOUGH:
        return float(same > 0)
    n = len(given)
    with_others = min(same / ENOUGH, 1.0) * (n - same)
    without_one = min((same - 1) / ENOUGH, 1.0) * same if same else 0.0
    return (with_others + without_one) / n
