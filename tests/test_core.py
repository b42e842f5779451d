"""Refusals say where, what was expected, what came and what to do."""

from __future__ import annotations

import pytest

from decode.core import InputError, about, refusal


def test_a_refusal_is_one_sentence() -> None:
    told = refusal("trainer.epochs", "a whole number of 1 or more", -3, "correct it")
    assert isinstance(told, InputError)
    assert str(told) == ("trainer.epochs: expected a whole number of 1 or more, got -3; correct it")


def test_about_names_a_file_once() -> None:
    with (
        pytest.raises(InputError, match=r"^a\.tsv: expected an onset, got none; add it$"),
        about("a.tsv"),
    ):
        raise InputError("expected an onset, got none; add it")
    with pytest.raises(InputError, match=r"^a\.tsv: expected 2, got 1; add one$"), about("a.tsv"):
        raise refusal("a.tsv", "2", 1, "add one")


def test_about_lets_other_errors_pass() -> None:
    with pytest.raises(KeyError), about("a.tsv"):
        raise KeyError("x")
