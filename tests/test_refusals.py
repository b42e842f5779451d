"""Every refusal says where, what was expected, what came and what to do, in one sentence."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "decode"
SENTENCE = re.compile(
    r"(?P<where>.+?): expected (?P<expected>.+), (?:got|found):? (?P<got>.+?); (?P<remedy>.+)"
)
# What helps nobody: it does not say how. "Correct it" does where there is a choice to correct it to.
EMPTY = ("fix it", "mend it", "check it", "try again", "fetch the file again or correct it")
CORRECT, CHOICE = ("correct it", "correct them"), re.compile("one of|some of| or |between|among|'")


def said(node: ast.expr) -> str:
    """The text of a message, {} where something is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(said(v) if isinstance(v, ast.Constant) else "{}" for v in node.values)
    if isinstance(node, ast.BinOp):
        return said(node.left) + said(node.right)
    if isinstance(node, ast.IfExp):
        return min(said(node.body), said(node.orelse), key=lambda text: (";" in text, len(text)))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        text = said(node.func.value)
        return text if text.strip() else "{}"  # what a separator joins
    return "{}"


def parts(call: ast.Call) -> tuple[str, ...] | None:
    """where, expected, got and remedy of a call that makes a refusal; None where it has no words of its own.

    Of a sentence that lacks one, (sentence,).
    """
    if not isinstance(call.func, ast.Name) or call.func.id not in ("InputError", "refusal"):
        return None
    if call.func.id == "refusal":
        return tuple(said(a) for a in call.args)
    text = said(call.args[0]) if call.args else ""
    if not any(c.isalpha() for c in text):
        return None
    found = SENTENCE.fullmatch(text)
    return found.groups() if found else (text,)


def faults(source: str) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) of every refusal that leaves something out."""
    for node in ast.walk(ast.parse(source)):
        words = parts(node) if isinstance(node, ast.Call) else None
        if words is None:
            continue
        if len(words) != 4:
            yield node.lineno, f"where, expected, got, remedy are not all in {words}"
        elif any(not w.strip() for w in words):
            yield node.lineno, f"one is empty of {words}"
        elif words[3].strip(". ") in EMPTY or len(words[3].replace("{}", "word word").split()) < 2:
            yield node.lineno, f"{words[3]!r} does not say how"
        elif words[3] in CORRECT and not CHOICE.search(words[1]):
            yield node.lineno, f"{words[3]!r} does not say to what"
        elif "\n" in "".join(words):
            yield node.lineno, "more than one line"


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda f: f.stem)
def test_a_refusal_says_where_what_and_what_to_do(file: Path) -> None:
    assert not list(faults(file.read_text()))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("raise InputError(f'k: expected at least 1, got {x}')", 1),
        ("raise InputError('k: expected 1, got ' + str(x))", 1),
        ("raise InputError(f'k: expected 1, got {x}; lower it')", 0),
        ("raise InputError(f'k: expected 1, got {x}; correct it')", 1),
        ("raise InputError(f'k: expected one of {known}, got {x}; correct it')", 0),
        ("raise InputError(f'k: {x} is too high; lower it')", 1),
        ("raise InputError(f'expected 1, got {x}; lower it')", 1),
        ("raise InputError(f'k: got {x}' + (f'; did you mean {y}?' if y else ''))", 1),
        ("raise InputError(f'{where}: {e}') from e", 0),
        ("raise refusal('k', 'one', 2, 'lower it')", 0),
        ("raise refusal('k', 'one', 2, 'lower it' if x else '')", 1),
        ("raise refusal('k', 'one', '', 'lower it')", 1),
        ("raise refusal('', 'one', 2, 'lower it')", 1),
        ("raise refusal('k', 'one', 2, 'correct it')", 1),
        ("raise refusal(path, expected, got, remedy)", 0),
        ("raise refusal(path, 'one', 2)", 1),
    ],
)
def test_what_counts_as_a_whole_refusal(source: str, found: int) -> None:
    assert len(list(faults(source))) == found
