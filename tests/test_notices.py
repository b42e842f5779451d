"""What libraries say while they read: a line to the user or a refusal, never nothing."""

from __future__ import annotations

import logging
import warnings

import pytest

from decode.core import InputError
from decode.notices import collected, heard, tell


def test_a_warning_becomes_one_line_that_names_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    with heard("run.edf"):
        warnings.warn("positions are\nmissing", RuntimeWarning, stacklevel=1)
        logging.getLogger("nibabel.global").warning("pixdim < 0")
    said = capsys.readouterr().err.splitlines()
    assert "note: run.edf: positions are missing" in said
    assert "note: run.edf: pixdim < 0" in said


def test_a_warning_after_which_numbers_are_wrong_is_a_refusal() -> None:
    says = r"run\.edf: expected a complete file, got the file is TRUNCATED; fetch the file again"
    with pytest.raises(InputError, match=says), heard("run.edf", wrong="truncat"):
        warnings.warn("the file is TRUNCATED", UserWarning, stacklevel=1)


def test_what_mne_warns_of_is_heard_even_where_it_was_told_to_be_quiet(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import mne

    logger = logging.getLogger("mne")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with heard("a.fif"):
            mne.utils.warn("loud enough")
        assert logger.level == logging.ERROR
    finally:
        logger.setLevel(level)
    assert "note: a.fif: loud enough" in capsys.readouterr().err


def test_what_is_said_of_many_is_one_line_that_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with collected() as lines:
        for name in ("one", "two", "two", "three"):
            tell(name, "no units")
        tell("one", "no positions")
    assert lines == ["one (and 2 more): no units", "one: no positions"]
    assert capsys.readouterr().err.splitlines() == [
        "note: one: no units",
        "note: one: no positions",
        "note: one (and 2 more): no units",
    ]


def test_lines_are_kept_when_the_block_fails() -> None:
    with pytest.raises(ValueError, match="later"), collected() as lines:
        tell("one", "first")
        raise ValueError("later")
    assert lines == ["one: first"]
    tell("two", "outside is only printed")
    assert lines == ["one: first"]


def test_what_a_standard_leaves_to_choice_is_no_news(capsys: pytest.CaptureFixture[str]) -> None:
    with heard("a.edf"):
        warnings.warn("participants.tsv file not found for /data/sub-01", stacklevel=1)
        warnings.warn("Subject 'sub-01' is not listed in participants.tsv", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert capsys.readouterr().err.splitlines() == ["note: a.edf: something else"]
