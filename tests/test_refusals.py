"""Every refusal says what to do, in one sentence; those with a file or key are built in one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "decode"


def said(node: ast.expr) -> str:
    """The text of a message, {} where something is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(said(v) if isinstance(v, ast.Constant) else "{}" for v in node.values)
    if isinstance(node, ast.BinOp):
        return said(node.left) + said(node.right)
    if isinstance(node, ast.IfExp):
        return min(said(node.body), said(node.orelse), key=lambda text: ";" in text)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return said(node.func.value)
    return "{}"


def messages(source: str) -> Iterator[tuple[int, str]]:
    """(line, message) of every InputError that is raised with words of its own."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
            continue
        text = said(node.args[0])
        if node.func.id == "InputError" and any(c.isalpha() for c in text):
            yield node.lineno, text


def without_advice(source: str) -> list[tuple[int, str]]:
    return [(line, text) for line, text in messages(source) if ";" not in text]


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda f: f.stem)
def test_a_refusal_says_what_to_do(file: Path) -> None:
    assert not without_advice(file.read_text()), "end the message with `; what to do`"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("raise InputError(f'k: expected at least 1, got {x}')", 1),
        ("raise InputError('k: expected 1, got ' + str(x))", 1),
        ("raise InputError(f'k: expected 1, got {x}; correct it')", 0),
        ("raise InputError(f'k: got {x}' + (f'; did you mean {y}?' if y else ''))", 1),
        ("raise InputError(f'{where}: {e}') from e", 0),
        ("raise refusal('k', 'one', 2, 'correct it')", 0),
    ],
)
def test_what_counts_as_advice(source: str, found: int) -> None:
    assert len(without_advice(source)) == found
