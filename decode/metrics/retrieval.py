"""Which stimulus was it? Rank the true vector of each trial among all distinct test stimuli."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from decode.core import InputError, Measure, Metric, Ranking, Results, refusal
from decode.notices import tell
from decode.scoring.rows import Gallery, galleries, scores, table, vectors

Similarity = Literal["cosine", "correlation", "dot"]
BLOCK = 256


def unit(x: np.ndarray, similarity: Similarity) -> np.ndarray:
    """Rows (row, feature) scaled so that their inner products are the wanted similarity."""
    if similarity == "dot":
        return x
    if similarity == "correlation":
        x = x - x.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm == 0, 1, norm)


def count_rivals(
    queries: np.ndarray, gallery: np.ndarray, own: np.ndarray, rival: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many gallery entries beat, and how many tie with, each query's own entry.

    `queries` is (query, feature), `gallery` (entry, feature), `own` (query,) the index of the right
    entry and `rival` (query, entry) says which entries compete. Equal gallery vectors tie exactly:
    their similarity is computed once, since a matrix product rounds differently by position.
    """
    distinct, expand = distinct_rows(gallery)
    better, ties = np.zeros(len(queries), int), np.zeros(len(queries), int)
    for start in range(0, len(queries), BLOCK):
        part = slice(start, start + BLOCK)
        similar = (queries[part] @ distinct.T)[:, expand]
        right = np.take_along_axis(similar, own[part, None], axis=1)
        better[part] = ((similar > right) & rival[part]).sum(axis=1)
        ties[part] = ((similar == right) & rival[part]).sum(axis=1)
    return better, ties


def distinct_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows of `x` and, per row, which of them it is."""
    seen: dict[bytes, int] = {}
    # 0.0 and -0.0 are one number with two bit patterns.
    expand = np.array([seen.setdefault((row + 0.0).tobytes(), len(seen)) for row in x], dtype=int)
    first = np.full(len(seen), len(x))
    np.minimum.at(first, expand, np.arange(len(x)))
    return x[first], expand


def n_way_hit(better: np.ndarray, ties: np.ndarray, size: np.ndarray, n: int) -> np.ndarray:
    """Chance that the right entry wins among itself and n-1 others drawn from the gallery.

    The mean over all draws in closed form, C(M - rank, n-1) / C(M-1, n-1); tied entries are put in
    every order, so a constant prediction scores exactly 1/n.
    """

    def untied(better: np.ndarray) -> np.ndarray:
        left = (size - 1 - better)[:, None] - np.arange(n - 1)
        return (np.maximum(left, 0) / ((size - 1)[:, None] - np.arange(n - 1))).prod(axis=1)

    # The sum over the orders of tied entries telescopes (hockey-stick identity).
    first = (size - better) / n * untied(better)
    last = (size - better - ties - 1) / n * untied(better + ties + 1)
    return np.where(ties == 0, untied(better), (first - last) / (ties + 1))


class Retrieval(Metric):
    """Top-k and n-way retrieval, from brain to stimulus and from stimulus to brain.

    The gallery of a row is every distinct stimulus among the rows that agree with it in the columns
    `within`: by default one subject, one split and one fold, because predictions of different folds
    come from different fits. Repeats of a stimulus are one entry. The rank is one plus the entries
    that are more similar plus half of those exactly as similar (mid-rank; equal true vectors tie),
    and top-k is rank <= k, with chance k / M of that gallery.

    `<name>_top1` asks which stimulus a prediction means. `<name>_brain_top1` asks which prediction
    a stimulus means: the row's own prediction competes with those of all rows of other stimuli.
    `<name>_2way` and so on are exact means over all draws of distractors; nothing is sampled. The
    published protocol (top-1 in galleries of 300 stimuli drawn 30 times, averaged) has `_300way` as
    its expectation, since every stimulus is equally often drawn and its rivals are then a random
    299 of the others; its interval 1.96 SD / sqrt(30) holds the noise of the draws alone, which is
    zero here, while the interval of a report is over stimuli and subjects.
    """

    looks_at: ClassVar[Literal["predictions"]] = "predictions"
    target: str

    def __init__(
        self,
        target: str = "retrieval",
        *,
        k: Sequence[int] = (1, 5),
        n_way: Sequence[int] | None = None,
        similarity: Similarity = "cosine",
        within: Sequence[str] = ("subject", "split", "fold"),
        name: str = "retrieval",
    ) -> None:
        if similarity not in ("cosine", "correlation", "dot"):
            raise InputError(
                f"metric.similarity: expected cosine, correlation or dot, got {similarity!r}"
                "; correct it"
            )
        if any(v < 1 for v in k) or any(v < 2 for v in n_way or ()):
            raise refusal(
                "metric",
                "k >= 1 and n_way >= 2",
                f"k={list(k)}, n_way={n_way}",
                "raise the one that is too low",
            )
        self.target, self.name, self.similarity = target, name, similarity
        self.k, self.n_way, self.within = tuple(k), tuple(n_way or ()), tuple(within)

    def measures(self) -> Mapping[str, Measure]:
        return self._of("stimulus", self.name) | self._of("brain", f"{self.name}_brain")

    def _of(self, find: Literal["stimulus", "brain"], name: str) -> dict[str, Measure]:
        """Both kinds of scores in one direction, what is found given the other."""
        first, wins = {
            "stimulus": (
                "The right stimulus is among the {} of the gallery whose {} is most similar.",
                "The right stimulus wins among {} by its {}; exact mean over all draws, not sampled.",
            ),
            "brain": (
                "Given the stimulus, the right brain prediction is among the first {} by its {}.",
                "Given the stimulus, the right prediction wins among {} by its {}; exact, not sampled.",
            ),
        }[find]
        found = {
            f"{name}_top{k}": Measure(
                first.format(k, self.target),
                rows="among",
                ranks=Ranking(find, self.within, k),
                ceiling="observer",
            )
            for k in self.k
        }
        ranks = Ranking(find, self.within)
        return found | {
            f"{name}_{n}way": Measure(wins.format(n, self.target), rows="among", ranks=ranks)
            for n in self.n_way
        }

    def __call__(self, results: Results) -> pd.DataFrame:
        predicted, truth = vectors(results, self.target)
        parts: list[pd.DataFrame] = []
        tied = False
        for gallery in galleries(results.trials, self.within):
            shown = unit(truth[gallery.rows], self.similarity)
            meant = unit(predicted[gallery.rows], self.similarity)
            check_truth(shown, gallery, self.target)
            entries = np.arange(gallery.n_stimuli)
            ways = {
                self.name: (meant, shown[gallery.first], gallery.code, entries),
                f"{self.name}_brain": (shown, meant, np.arange(len(meant)), gallery.code),
            }
            for name, (queries, candidates, own, code) in ways.items():
                rival = gallery.code[:, None] != code[None, :]
                better, ties = count_rivals(queries, candidates, own, rival)
                tied |= bool((ties > 0).any())
                counts = (better, ties, 1 + rival.sum(axis=1))
                parts += self._rows(results, name, gallery.rows, counts)
        if tied:
            # Without a number, which differs between controls, it is said once of all of them.
            tell(f"metric {self.name}", "some rows tie with other entries exactly (mid-rank used)")
        return table(parts)

    def _rows(
        self,
        results: Results,
        name: str,
        rows: np.ndarray,
        counts: tuple[np.ndarray, np.ndarray, np.ndarray],
    ) -> list[pd.DataFrame]:
        better, ties, size = counts
        rank = 1 + better + ties / 2
        parts = [
            scores(results, f"{name}_top{k}", rows, rank <= k, chance=np.minimum(k / size, 1))
            for k in self.k
        ]
        for n in self.n_way:
            if size.min() < n:
                raise refusal(
                    "metrics.*.n_way",
                    f"at most {size.min()}, the stimuli of a gallery within {list(self.within)}",
                    n,
                    "lower n_way or change `within`",
                )
            value = n_way_hit(better, ties, size, n)
            parts.append(scores(results, f"{name}_{n}way", rows, value, chance=1 / n))
        return parts


def check_truth(truth: np.ndarray, gallery: Gallery, target: str) -> None:
    """Raise InputError when rows of one stimulus have different true vectors."""
    own = truth[gallery.first][gallery.code]
    wrong = np.abs(truth - own).max(axis=1) > 1e-3 * max(float(np.abs(own).max()), 1e-12)
    if wrong.any():
        raise refusal(
            "metric",
            f"one true vector of {target!r} per stimulus, as the gallery has one each",
            f"different ones (row {int(gallery.rows[wrong][0])})",
            "keep 'fold' in `within` when the encoder embeds the stimuli itself",
        )
