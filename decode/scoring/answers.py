"""Answers in made texts: a line for each question, and whether one agrees with people's."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from decode.core import InputError

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
DROPPED = {"a", "an", "the"}
# Answers of other people that make an answer right (Antol et al. 2015, arXiv:1505.00468).
ENOUGH = 3


def answer_lines(texts: Sequence[str], asked: Collection[str], metric: str) -> list[dict[str, str]]:
    """What each text says on its line `NAME: ANSWER` of every name.

    Raises InputError when all texts answer for some of `asked`, but not for others; texts that are no
    answers, such as the captions of a control, have no line in common and are let through.
    """
    lines = [dict(_halves(line) for line in text.splitlines()) for text in texts]
    common = set(asked).intersection(*lines)
    missing = [name for name in asked if name not in common]
    if common and missing:
        raise InputError(
            f"metric {metric}: expected a line for {missing[0]!r} in the made texts, which answer for "
            f"{sorted(common)}; name the same categories in the generator and here"
        )
    return lines


def _halves(line: str) -> tuple[str, str]:
    name, _, answer = line.partition(":")
    return name.strip(), answer.strip()


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
