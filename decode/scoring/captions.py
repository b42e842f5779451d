"""Scores of a made sentence against the sentences that people wrote about the same stimulus.

Everything works on lists of tokens, see `tokens`. A candidate is one list, its references are one or
more. The numbers are those of the COCO caption evaluation (Chen et al. 2015, arXiv:1504.00325), up to
three things: its tokeniser is the Java program of the Penn Treebank project, of which `tokens` keeps
the rules that matter for captions; its BLEU adds 1e-15 and 1e-9 to the counts; and its METEOR also
matches stems, synonyms and paraphrases, which is why ours is called exact.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from decode.core import InputError, refusal

Tokens = Sequence[str]
Vector = tuple[dict[tuple[str, ...], float], np.ndarray]
ORDERS = 4
ROUGE_BETA = 1.2
CIDER_SIGMA = 6.0
METEOR_ALPHA, METEOR_BETA, METEOR_GAMMA = 0.9, 3.0, 0.5
STATES, NOWHERE = 512, -2
_WORD = re.compile(r"n't|'(?:s|re|ve|ll|d|m)\b|\w+(?:[-./]\w+)*")


def tokens(text: str) -> list[str]:
    """Lower-case words without punctuation: "The dog's hat, isn't it?" -> the dog 's hat is n't it.

    Words with a hyphen, a point or a slash inside stay whole, contractions are cut as in the Penn
    Treebank.
    """
    text = text.lower().replace("’", "'")
    return _WORD.findall(re.sub(r"n't\b", " n't", text))


def ngrams(words: Tokens, n: int) -> Counter[tuple[str, ...]]:
    """How often each run of `n` words occurs."""
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def check(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
    """Raise InputError unless every candidate has references that hold a word."""
    if len(candidates) != len(references) or not candidates:
        raise InputError(
            f"captions: expected as many candidates as sets of references and at least one, got "
            f"{len(candidates)} and {len(references)}"
            "; give one set of references per candidate"
        )
    empty = [i for i, refs in enumerate(references) if not refs or not all(refs)]
    if empty:
        raise refusal(
            "captions",
            "references that hold a word",
            f"none of item {empty[0]}",
            "leave empty captions out of the stimuli",
        )


def bleu_counts(candidate: Tokens, references: Sequence[Tokens]) -> np.ndarray:
    """What BLEU adds up over items (10,): matches of 1 to 4 words, runs of 1 to 4 words, the length,
    and the length of the reference closest in length (the shorter of two equally close).
    """
    matched, made = [], []
    for n in range(1, ORDERS + 1):
        own, most = ngrams(candidate, n), Counter[tuple[str, ...]]()
        for reference in references:
            most |= ngrams(reference, n)
        matched.append((own & most).total())
        made.append(own.total())
    closest = min((abs(len(r) - len(candidate)), len(r)) for r in references)[1]
    return np.array([*matched, *made, len(candidate), closest], np.float64)


def bleu(counts: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4 (..., 4) of added-up counts (..., 10), without smoothing.

    Papineni et al. 2002, doi:10.3115/1073083.1073135. Where nothing matches the score is 0.
    """
    matched, made = counts[..., :ORDERS], counts[..., ORDERS : 2 * ORDERS]
    share = np.divide(matched, made, out=np.zeros_like(matched), where=made > 0)
    with np.errstate(divide="ignore"):
        mean = np.cumsum(np.log(share), axis=-1) / np.arange(1, ORDERS + 1)
        long, reference = counts[..., -2], counts[..., -1]
        brevity = np.minimum(0.0, 1 - reference / np.where(long > 0, long, 1e-300))
    return np.exp(mean + brevity[..., None])


def bleu_contributions(counts: np.ndarray) -> np.ndarray:
    """Per item (item, 4) numbers whose mean is exactly the BLEU-1 to BLEU-4 of the whole corpus.

    BLEU is a ratio of sums, not a mean. Item i contributes BLEU plus the derivative of BLEU in the
    weight of item i, so that resampling items gives the right interval to first order. A
    contribution may be negative or above 1; 0 everywhere when nothing matches.
    """
    mean = counts.mean(axis=0)
    whole = bleu(mean)
    relative = np.divide(counts, mean, out=np.ones_like(counts), where=mean > 0) - 1
    change = relative[:, :ORDERS] - relative[:, ORDERS : 2 * ORDERS]
    change = np.cumsum(change, axis=1) / np.arange(1, ORDERS + 1)
    if mean[-1] > mean[-2] > 0:
        change += (mean[-1] / mean[-2] * (relative[:, -2] - relative[:, -1]))[:, None]
    return whole * (1 + change)


def rouge_1(candidate: Tokens, references: Sequence[Tokens]) -> float:
    """ROUGE-1: F1 of the words in common, each as often as it occurs in both; the best reference.

    Lin 2004, aclanthology W04-1013, without stems.
    """
    own, found = Counter(candidate), [0.0]
    for reference in references:
        common = (own & Counter(reference)).total()
        found.append(2 * common / (len(candidate) + len(reference)))
    return max(found)


def rouge_l(candidate: Tokens, references: Sequence[Tokens]) -> float:
    """ROUGE-L of the longest common subsequence, beta 1.2, best precision and best recall over the
    references each by itself, as the COCO evaluation has it. Lin 2004, aclanthology W04-1013.
    """
    common = [_common(candidate, r) for r in references]
    recall = max(c / len(r) for c, r in zip(common, references, strict=True))
    if recall == 0:
        return 0.0
    precision = max(common) / len(candidate)
    squared = ROUGE_BETA**2
    return (1 + squared) * precision * recall / (recall + squared * precision)


def _common(a: Tokens, b: Tokens) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        before, row = row, [0]
        for j, y in enumerate(b):
            row.append(before[j] + 1 if x == y else max(before[j + 1], row[j]))
    return row[-1]


def meteor_exact(candidate: Tokens, references: Sequence[Tokens]) -> float:
    """METEOR with exact word matches only, the best over the references.

    Weights of Banerjee & Lavie 2005 (aclanthology W05-0909): recall counts nine times precision, and
    up to half is lost to matches that lie in many separate chunks. Lower than METEOR with stems and
    synonyms, which published tables report; the two may not be compared.
    """
    return max(_meteor(candidate, reference) for reference in references)


def _meteor(candidate: Tokens, reference: Tokens) -> float:
    matches, chunks = align(candidate, reference)
    if matches == 0:
        return 0.0
    precision, recall = matches / len(candidate), matches / len(reference)
    mean = precision * recall / (METEOR_ALPHA * precision + (1 - METEOR_ALPHA) * recall)
    return mean * (1 - METEOR_GAMMA * (chunks / matches) ** METEOR_BETA)


def align(candidate: Tokens, reference: Tokens) -> tuple[int, int]:
    """Matches of equal words, as many as possible, and the fewest chunks that they can lie in.

    A chunk is a run of matches that is contiguous in both sentences. Exact unless a sentence repeats
    words so often that more than 512 partial alignments differ.
    """
    places: dict[str, list[int]] = {}
    for j, word in enumerate(reference):
        places.setdefault(word, []).append(j)
    spare = {w: n - len(places.get(w, ())) for w, n in Counter(candidate).items()}
    seen: Counter[str] = Counter()
    # (places taken, place matched by the word before) -> fewest chunks
    states: dict[tuple[frozenset[int], int], int] = {(frozenset(), NOWHERE): 0}
    for word in candidate:
        after: dict[tuple[frozenset[int], int], int] = {}
        for (taken, last), chunks in states.items():
            free = [j for j in places.get(word, ()) if j not in taken]
            passed = seen[word] - (len(places.get(word, ())) - len(free))
            for j in [*free, NOWHERE] if passed < spare[word] else free:
                key = (taken if j == NOWHERE else taken | {j}, j)
                cost = chunks + (j not in (NOWHERE, last + 1))
                after[key] = min(cost, after.get(key, len(candidate)))
        states = dict(sorted(after.items(), key=lambda s: s[1])[:STATES])
        seen[word] += 1
    matches = sum((Counter(candidate) & Counter(reference)).values())
    return matches, min(states.values())


class Cider:
    """CIDEr-D of candidates against references, with document frequencies from `corpus`.

    `corpus` holds the references of each distinct stimulus of the test set: an n-gram counts less
    the more stimuli mention it. One to four words, sigma 6, times 10. Vedantam et al. 2015,
    doi:10.1109/CVPR.2015.7299087.
    """

    def __init__(self, corpus: Sequence[Sequence[Tokens]]) -> None:
        self._documents: Counter[tuple[str, ...]] = Counter()
        for references in corpus:
            self._documents.update({g for r in references for g in _all_ngrams(r)})
        self._log_size = float(np.log(len(corpus)))
        self._vectors: dict[tuple[str, ...], Vector] = {}

    def __call__(self, candidate: Tokens, references: Sequence[Tokens]) -> float:
        own, own_norm = self._vector(candidate)
        total = np.zeros(ORDERS)
        for reference in references:
            other, norm = self._vector(reference)
            found = np.zeros(ORDERS)
            for gram, weight in own.items():
                there = other.get(gram, 0.0)
                found[len(gram) - 1] += min(weight, there) * there
            both = own_norm * norm
            similar = np.divide(found, both, out=np.zeros(ORDERS), where=both > 0)
            # The COCO code takes the number of word pairs for the length.
            gap = max(len(candidate) - 1, 0) - max(len(reference) - 1, 0)
            total += similar * np.exp(-(gap**2) / (2 * CIDER_SIGMA**2))
        return float(10 * total.mean() / len(references))

    def _vector(self, words: Tokens) -> Vector:
        """Weight of each n-gram, and the length of the vector per order (4,)."""
        known = self._vectors.get(tuple(words))
        if known is not None:
            return known
        weights, norm = {}, np.zeros(ORDERS)
        for gram, count in _all_ngrams(words).items():
            weights[gram] = count * (self._log_size - np.log(max(1, self._documents[gram])))
            norm[len(gram) - 1] += weights[gram] ** 2
        made = self._vectors[tuple(words)] = (weights, np.sqrt(norm))
        return made


def _all_ngrams(words: Tokens) -> Counter[tuple[str, ...]]:
    found = Counter[tuple[str, ...]]()
    for n in range(1, ORDERS + 1):
        found.update(ngrams(words, n))
    return found


def clipscore(picture: np.ndarray, caption: np.ndarray) -> np.ndarray:
    """CLIPScore (item,) of embeddings (item, feature): 2.5 times the cosine, at least 0.

    Hessel et al. 2021, arXiv:2104.08718.
    """
    return 2.5 * np.maximum(_cosine(picture, caption), 0)


def ref_clipscore(
    score: np.ndarray, caption: np.ndarray, references: Sequence[np.ndarray]
) -> np.ndarray:
    """RefCLIPScore (item,): harmonic mean of CLIPScore and the cosine with the nearest reference.

    `caption` is (item, feature); `references` holds (reference, feature) per item.
    """
    near = nearest(caption, references).clip(min=0)
    total = score + near
    return np.divide(2 * score * near, total, out=np.zeros_like(total), where=total > 0)


def nearest(caption: np.ndarray, references: Sequence[np.ndarray]) -> np.ndarray:
    """Cosine (item,) of each embedding (item, feature) with the nearest of its references
    (reference, feature).
    """
    pairs = zip(caption, references, strict=True)
    return np.array([_cosine(c[None], r).max() for c, r in pairs])


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.where(size > 0, size, 1)
