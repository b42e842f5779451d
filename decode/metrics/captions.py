"""Made captions beside the captions that people wrote about the same picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from decode.core import InputError, Kind, Measure, Metric, Results, Stimulus
from decode.progress import progress
from decode.scoring.caption_clip import CaptionClip
from decode.scoring.captions import (
    Cider,
    bleu,
    bleu_contributions,
    bleu_counts,
    clipscore,
    meteor_exact,
    nearest,
    ref_clipscore,
    rouge_1,
    rouge_l,
    tokens,
)
from decode.scoring.meteor import Meteor
from decode.scoring.rows import Gallery, galleries, made_texts, scores, table
from decode.scoring.text_networks import TextNetwork

CHANCE_PAIRS = 300
BLEU = ("bleu1", "bleu2", "bleu3", "bleu4")
CORPUS = Measure(
    "Share of runs of 1 to {} words that the written captions have too, over the whole test set.",
    rows="together",
    ceiling="generator",
)
METEOR = Measure(
    "METEOR with stems and WordNet synonyms as nltk has it; other weights than published tables.",
    ceiling="generator",
)
SENTENCES = {
    "sentence_bleu4": Measure(
        "BLEU-4 of each caption by itself, 0 where no four words match.",
        ceiling="generator",
        chooses=1,
    ),
    "meteor_exact": Measure(
        "METEOR with exact word matches only; lower than the METEOR of published tables.",
        ceiling="generator",
        chooses=2,
    ),
    "rouge_1": Measure(
        "Words that the made and the nearest written caption have in common (F1).",
        ceiling="generator",
    ),
    "rouge_l": Measure(
        "Longest common subsequence of the made and the written captions.",
        ceiling="generator",
        chooses=3,
    ),
    "cider": Measure(
        "Agreement with the written captions in rare words and phrases (CIDEr-D), 0 to 10.",
        rows="among",
        ceiling="generator",
        chooses=5,
    ),
}
CLIPSCORE = Measure(
    "Likeness of the made caption and the shown picture to {}, 0 to 2.5.",
    ceiling="generator",
    chooses=4,
)
REF_CLIPSCORE = Measure(
    "CLIPScore together with the likeness of the made and the nearest written caption to {}.",
    ceiling="generator",
)


class Captions(Metric):
    """BLEU, METEOR (exact words), ROUGE, CIDEr-D and, with `clip`, CLIPScore and RefCLIPScore.

    References are the label `captions` of a stimulus (several texts) or else its `text`. Everything
    is on a scale from 0 to 1 except `cider` (0 to 10) and `clipscore` (0 to 2.5); published tables
    often show a hundred times these numbers.

    * `bleu1` to `bleu4` belong to the whole gallery, not to a sentence: their rows are contributions
      whose mean is that number (see `bleu_contributions`). `sentence_bleu4` is per sentence, 0 where
      no four words match.
    * `meteor_exact` has no stems or synonyms and is lower than the METEOR of published tables;
      with `meteor`, the score of that name has both.
    * `cider` takes its document frequencies from the references of the gallery.
    * `similarity_<name>` is the cosine with the nearest reference by each network of `similar`.

    A gallery is all stimuli that agree in the columns `within`. Chance is the score against the
    references of a stimulus drawn at random from it. SPICE is not computed.
    """

    looks_at: ClassVar[Literal["media"]] = "media"
    accepts: ClassVar[frozenset[Kind]] = frozenset({"text"})

    def __init__(
        self,
        *,
        clip: CaptionClip | None = None,
        meteor: Meteor | None = None,
        similar: Sequence[TextNetwork] = (),
        within: Sequence[str] = ("subject", "split"),
    ) -> None:
        self.clip, self.meteor = clip, meteor
        self.similar, self.within = tuple(similar), tuple(within)
        names = [network.name for network in self.similar]
        if len(set(names)) < len(names):
            raise InputError(
                f"metric captions: expected networks of different names in similar, got {names}; "
                "leave one out"
            )

    def measures(self) -> Mapping[str, Measure]:
        found = {name: _of(CORPUS, n) for n, name in enumerate(BLEU, 1)}
        found |= SENTENCES
        if self.meteor is not None:
            found["meteor"] = METEOR
        if self.clip is not None:
            name, model = self.clip.name, self.clip.model
            found |= {name: _of(CLIPSCORE, model), f"ref_{name}": _of(REF_CLIPSCORE, model)}
        text = "Cosine of the made with the nearest written caption, by {} embeddings."
        return found | {
            f"similarity_{network.name}": Measure(text.format(network.name), ceiling="generator")
            for network in self.similar
        }

    def __call__(self, results: Results) -> pd.DataFrame:
        texts = made_texts(results, "captions")
        written = [references(s) for s in results.shown]
        parts: list[pd.DataFrame] = []
        for gallery in galleries(results.trials, self.within):
            score = self._scorer(results, gallery, texts, written)
            own = score(np.arange(len(gallery.rows)))
            n = gallery.n_stimuli
            shifts = range(1, 1 + min(n - 1, -(-CHANCE_PAIRS // len(gallery.rows))))
            others = [score(gallery.first[(gallery.code + s) % n]) for s in shifts]
            for name, value in own.items():
                level = value.mean()
                if others:
                    level = (level + (n - 1) * np.mean([o[name].mean() for o in others])) / n
                parts.append(scores(results, name, gallery.rows, value, chance=float(level)))
        return table(parts)

    def _scorer(
        self,
        results: Results,
        gallery: Gallery,
        texts: Sequence[str],
        written: Sequence[Sequence[str]],
    ) -> Callable[[np.ndarray], Mapping[str, np.ndarray]]:
        """A function from the partner of each row of the gallery to all scores (row,) by name."""
        made = [tokens(texts[r]) for r in gallery.rows]
        known = [[tokens(t) for t in written[r]] for r in gallery.rows]
        cider = Cider([known[i] for i in gallery.first])

        def score(partner: np.ndarray) -> dict[str, np.ndarray]:
            pairs = [(c, known[p]) for c, p in zip(made, partner, strict=True)]
            counts = np.stack([bleu_counts(c, r) for c, r in progress(pairs, "captions: BLEU")])
            found = dict(zip(BLEU, bleu_contributions(counts).T, strict=True))
            found["sentence_bleu4"] = bleu(counts)[:, 3]
            each: dict[str, Callable[..., float]] = {
                "meteor_exact": meteor_exact,
                "rouge_1": rouge_1,
                "rouge_l": rouge_l,
                "cider": cider,
            }
            if self.meteor is not None:
                each["meteor"] = self.meteor
            for name, one in each.items():
                found[name] = np.array([one(c, r) for c, r in progress(pairs, f"captions: {name}")])
            place = gallery.rows[partner]
            own, near = [texts[r] for r in gallery.rows], [written[p] for p in place]
            if self.clip is not None:
                shown = [results.shown[p] for p in place]
                found |= self._by_clip(self.clip, own, shown, near)
            for network in self.similar:
                others = [network.texts(references) for references in near]
                found[f"similarity_{network.name}"] = nearest(network.texts(own), others)
            return found

        return score

    def _by_clip(
        self,
        clip: CaptionClip,
        texts: Sequence[str],
        shown: Sequence[Stimulus],
        written: Sequence[Sequence[str]],
    ) -> dict[str, np.ndarray]:
        caption = clip.texts(texts)
        near = [clip.texts(references) for references in written]
        plain = clipscore(clip.pictures(shown), caption)
        name = clip.name
        return {name: plain, f"ref_{name}": ref_clipscore(plain, caption, near)}


def _of(measure: Measure, what: object) -> Measure:
    """The measure with `what` in its sentence."""
    return replace(measure, meaning=measure.meaning.format(what))


def references(stimulus: Stimulus) -> list[str]:
    """The captions of a stimulus that hold a word; InputError when there is none."""
    kept = [text for text in stimulus.texts if tokens(text)]
    if not kept:
        raise InputError(
            f"metric captions: expected captions of stimulus {stimulus.uid!r}, got none; give the "
            "data set its caption files or drop this metric"
        )
    return kept
