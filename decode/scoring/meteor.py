"""METEOR with stems and synonyms, by nltk."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from decode.scoring.wordnet import open_wordnet


class Meteor:
    """METEOR (Banerjee & Lavie 2005, aclanthology W05-0909) as nltk has it: words match as they are,
    then by Porter stems, then by WordNet synonyms; alpha .9, beta 3, gamma .5.

    Published tables mostly show version 1.5 of its authors' program, which weighs matches differently
    and knows paraphrases: compare runs by this one, not a run with a table. `wordnet` is the folder
    that `python -m nltk.downloader -d FOLDER wordnet` fills.

    Raises InputError without nltk (the extra `meteor`) and without the database.
    """

    def __init__(self, wordnet: str) -> None:
        self.wordnet = wordnet
        self._score: Callable[..., float] | None = None

    def __call__(self, candidate: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """The best of the references, 0 to 1; no words score 0."""
        if self._score is None:
            self._score = self._open()
        return float(self._score(references, candidate))

    def _open(self) -> Callable[..., float]:
        open_wordnet(self.wordnet, "meteor")
        from nltk.translate.meteor_score import meteor_score

        return meteor_score
