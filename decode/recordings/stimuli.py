"""Stimuli of data sets that name them in tables: by their files, or by nothing but a name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from decode.core import Kind, Stimulus, refusal
from decode.media.medium import NO_FILE, words_of


def check_kind(kind: str | None) -> None:
    """Refuse what `data.kind` cannot be."""
    if kind is not None and kind not in get_args(Kind):
        raise refusal(
            "data.kind", f"null or one of {list(get_args(Kind))}", repr(kind), "correct it"
        )


def needs_file(kind: Kind | None) -> bool:
    """Whether stimuli of a kind, or of the kind that their endings say, are files."""
    return kind not in NO_FILE


def from_name(
    uid: str, kind: Kind, column: str, texts: tuple[str, ...], labels: Mapping[str, Any]
) -> Stimulus:
    """A text that is its own name, or an event; the name is the label `column` as well."""
    said = words_of(kind, uid) or texts
    return Stimulus(uid, kind, texts=said, labels={column: uid, **labels})


def from_file(
    uid: str, kind: Kind, path: Path, texts: tuple[str, ...], labels: Mapping[str, Any]
) -> Stimulus:
    """Something in a file, whose words are the first text where it is a text itself."""
    said = words_of(kind, path)
    return Stimulus(uid, kind, path=str(path), texts=said + texts, labels=labels)
