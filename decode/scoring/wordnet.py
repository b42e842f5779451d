"""WordNet (Miller 1995, doi:10.1145/219717.219748) in a folder, as nltk reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from decode.core import InputError, refusal
from decode.machine import DISTRIBUTION


def open_wordnet(folder: str, metric: str) -> Any:
    """nltk's reader of the database in the folder that `python -m nltk.downloader -d FOLDER wordnet`
    fills. `metric` names who asks for it.

    Raises InputError without nltk (the extra `meteor`) and without a whole database.
    """
    place = Path(folder).expanduser().resolve()
    remedy = f"fetch it with `python -m nltk.downloader -d {place} wordnet`"
    try:
        import nltk
        from nltk.corpus import wordnet
    except ImportError as e:
        raise refusal(
            f"metric {metric}", "the package nltk", "none", f"pip install '{DISTRIBUTION}[meteor]'"
        ) from e
    if not list(place.glob("corpora/wordnet*")):
        raise InputError(
            f"{metric}.wordnet: expected WordNet in {place}/corpora, found none; {remedy}"
        )
    nltk.data.path.insert(0, str(place))
    try:
        wordnet.ensure_loaded()
    except (OSError, LookupError, ValueError) as e:
        reason = " ".join(str(e).split())[:200]
        raise InputError(
            f"{place}: expected a whole WordNet database, got {reason}; {remedy} again"
        ) from e
    return wordnet


class WordNet:
    """Base forms and synonyms of words and phrases; see `open_wordnet` for the folder."""

    def __init__(self, folder: str, metric: str) -> None:
        self._reader = open_wordnet(folder, metric)
        self._names: dict[str, frozenset[str]] = {}

    def base(self, phrase: str, kind: Literal["n", "a"]) -> str:
        """A phrase with its last word, a noun or an adjective, in its base form."""
        *before, last = phrase.split()
        return " ".join([*before, self._reader.morphy(last, kind) or last])

    def alike(self, a: str, b: str) -> bool:
        """Whether one phrase has the words of the other in a row, or a meaning of the one and a
        meaning of the other share a name.
        """
        if f" {a} " in f" {b} " or f" {b} " in f" {a} ":
            return True
        return not self._named(a).isdisjoint(self._named(b))

    def _named(self, phrase: str) -> frozenset[str]:
        """The names of all meanings of a phrase."""
        if phrase not in self._names:
            meanings = self._reader.synsets(phrase.replace(" ", "_"))
            self._names[phrase] = frozenset(n for m in meanings for n in m.lemma_names())
        return self._names[phrase]
